import pytest
import torch

from selfrecon_warp.kernels.reference import weight_field as reference
from selfrecon_warp.kernels.weight_field import build_weight_field

LOWER, UPPER = torch.tensor([-0.5, -0.2, -0.1]), torch.tensor([1.3, 1.4, 1.2])
RESOLUTION = (9, 10, 7)


def make_inputs(device, dtype, vertices=80, joints=5):
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(vertices, 3, generator=generator, dtype=dtype)
    weights = torch.rand(vertices, joints, generator=generator, dtype=dtype).pow(4)
    box = LOWER.to(device, dtype), UPPER.to(device, dtype)
    return places.to(device), (weights / weights.sum(-1, keepdim=True)).to(device), *box


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("neighbours", "smoothing"), [(1, 0), (8, 0), (8, 5), (200, 2)])
def test_matches_reference(device, dtype, neighbours, smoothing):
    inputs = make_inputs(device, dtype)
    field = build_weight_field(*inputs, RESOLUTION, neighbours, smoothing)
    torch.testing.assert_close(field, reference.build_weight_field(*inputs, RESOLUTION, neighbours, smoothing))


def test_blocks_within_blocks(device):
    vertices, weights, lower, upper = make_inputs(device, torch.float64, vertices=400)
    inputs = vertices, weights, lower, upper, (37, 18, 21), 12, 0
    torch.testing.assert_close(build_weight_field(*inputs), reference.build_weight_field(*inputs))


def test_threads_do_not_change_the_result():
    inputs = *make_inputs(torch.device("cpu"), torch.float32, vertices=300), (40, 36, 30)
    before = torch.get_num_threads()
    fields = []
    for count in (1, 3):
        torch.set_num_threads(count)
        fields.append(build_weight_field(*inputs, smoothing=3))
    torch.set_num_threads(before)
    assert torch.equal(*fields)


def test_weights_sum_to_one(device):
    field = build_weight_field(*make_inputs(device, torch.float64), RESOLUTION)
    assert field.shape == (*RESOLUTION, 5)
    assert (field >= 0.0).all()
    torch.testing.assert_close(field.sum(-1), torch.ones(RESOLUTION, dtype=torch.float64, device=device))


def test_one_joint_everywhere_stays_everywhere(device):
    vertices, weights, lower, upper = make_inputs(device, torch.float32)
    alone = torch.zeros_like(weights)
    alone[:, 2] = 1.0
    field = build_weight_field(vertices, alone, lower, upper, RESOLUTION)
    assert torch.equal(field, alone[0].expand(*RESOLUTION, -1))


def test_voxel_on_a_vertex_takes_its_weights(device):
    vertices, weights, *_ = make_inputs(device, torch.float64)
    lower, upper = vertices[7] - 0.5, vertices[7] + 0.5
    field = build_weight_field(vertices, weights, lower, upper, (1, 1, 1), neighbours=1, smoothing=0)
    torch.testing.assert_close(field[0, 0, 0], weights[7])


def test_body_far_outside_the_box(device):
    vertices, weights, lower, upper = make_inputs(device, torch.float64)
    inputs = vertices + 5.0, weights, lower, upper
    field = build_weight_field(*inputs, (3, 5, 2), neighbours=6)
    torch.testing.assert_close(field, reference.build_weight_field(*inputs, (3, 5, 2), neighbours=6))


def test_carries_no_gradient(device):
    vertices, weights, lower, upper = make_inputs(device, torch.float32)
    field = build_weight_field(vertices.requires_grad_(), weights.requires_grad_(), lower, upper, RESOLUTION)
    assert not field.requires_grad


def test_strided_input(device):
    vertices, weights, lower, upper = make_inputs(device, torch.float32)
    strided = vertices.T.contiguous().T, weights.T.contiguous().T
    assert not any(x.is_contiguous() for x in strided)
    expected = build_weight_field(vertices, weights, lower, upper, RESOLUTION)
    torch.testing.assert_close(build_weight_field(*strided, lower, upper, RESOLUTION), expected)


def test_names_the_mismatched_argument(device):
    vertices, weights, lower, upper = make_inputs(device, torch.float32)
    with pytest.raises(ValueError, match=r"weights must have shape \[V=80, J\], got \[79, 5\]"):
        build_weight_field(vertices, weights[1:], lower, upper, RESOLUTION)
    with pytest.raises(ValueError, match=r"weights must hold at least one vertex and one joint, got \[0, 5\]"):
        build_weight_field(vertices[:0], weights[:0], lower, upper, RESOLUTION)
    with pytest.raises(ValueError, match="resolution must be three positive counts"):
        build_weight_field(vertices, weights, lower, upper, (4, 0, 4))
    with pytest.raises(ValueError, match="neighbours must be >= 1"):
        build_weight_field(vertices, weights, lower, upper, RESOLUTION, neighbours=0)
    with pytest.raises(ValueError, match="upper must exceed lower"):
        build_weight_field(vertices, weights, upper, lower, RESOLUTION)
    with pytest.raises(ValueError, match="vertices must be finite"):
        build_weight_field(vertices / 0.0, weights, lower, upper, RESOLUTION)
