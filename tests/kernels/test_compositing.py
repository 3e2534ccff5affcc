import pytest
import torch

from selfrecon_warp.kernels import compositing
from selfrecon_warp.kernels.compositing import composite_alpha, composite_weighted
from selfrecon_warp.kernels.interop import SPLIT_GRAIN
from selfrecon_warp.kernels.reference import compositing as reference
from selfrecon_warp.kernels.splat import padded_ends

H, W, K = 5, 7, 4
BLENDS = ["composite_alpha", "composite_weighted"]


def make_blend(device, dtype=torch.float32, shared=True, channels=3):
    """Alphas with zeros and ones among them, indices with gaps, features."""
    generator = torch.Generator().manual_seed(2)
    alphas = (torch.rand(2, 3, 4, K, generator=generator, dtype=dtype) * 1.4 - 0.2).clamp(0, 1)
    index = torch.randint(-1, 6, alphas.shape, generator=generator, dtype=torch.int32)
    features = torch.randn(*(() if shared else (2,)), 6, channels, generator=generator, dtype=dtype)
    return alphas.to(device).requires_grad_(), index.to(device), features.to(device).requires_grad_()


def make_lists(device, dtype=torch.float64):
    """The same, each pixel's list without its gaps and one after the other."""
    alphas, index, features = make_blend(device, dtype)
    found = index >= 0
    ends = found.sum(-1).flatten().cumsum(0).view(found.shape[:3]).int()
    return alphas[found].detach().requires_grad_(), index[found], features, ends


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", BLENDS)
def test_matches_reference(device, name, shared):
    alphas, index, features = make_blend(device, torch.float64, shared)
    results = []
    for module in (compositing, reference):
        blend = getattr(module, name)(alphas, index, features)
        results.append((blend, *torch.autograd.grad(blend.sin().sum(), (alphas, features))))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", BLENDS)
def test_lists_match_reference_and_their_padded_form(device, name):
    alphas, index, features, ends = make_lists(device)
    results = []
    for module in (compositing, reference):
        blend = getattr(module, name)(alphas, index, features, ends)
        results.append((blend, *torch.autograd.grad(blend.sin().sum(), (alphas, features))))
    torch.testing.assert_close(*results)
    torch.testing.assert_close(results[0][0], getattr(compositing, name)(*make_blend(device, torch.float64)))


def test_gradcheck(device):
    alphas, index, features = make_blend(device, torch.float64)
    for blend in (composite_alpha, composite_weighted):
        assert torch.autograd.gradcheck(lambda a, f, blend=blend: blend(a, index, f), (alphas, features))


def test_threads_do_not_change_the_result(threads):
    generator = torch.Generator().manual_seed(4)
    alphas = torch.rand(2, 100, SPLIT_GRAIN // 80, 2, generator=generator).requires_grad_()
    index = torch.randint(-1, 600, alphas.shape, generator=generator)
    features = torch.rand(600, 3, generator=generator)
    results = []
    for count in (1, 2):
        threads(count)
        blend = composite_alpha(alphas, index, features)
        results.append((blend, *torch.autograd.grad(blend.square().sum(), alphas)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_opaque_points_hide_what_is_behind_and_clear_ones_hide_nothing(device):
    alphas = torch.tensor([1.0, 0.7, 0.5], device=device).view(1, 1, 1, 3)
    index = torch.tensor([2, 0, 1], device=device).view(1, 1, 1, 3)
    features = torch.eye(3, device=device)
    assert composite_alpha(alphas, index, features).flatten().tolist() == [0.0, 0.0, 1.0]
    torch.testing.assert_close(
        composite_weighted(alphas, index, features).flatten(), torch.tensor([0.7, 0.5, 1.0], device=device)
    )


@pytest.mark.parametrize("shape", [(0, H, W, K), (2, H, W, 0), (2, 0, W, K)])
def test_empty_input(device, shape):
    alphas = torch.zeros(shape, device=device, requires_grad=True)
    index = torch.zeros(shape, dtype=torch.int32, device=device)
    ends = padded_ends(alphas[..., 0].numel() if shape[3] else 2 * H * W, shape[3], alphas.device).view(shape[:3])
    features = torch.ones(1, 2, device=device, requires_grad=True)
    for blend in (
        composite_alpha(alphas, index, features),
        composite_weighted(alphas.flatten(), index.flatten(), features, ends),
    ):
        assert blend.shape == (*shape[:3], 2)
        assert not blend.any()
        to_alphas, to_features = torch.autograd.grad(blend.sum(), (alphas, features))
        assert to_alphas.shape == alphas.shape
        assert not to_features.any()


def test_strided_input(device):
    alphas, index, features = make_blend(device, shared=False)
    inputs = (alphas.transpose(0, 3).contiguous().transpose(0, 3), index.transpose(1, 2).contiguous().transpose(1, 2))
    torch.testing.assert_close(
        composite_alpha(*inputs, features.mT.contiguous().mT), composite_alpha(*inputs, features)
    )


def test_two_backwards_through_one_graph(device):
    alphas, index, features, ends = make_lists(device)
    blend = composite_alpha(alphas, index, features, ends).sum()
    first = torch.autograd.grad(blend, (alphas, features), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(blend, (alphas, features)), first)


def test_names_the_mismatched_argument(device):
    alphas, index, features = make_blend(device)
    lists = make_lists(device, torch.float32)
    for call, message in (
        (lambda: composite_alpha(alphas, index[:1], features), r"point_index must have shape \[B=2, "),
        (lambda: composite_alpha(alphas, index.float(), features), "point_index must be int32 or int64"),
        (
            lambda: composite_alpha(alphas, index + 1, features),
            "point_index must hold indices from -1 to 5, got 0 to 6",
        ),
        (lambda: composite_alpha(alphas, index, features.double()), "features must be torch.float32"),
        (lambda: composite_weighted(alphas, index, features.expand(3, -1, -1)), r"features must have shape \[P, C\]"),
        (lambda: composite_alpha(*lists[:3], lists[3] - 1), "ends must"),
        (lambda: composite_alpha(*lists[:3], lists[3][0]), r"ends must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
