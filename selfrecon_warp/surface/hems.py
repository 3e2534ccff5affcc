"""Open hems: the legs under a skirt, where a closed surface has a lid.

A signed distance bounds a solid, so a skirt comes out filled: at its hem a lid runs from the cloth to the legs, which
no camera has seen. What is behind is known: air, the cloth's inside, and the naked body's legs. The lid is found, and
what it closes off is hollowed out down to the body, as far as it can be looked into from the side.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import manifold3d
import numpy as np
import torch
from torch import Tensor

from selfrecon_warp.kernels.closest_point import closest_point
from selfrecon_warp.kernels.contour import mesh_edges
from selfrecon_warp.kernels.marching_cubes import marching_cubes
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.model.body import CanonicalBody
from selfrecon_warp.surface.distance import signed_distance_to_body
from selfrecon_warp.surface.extraction import largest_components, lattice
from selfrecon_warp.surface.mesh import Smoothing, connected_pieces, vertex_normals

Mesh = tuple[Tensor, Tensor]
"""Vertices ``[V, 3]`` and faces ``[F, 3]`` int32."""

LEGS = (0, 1, 2, 4, 5)
"""SMPL's pelvis, hips and knees."""
LEAST_GAP_M = 0.015
"""A lid lies at least this far from the naked body,"""
WIDEST_GAP_M = 0.06
"""somewhere this far,"""
LEAST_AREA_M2 = 0.01
"""and is at least this large."""
RIM_GAP_M = 0.004
RIM_DOWNWARD = 0.5
"""Towards the legs, what looks down so much belongs to it up to here."""
RIM_PASSES = 6
RIM_SHARE = 0.75
"""Towards the cloth it ends where less than this is left of it after so many passes of smoothing: hems are round."""
DOWNWARD = 0.5
"""Cosine between a lid's normal and straight down, at least."""
HIDDEN_SHARE = 0.35
HIDDEN_PASSES = 12
"""A lid's vertices are unseen, at least by this share after so many passes of smoothing."""

WALL_M = 0.003
"""Thickness that cloth is left with."""
CELL_M = 0.006
"""Lattice of the hollow."""
BELOW_M = 0.02
"""The hollow reaches so far out through the lid."""
ABOVE_M = 0.25
"""It is searched for up to here above the lid."""

LOOKED_FROM_DEGREES = (0.0, 15.0, 30.0)
"""How far below the horizon one looks from; what cannot be seen from there is not kept."""
LOOKS_AROUND = 12
LOOK_PIXEL_M = 0.003
POINTS_AT_ONCE = 1 << 16


def open_hems(mesh: Mesh, body: CanonicalBody, sdf: Callable[[Tensor], Tensor], seen: Callable[[], Tensor]) -> Mesh:
    """Replace the lids under hems by the cloth's inside and the naked legs.

    Args:
        mesh: Canonical surface [m], closed.
        body: The naked body in the same pose, with the joints of SMPL.
        sdf: The field whose surface it is: signed distance [m] ``[P]`` of points ``[P, 3]``.
        seen: Gives which of the mesh's vertices any frame shows, ``[V]`` bool; asked only where there may be a lid.

    Returns:
        The mesh, open deep inside where nobody looks; as it was where there is no lid, or where it is no manifold.
    """
    vertices, faces = mesh
    lid = find_lids(vertices, faces, body, seen)
    if not bool(lid.any()):
        return mesh
    hollow = _hollow(vertices, faces, lid, body, sdf)
    return mesh if hollow is None else _subtracted(mesh, hollow)


def find_lids(vertices: Tensor, faces: Tensor, body: CanonicalBody, seen: Callable[[], Tensor]) -> Tensor:
    """Which faces close off a hem, ``[F]`` bool.

    They look down, lie off the legs, are large, and no frame shows them.

    Args:
        vertices: ``[V, 3]`` [m].
        faces: ``[F, 3]``.
        body: The naked body in the same pose.
        seen: As in :func:`open_hems`.
    """
    none = torch.zeros(len(faces), dtype=torch.bool, device=faces.device)
    if body.weights.shape[1] <= max(LEGS):
        return none
    gap, nearest, _ = closest_point(vertices, body.vertices, body.faces)
    at_legs = body.weights[:, LEGS].sum(-1)[body.faces[nearest]].mean(-1) > 0.5
    slope = -vertex_normals(vertices, faces)[:, 1]
    downward = (slope > DOWNWARD) & at_legs & (gap > LEAST_GAP_M)
    lid = _large(vertices, faces, downward, gap)
    if not bool(lid.any()):
        return none
    smoothing = Smoothing(mesh_edges(faces).vertex_index, len(vertices))
    hidden = smoothing((~seen()).to(vertices)[:, None], HIDDEN_PASSES)[:, 0] > HIDDEN_SHARE
    lid = _large(vertices, faces, downward & hidden, gap)
    rim = (slope > RIM_DOWNWARD) & at_legs & (gap > RIM_GAP_M) & (gap < LEAST_GAP_M)
    lid = _grown(lid, faces, downward | rim)
    inner = (gap < LEAST_GAP_M).to(vertices).index_put_((faces[lid].flatten().long(),), torch.ones_like(gap[0]))
    inner = smoothing(inner[:, None], RIM_PASSES)[:, 0]
    return lid & (inner[faces.long()].mean(-1) > RIM_SHARE)


def _large(vertices: Tensor, faces: Tensor, chosen: Tensor, gap: Tensor) -> Tensor:
    """Faces with two corners or more chosen, ``[F]`` bool, in pieces that are large and reach far off the body."""
    corners = faces.long()
    mine = chosen[corners].sum(-1) >= 2
    index = mine.nonzero()[:, 0]
    a, b, c = vertices[corners[index]].unbind(1)
    area = 0.5 * torch.linalg.cross(b - a, c - a).norm(dim=-1).double().cpu().numpy()
    reach = gap[corners[index]].amax(-1).double().cpu().numpy()
    piece = connected_pieces(corners[index].cpu().numpy(), len(vertices))[corners[index, 0].cpu().numpy()]
    areas = np.bincount(piece, area, minlength=len(vertices))
    reaches = np.zeros_like(areas)
    np.maximum.at(reaches, piece, reach)
    kept = (areas > LEAST_AREA_M2) & (reaches > WIDEST_GAP_M)
    lid = torch.zeros_like(mine)
    lid[index[torch.from_numpy(kept[piece]).to(index.device)]] = True
    return lid


def _grown(chosen: Tensor, faces: Tensor, within: Tensor) -> Tensor:
    """Chosen faces and all that hang together with them over vertices of ``within [V]``, ``[F]`` bool."""
    corners = faces.long()
    index = (within[corners].all(-1) | chosen).nonzero()[:, 0]
    piece = connected_pieces(corners[index].cpu().numpy(), len(within))[corners[index, 0].cpu().numpy()]
    wanted = np.isin(piece, piece[chosen[index].cpu().numpy()])
    grown = torch.zeros_like(chosen)
    grown[index[torch.from_numpy(wanted).to(index.device)]] = True
    return grown


def _hollow(
    vertices: Tensor, faces: Tensor, lid: Tensor, body: CanonicalBody, sdf: Callable[[Tensor], Tensor]
) -> Mesh | None:
    """What lies behind the lids: inside the surface, off its other faces and outside the body; ``None`` where empty."""
    around = vertices[faces[lid].flatten().long()]
    margin = 2.0 * BELOW_M
    above = around.new_tensor([0.0, ABOVE_M, 0.0])
    lower, upper, counts = lattice(around.amin(0) - margin, around.amax(0) + margin + above, CELL_M)
    axes = [torch.linspace(float(lower[k]), float(upper[k]), counts[k], device=lower.device) for k in range(3)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 3)
    depth = torch.cat([sdf(part) for part in points.split(POINTS_AT_ONCE)])
    value = torch.full_like(depth, WALL_M)
    inside = (depth < margin).nonzero()[:, 0]
    points, depth = points[inside], depth[inside]
    edge = depth > -margin  # further in, no wall is near
    to_lid, to_wall = torch.zeros_like(depth), torch.full_like(depth, margin)
    to_lid[edge], to_wall[edge] = (closest_point(points[edge], vertices, faces[part])[0] for part in (lid, ~lid))
    depth = torch.where(to_lid < to_wall, depth - BELOW_M, depth)
    value[inside] = torch.stack([depth, WALL_M - to_wall, -signed_distance_to_body(points, body)]).amax(0)
    value = value.view(counts)
    for axis in range(3):
        value.select(axis, 0).fill_(WALL_M)
        value.select(axis, counts[axis] - 1).fill_(WALL_M)
    if not bool((value < 0).any()):
        return None
    return largest_components(*marching_cubes(value, lower, upper, 0.0), 0.05)


def _subtracted(mesh: Mesh, hollow: Mesh) -> Mesh:
    """The mesh without the hollow, and without those of the hollow's faces that nobody can look at."""
    solids = [
        manifold3d.Manifold(
            manifold3d.Mesh(part[0].float().cpu().numpy(), part[1].cpu().numpy().astype(np.uint32))
        ).as_original()
        for part in (mesh, hollow)
    ]
    result = solids[0] - solids[1]
    if any(solid.status() != manifold3d.Error.NoError for solid in (*solids, result)) or result.is_empty():
        return mesh
    cut = result.to_mesh()
    vertices = torch.from_numpy(np.array(cut.vert_properties[:, :3])).to(mesh[0])
    faces = torch.from_numpy(np.array(cut.tri_verts, np.int32)).to(mesh[1])
    lengths = np.diff(np.array(cut.run_index)) // 3
    new = np.repeat(np.array(cut.run_original_id) == solids[1].original_id(), lengths)
    shown = torch.zeros(len(vertices), dtype=torch.bool, device=faces.device)
    shown[faces[_looked_at(vertices, faces)].flatten().long()] = True
    kept = shown[faces.long()].all(-1) | ~torch.from_numpy(new).to(faces.device)
    return largest_components(vertices, faces[kept], 0.05)


def _looked_at(vertices: Tensor, faces: Tensor) -> Tensor:
    """Faces that are seen from around, level and from below, without perspective, ``[F]`` bool."""
    shown = torch.zeros(len(faces), dtype=torch.bool, device=faces.device)
    centred = vertices - 0.5 * (vertices.amin(0) + vertices.amax(0))
    size = 2 * math.ceil(float(centred.norm(dim=-1).max()) / LOOK_PIXEL_M) + 2
    for below in LOOKED_FROM_DEGREES:
        for turn in range(LOOKS_AROUND):
            seen = centred @ _look(math.radians(below), 2.0 * math.pi * turn / LOOKS_AROUND).to(centred).T
            flat = 0.5 * size + seen[:, :2] / LOOK_PIXEL_M
            pixels = torch.cat([flat, size * LOOK_PIXEL_M - seen[:, 2:]], -1)
            face = visible_faces(pixels[None], faces, size, size)
            shown[face[face >= 0].long()] = True
    return shown


def _look(below: float, around: float) -> Tensor:
    """Rotation into a view from ``below`` the horizon and ``around`` the vertical; its z points at the viewer."""
    c, s = math.cos(around), math.sin(around)
    turned = torch.tensor([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
    c, s = math.cos(below), math.sin(below)
    return torch.tensor([[1.0, 0.0, 0.0], [0.0, c, s], [0.0, -s, c]]) @ turned
