"""Skinning weights of a body's vertices spread into a volume around it.

Nearest vertices are found exactly. Voxels are grouped into blocks; with ``r`` the distance from a block's centre to its
k-th nearest vertex and ``h`` half the diagonal between its outermost voxel centres, the k nearest vertices of every
voxel in the block lie within ``r + 2 h`` of the centre. Each block lists those vertices once, so voxels far from the
body cost no more than near ones and no search radius needs tuning. Blocks of sixteen voxels along each axis look at all
vertices; the blocks of four within them look at their lists alone, which hold the lists of all that lies within.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_like
from selfrecon_warp.kernels.interop import SCALAR, SPLIT_GRAIN, ints, lanes, launch_split, scalars, vec3s

wp.set_module_options({"enable_backward": False})

EDGES = 16, 4
"""Voxels along the edge of the outer and of the inner blocks."""
BLOCK_GRAIN = 64
"""Fewest blocks that a thread is given: each looks at hundreds of vertices or more."""
VOXELS_AT_ONCE = 1 << 17
NEAREST_DISTANCE = 1.0e-4
FARTHEST_DISTANCE = 1.0


@wp.func
def insert_nearest(
    squared: Any, index: int, slot: int, found: int, distances: wp.array2d[Any], indices: wp.array2d[int]
):
    """Insert a vertex into the ascending list ``slot`` of which ``found`` entries are filled; returns the new count."""
    count = distances.shape[1]
    place = found
    if found == count:
        place = count - 1
    while place > 0 and distances[slot, wp.max(place - 1, 0)] > squared:
        distances[slot, place] = distances[slot, place - 1]
        indices[slot, place] = indices[slot, place - 1]
        place -= 1
    distances[slot, place] = squared
    indices[slot, place] = index
    return wp.min(found + 1, count)


@wp.func
def voxel_centre(x: Any, y: Any, z: Any, lower: Any, voxel: Any):
    """Position of continuous voxel coordinates, centres at half-integers."""
    return lower + wp.cw_mul(type(lower)(x, y, z), voxel)


@wp.kernel
def block_reach_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [V] vec3
    lower: Any,
    voxel: Any,
    edge: int,
    blocks: wp.vec3i,
    parent_edge: int,
    parents: wp.vec3i,
    parent_starts: wp.array[wp.int64],  # [parents + 1]
    parent_candidates: wp.array[int],
    # scratch
    distances: wp.array2d[Any],  # [blocks, K]
    indices: wp.array2d[int],  # [blocks, K]
    # outputs
    centres: wp.array[Any],  # [blocks] vec3
    near: wp.array[Any],  # [blocks] squared distance of the k-th vertex
    reach: wp.array[Any],  # [blocks] squared distance within which candidates lie
    sources: wp.array[int],  # [blocks] parent whose candidates were looked at
    counts: wp.array[int],  # [blocks]
):
    """Find within what distance of a block's centre the nearest vertices of all its voxels lie."""
    block = first + wp.tid()
    i = edge * (block // (blocks[1] * blocks[2]))
    j = edge * ((block // blocks[2]) % blocks[1])
    k = edge * (block % blocks[2])
    half = lower.dtype(0.5) * lower.dtype(edge)
    centre = voxel_centre(lower.dtype(i) + half, lower.dtype(j) + half, lower.dtype(k) + half, lower, voxel)
    parent = ((i // parent_edge) * parents[1] + j // parent_edge) * parents[2] + k // parent_edge
    nearest = distances.shape[1]
    found = int(0)  # noqa: UP018, RUF046 (a Warp variable, not a constant)
    c = parent_starts[parent]
    while c < parent_starts[parent + 1]:
        squared = wp.length_sq(vertices[parent_candidates[c]] - centre)
        if found < nearest or squared < distances[block, nearest - 1]:
            found = insert_nearest(squared, parent_candidates[c], block, found, distances, indices)
        c += wp.int64(1)
    farthest = wp.sqrt(distances[block, nearest - 1]) + lower.dtype(edge - 1) * wp.length(voxel)
    limit = farthest * farthest * lower.dtype(1.00001)
    count = int(0)  # noqa: UP018, RUF046 (a Warp variable, not a constant)
    c = parent_starts[parent]
    while c < parent_starts[parent + 1]:
        if wp.length_sq(vertices[parent_candidates[c]] - centre) <= limit:
            count += 1
        c += wp.int64(1)
    centres[block] = centre
    near[block] = distances[block, nearest - 1]
    reach[block] = limit
    sources[block] = parent
    counts[block] = count


@wp.kernel
def block_candidates_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [V] vec3
    centres: wp.array[Any],  # [blocks] vec3
    near: wp.array[Any],  # [blocks] squared distance of the k-th vertex
    reach: wp.array[Any],  # [blocks] squared distance within which candidates lie
    sources: wp.array[int],  # [blocks]
    parent_starts: wp.array[wp.int64],  # [parents + 1]
    parent_candidates: wp.array[int],
    starts: wp.array[wp.int64],  # [blocks + 1]
    # outputs
    candidates: wp.array[int],  # the block's nearest vertices first, so that few later ones enter a voxel's list
):
    """List the vertices within a block's reach."""
    block = first + wp.tid()
    place = starts[block]
    later = starts[block + 1]
    c = parent_starts[sources[block]]
    while c < parent_starts[sources[block] + 1]:
        v = parent_candidates[c]
        squared = wp.length_sq(vertices[v] - centres[block])
        if squared <= near[block]:
            candidates[place] = v
            place += wp.int64(1)
        elif squared <= reach[block]:
            later -= wp.int64(1)
            candidates[later] = v
        c += wp.int64(1)


@wp.kernel
def nearest_weights_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [V] vec3
    weights: wp.array2d[Any],  # [V, J / lane] lanes
    starts: wp.array[wp.int64],  # [blocks + 1]
    candidates: wp.array[int],
    lower: Any,
    voxel: Any,
    edge: int,
    blocks: wp.vec3i,
    resolution: wp.vec3i,
    offset: int,
    nearest: Any,
    farthest: Any,
    # scratch
    distances: wp.array2d[Any],  # [voxels at once, K]
    indices: wp.array2d[int],  # [voxels at once, K]
    # outputs
    field: wp.array2d[Any],  # [X * Y * Z, J / lane] lanes
):
    """Average the weights of a voxel's nearest vertices by inverse distance."""
    slot = first + wp.tid()
    at = offset + slot
    i = at // (resolution[1] * resolution[2])
    j = (at // resolution[2]) % resolution[1]
    k = at % resolution[2]
    half = type(nearest)(0.5)
    centre = voxel_centre(type(half)(i) + half, type(half)(j) + half, type(half)(k) + half, lower, voxel)
    block = ((i // edge) * blocks[1] + j // edge) * blocks[2] + k // edge
    count = distances.shape[1]
    found = int(0)  # noqa: UP018, RUF046 (a Warp variable, not a constant)
    c = starts[block]
    while c < starts[block + 1]:
        v = candidates[c]
        squared = wp.length_sq(vertices[v] - centre)
        if found < count or squared < distances[slot, count - 1]:
            found = insert_nearest(squared, v, slot, found, distances, indices)
        c += wp.int64(1)
    total = type(half)(0.0)
    for n in range(count):
        share = type(half)(1.0) / wp.clamp(wp.sqrt(distances[slot, n]), nearest, farthest)
        distances[slot, n] = share
        total += share
    for c in range(weights.shape[1]):
        blended = weights.dtype()
        for n in range(count):
            blended += distances[slot, n] * weights[indices[slot, n], c]
        field[at, c] = blended / total


@wp.kernel
def smooth_kernel(
    first: wp.int32,
    field: wp.array4d[Any],  # [X, Y, Z, J / lane] lanes
    keep: Any,
    # outputs
    smoothed: wp.array4d[Any],  # [X, Y, Z, J / lane] lanes
):
    """One Jacobi pass over an interior voxel."""
    i, j, k = wp.tid()
    x = first + i + 1
    y = j + 1
    z = k + 1
    sixth = type(keep)(1.0) / type(keep)(6.0)
    for c in range(field.shape[3]):
        mean = sixth * (
            field[x - 1, y, z, c]
            + field[x + 1, y, z, c]
            + field[x, y - 1, z, c]
            + field[x, y + 1, z, c]
            + field[x, y, z - 1, c]
            + field[x, y, z + 1, c]
        )
        smoothed[x, y, z, c] = mean + keep * (field[x, y, z, c] - mean)


def _nearest_weights(
    vertices: Tensor, weights: Tensor, lower: Tensor, upper: Tensor, resolution: Sequence[int], neighbours: int
) -> Tensor:
    """Inverse-distance blend of the nearest vertices' weights at every voxel centre, ``[X, Y, Z, J]``."""
    lower, upper = lower.double().cpu(), upper.double().cpu()
    vec3 = {torch.float32: wp.vec3f, torch.float64: wp.vec3d}[vertices.dtype]
    corner = vec3(*lower.tolist())
    voxel = vec3(*((upper - lower) / torch.tensor(resolution)).tolist())
    lists = _Lists(
        edge=max(resolution),
        counts=(1, 1, 1),
        starts=torch.tensor([0, len(vertices)], device=vertices.device),
        candidates=torch.arange(len(vertices), dtype=torch.int32, device=vertices.device),
    )
    for edge in EDGES:
        lists = _candidates(vertices, corner, voxel, resolution, neighbours, edge, lists)

    voxels = resolution[0] * resolution[1] * resolution[2]
    joints = weights.shape[1]
    field = weights.new_empty(voxels, joints)
    at_once = min(voxels, VOXELS_AT_ONCE)
    distances = vertices.new_empty(at_once, neighbours)
    indices = torch.empty(at_once, neighbours, dtype=torch.int32, device=vertices.device)
    scalar = SCALAR[vertices.dtype]
    for offset in range(0, voxels, at_once):
        inputs = [vec3s(vertices), lanes(weights, joints), ints(lists.starts), ints(lists.candidates), corner, voxel]
        inputs += [lists.edge, wp.vec3i(*lists.counts), wp.vec3i(*resolution), offset]
        inputs += [scalar(NEAREST_DISTANCE), scalar(FARTHEST_DISTANCE), scalars(distances), ints(indices)]
        rows = min(at_once, voxels - offset)
        launch_split(nearest_weights_kernel, vertices, (rows,), inputs, [lanes(field, joints)], grain=BLOCK_GRAIN)
    return field.view(*resolution, joints)


@dataclass(frozen=True)
class _Lists:
    """Vertices near the blocks of one size."""

    edge: int  # voxels
    counts: tuple[int, int, int]  # blocks along x, y, z
    starts: Tensor  # [blocks + 1] int64
    candidates: Tensor  # [starts[-1]] int32


def _candidates(
    vertices: Tensor, corner: Any, voxel: Any, resolution: Sequence[int], neighbours: int, edge: int, parents: _Lists
) -> _Lists:
    """List the vertices near every block, out of those near the larger block around it."""
    x, y, z = (-(-cells // edge) for cells in resolution)
    total = x * y * z
    centres = vertices.new_empty(total, 3)
    near, reach = vertices.new_empty(2, total)
    sources, counts = torch.empty(2, total, dtype=torch.int32, device=vertices.device)
    distances = vertices.new_empty(total, neighbours)
    indices = torch.empty(total, neighbours, dtype=torch.int32, device=vertices.device)
    listed = [ints(parents.starts), ints(parents.candidates)]
    inputs = [vec3s(vertices), corner, voxel, edge, wp.vec3i(x, y, z), parents.edge, wp.vec3i(*parents.counts)]
    inputs += [*listed, scalars(distances), ints(indices)]
    outputs = [vec3s(centres), scalars(near), scalars(reach), ints(sources), ints(counts)]
    launch_split(block_reach_kernel, vertices, (total,), inputs, outputs, grain=BLOCK_GRAIN)

    starts = torch.zeros(total + 1, dtype=torch.int64, device=vertices.device)
    starts[1:] = counts.cumsum(0)
    candidates = torch.empty(int(starts[-1]), dtype=torch.int32, device=vertices.device)
    inputs = [vec3s(vertices), vec3s(centres), scalars(near), scalars(reach), ints(sources), *listed, ints(starts)]
    launch_split(block_candidates_kernel, vertices, (total,), inputs, [ints(candidates)], grain=BLOCK_GRAIN)
    return _Lists(edge, (x, y, z), starts, candidates)


def _smooth(field: Tensor, passes: int, keep: float) -> Tensor:
    """Jacobi smoothing of the interior voxels."""
    interior = tuple(max(size - 2, 0) for size in field.shape[:3])
    joints = field.shape[3]
    other = field.clone()
    grain = max(1, SPLIT_GRAIN // max(1, interior[1] * interior[2]))
    for _ in range(passes):
        inputs: list[Any] = [lanes(field, joints), SCALAR[field.dtype](keep)]
        launch_split(smooth_kernel, field, interior, inputs, [lanes(other, joints)], grain=grain)
        field, other = other, field
    return field


@torch.no_grad()
def build_weight_field(
    vertices: Tensor,
    weights: Tensor,
    lower: Tensor,
    upper: Tensor,
    resolution: Sequence[int],
    neighbours: int = 30,
    smoothing: int = 30,
) -> Tensor:
    """Spread a body's skinning weights into a volume.

    Each voxel takes the weights of its nearest vertices, averaged by inverse distance (clamped to 0.1 mm .. 1 m);
    Jacobi passes ``w <- m + 0.7 (w - m)`` then smooth the interior voxels, ``m`` being the mean of the six neighbours.
    Rows are normalised once, at the end: a pass averages rows whose sums are equal, so normalising after each would
    change nothing.

    Args:
        vertices: Canonical body vertices [m], ``[V, 3]``.
        weights: Skinning weights of the vertices, ``[V, J]``.
        lower: Box corner of least coordinates [m], ``[3]``.
        upper: Box corner of greatest coordinates [m], ``[3]``.
        resolution: Voxels along x, y, z; the centre of voxel ``i`` lies at ``lower + (i + 0.5) / resolution * (upper -
            lower)``.
        neighbours: How many vertices a voxel averages; all of them where there are fewer.
        smoothing: How many smoothing passes.

    Returns:
        Weights at the voxel centres, ``[X, Y, Z, J]``, rows summing to one; carries no gradient.

    Raises:
        ValueError: A shape, dtype, device or count is out of range; the message names the argument.

    Source: SelfRecon (Jiang et al. 2022), after the skinning field of its canonical body.
    """
    require_shapes(vertices=(vertices, "V 3"), weights=(weights, "V J"), lower=(lower, "3"), upper=(upper, "3"))
    require_like("vertices", vertices, weights=weights)
    if weights.numel() == 0:
        raise ValueError(f"weights must hold at least one vertex and one joint, got {list(weights.shape)}")
    if len(resolution) != 3 or min(resolution) < 1:
        raise ValueError(f"resolution must be three positive counts, got {tuple(resolution)}")
    if neighbours < 1 or smoothing < 0:
        raise ValueError(f"neighbours must be >= 1 and smoothing >= 0, got {neighbours} and {smoothing}")
    if not torch.isfinite(vertices).all():
        raise ValueError("vertices must be finite, got NaN or infinity; check the body model and its pose")
    if not (upper > lower).all():
        raise ValueError(f"upper must exceed lower along each axis, got {upper.tolist()} over {lower.tolist()}")
    field = _nearest_weights(
        vertices.contiguous(), weights.contiguous(), lower, upper, tuple(resolution), min(neighbours, len(vertices))
    )
    field = _smooth(field, smoothing, keep=0.7)
    return field / field.sum(dim=-1, keepdim=True)
