import math

import pytest
import torch

from selfrecon_warp.kernels import small_matrices
from selfrecon_warp.kernels.interop import SPLIT_GRAIN
from selfrecon_warp.kernels.reference import small_matrices as reference
from selfrecon_warp.kernels.small_matrices import inverse_3x3, singular_values_3x3


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inverse_matches_reference(device, dtype):
    matrices = random(2, 50, 3, 3, dtype=dtype).to(device)
    matrices[0, :3] = 0.0
    matrices.requires_grad_()
    results = []
    for module in (small_matrices, reference):
        inverse, regular = module.inverse_3x3(matrices)
        results.append((inverse, regular, *torch.autograd.grad(inverse.sin().sum(), matrices)))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    inverse, regular, gradient = results[0]
    torch.testing.assert_close(inverse[regular], torch.linalg.inv(matrices[regular]), rtol=1e-3, atol=1e-4)
    assert not regular[0, :3].any()
    assert not inverse[0, :3].any()
    assert not gradient[0, :3].any()


def test_threshold_tells_singular_from_regular(device):
    matrices = torch.diag_embed(torch.tensor([[0.1, 0.1, 0.1], [0.2, 0.2, 0.2]], device=device))
    assert inverse_3x3(matrices)[1].tolist() == [True, True]
    assert inverse_3x3(matrices, threshold=5e-3)[1].tolist() == [False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_values_match_torch(device, dtype):
    matrices = torch.cat([random(40, 3, 3, dtype=dtype), random(20, 3, 1, seed=1, dtype=dtype) * torch.ones(1, 3)])
    matrices[:4] *= 1e-25 if dtype == torch.float32 else 1e-200
    matrices[4:8] *= 1e25 if dtype == torch.float32 else 1e200
    matrices = matrices.to(device)
    values, expected = singular_values_3x3(matrices), torch.linalg.svdvals(matrices)
    largest = expected[:, :1]
    torch.testing.assert_close(values / largest, expected / largest, rtol=1e-5, atol=1e-6)


def test_singular_value_gradients_match_torch(device):
    matrices = random(2, 30, 3, 3).to(device).requires_grad_()
    weights = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64, device=device)
    gradients = [
        torch.autograd.grad((op(matrices).square() * weights).sum(), matrices)
        for op in (singular_values_3x3, reference.singular_values_3x3)
    ]
    torch.testing.assert_close(*gradients)
    assert torch.autograd.gradcheck(singular_values_3x3, matrices[0, :3].detach().requires_grad_())


def repeated(device):
    """Matrices whose singular values repeat: the identity, a rotation, a reflection, and two equal values."""
    turns = torch.linalg.qr(random(2, 3, 3)).Q
    stretch = torch.diag(torch.tensor([1.5, 1.5, 0.7], dtype=torch.float64))
    identity = torch.eye(3, dtype=torch.float64)
    matrices = torch.stack([identity, turns[0], -turns[1], 2.0 * identity, turns[0] @ stretch @ turns[1]])
    return matrices.to(device).requires_grad_()


@pytest.mark.parametrize(
    ("of_values", "of_matrix"),
    [
        (lambda s: s.square().sum(-1), lambda m: m.square().sum((-1, -2))),
        (lambda s: s.prod(-1), lambda m: torch.linalg.det(m).abs()),
        (lambda s: s.pow(4).sum(-1), lambda m: (m.mT @ m).square().sum((-1, -2))),
        (lambda s: s.log().sum(-1), lambda m: torch.linalg.slogdet(m).logabsdet),
    ],
)
def test_symmetric_functions_have_their_exact_gradient_where_values_repeat(device, of_values, of_matrix):
    matrices = repeated(device)
    gradients = [
        torch.autograd.grad(function.sum(), matrices)
        for function in (of_values(singular_values_3x3(matrices)), of_matrix(matrices))
    ]
    torch.testing.assert_close(*gradients)


def test_symmetric_functions_pass_gradcheck_where_values_repeat(device):
    assert torch.autograd.gradcheck(lambda m: (singular_values_3x3(m).log() - 0.3).square().sum(-1), repeated(device))


def test_a_zero_singular_value_counts_as_constant(device):
    matrices = torch.diag(torch.tensor([2.0, 1.0, 0.0])).to(device).requires_grad_()
    (gradient,) = torch.autograd.grad(singular_values_3x3(matrices).sum(), matrices)
    torch.testing.assert_close(gradient, torch.diag(torch.tensor([1.0, 1.0, 0.0])).to(device))
    (gradient,) = torch.autograd.grad(singular_values_3x3(0.0 * matrices).sum(), matrices)
    assert not gradient.any()


def test_gradcheck(device):
    matrices = random(3, 3, 3).to(device).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: inverse_3x3(m)[0], matrices)
    assert torch.autograd.gradgradcheck(lambda m: inverse_3x3(m)[0], matrices)


def test_a_matrix_that_is_not_finite_spoils_no_other(device):
    matrices = random(3, 3, 3).to(device)
    matrices[1, 2, 2] = math.nan
    inverse, regular = inverse_3x3(matrices)
    assert regular.tolist() == [True, False, True]
    assert inverse.isfinite().all()
    values = singular_values_3x3(matrices)
    assert values.isnan().all(-1).tolist() == [False, True, False]


def test_empty_input(device):
    empty = torch.zeros(2, 0, 3, 3, device=device, requires_grad=True)
    inverse, regular = inverse_3x3(empty)
    values = singular_values_3x3(empty)
    assert inverse.shape == (2, 0, 3, 3)
    assert regular.shape == (2, 0)
    assert values.shape == (2, 0, 3)
    (inverse.sum() + values.sum()).backward()
    assert empty.grad.shape == empty.shape


def test_strided_input(device):
    matrices = random(4, 3, 3).to(device)
    torch.testing.assert_close(inverse_3x3(matrices.mT)[0], inverse_3x3(matrices)[0].mT)
    torch.testing.assert_close(singular_values_3x3(matrices.mT), singular_values_3x3(matrices))


def test_two_backwards_through_one_graph(device):
    matrices = random(4, 3, 3).to(device).requires_grad_()
    for result in (inverse_3x3(matrices)[0], singular_values_3x3(matrices)):
        first = torch.autograd.grad(result.sum(), matrices, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(result.sum(), matrices), first)


def test_threads_do_not_change_the_result(threads):
    matrices = torch.eye(3) + 0.3 * random(2 * SPLIT_GRAIN + 7, 3, 3, dtype=torch.float32)
    matrices.requires_grad_()
    results = []
    for count in (1, 2):
        threads(count)
        inverse, regular = inverse_3x3(matrices)
        values = singular_values_3x3(matrices)
        gradient = torch.autograd.grad(inverse.sin().sum() + values.sin().sum(), matrices)
        results.append([inverse, regular, values, *gradient])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_names_the_mismatched_argument(device):
    with pytest.raises(ValueError, match=r"matrices must have shape \[..., 3, 3\], got \[2, 23, 3\]"):
        inverse_3x3(torch.ones(2, 23, 3, device=device))
    with pytest.raises(ValueError, match="matrices must be float32 or float64"):
        singular_values_3x3(torch.eye(3, device=device).int())
