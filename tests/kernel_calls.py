"""One small valid call of every public operation of the kernel suite, and what its arguments must be.

The compile gate and the tests of bad input run over this table, so an operation missing here fails both.
The file is long because it is that one table, with the inputs of each call beside it.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from selfrecon_warp import kernels
from selfrecon_warp.kernels import internal
from selfrecon_warp.kernels.best_views import best_views
from selfrecon_warp.kernels.closest_point import closest_point
from selfrecon_warp.kernels.compositing import composite_alpha, composite_weighted
from selfrecon_warp.kernels.contour import (
    Contour,
    MeshEdges,
    contour_edges,
    contour_points,
    mesh_edges,
    nearest_contour,
    silhouette_edges,
)
from selfrecon_warp.kernels.encode import encode_grid, encode_grid_jacobian, grid_layout
from selfrecon_warp.kernels.grid_sample import grid_sample, grid_sample_jacobian
from selfrecon_warp.kernels.intersection import implicit_gradient, ray_step
from selfrecon_warp.kernels.inverse_skinning import unskin_points, unskin_points_in_volume
from selfrecon_warp.kernels.laplacian import laplacian_cotangent, laplacian_uniform, loss_laplacian
from selfrecon_warp.kernels.marching_cubes import marching_cubes
from selfrecon_warp.kernels.mesh import edge_lengths, face_areas, face_normals, vertex_normals
from selfrecon_warp.kernels.mesh_losses import loss_edge_length, loss_normal_consistency
from selfrecon_warp.kernels.neighbours import chamfer_distance, nearest_neighbours
from selfrecon_warp.kernels.paint import paint_texture, paint_vertices
from selfrecon_warp.kernels.point_mesh import (
    loss_point_edges,
    loss_point_mesh,
    mesh_point_distance,
    point_mesh_distance,
)
from selfrecon_warp.kernels.rasterize import Fragments, interpolate, pixel_barycentrics, rasterize, visible_faces
from selfrecon_warp.kernels.rasterize_layers import rasterize_layers
from selfrecon_warp.kernels.silhouette import antialiased_silhouette, blended_silhouette, splatted_silhouette
from selfrecon_warp.kernels.skinning import skin_points, skin_points_jacobian
from selfrecon_warp.kernels.small_matrices import inverse_3x3, singular_values_3x3
from selfrecon_warp.kernels.sparse_grid import evaluate_sparse
from selfrecon_warp.kernels.splat import splat_lists, splat_points
from selfrecon_warp.kernels.topology import mesh_topology
from selfrecon_warp.kernels.weight_field import build_weight_field

HEIGHT, WIDTH = 7, 9


@dataclass(frozen=True)
class Call:
    """A call that works, and the rules its tensors obey."""

    op: Callable[..., Any]
    """The operation, its tensors as keyword arguments of their own."""
    make: Callable[[torch.dtype], dict[str, Any]]
    """Valid arguments in a floating-point type."""
    shapes: dict[str, str]
    """Letters and numbers of each tensor's axes, alternatives apart by ``|``."""
    indices: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Least value of each index tensor, and the letter or number that is one beyond the greatest."""
    order: int = 1
    """How many times the result can be differentiated."""
    constants: tuple[str, ...] = ()
    """Floating-point tensors that get no gradient."""
    converted: tuple[str, ...] = ()
    """Tensors taken in any dtype and brought to the others' dtype and device."""
    rows: str | None = None
    """Letter of the axis along which entries do not see each other: of frames, or of points."""
    refused: tuple[tuple[str, Any], ...] = ()
    """Values that an argument must not have."""
    blamed: tuple[str, ...] = ()
    """Other arguments that an error may name."""


def modules() -> Iterator[ModuleType]:
    """Every module of the suite, those behind the operations too, but the references."""
    for package in (kernels, internal):
        for found in pkgutil.iter_modules(package.__path__):
            if not found.ispkg:
                yield importlib.import_module(f"{package.__name__}.{found.name}")


def tensors(result: Any) -> list[Tensor]:
    """The tensors of a result, in order."""
    if isinstance(result, Tensor):
        return [result]
    if is_dataclass(result):
        result = [getattr(result, each.name) for each in fields(result)]
    if isinstance(result, tuple | list):
        return [tensor for each in result for tensor in tensors(each)]
    return []


def differentiable(call: Call, arguments: dict[str, Any]) -> dict[str, Tensor]:
    """The arguments that a gradient flows to, made leaves that require one."""
    leaves = {}
    for name in call.shapes:
        if arguments[name].is_floating_point() and name not in call.constants and call.order > 0:
            leaves[name] = arguments[name] = arguments[name].detach().requires_grad_()
    return leaves


def gradients(outputs: list[Tensor], leaves: dict[str, Tensor], order: int = 1) -> dict[str, Tensor]:
    """Gradients of a weighted sum of all outputs; of the squares of its gradients where ``order`` is 2."""
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros((), dtype=torch.float64)
    for output in outputs:
        if output.requires_grad:
            weight = torch.rand(output.shape, generator=generator, dtype=torch.float64).to(output.device)
            total = total + (output * weight).sum()
    if not leaves or not total.requires_grad:
        return {}
    for step in range(order):
        last = step == order - 1
        found = torch.autograd.grad(total, list(leaves.values()), create_graph=not last, allow_unused=True)
        if not last:
            total = sum(each.square().sum() for each in found if each is not None and each.requires_grad)
    return dict(zip(leaves, found, strict=True))


def _random(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def solid(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A tetrahedron, outward oriented: vertices [4, 3] and faces [4, 3]."""
    vertices = torch.tensor([[0.1, 0.2, 0.1], [1.1, 0.0, 0.2], [0.2, 1.0, 0.0], [0.3, 0.2, 0.9]], dtype=dtype)
    return vertices, torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def picture(dtype: torch.dtype) -> dict[str, Any]:
    """Two frames of the projected tetrahedron, the second one moved."""
    vertices, faces = solid(dtype)
    one = vertices * torch.tensor([6.0, 5.0, 1.0], dtype=dtype) + torch.tensor([0.3, 0.4, 2.0], dtype=dtype)
    two = one + torch.tensor([1.3, -0.2, 0.5], dtype=dtype)
    return {"vertices_pixel": torch.stack([one, two]), "faces": faces}


def image(dtype: torch.dtype, **more: Any) -> dict[str, Any]:
    """The projected mesh and the size of the picture."""
    return {**picture(dtype), "height": HEIGHT, "width": WIDTH, **more}


def _seen(dtype: torch.dtype) -> dict[str, Any]:
    given = picture(dtype)
    return {**given, "face_index": visible_faces(**given, height=HEIGHT, width=WIDTH)}


def _seen_edges(dtype: torch.dtype) -> dict[str, Any]:
    return {**_edges(dtype), **_seen(dtype)}


def _antialiased(edges: Tensor, edge_faces: Tensor, **given: Any) -> Tensor:
    return antialiased_silhouette(**given, height=HEIGHT, width=WIDTH, edges=MeshEdges(edges, edge_faces))


def _points(dtype: torch.dtype, **more: Any) -> dict[str, Any]:
    return {"points_pixel": picture(dtype)["vertices_pixel"], "height": HEIGHT, "width": WIDTH, **more}


def _radii(dtype: torch.dtype) -> dict[str, Any]:
    return _points(dtype, radius=torch.tensor([1.5, 2.5, 1.2, 2.0], dtype=dtype), points_per_pixel=3)


def _composite(dtype: torch.dtype) -> dict[str, Any]:
    index = splat_points(**_radii(dtype)).point_index
    return {
        "alphas": 0.9 * _random(dtype, *index.shape),
        "point_index": index,
        "features": _random(dtype, 4, 2, seed=1),
    }


def _composite_lists(dtype: torch.dtype) -> dict[str, Any]:
    lists = splat_lists(**_radii(dtype))
    alphas, features = 0.9 * _random(dtype, len(lists.depth)), _random(dtype, 2, 4, 2, seed=1)
    return {"alphas": alphas, "point_index": lists.point_index, "features": features, "ends": lists.ends}


def _mesh(dtype: torch.dtype, **more: Any) -> dict[str, Any]:
    vertices, faces = solid(dtype)
    return {"vertices": torch.stack([vertices, 1.3 * vertices]), "faces": faces, **more}


def _clouds(dtype: torch.dtype) -> dict[str, Any]:
    lengths = {"query_lengths": torch.tensor([5, 3]), "point_lengths": torch.tensor([4, 6])}
    return {"queries": _random(dtype, 2, 5, 3), "points": _random(dtype, 2, 6, 3, seed=1), **lengths, "count": 2}


def _cloud_and_mesh(dtype: torch.dtype) -> dict[str, Any]:
    return {"points": _random(dtype, 2, 5, 3), **_mesh(dtype), "point_lengths": torch.tensor([5, 3])}


def _cloud_and_edges(dtype: torch.dtype) -> dict[str, Any]:
    given = _cloud_and_mesh(dtype)
    return {"edges": given.pop("faces")[:, :2], **given}


def _two_clouds(dtype: torch.dtype) -> dict[str, Any]:
    first, second = _random(dtype, 2, 5, 3), _random(dtype, 2, 6, 3, seed=1)
    normals = {"first_normals": _random(dtype, 2, 5, 3, seed=2), "second_normals": _random(dtype, 2, 6, 3, seed=3)}
    return {"first": first, "second": second, **normals}


def _matrices(dtype: torch.dtype) -> dict[str, Any]:
    return {"matrices": _random(dtype, 4, 3, 3) + torch.eye(3, dtype=dtype)}


def _rays(dtype: torch.dtype) -> dict[str, Any]:
    return {
        "points": _random(dtype, 2, 4, 3),
        "value": _random(dtype, 2, 4, seed=1),
        "gradient": _random(dtype, 2, 4, 3, seed=2),
        "posed": _random(dtype, 2, 4, 3, seed=3),
        "jacobian": _random(dtype, 2, 4, 3, 3, seed=4) + torch.eye(3, dtype=dtype),
        "directions": torch.nn.functional.normalize(_random(dtype, 2, 4, 3, seed=5), dim=-1),
        "centre": _random(dtype, 3, seed=6),
    }


def _step(dtype: torch.dtype) -> dict[str, Any]:
    given = _rays(dtype)
    inverse, regular = inverse_3x3(given.pop("jacobian"))
    limits = {"distance_tolerance": 1e-3, "angle_tolerance": 1e-3, "max_step": 0.1}
    return {**given, "inverse": inverse, "regular": regular, **limits}


def _attributes(dtype: torch.dtype) -> dict[str, Any]:
    given = image(dtype)
    fragments = rasterize(**given)
    return {
        "attributes": _random(dtype, 4, 3),
        "faces": given["faces"],
        "face_index": fragments.face_index,
        "barycentrics": fragments.barycentrics,
    }


def _pixels(dtype: torch.dtype) -> dict[str, Any]:
    batch_index = torch.tensor([0, 0, 1])
    pixels = torch.tensor([[2.0, 2.0], [3.0, 3.0], [4.0, 2.0]], dtype=dtype)
    return {**picture(dtype), "batch_index": batch_index, "pixels": pixels, "face_index": torch.tensor([0, 3, -1])}


def _painted(dtype: torch.dtype) -> dict[str, Any]:
    given = picture(dtype)
    seen = visible_faces(given["vertices_pixel"], given["faces"], 2 * HEIGHT, 2 * WIDTH)
    return {**given, "face_index": seen, "samples": 2}


def _textured(dtype: torch.dtype) -> dict[str, Any]:
    given = _painted(dtype)
    texture = torch.randint(0, 256, (5, 6, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    texcoords = _random(dtype, 5, 2).sigmoid()
    return {**given, "texcoords": texcoords, "face_texcoords": given["faces"], "texture": texture}


def _looked_up(dtype: torch.dtype) -> dict[str, Any]:
    given = image(dtype)
    depth = rasterize(**given).depth
    return {
        "vertices_pixel": given["vertices_pixel"],
        "cosines": 0.5 + 0.5 * _random(dtype, 2, 4),
        "faces": given["faces"],
        "face_index": torch.tensor([0, 1, 2, 3, -1, 1]),
        "barycentrics": torch.nn.functional.normalize(_random(dtype, 6, 3, seed=1), p=1.0, dim=1),
        "depth": depth,
        "trust": _random(dtype, *depth.shape, seed=2),
        "count": 2,
    }


def _edges(dtype: torch.dtype) -> dict[str, Any]:
    given = picture(dtype)
    edges = mesh_edges(given["faces"])
    return {**given, "edges": edges.vertex_index, "edge_faces": edges.face_index}


def _contour(dtype: torch.dtype) -> dict[str, Any]:
    given = picture(dtype)
    contour = silhouette_edges(**given, edges=mesh_edges(given["faces"]))
    return {
        "vertices_pixel": given["vertices_pixel"],
        "frame_index": contour.frame_index,
        "vertex_index": contour.vertex_index,
    }


def _matches(dtype: torch.dtype) -> dict[str, Any]:
    return {
        "queries": _random(dtype, 5, 2) * 9,
        "query_frame": torch.tensor([0, 1, 0, 1, 0]),
        "query_direction": torch.nn.functional.normalize(_random(dtype, 5, 2, seed=1), dim=1),
        "midpoints": _random(dtype, 6, 2, seed=2) * 9,
        "edge_frame": torch.tensor([0, 1, 0, 1, 0, 1]),
        "edge_direction": torch.nn.functional.normalize(_random(dtype, 6, 2, seed=3), dim=1),
        "radius": 4.0,
        "min_cos": 0.0,
    }


_LAYOUT = grid_layout(levels=2, base=2, finest=3, log2_size=5)


def _encoding(dtype: torch.dtype) -> dict[str, Any]:
    points, table = _random(dtype, 5, 3), _random(dtype, _LAYOUT.rows, 2, seed=1)
    return {"points": points, "table": table, "level_weights": torch.tensor([1.0, 0.5], dtype=dtype)}


def box(dtype: torch.dtype) -> dict[str, Tensor]:
    """Corners of a box."""
    return {"lower": torch.full((3,), -1.0, dtype=dtype), "upper": torch.full((3,), 1.0, dtype=dtype)}


def _volume(dtype: torch.dtype) -> dict[str, Any]:
    return {"volume": _random(dtype, 3, 4, 2, 2), "points": _random(dtype, 5, 3, seed=1) - 0.5, **box(dtype)}


def _channel(dtype: torch.dtype) -> dict[str, Any]:
    return _volume(dtype) | {"volume": _random(dtype, 3, 4, 2, 1)}


def _ball(points: Tensor) -> Tensor:
    return points.norm(dim=-1) - 0.55


def _ball_on_lattice(dtype: torch.dtype) -> dict[str, Any]:
    axis = torch.linspace(-1, 1, 5, dtype=dtype)
    return {"values": _ball(torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)), **box(dtype)}


def _crossed(dtype: torch.dtype) -> dict[str, Any]:
    grid = evaluate_sparse(_ball, **box(dtype), resolution=(5, 5, 5))
    return {"values": grid.dense(), **box(dtype), "cells": grid.cells}


def _evaluated(**arguments: Any) -> list[Tensor]:
    grid = evaluate_sparse(_ball, **arguments, resolution=(9, 8, 7), guard_stride=2)
    return [torch.where(grid.evaluated, grid.values, 0), grid.cells, grid.dense()]


def _skin(dtype: torch.dtype) -> dict[str, Any]:
    points, weights, bones = _random(dtype, 2, 5, 3), _random(dtype, 5, 3, seed=1), _random(dtype, 2, 3, 4, 4, seed=2)
    return {"points": points, "weights": weights, "bones": bones}


def _carry_back(dtype: torch.dtype) -> dict[str, Any]:
    bones = torch.eye(4, dtype=dtype) + 0.1 * _random(dtype, 2, 2, 4, 4, seed=2)
    posed, weights = _random(dtype, 2, 5, 3) - 0.5, _random(dtype, 5, 2, seed=1)
    return {"posed": posed, "weights": weights / weights.sum(-1, keepdim=True), "bones": bones}


def _carry_back_in_volume(dtype: torch.dtype) -> dict[str, Any]:
    given = _carry_back(dtype)
    volume = _random(dtype, 3, 4, 3, 2, seed=3) + 1.0
    del given["weights"]
    return {**given, "volume": volume / volume.sum(-1, keepdim=True), **box(dtype)}


def _weight_field(dtype: torch.dtype) -> dict[str, Any]:
    return {"vertices": solid(dtype)[0], "weights": _random(dtype, 4, 3), **box(dtype)}


_PICTURE = {"vertices_pixel": "B V 3", "faces": "F 3"}
_SIZES = (("height", 0), ("width", 0), ("height", -3))
_SKIN = {"points": "P 3|B P 3", "weights": "P J|B P J", "bones": "B J 4 4"}
_BOX = {"lower": "3", "upper": "3"}
_EDGES = {**_PICTURE, "edges": "E 2", "edge_faces": "E 2"}
_ENCODING = {"points": "P 3", "table": f"{_LAYOUT.rows} C", "level_weights": f"{_LAYOUT.levels}"}
_CONSTANT = {"order": 0}
_MESH = {"vertices": "V 3|B V 3", "faces": "F 3"}
_SPLATS = {"points_pixel": "B P 3", "radius": "|P|B P"}
_COMPOSITE = {"alphas": "B H W K", "point_index": "B H W K", "features": "P C|B P C"}
_LISTS = {"alphas": "N", "point_index": "N", "features": "P C|B P C", "ends": "B H W"}
_RAYS = {
    "points": "B R 3",
    "value": "B R",
    "gradient": "B R 3",
    "posed": "B R 3",
    "directions": "B R 3",
    "centre": "3",
}
_FACES_BELOW = {"faces": (0, "V")}
_POINT_MESH = {"points": "P 3|B P 3", "vertices": "V 3|B V 3", "faces": "F 3", "point_lengths": "B"}
_POINT_EDGES = {"points": "P 3|B P 3", "vertices": "V 3|B V 3", "edges": "E 2", "point_lengths": "B"}

CALLS = {
    "rasterize": Call(rasterize, image, _PICTURE, _FACES_BELOW, rows="B", refused=_SIZES),
    "rasterize/culled": Call(
        rasterize, lambda dtype: image(dtype, cull_backfaces=True), _PICTURE, _FACES_BELOW, rows="B"
    ),
    "visible_faces": Call(visible_faces, image, _PICTURE, _FACES_BELOW, order=0, rows="B", refused=_SIZES),
    "pixel_barycentrics": Call(
        pixel_barycentrics,
        _pixels,
        {**_PICTURE, "batch_index": "R", "pixels": "R 2", "face_index": "R"},
        {"faces": (0, "V"), "batch_index": (0, "B"), "face_index": (-1, "F")},
        constants=("pixels",),
        converted=("pixels",),
    ),
    "interpolate": Call(
        lambda attributes, faces, face_index, barycentrics: interpolate(
            attributes, faces, Fragments(face_index, barycentrics, face_index)
        ),
        _attributes,
        {"attributes": "V C|B V C", "faces": "F 3", "face_index": "B H W", "barycentrics": "B H W 3"},
        {"faces": (0, "V"), "face_index": (-1, "F")},
        rows="B",
    ),
    "rasterize_layers": Call(
        rasterize_layers,
        lambda dtype: image(dtype, faces_per_pixel=2, blur_radius=1.0, clip_barycentrics=True),
        _PICTURE,
        _FACES_BELOW,
        rows="B",
        refused=(*_SIZES, ("faces_per_pixel", 0), ("blur_radius", -1.0), ("blur_radius", float("nan"))),
    ),
    "paint_texture": Call(
        paint_texture,
        _textured,
        {**_PICTURE, "face_index": "B H W", "texcoords": "T 2", "face_texcoords": "F 3", "texture": "X Y 3"},
        {**_FACES_BELOW, "face_index": (-1, "F"), "face_texcoords": (0, "T")},
        order=0,
        rows="B",
        refused=(("samples", 0), ("samples", 4)),
        blamed=("samples",),
    ),
    "paint_vertices": Call(
        paint_vertices,
        lambda dtype: {**_painted(dtype), "colours": _random(dtype, 4, 3)},
        {**_PICTURE, "face_index": "B H W", "colours": "V 3|B V 3"},
        {**_FACES_BELOW, "face_index": (-1, "F")},
        order=0,
        rows="B",
        refused=(("samples", 0), ("samples", 4)),
        blamed=("samples",),
    ),
    "antialiased_silhouette": Call(antialiased_silhouette, image, _PICTURE, _FACES_BELOW, rows="B", refused=_SIZES),
    "antialiased_silhouette/given": Call(
        _antialiased,
        _seen_edges,
        {**_EDGES, "face_index": "B H W"},
        {**_FACES_BELOW, "edges": (0, "V"), "edge_faces": (-1, "F")},
        rows="B",
    ),
    "blended_silhouette": Call(
        blended_silhouette,
        lambda dtype: image(dtype, sigma=0.5, blur_radius=2.0),
        _PICTURE,
        _FACES_BELOW,
        rows="B",
        refused=(*_SIZES, ("sigma", 0.0), ("blur_radius", -1.0), ("faces_per_pixel", 0)),
    ),
    "blended_silhouette/nearest": Call(
        blended_silhouette,
        lambda dtype: image(dtype, sigma=0.5, blur_radius=2.0, faces_per_pixel=2),
        _PICTURE,
        _FACES_BELOW,
        rows="B",
    ),
    "splatted_silhouette": Call(
        splatted_silhouette,
        lambda dtype: image(dtype, radius=2.5),
        _PICTURE,
        _FACES_BELOW,
        rows="B",
        refused=(*_SIZES, ("radius", 0.0), ("radius", float("inf")), ("points_per_pixel", 0)),
    ),
    "splat_points": Call(
        splat_points, _radii, _SPLATS, constants=("radius",), rows="B", refused=(*_SIZES, ("points_per_pixel", 0))
    ),
    "splat_lists": Call(
        splat_lists, _radii, _SPLATS, constants=("radius",), refused=(*_SIZES, ("points_per_pixel", 0))
    ),
    "composite_alpha": Call(composite_alpha, _composite, _COMPOSITE, {"point_index": (-1, "P")}, rows="B"),
    "composite_alpha/lists": Call(composite_alpha, _composite_lists, _LISTS, {"point_index": (-1, "P")}),
    "composite_weighted": Call(composite_weighted, _composite, _COMPOSITE, {"point_index": (-1, "P")}, rows="B"),
    "mesh_topology": Call(
        mesh_topology,
        lambda dtype: {"faces": solid(dtype)[1], "vertex_count": 4},
        {"faces": "F 3"},
        {"faces": (0, "4")},
        refused=(("vertex_count", -1),),
        **_CONSTANT,
    ),
    **{
        op.__name__: Call(op, _mesh, _MESH, _FACES_BELOW, rows="B")
        for op in (face_normals, face_areas, vertex_normals, edge_lengths, laplacian_uniform)
    },
    "laplacian_cotangent": Call(
        laplacian_cotangent, _mesh, _MESH, _FACES_BELOW, rows="B", refused=(("least_area", 0.0),)
    ),
    "laplacian_cotangent/curvature": Call(
        laplacian_cotangent, lambda dtype: _mesh(dtype, curvature=True), _MESH, _FACES_BELOW, rows="B"
    ),
    "loss_laplacian": Call(loss_laplacian, _mesh, _MESH, _FACES_BELOW, refused=(("method", "cotan"),)),
    "loss_laplacian/cot": Call(
        loss_laplacian, lambda dtype: _mesh(dtype, method="cot"), _MESH, _FACES_BELOW, refused=(("least_area", 0.0),)
    ),
    "loss_edge_length": Call(loss_edge_length, _mesh, _MESH, _FACES_BELOW, refused=(("target_length", -1.0),)),
    "loss_normal_consistency": Call(
        loss_normal_consistency, _mesh, _MESH, _FACES_BELOW, refused=(("least_area", -1.0),)
    ),
    "nearest_neighbours": Call(
        nearest_neighbours,
        _clouds,
        {"queries": "P 3|B P 3", "points": "Q 3|B Q 3", "query_lengths": "B", "point_lengths": "B"},
        {"query_lengths": (0, "6"), "point_lengths": (0, "7")},
        rows="B",
        refused=(("count", 0),),
    ),
    "nearest_neighbours/many": Call(  # enough for a hierarchy of more than two levels
        nearest_neighbours,
        lambda dtype: {"queries": _random(dtype, 5, 3), "points": _random(dtype, 200, 3, seed=1)},
        {"queries": "P 3|B P 3", "points": "Q 3|B Q 3"},
        rows="P",
    ),
    **{
        op.__name__: Call(op, _cloud_and_mesh, _POINT_MESH, {**_FACES_BELOW, "point_lengths": (0, "6")}, rows=rows)
        for op, rows in ((point_mesh_distance, "B"), (mesh_point_distance, "B"), (loss_point_mesh, None))
    },
    "loss_point_edges": Call(
        loss_point_edges, _cloud_and_edges, _POINT_EDGES, {"edges": (0, "V"), "point_lengths": (0, "6")}
    ),
    "chamfer_distance": Call(
        chamfer_distance,
        _two_clouds,
        {
            name: f"{letter} 3|B {letter} 3"
            for name, letter in zip(("first", "second", "first_normals", "second_normals"), "PQPQ", strict=True)
        },
        refused=(("point_reduction", "max"), ("batch_reduction", "max")),
    ),
    "inverse_3x3": Call(inverse_3x3, _matrices, {"matrices": "N 3 3|3 3|M N 3 3|L M N 3 3"}, order=2, rows="N"),
    "singular_values_3x3": Call(singular_values_3x3, _matrices, {"matrices": "N 3 3|3 3|M N 3 3|L M N 3 3"}, rows="N"),
    "ray_step": Call(ray_step, _step, {**_RAYS, "inverse": "B R 3 3", "regular": "B R"}, **_CONSTANT),
    "implicit_gradient": Call(
        implicit_gradient,
        _rays,
        {**_RAYS, "jacobian": "B R 3 3"},
        constants=("points", "gradient", "jacobian"),
        refused=(("form", "explicit"),),
    ),
    "implicit_gradient/least_squares": Call(
        implicit_gradient,
        lambda dtype: {**_rays(dtype), "form": "least_squares"},
        {**_RAYS, "jacobian": "B R 3 3"},
        constants=("points", "gradient", "jacobian"),
    ),
    "mesh_edges": Call(
        mesh_edges, lambda dtype: {"faces": solid(dtype)[1]}, {"faces": "F 3"}, {"faces": (0, "inf")}, **_CONSTANT
    ),
    "silhouette_edges": Call(
        lambda edges, edge_faces, **given: silhouette_edges(**given, edges=MeshEdges(edges, edge_faces)),
        _edges,
        _EDGES,
        {"faces": (0, "V"), "edges": (0, "V"), "edge_faces": (-1, "F")},
        **_CONSTANT,
    ),
    "contour_edges": Call(
        lambda edges, edge_faces, **given: contour_edges(**given, edges=MeshEdges(edges, edge_faces)),
        _seen_edges,
        {**_EDGES, "face_index": "B H W"},
        {"faces": (0, "V"), "edges": (0, "V"), "edge_faces": (-1, "F")},
        refused=(("reach", -1.0),),
        **_CONSTANT,
    ),
    "contour_points": Call(
        lambda vertices_pixel, frame_index, vertex_index: contour_points(
            vertices_pixel, Contour(frame_index, frame_index, vertex_index)
        ),
        _contour,
        {"vertices_pixel": "B V 3", "frame_index": "E", "vertex_index": "E 2"},
        {"frame_index": (0, "B"), "vertex_index": (0, "V")},
    ),
    "nearest_contour": Call(
        nearest_contour,
        _matches,
        {
            "queries": "Q 2",
            "query_frame": "Q",
            "query_direction": "Q 2",
            "midpoints": "E 2",
            "edge_frame": "E",
            "edge_direction": "E 2",
        },
        {"query_frame": (0, "inf"), "edge_frame": (0, "inf")},
        refused=(("radius", 0.0), ("radius", float("nan"))),
        **_CONSTANT,
    ),
    "best_views": Call(
        best_views,
        _looked_up,
        {
            "vertices_pixel": "N V 3",
            "cosines": "N V",
            "faces": "F 3",
            "face_index": "T",
            "barycentrics": "T 3",
            "depth": "N H W",
            "trust": "N H W",
        },
        {"faces": (0, "V"), "face_index": (-1, "F")},
        rows="T",
        refused=(("count", 0), ("sharpness", -1.0), ("tolerance", -1.0), ("slope_tolerance", -1.0)),
        **_CONSTANT,
    ),
    "closest_point": Call(
        closest_point,
        lambda dtype: {"points": _random(dtype, 5, 3), **dict(zip(("vertices", "faces"), solid(dtype), strict=True))},
        {"points": "P 3", "vertices": "V 3", "faces": "F 3"},
        _FACES_BELOW,
        rows="P",
        **_CONSTANT,
    ),
    "encode_grid": Call(
        lambda **given: encode_grid(layout=_LAYOUT, **given),
        _encoding,
        _ENCODING,
        order=2,
        constants=("level_weights",),
        converted=("level_weights",),
        rows="P",
    ),
    "encode_grid_jacobian": Call(
        lambda **given: encode_grid_jacobian(layout=_LAYOUT, **given),
        _encoding,
        _ENCODING,
        constants=("level_weights",),
        converted=("level_weights",),
        rows="P",
    ),
    "grid_sample": Call(
        grid_sample,
        _volume,
        {"volume": "X Y Z C", "points": "P 3", **_BOX},
        order=2,
        constants=("lower", "upper"),
        converted=("lower", "upper"),
        rows="P",
    ),
    "grid_sample/channel": Call(
        grid_sample,
        _channel,
        {"volume": "X Y Z C", "points": "P 3", **_BOX},
        constants=("lower", "upper"),
        converted=("lower", "upper"),
        rows="P",
    ),
    "grid_sample_jacobian": Call(
        grid_sample_jacobian,
        _volume,
        {"volume": "X Y Z C", "points": "P 3", **_BOX},
        constants=("lower", "upper"),
        converted=("lower", "upper"),
        rows="P",
    ),
    "marching_cubes": Call(
        marching_cubes,
        _ball_on_lattice,
        {"values": "X Y Z", **_BOX},
        constants=("lower", "upper"),
        converted=("lower", "upper"),
    ),
    "marching_cubes/cells": Call(
        marching_cubes,
        _crossed,
        {"values": "X Y Z", **_BOX, "cells": "K"},
        {"cells": (0, "125")},
        constants=("lower", "upper"),
        converted=("lower", "upper"),
    ),
    "evaluate_sparse": Call(_evaluated, box, _BOX, converted=("upper",), blamed=("sdf",), **_CONSTANT),
    "evaluate_sparse/fast": Call(
        _evaluated,
        lambda dtype: {**box(dtype), "mode": "fast"},
        _BOX,
        converted=("upper",),
        refused=(("mode", "slow"),),
        blamed=("sdf",),
        **_CONSTANT,
    ),
    "evaluate_sparse/seeds": Call(
        _evaluated,
        lambda dtype: {**box(dtype), "seeds": torch.tensor([[0.5, 0.1, 0.0], [0.2, 0.2, 0.2]], dtype=dtype)},
        {**_BOX, "seeds": "P 3"},
        converted=("upper", "seeds"),
        blamed=("sdf",),
        refused=(("coarsest_stride", 3), ("chunk", 0)),
        **_CONSTANT,
    ),
    "skin_points": Call(skin_points, _skin, _SKIN, order=2),
    "skin_points/many": Call(  # enough for the bones' gradient to be added up in more than one strip
        skin_points,
        lambda dtype: {**_skin(dtype), "points": _random(dtype, 200, 3), "weights": _random(dtype, 200, 3, seed=1)},
        _SKIN,
    ),
    "skin_points_jacobian": Call(
        skin_points_jacobian,
        lambda dtype: {**_skin(dtype), "weight_gradients": _random(dtype, 5, 3, 3, seed=4)},
        {**_SKIN, "weight_gradients": "P J 3|B P J 3"},
    ),
    "unskin_points": Call(unskin_points, _carry_back, {"posed": "B P 3", "weights": "P J|B P J", "bones": "B J 4 4"}),
    "unskin_points_in_volume": Call(
        unskin_points_in_volume,
        _carry_back_in_volume,
        {"posed": "B P 3", "volume": "X Y Z J", **_BOX, "bones": "B J 4 4"},
        constants=("lower", "upper"),
        converted=("lower", "upper"),
        refused=(("starts", 0), ("steps", -1)),
    ),
    "build_weight_field": Call(
        lambda **given: build_weight_field(**{"resolution": (3, 4, 3), **given}),
        _weight_field,
        {"vertices": "V 3", "weights": "V J", **_BOX},
        converted=("lower", "upper"),
        refused=(("resolution", (3, 0, 3)), ("neighbours", 0), ("smoothing", -1)),
        **_CONSTANT,
    ),
}
