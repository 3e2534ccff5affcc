"""The nearest place on a triangle mesh for many points.

The search runs in a bounding-volume hierarchy built for each call, in float32 around the mesh's centre; it decides
which triangle is nearest, so of two triangles whose distances agree to float32 either may be named. Where on that
triangle, and how far, is then computed in the precision of the input. Triangles without area in float32 are left out.
Queries are visited along a space-filling curve: neighbours in space walk the same branches, which halves the time of
unordered queries.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.interop import ints, launch, scalars, vec3s
from selfrecon_warp.kernels.rasterize import triangles

_FARTHEST = 1e18


@wp.func
def closest_on_triangle(point: Any, a: Any, b: Any, c: Any):
    """Barycentrics of the triangle's place nearest to ``point`` (Ericson 2005, section 5.1.5)."""
    zero = point.dtype(0.0)
    one = point.dtype(1.0)
    ab = b - a
    ac = c - a
    d1 = wp.dot(ab, point - a)
    d2 = wp.dot(ac, point - a)
    d3 = wp.dot(ab, point - b)
    d4 = wp.dot(ac, point - b)
    d5 = wp.dot(ab, point - c)
    d6 = wp.dot(ac, point - c)
    on_ab = d1 * d4 - d3 * d2
    on_ac = d5 * d2 - d1 * d6
    on_bc = d3 * d6 - d5 * d4
    if d1 <= zero and d2 <= zero:
        return wp.vector(one, zero, zero)
    if d3 >= zero and d4 <= d3:
        return wp.vector(zero, one, zero)
    if d6 >= zero and d5 <= d6:
        return wp.vector(zero, zero, one)
    if on_ab <= zero and d1 >= zero and d3 <= zero:
        t = d1 / (d1 - d3)
        return wp.vector(one - t, t, zero)
    if on_ac <= zero and d2 >= zero and d6 <= zero:
        t = d2 / (d2 - d6)
        return wp.vector(one - t, zero, t)
    if on_bc <= zero and d4 - d3 >= zero and d5 - d6 >= zero:
        t = (d4 - d3) / (d4 - d3 + d5 - d6)
        return wp.vector(zero, one - t, t)
    total = on_ab + on_ac + on_bc
    return wp.vector(on_bc / total, on_ac / total, on_ab / total)


@wp.kernel(enable_backward=False, module="unique")
def find_face_kernel(
    mesh: wp.uint64,
    centred: wp.array[wp.vec3f],  # [P]
    order: wp.array[wp.int32],  # [P]
    farthest: wp.float32,
    # outputs
    face_index: wp.array[wp.int32],  # [P]
):
    """Nearest face of each point, visited in the given order."""
    p = order[wp.tid()]
    query = wp.mesh_query_point_no_sign(mesh, centred[p], farthest)
    if query.result:
        face_index[p] = query.face


@wp.kernel(enable_backward=False, module="unique")
def closest_point_kernel(
    points: wp.array[Any],  # [P] vec3
    vertices: wp.array[Any],  # [V] vec3
    faces: wp.array2d[wp.int32],  # [F, 3]
    face_index: wp.array[wp.int32],  # [P]
    # outputs
    distance: wp.array[Any],  # [P]
    barycentrics: wp.array[Any],  # [P] vec3
):
    """Distance to the chosen face and where on it."""
    p = wp.tid()
    f = face_index[p]
    if f >= 0:
        a = vertices[faces[f, 0]]
        b = vertices[faces[f, 1]]
        c = vertices[faces[f, 2]]
        weights = closest_on_triangle(points[p], a, b, c)
        distance[p] = wp.length(points[p] - (weights[0] * a + weights[1] * b + weights[2] * c))
        barycentrics[p] = weights


def closest_point(points: Tensor, vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the nearest place on a triangle mesh.

    Args:
        points: Queries [m], ``[P, 3]``.
        vertices: Vertices [m], ``[V, 3]``, of the same dtype.
        faces: Vertex indices, ``[F, 3]``, int32 or int64; at least one with an area.

    Returns:
        Distance [m] ``[P]``, face ``[P]`` int64 and barycentrics of the nearest place ``[P, 3]``. A query that is not
        finite gets distance ``inf``, face -1 and zeros. No gradient: gather the vertices by face and barycentrics for
        one.

    Raises:
        ValueError: A shape, dtype or index disagrees, no face has an area or a vertex is not finite.
    """
    sizes = require_shapes(points=(points, "P 3"), vertices=(vertices, "V 3"), faces=(faces, "F 3"))
    if points.dtype != vertices.dtype:
        raise ValueError(f"vertices must be {points.dtype} like points, got {vertices.dtype}")
    points, vertices = points.detach().contiguous(), vertices.detach().contiguous()
    if not vertices.isfinite().all():
        raise ValueError("vertices must be finite, got nan or inf")
    faces = triangles(faces, sizes["V"])
    centre = (vertices.amin(0) + vertices.amax(0)) / 2 if len(vertices) else vertices.new_zeros(3)
    centred = (points - centre).float().contiguous()
    shell = (vertices - centre).float().contiguous()
    p0, p1, p2 = shell[faces.long()].unbind(1)
    whole = (torch.linalg.cross(p1 - p0, p2 - p0).square().sum(-1) > 0).nonzero()[:, 0]
    if len(whole) == 0:
        raise ValueError(f"faces must hold at least one face with an area, got F={len(faces)} without")
    P = sizes["P"]
    distance = points.new_full((P,), float("inf"))
    barycentrics = points.new_zeros(P, 3)
    face_index = torch.full((P,), -1, dtype=torch.int32, device=points.device)
    if P == 0:
        return distance, face_index.long(), barycentrics
    faces = faces[whole]
    mesh = wp.Mesh(points=vec3s(shell), indices=ints(faces.view(-1)))
    inputs = [mesh.id, vec3s(centred), ints(_curve_order(centred)), _FARTHEST]
    launch(find_face_kernel, points, (P,), inputs, [ints(face_index)])
    inputs = [vec3s(points), vec3s(vertices), ints(faces), ints(face_index)]
    launch(closest_point_kernel, points, (P,), inputs, [scalars(distance), vec3s(barycentrics)])
    return distance, torch.where(face_index >= 0, whole[face_index.long()], -1), barycentrics


def _curve_order(points: Tensor) -> Tensor:
    """Order of points along the Morton curve of their bounding box, 10 bits an axis, ``[P]`` int32."""
    finite = points.nan_to_num(0.0, 0.0, 0.0)
    low, high = finite.amin(0), finite.amax(0)
    cell = ((finite - low) / (high - low).clamp(min=1e-12) * 1023).to(torch.int32)
    for shift, kept in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):
        cell = (cell | (cell << shift)) & kept
    return torch.argsort(cell[:, 0] | (cell[:, 1] << 1) | (cell[:, 2] << 2)).int()
