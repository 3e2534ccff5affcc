from typing import ClassVar

import pytest
import torch
import trimesh
from mesh_operations import MeshOperations, Operation, ball, strip

from selfrecon_warp.kernels import laplacian
from selfrecon_warp.kernels.laplacian import laplacian_cotangent, laplacian_uniform, loss_laplacian
from selfrecon_warp.kernels.reference import laplacian as reference


def curvature_normal(vertices, faces, module=laplacian):
    return module.laplacian_cotangent(vertices, faces, curvature=True)


def loss(method):
    """The loss of one method, beside its reference."""
    return Operation(
        lambda vertices, faces: loss_laplacian(vertices, faces, method),
        lambda vertices, faces: reference.loss_laplacian(vertices, faces, method),
        loss=True,
        per_vertex=True,
        constant_weights=method != "uniform",
    )


class TestLaplacian(MeshOperations):
    operations: ClassVar = {
        "laplacian_uniform": Operation(laplacian_uniform, reference.laplacian_uniform),
        "laplacian_cotangent": Operation(laplacian_cotangent, reference.laplacian_cotangent, constant_weights=True),
        "laplacian_cotangent, curvature": Operation(
            curvature_normal, lambda v, f: curvature_normal(v, f, reference), constant_weights=True
        ),
        **{f"loss_laplacian, {method}": loss(method) for method in laplacian.METHODS},
    }


def test_laplacians_can_be_differentiated_twice(device):
    vertices, faces = strip(device)
    vertices.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda v: laplacian_uniform(v, faces), vertices)
    weights = torch.rand_like(vertices)

    def square_of_gradient(op):
        (slope,) = torch.autograd.grad((op(vertices, faces).square() * weights).sum(), vertices, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), vertices)

    for name in ("laplacian_uniform", "laplacian_cotangent", "laplacian_cotangent, curvature"):
        operation = TestLaplacian.operations[name]
        torch.testing.assert_close(square_of_gradient(operation.op), square_of_gradient(operation.reference))


@pytest.mark.parametrize("op", [laplacian_uniform, laplacian_cotangent, curvature_normal])
def test_inside_of_a_regular_grid_has_no_laplacian(device, op):
    row, column = torch.meshgrid(torch.arange(6), torch.arange(7), indexing="ij")
    vertices = torch.stack([row, column, 2 * row - column], -1).double().view(-1, 3).to(device)
    here = (row * 7 + column)[:-1, :-1].flatten()
    faces = torch.cat([torch.stack(x, 1) for x in ((here, here + 7, here + 1), (here + 1, here + 7, here + 8))])
    inside = ((row > 0) & (row < 5) & (column > 0) & (column < 6)).flatten().to(device)
    result = op(vertices, faces.to(device))
    assert result[inside].abs().max() < 1e-12
    assert result[~inside].norm(dim=-1).min() > 0.1


def test_curvature_normal_of_a_sphere_points_inward_with_its_curvature(device):
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    vertices, faces = torch.tensor(sphere.vertices, device=device), torch.tensor(sphere.faces, device=device)
    # A third of the area around a vertex is its own: 1 / (4 A) counts three times less than the mean curvature needs.
    six = torch.bincount(faces.flatten()) == 6
    curvature = -(curvature_normal(vertices, faces) * vertices).sum(-1)[six] / 0.5
    torch.testing.assert_close(curvature, torch.full_like(curvature, 2 / 0.5 / 6), rtol=0.02, atol=0)


def test_names_the_wrong_option(device):
    vertices, faces = ball(device)
    with pytest.raises(ValueError, match="method must be one of uniform, cot, cotcurv, got 'cotan'"):
        loss_laplacian(vertices, faces, method="cotan")
    for op in (loss_laplacian, laplacian_cotangent):
        with pytest.raises(ValueError, match="least_area must be positive and finite, got 0"):
            op(vertices, faces, least_area=0.0)
