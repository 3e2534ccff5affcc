"""Skinning weights of a body's vertices spread into a volume around it.

Nearest vertices are found exactly. Voxels are grouped into blocks of four along each axis; with ``r`` the distance from
a block's centre to its k-th nearest vertex and ``h`` the block's half diagonal, the k nearest vertices of every voxel
in the block lie within ``r + 2 h`` of the centre. Each block lists those vertices once, so voxels far from the body
cost no more than near ones and no search radius needs tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.interop import SCALAR, ints, lanes, launch, require_like, scalars, vec3s

wp.set_module_options({"enable_backward": False})

BLOCK = wp.constant(4)
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
    vertices: wp.array[Any],  # [V] vec3
    lower: Any,
    voxel: Any,
    blocks: wp.vec3i,
    # scratch
    distances: wp.array2d[Any],  # [blocks, K]
    indices: wp.array2d[int],  # [blocks, K]
    # outputs
    centres: wp.array[Any],  # [blocks] vec3
    near: wp.array[Any],  # [blocks] squared distance of the k-th vertex
    reach: wp.array[Any],  # [blocks] squared distance within which candidates lie
    counts: wp.array[int],  # [blocks]
):
    """Find within what distance of a block's centre the nearest vertices of all its voxels lie."""
    block = wp.tid()
    half = lower.dtype(0.5)
    edge = lower.dtype(BLOCK)
    x = (lower.dtype(block // (blocks[1] * blocks[2])) + half) * edge
    y = (lower.dtype((block // blocks[2]) % blocks[1]) + half) * edge
    z = (lower.dtype(block % blocks[2]) + half) * edge
    centre = voxel_centre(x, y, z, lower, voxel)
    k = distances.shape[1]
    found = int(0)  # noqa: UP018, RUF046 (a Warp variable, not a constant)
    for v in range(vertices.shape[0]):
        squared = wp.length_sq(vertices[v] - centre)
        if found < k or squared < distances[block, k - 1]:
            found = insert_nearest(squared, v, block, found, distances, indices)
    farthest = wp.sqrt(distances[block, k - 1]) + (edge - lower.dtype(1.0)) * wp.length(voxel)
    limit = farthest * farthest * lower.dtype(1.00001)
    count = int(0)  # noqa: UP018, RUF046 (a Warp variable, not a constant)
    for v in range(vertices.shape[0]):
        if wp.length_sq(vertices[v] - centre) <= limit:
            count += 1
    centres[block] = centre
    near[block] = distances[block, k - 1]
    reach[block] = limit
    counts[block] = count


@wp.kernel
def block_candidates_kernel(
    vertices: wp.array[Any],  # [V] vec3
    centres: wp.array[Any],  # [blocks] vec3
    near: wp.array[Any],  # [blocks] squared distance of the k-th vertex
    reach: wp.array[Any],  # [blocks] squared distance within which candidates lie
    starts: wp.array[wp.int64],  # [blocks + 1]
    # outputs
    candidates: wp.array[int],  # the block's nearest vertices first, so that few later ones enter a voxel's list
):
    """List the vertices within a block's reach."""
    block = wp.tid()
    place = starts[block]
    for v in range(vertices.shape[0]):
        if wp.length_sq(vertices[v] - centres[block]) <= near[block]:
            candidates[place] = v
            place += wp.int64(1)
    for v in range(vertices.shape[0]):
        squared = wp.length_sq(vertices[v] - centres[block])
        if squared > near[block] and squared <= reach[block]:
            candidates[place] = v
            place += wp.int64(1)


@wp.kernel
def nearest_weights_kernel(
    vertices: wp.array[Any],  # [V] vec3
    weights: wp.array2d[Any],  # [V, J / lane] lanes
    starts: wp.array[wp.int64],  # [blocks + 1]
    candidates: wp.array[int],
    lower: Any,
    voxel: Any,
    blocks: wp.vec3i,
    resolution: wp.vec3i,
    first: int,
    nearest: Any,
    farthest: Any,
    # scratch
    distances: wp.array2d[Any],  # [voxels at once, K]
    indices: wp.array2d[int],  # [voxels at once, K]
    # outputs
    field: wp.array2d[Any],  # [X * Y * Z, J / lane] lanes
):
    """Average the weights of a voxel's nearest vertices by inverse distance."""
    slot = wp.tid()
    at = first + slot
    i = at // (resolution[1] * resolution[2])
    j = (at // resolution[2]) % resolution[1]
    k = at % resolution[2]
    half = type(nearest)(0.5)
    centre = voxel_centre(type(half)(i) + half, type(half)(j) + half, type(half)(k) + half, lower, voxel)
    block = ((i // BLOCK) * blocks[1] + j // BLOCK) * blocks[2] + k // BLOCK
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
    field: wp.array4d[Any],  # [X, Y, Z, J / lane] lanes
    keep: Any,
    # outputs
    smoothed: wp.array4d[Any],  # [X, Y, Z, J / lane] lanes
):
    """One Jacobi pass over an interior voxel."""
    i, j, k = wp.tid()
    x = i + 1
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
    block_counts = [-(-cells // BLOCK) for cells in resolution]
    blocks = wp.vec3i(*block_counts)
    block_total = block_counts[0] * block_counts[1] * block_counts[2]

    centres = vertices.new_empty(block_total, 3)
    near = vertices.new_empty(block_total)
    reach = vertices.new_empty(block_total)
    counts = torch.empty(block_total, dtype=torch.int32, device=vertices.device)
    distances = vertices.new_empty(block_total, neighbours)
    indices = torch.empty(block_total, neighbours, dtype=torch.int32, device=vertices.device)
    inputs = [vec3s(vertices), corner, voxel, blocks, scalars(distances), ints(indices)]
    outputs = [vec3s(centres), scalars(near), scalars(reach), ints(counts)]
    launch(block_reach_kernel, vertices, (block_total,), inputs, outputs)

    starts = torch.zeros(block_total + 1, dtype=torch.int64, device=vertices.device)
    starts[1:] = counts.cumsum(0)
    candidates = torch.empty(int(starts[-1]), dtype=torch.int32, device=vertices.device)
    inputs = [vec3s(vertices), vec3s(centres), scalars(near), scalars(reach), ints(starts)]
    launch(block_candidates_kernel, vertices, (block_total,), inputs, [ints(candidates)])

    voxels = resolution[0] * resolution[1] * resolution[2]
    joints = weights.shape[1]
    field = weights.new_empty(voxels, joints)
    at_once = min(voxels, VOXELS_AT_ONCE)
    distances = vertices.new_empty(at_once, neighbours)
    indices = torch.empty(at_once, neighbours, dtype=torch.int32, device=vertices.device)
    scalar = SCALAR[vertices.dtype]
    for first in range(0, voxels, at_once):
        inputs = [vec3s(vertices), lanes(weights, joints), ints(starts), ints(candidates), corner, voxel, blocks]
        inputs += [wp.vec3i(*resolution), first, scalar(NEAREST_DISTANCE), scalar(FARTHEST_DISTANCE)]
        inputs += [scalars(distances), ints(indices)]
        launch(nearest_weights_kernel, vertices, (min(at_once, voxels - first),), inputs, [lanes(field, joints)])
    return field.view(*resolution, joints)


def _smooth(field: Tensor, passes: int, keep: float) -> Tensor:
    """Jacobi smoothing of the interior voxels."""
    interior = tuple(max(size - 2, 0) for size in field.shape[:3])
    joints = field.shape[3]
    other = field.clone()
    for _ in range(passes):
        inputs: list[Any] = [lanes(field, joints), SCALAR[field.dtype](keep)]
        launch(smooth_kernel, field, interior, inputs, [lanes(other, joints)])
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
