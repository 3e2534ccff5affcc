"""Silhouette edges of a posed mesh, and the nearest one to a contour pixel of the mask.

An edge is a silhouette edge of a frame when it separates a front-facing from a back-facing face of the projection, or
when only one of its faces is in front of the camera (the border of an open mesh, or a neighbour that reaches behind).
Faces seen exactly edge-on count as back-facing, so the silhouette of a closed mesh is made of closed loops. On the
contour are the silhouette edges whose midpoint lies next to a pixel that shows no face.

Selection only: nothing here carries a gradient. Callers gather the vertices of the chosen edges from the differentiable
projection, as :func:`contour_points` does. Results come in ascending (frame, edge) order, the same in every run.

Picture conventions are those of ``kernels/rasterize.py``: ``(u, v, z)``, ``v`` down, integer coordinates are pixel
centres, front faces run counter-clockwise as seen.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_indices, require_like, require_range, triangles
from selfrecon_warp.kernels.internal.triangle import NEAR
from selfrecon_warp.kernels.interop import ints, launch, vec2s, vec3s
from selfrecon_warp.kernels.topology import mesh_topology

_BINS_ALONG_SIDE = 256


class MeshEdges(NamedTuple):
    """The edges of a triangle mesh; depends on the faces alone."""

    vertex_index: Tensor
    """``[E, 2]`` int32, lower vertex first, in ascending order."""
    face_index: Tensor
    """``[E, 2]`` int32, lower face first; -1 in the second column on a border. A third face of an edge is left out."""


class Contour(NamedTuple):
    """Silhouette edges of ``E'`` (frame, edge) pairs."""

    frame_index: Tensor
    """``[E']`` int64."""
    edge_index: Tensor
    """``[E']`` int64 into the mesh's edges."""
    vertex_index: Tensor
    """``[E', 2]`` int64, in the order in which a front face runs through them."""


@wp.kernel(enable_backward=False, module="unique")
def face_side_kernel(
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array2d[wp.int32],  # [F, 3]
    near: wp.float32,
    # outputs
    side: wp.array2d[wp.int8],  # [B, F] 1 front, -1 back or edge-on, 0 behind the camera
):
    """Which side of each face the camera sees."""
    b, f = wp.tid()
    p0 = vertices[b, faces[f, 0]]
    p1 = vertices[b, faces[f, 1]]
    p2 = vertices[b, faces[f, 2]]
    area = (p1[0] - p0[0]) * (p2[1] - p0[1]) - (p1[1] - p0[1]) * (p2[0] - p0[0])
    side[b, f] = wp.int8(0)
    if wp.min(p0[2], wp.min(p1[2], p2[2])) > p0.dtype(near):
        side[b, f] = wp.int8(-1)
        if area < p0.dtype(0.0):
            side[b, f] = wp.int8(1)


@wp.func
def beside_background(face_index: wp.array3d[wp.int32], b: wp.int32, u: Any, v: Any, reach: Any):
    """Whether a pixel of the picture within ``reach`` of ``(u, v)`` shows no face."""
    height = face_index.shape[1]
    width = face_index.shape[2]
    found = wp.bool(False)
    if u >= -reach and v >= -reach and u <= type(u)(width - 1) + reach and v <= type(v)(height - 1) + reach:
        for row in range(wp.max(int(wp.ceil(v - reach)), 0), wp.min(int(wp.floor(v + reach)), height - 1) + 1):
            for column in range(wp.max(int(wp.ceil(u - reach)), 0), wp.min(int(wp.floor(u + reach)), width - 1) + 1):
                du = type(u)(column) - u
                dv = type(v)(row) - v
                if du * du + dv * dv <= reach * reach and face_index[b, row, column] < 0:
                    found = wp.bool(True)
    return found


@wp.kernel(enable_backward=False, module="unique")
def select_edges_kernel(
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array2d[wp.int32],  # [F, 3]
    edges: wp.array2d[wp.int32],  # [E, 2]
    edge_faces: wp.array2d[wp.int32],  # [E, 2]
    side: wp.array2d[wp.int8],  # [B, F]
    face_index: wp.array3d[wp.int32],  # [B, H, W]
    reach: wp.float32,  # negative: every silhouette edge
    # outputs
    selected: wp.array2d[wp.int8],  # [B, E] 1 in the edge's own order, -1 reversed, 0 not chosen
):
    """Mark the silhouette edges that lie beside background."""
    b, e = wp.tid()
    first = edge_faces[e, 0]
    second = edge_faces[e, 1]
    side0 = int(side[b, first])
    side1 = wp.int32(0)
    if second >= 0:
        side1 = int(side[b, second])
    selected[b, e] = wp.int8(0)
    if side0 == side1:
        return
    start = edges[e, 0]
    end = edges[e, 1]
    p0 = vertices[b, start]
    p1 = vertices[b, end]
    if reach >= 0.0:
        half = p0.dtype(0.5)
        middle = half * (p0 + p1)
        if not beside_background(face_index, b, middle[0], middle[1], p0.dtype(reach)):
            return
    face = first
    facing = side0
    if side1 == 1 or side0 == 0:
        face = second
        facing = side1
    order = wp.int32(-1)
    for k in range(3):
        if faces[face, k] == start and faces[face, (k + 1) % 3] == end:
            order = 1
    selected[b, e] = wp.int8(order * facing)


@wp.kernel(enable_backward=False, module="unique")
def nearest_contour_kernel(
    queries: wp.array[Any],  # [Q] vec2
    query_frame: wp.array[wp.int32],  # [Q]
    query_direction: wp.array[Any],  # [Q] vec2
    midpoints: wp.array[Any],  # [E'] vec2, sorted by bin
    edge_direction: wp.array[Any],  # [E'] vec2, likewise
    edge_index: wp.array[wp.int32],  # [E'] place before sorting
    bin_start: wp.array3d[wp.int32],  # [B, rows, columns + 1]
    origin: wp.array[Any],  # [1] vec2
    bin_size: wp.float32,
    radius: wp.float32,
    min_cos: wp.float32,
    # outputs
    nearest: wp.array[wp.int32],  # [Q]
):
    """Search the three by three bins around each query."""
    q = wp.tid()
    query = queries[q]
    direction = query_direction[q]
    b = query_frame[q]
    rows = bin_start.shape[1]
    columns = bin_start.shape[2] - 1
    place = (query - origin[0]) / query.dtype(bin_size)
    best = query.dtype(radius) * query.dtype(radius)
    best_index = wp.int32(-1)
    inside = place[0] > query.dtype(-1.0) and place[1] > query.dtype(-1.0)
    inside = inside and place[0] < query.dtype(columns + 1) and place[1] < query.dtype(rows + 1)
    if inside:
        column = int(wp.floor(place[0]))
        row = int(wp.floor(place[1]))
        left = wp.max(column - 1, 0)
        right = wp.min(column + 1, columns - 1)
        for r in range(wp.max(row - 1, 0), wp.min(row + 1, rows - 1) + 1):
            for i in range(bin_start[b, r, left], bin_start[b, r, right + 1]):
                away = midpoints[i] - query
                distance = wp.dot(away, away)
                closer = distance < best or (distance == best and (best_index < 0 or edge_index[i] < best_index))
                if closer and wp.dot(direction, edge_direction[i]) >= query.dtype(min_cos):
                    best = distance
                    best_index = edge_index[i]
    nearest[q] = best_index


def mesh_edges(faces: Tensor) -> MeshEdges:
    """Edges of a triangle mesh and the faces beside them; computed once per mesh.

    Args:
        faces: Vertex indices, ``[F, 3]``, int32 or int64.

    Returns:
        The ``E`` edges; faces that name a vertex twice contribute none.

    Raises:
        ValueError: ``faces`` has another shape or dtype, or a negative index.
    """
    F = require_shapes(faces=(faces, "F 3"))["F"]
    require_indices("faces", faces, faces=faces)
    require_range("faces", faces, 0, 2**31)
    topology = mesh_topology(faces, int(faces.max()) + 1 if F else 0)
    side = topology.edge_side
    beside = topology.next_side[side.long()]
    second = torch.where(beside == side, -1, beside // 3)
    return MeshEdges(topology.edges, torch.stack([side // 3, second.int()], -1))


def silhouette_edges(vertices_pixel: Tensor, faces: Tensor, edges: MeshEdges) -> Contour:
    """Every silhouette edge, seen or hidden.

    Args:
        vertices_pixel: Projected vertices ``(u, v, z)`` [pixel, pixel, m], ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        edges: What :func:`mesh_edges` returned for these faces.

    Returns:
        The silhouette edges of each frame.

    Raises:
        ValueError: A shape or index disagrees; the message names the argument.
    """
    return _select(vertices_pixel, faces, edges, None, -1.0)


def contour_edges(
    vertices_pixel: Tensor, faces: Tensor, edges: MeshEdges, face_index: Tensor, reach: float = 1.5
) -> Contour:
    """Silhouette edges on the border of the rendered mask.

    Args:
        vertices_pixel: Projected vertices ``(u, v, z)`` [pixel, pixel, m], ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        edges: What :func:`mesh_edges` returned for these faces.
        face_index: Face seen by each pixel (see ``visible_faces``), ``[B, H, W]``, -1 where none.
        reach: An edge is kept when a background pixel of the picture lies this near to its midpoint [pixel].

    Returns:
        The contour edges of each frame.

    Raises:
        ValueError: A shape or index disagrees; the message names the argument.
    """
    require_shapes(vertices_pixel=(vertices_pixel, "B V 3"), face_index=(face_index, "B H W"))
    require_indices("vertices_pixel", vertices_pixel, face_index=face_index)
    if not reach >= 0:
        raise ValueError(f"reach must not be negative, got {reach}")
    return _select(vertices_pixel, faces, edges, face_index.to(torch.int32).contiguous(), reach)


def _select(
    vertices_pixel: Tensor, faces: Tensor, edges: MeshEdges, face_index: Tensor | None, reach: float
) -> Contour:
    sizes = require_shapes(
        vertices_pixel=(vertices_pixel, "B V 3"),
        faces=(faces, "F 3"),
        edges=(edges.vertex_index, "E 2"),
        edge_faces=(edges.face_index, "E 2"),
    )
    B, E, F = sizes["B"], sizes["E"], sizes["F"]
    require_like("vertices_pixel", vertices_pixel)
    indices = {"faces": faces, "edges": edges.vertex_index, "edge_faces": edges.face_index}
    require_indices("vertices_pixel", vertices_pixel, **indices)
    require_range("edges", edges.vertex_index, 0, sizes["V"])
    require_range("edge_faces", edges.face_index, -1, F)
    vertices, faces = vertices_pixel.detach().contiguous(), triangles(faces, sizes["V"])
    pairs = edges.vertex_index.to(torch.int32).contiguous()
    neighbours = edges.face_index.to(torch.int32).contiguous()
    side = torch.zeros(B, F, dtype=torch.int8, device=vertices.device)
    selected = torch.zeros(B, E, dtype=torch.int8, device=vertices.device)
    if B and E:
        launch(face_side_kernel, vertices, (B, F), [vec3s(vertices), ints(faces), NEAR], [wp.from_torch(side)])
        inputs = [
            vec3s(vertices),
            ints(faces),
            ints(pairs),
            ints(neighbours),
            wp.from_torch(side),
            ints(face_index),
            reach,
        ]
        launch(select_edges_kernel, vertices, (B, E), inputs, [wp.from_torch(selected)])
    frame_index, edge_index = selected.nonzero(as_tuple=True)
    reverse = selected[frame_index, edge_index] < 0
    chosen = edges.vertex_index[edge_index].long()
    return Contour(frame_index, edge_index, torch.where(reverse[:, None], chosen.flip(-1), chosen))


def contour_points(vertices_pixel: Tensor, contour: Contour) -> tuple[Tensor, Tensor]:
    """Midpoint and outward direction of contour edges in the picture.

    Args:
        vertices_pixel: Projected vertices ``(u, v, z)`` [pixel, pixel, m], ``[B, V, 3]``.
        contour: What :func:`contour_edges` or :func:`silhouette_edges` returned.

    Returns:
        Midpoints ``(u, v)`` [pixel] ``[E', 2]`` and unit normals pointing away from the mesh ``[E', 2]`` (zero where an
        edge projects to a point); plain torch, differentiable in ``vertices_pixel``.

    Raises:
        ValueError: A shape or index disagrees; the message names the argument.
    """
    sizes = require_shapes(
        vertices_pixel=(vertices_pixel, "B V 3"),
        frame_index=(contour.frame_index, "E'"),
        vertex_index=(contour.vertex_index, "E' 2"),
    )
    require_like("vertices_pixel", vertices_pixel)
    indices = {"frame_index": contour.frame_index, "vertex_index": contour.vertex_index}
    require_indices("vertices_pixel", vertices_pixel, **indices)
    require_range("frame_index", contour.frame_index, 0, sizes["B"])
    require_range("vertex_index", contour.vertex_index, 0, sizes["V"])
    ends = vertices_pixel[contour.frame_index[:, None], contour.vertex_index, :2]
    along = ends[:, 1] - ends[:, 0]
    outward = torch.stack([-along[:, 1], along[:, 0]], -1)
    return ends.mean(1), torch.nn.functional.normalize(outward, dim=-1)


def nearest_contour(
    queries: Tensor,
    query_frame: Tensor,
    query_direction: Tensor,
    midpoints: Tensor,
    edge_frame: Tensor,
    edge_direction: Tensor,
    radius: float,
    min_cos: float,
) -> Tensor:
    """Nearest contour edge of the same frame that faces a similar way.

    Args:
        queries: Positions ``(u, v)`` [pixel], ``[Q, 2]``.
        query_frame: Frame of each query, ``[Q]``.
        query_direction: Unit outward directions, ``[Q, 2]``.
        midpoints: Edge midpoints ``(u, v)`` [pixel], ``[E', 2]``.
        edge_frame: Frame of each edge, ``[E']``.
        edge_direction: Unit outward directions, ``[E', 2]``.
        radius: Farthest match [pixel].
        min_cos: Least cosine between the two directions.

    Returns:
        Index of the match, ``[Q]`` int64, -1 where there is none; of equally near edges the first. No gradient.

    Raises:
        ValueError: A shape or dtype disagrees, or a radius is not positive; the message names the argument.
    """
    sizes = require_shapes(
        queries=(queries, "Q 2"),
        query_frame=(query_frame, "Q"),
        query_direction=(query_direction, "Q 2"),
        midpoints=(midpoints, "E' 2"),
        edge_frame=(edge_frame, "E'"),
        edge_direction=(edge_direction, "E' 2"),
    )
    if not radius > 0:
        raise ValueError(f"radius must be positive, got {radius}")
    others = {"query_direction": query_direction, "midpoints": midpoints, "edge_direction": edge_direction}
    require_like("queries", queries, **others)
    require_indices("queries", queries, query_frame=query_frame, edge_frame=edge_frame)
    nearest = torch.full((sizes["Q"],), -1, dtype=torch.int32, device=queries.device)
    if 0 in (sizes["Q"], sizes["E'"]):
        return nearest.long()
    midpoints = midpoints.detach()
    frames = int(torch.maximum(query_frame.max(), edge_frame.max())) + 1
    require_range("query_frame", query_frame, 0, frames)
    require_range("edge_frame", edge_frame, 0, frames)
    origin = midpoints.amin(0)
    extent = [float(x) for x in midpoints.amax(0) - origin]
    if not all(x < float("inf") for x in extent):
        raise ValueError("midpoints must be finite")
    bin_size = max(float(radius), max(extent) / _BINS_ALONG_SIDE)
    columns, rows = (int(x / bin_size) + 1 for x in extent)
    place = ((midpoints - origin) / bin_size).floor().long()
    column, row = place[:, 0].clamp(max=columns - 1), place[:, 1].clamp(max=rows - 1)
    key, order = torch.sort((edge_frame.long() * rows + row) * columns + column, stable=True)
    start = torch.searchsorted(key, torch.arange(frames * rows * columns + 1, device=key.device))
    per_row = torch.arange(frames * rows, device=key.device).view(frames, rows, 1) * columns
    bin_start = start[per_row + torch.arange(columns + 1, device=key.device)].int()
    inputs = [
        vec2s(queries.detach().contiguous()),
        ints(query_frame.to(torch.int32).contiguous()),
        vec2s(query_direction.detach().contiguous()),
        vec2s(midpoints[order].contiguous()),
        vec2s(edge_direction.detach()[order].contiguous()),
        ints(order.int()),
        ints(bin_start),
        vec2s(origin.view(1, 2)),
        bin_size,
        float(radius),
        float(min_cos),
    ]
    launch(nearest_contour_kernel, queries, (sizes["Q"],), inputs, [ints(nearest)])
    return nearest.long()
