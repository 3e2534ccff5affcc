"""What every operation on a mesh's vertices promises; a test file names its operations in a subclass."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import trimesh
from torch import Tensor

from selfrecon_warp.kernels.interop import SPLIT_GRAIN
from selfrecon_warp.kernels.topology import mesh_topology


@dataclass(frozen=True)
class Operation:
    """An operation on vertices and faces beside its reference."""

    op: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    loss: bool = False
    """Whether it has one value, a mean over the frames."""
    per_vertex: bool = False
    """Whether that is a mean over vertices, those of no face included."""
    constant_weights: bool = False
    """Whether it takes as constant what depends on the vertices."""


def cube(device, dtype=torch.float64):
    """A cube of side 2 from 12 triangles."""
    box = trimesh.creation.box((2.0, 2.0, 2.0))
    return torch.tensor(box.vertices, dtype=dtype, device=device), torch.tensor(box.faces, device=device)


def ball(device, dtype=torch.float64, frames=2, subdivisions=2):
    """Frames of a bumpy sphere."""
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(frames, *sphere.vertices.shape, generator=generator, dtype=torch.float64)
    vertices = torch.tensor(sphere.vertices) + 0.05 * noise
    return vertices.to(device, dtype), torch.tensor(sphere.faces, device=device)


def sheets(device, dtype=torch.float64, frames=2):
    """Random triangles: open borders, edges of many faces, faces twice, faces naming a vertex twice, a lone vertex."""
    generator = torch.Generator().manual_seed(3)
    vertices = torch.rand(frames, 10, 3, generator=generator, dtype=torch.float64)
    faces = torch.randint(9, (24, 3), generator=generator)
    faces = torch.cat([faces, faces[:3], torch.tensor([[1, 1, 2], [4, 4, 4]])])
    return vertices.to(device, dtype), faces.to(device)


def strip(device, dtype=torch.float64):
    """Two unit right triangles over a square, bent by a right angle along its diagonal."""
    points = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.5, 0.5, math.sqrt(0.5)]]
    return torch.tensor(points, dtype=dtype, device=device), torch.tensor([[0, 1, 2], [3, 2, 1]], device=device)


def gradient(op, vertices, faces, seed=1):
    """Values, and the gradient of a weighted sum of them."""
    vertices = vertices.detach().requires_grad_()
    values = op(vertices, faces)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(values.shape, generator=generator, dtype=torch.float64).to(values)
    return values.detach(), *torch.autograd.grad((values * weight).sum(), vertices)


def fine(device, dtype=torch.float64):
    """A sphere of so many vertices that threads share them."""
    sphere = trimesh.creation.icosphere(subdivisions=5)
    vertices = torch.tensor(sphere.vertices)[None]
    vertices = vertices + 0.001 * torch.randn(vertices.shape, generator=torch.Generator().manual_seed(0))
    assert vertices.shape[1] > 2 * SPLIT_GRAIN
    return vertices.to(device, dtype), torch.tensor(sphere.faces, device=device)


class MeshOperations:
    """The tests; ``conftest.py`` runs each for all of a subclass's operations."""

    operations: dict[str, Operation]

    @pytest.mark.parametrize("scene", [cube, ball, sheets, strip])
    def test_matches_reference(self, device, scene, operation):
        vertices, faces = scene(device)
        op, expected = operation.op, operation.reference
        torch.testing.assert_close(gradient(op, vertices, faces), gradient(expected, vertices, faces))

    def test_single_precision_matches_reference(self, device, operation):
        vertices, faces = ball(device, torch.float32)
        op, expected = operation.op, operation.reference
        values, slope = gradient(op, vertices, faces)
        assert values.dtype == slope.dtype == torch.float32
        expected_values, expected_slope = gradient(expected, vertices.double(), faces)
        torch.testing.assert_close(values, expected_values.float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(slope, expected_slope.float(), rtol=1e-3, atol=1e-4)

    def test_gradcheck(self, device, operation):
        if operation.constant_weights:
            pytest.skip("its gradient takes the weights as constant")
        for scene in (strip, sheets):
            vertices, faces = scene(device)
            vertices = vertices[:1] if vertices.dim() == 3 else vertices
            assert torch.autograd.gradcheck(lambda v, f=faces: operation.op(v, f), vertices.requires_grad_())

    def test_topology_in_place_of_faces(self, device, operation):
        vertices, faces = sheets(device)
        given = mesh_topology(faces, vertices.shape[1])
        op = operation.op
        exactly = {"rtol": 0, "atol": 0} if device.type == "cpu" else {}  # a GPU adds in any order
        torch.testing.assert_close(gradient(op, vertices, given), gradient(op, vertices, faces), **exactly)

    def test_a_batch_is_its_frames(self, device, operation):
        vertices, faces = ball(device, frames=3)
        op = operation.op
        values, slope = gradient(op, vertices, faces)
        if operation.loss:
            torch.testing.assert_close(values, torch.stack([op(frame, faces) for frame in vertices]).mean())
            alone = [gradient(op, frame, faces)[1] / 3 for frame in vertices]
            torch.testing.assert_close(slope, torch.stack(alone))
        else:
            torch.testing.assert_close(values, torch.stack([op(frame, faces) for frame in vertices]))

    def test_moving_everything_changes_nothing(self, device, operation):
        vertices, faces = sheets(device)
        op = operation.op
        values, slope = gradient(op, vertices, faces)
        torch.testing.assert_close(op(vertices + 2.5, faces), values)
        torch.testing.assert_close(
            slope.sum(1), torch.zeros_like(slope[:, 0]), rtol=0, atol=1e-9 * float(slope.abs().max())
        )

    def test_vertices_of_no_face_get_zero(self, device, operation):
        vertices, faces = ball(device)
        more = torch.cat([vertices, torch.full_like(vertices[:, :2], 7.0)], 1)
        op = operation.op
        values, slope = gradient(op, more, faces)
        assert not slope[:, -2:].any()
        if operation.loss:
            share = vertices.shape[1] / more.shape[1] if operation.per_vertex else 1.0
            torch.testing.assert_close(values, share * op(vertices, faces))
        elif len(values[0]) == more.shape[1]:
            assert not values[:, -2:].any()

    def test_faces_without_area_and_edges_without_length(self, device, operation):
        """Three vertices of the ball fall together, one falls on a neighbour."""
        vertices, faces = ball(device)
        a, b, c = faces[0].tolist()
        vertices[:, b] = vertices[:, c] = vertices[:, a]
        d, e, _ = next(face for face in faces.tolist() if not set(face) & {a, b, c})
        vertices[:, e] = vertices[:, d]
        op, expected = operation.op, operation.reference
        values, slope = gradient(op, vertices, faces)
        assert values.isfinite().all()
        assert slope.isfinite().all()
        torch.testing.assert_close(values, expected(vertices, faces))

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_vertex_that_is_not_finite_spoils_no_other_gradient(self, device, operation, bad):
        vertices, faces = ball(device)
        spoilt = int(faces[0, 0])
        broken = vertices.clone()
        broken[0, spoilt, 1] = bad
        op = operation.op
        leaf = broken.requires_grad_()
        values = op(leaf, faces)
        assert not values.isfinite().all()
        (slope,) = torch.autograd.grad(values.square().nan_to_num().sum() if not operation.loss else values, leaf)
        assert slope.isfinite().all()
        assert slope[1].any()
        around = (faces == spoilt).any(1)
        far = torch.ones(vertices.shape[1], dtype=torch.bool, device=device)
        for _ in range(4):  # a Laplacian's gradient reaches two rings
            far[faces[around].flatten()] = False
            around = (~far[faces]).any(1)
        assert far.any()
        whole = vertices.detach().requires_grad_()
        values = op(whole, faces)
        (expected,) = torch.autograd.grad(values.square().sum() if not operation.loss else values, whole)
        torch.testing.assert_close(slope[0, far], expected[0, far])
        torch.testing.assert_close(slope[1], expected[1])

    def test_empty_input(self, device, operation):
        vertices, faces = ball(device, torch.float32)
        op, expected = operation.op, operation.reference
        for v, f in (
            (vertices[:0], faces),
            (vertices, faces[:0]),
            (vertices[:, :0], faces[:0]),
            (vertices[0], faces[:0]),
        ):
            leaf = v.detach().requires_grad_()
            values = op(leaf, f)
            assert values.shape == expected(v, f).shape
            assert not values.any()
            assert not torch.autograd.grad(values.sum(), leaf)[0].any()

    def test_strided_input(self, device, operation):
        vertices, faces = ball(device)
        strided = vertices.transpose(1, 2).contiguous().transpose(1, 2)
        wide = faces.repeat_interleave(2, 1)[:, ::2]
        assert not strided.is_contiguous()
        assert not wide.is_contiguous()
        op = operation.op
        torch.testing.assert_close(gradient(op, strided, wide), gradient(op, vertices, faces))

    def test_strided_gradient(self, device, operation):
        vertices, faces = ball(device)
        vertices.requires_grad_()
        values = operation.op(vertices, faces)
        upstream = torch.ones((), dtype=values.dtype, device=device).expand(values.shape)
        expected = torch.autograd.grad(values, vertices, torch.ones_like(values), retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(values, vertices, upstream), expected)

    def test_two_backwards_through_one_graph(self, device, operation):
        vertices, faces = ball(device)
        vertices.requires_grad_()
        values = operation.op(vertices, faces).sum()
        first = torch.autograd.grad(values, vertices, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(3.0 * values, vertices), (3.0 * first[0],))

    def test_no_gradient_is_made_where_none_is_recorded(self, device, operation):
        vertices, faces = ball(device)
        with torch.no_grad():
            assert not operation.op(vertices.requires_grad_(), faces).requires_grad

    def test_names_what_is_wrong(self, device, operation):
        vertices, faces = ball(device)
        op = operation.op
        with pytest.raises(ValueError, match=r"vertices must have shape \[B, V, 3\], got \[2, 162, 2\]"):
            op(vertices[..., :2], faces)
        with pytest.raises(
            ValueError, match=r"vertices must have shape \[V, 3\], got \[3, 2\]|must have shape \[B, V, 3\]"
        ):
            op(vertices[0, 0], faces)
        with pytest.raises(ValueError, match="vertices must be float32 or float64"):
            op(vertices.long(), faces)
        with pytest.raises(ValueError, match=r"faces must have shape \[F, 3\], got \[320, 2\]"):
            op(vertices, faces[:, :2])
        with pytest.raises(ValueError, match="faces must be int32 or int64"):
            op(vertices, faces.double())
        with pytest.raises(ValueError, match="faces must hold indices from 0 to 160, got 0 to 161"):
            op(vertices[:, :-1], faces)
        with pytest.raises(ValueError, match="faces must hold indices from 0 to 161, got -1 to 160"):
            op(vertices, faces - 1)
        with pytest.raises(ValueError, match="faces must be the topology of V=161 vertices, got one of 162"):
            op(vertices[:, :-1], mesh_topology(faces, 162))
        with pytest.raises(ValueError, match=r"faces must be on .* like vertices, got meta"):
            op(vertices, faces.to("meta"))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_threads_do_not_change_the_result(self, threads, operation, dtype):
        vertices, faces = fine("cpu", dtype)
        topology = mesh_topology(faces, vertices.shape[1])
        results = []
        for count in (1, 2):
            threads(count)
            results.append(gradient(operation.op, vertices, topology))
        for one, two in zip(*results, strict=True):
            if one.dim() == 0:
                torch.testing.assert_close(one, two)  # torch's own sum depends on the number of threads
            else:
                assert torch.equal(one, two)
