"""What the operations on a mesh's vertices share: their arguments, and sums that leave torch's threads asleep.

Frames lie one behind the other: vertex ``i`` of frame ``b`` is row ``b V + i`` of what the kernels see, one thread a
row; Warp's CPU backend unravels an index of two axes by division and reads arrays of two axes through strides.

Faces and edges add to their vertices. On a CPU, such a launch makes two sums, of the first and of the second half of
the faces, which are then added: in one thread it takes a third of the time of gathering by vertex through a table of
corners, and the result is the same whatever the number of threads.

Torch's worker threads spin for a while after every operation that it shares out, on the cores that the next launch is
split over; so between the launches of one operation torch has nothing large to do.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_indices, require_like, triangles
from selfrecon_warp.kernels.interop import VEC3, absent, launch_split, scalars, scatter_split, vec3s
from selfrecon_warp.kernels.topology import LinkedSides, MeshTopology, link_sides, mesh_topology

_BLOCK = wp.constant(256)
_GRAIN = 64
"""Fewest blocks of a sum that a thread is given."""
SUMS = 2
"""Sums that the faces of a CPU's mesh add to, some each: as many threads share them."""

wp.set_module_options({"enable_backward": False})


@wp.kernel
def sum_blocks_kernel(
    first: wp.int32,
    terms: wp.array[Any],  # [N]
    # outputs
    sums: wp.array[Any],  # [N / _BLOCK], rounded up
):
    block = wp.tid() + first
    total = wp.float64(0.0)
    for n in range(block * _BLOCK, wp.min((block + 1) * _BLOCK, terms.shape[0])):
        total += wp.float64(terms[n])
    sums[block] = sums.dtype(total)


@wp.kernel
def scale_kernel(
    first: wp.int32,
    values: wp.array[Any],  # [N] vec3
    scale: wp.array[Any],  # [1]
    # outputs
    scaled: wp.array[Any],  # [N] vec3
):
    i = wp.tid() + first
    scaled[i] = values[i] * scale[0]


def require_vertices(vertices: Tensor) -> None:
    """Check that ``vertices`` are ``[V, 3]`` or ``[B, V, 3]`` floats.

    Raises:
        ValueError: They are not.
    """
    require_shapes(vertices=(vertices, "V 3" if vertices.dim() == 2 else "B V 3"))
    require_like("vertices", vertices)


def given_faces(vertices: Tensor, faces: Tensor | MeshTopology) -> Tensor:
    """The faces that an operation on ``vertices`` was given, ``[F, 3]`` int32, alone or inside a topology.

    Raises:
        ValueError: They do not fit the vertices; the message says how.
    """
    if isinstance(faces, MeshTopology):
        return given_topology(vertices, faces).faces
    require_shapes(faces=(faces, "F 3"))
    require_indices("vertices", vertices, faces=faces)
    return triangles(faces, vertices.shape[-2])


def given_topology(vertices: Tensor, faces: Tensor | MeshTopology) -> MeshTopology:
    """The topology of faces that an operation on ``vertices`` was given, made here unless it was given as such.

    Raises:
        ValueError: They do not fit the vertices; the message says how.
    """
    if isinstance(faces, MeshTopology):
        return _fitting(vertices, faces)
    require_indices("vertices", vertices, faces=faces)
    return mesh_topology(faces, vertices.shape[-2])


def given_sides(vertices: Tensor, faces: Tensor | MeshTopology) -> MeshTopology | LinkedSides:
    """The same without edges, for operations that need none.

    Raises:
        ValueError: They do not fit the vertices; the message says how.
    """
    if isinstance(faces, MeshTopology):
        return _fitting(vertices, faces)
    require_indices("vertices", vertices, faces=faces)
    return link_sides(faces, vertices.shape[-2])


def _fitting(vertices: Tensor, faces: MeshTopology) -> MeshTopology:
    V = vertices.shape[-2]
    require_indices("vertices", vertices, faces=faces.faces)
    found = len(faces.neighbour_count)
    if found != V:
        raise ValueError(f"faces must be the topology of V={V} vertices, got one of {found}")
    return faces


def as_frames(vertices: Tensor) -> Tensor:
    """``[V, 3]`` or ``[B, V, 3]`` as contiguous ``[B, V, 3]``."""
    vertices = vertices.contiguous()
    return vertices if vertices.dim() == 3 else vertices[None]


def recorded(vertices: Tensor) -> bool:
    """Whether a gradient may be asked for."""
    return torch.is_grad_enabled() and vertices.requires_grad


def rows(frames: Tensor) -> Any:
    """View ``[B, N, 3]`` as Warp vectors, one row after the other."""
    return vec3s(frames.view(-1, 3))


def optional_rows(frames: Tensor | None, like: Tensor) -> Any:
    """The same; an array of no entries, but of a type, when absent."""
    return absent(VEC3[like.dtype]) if frames is None else rows(frames)


def vertex_sums(kernel: Any, vertices: Tensor, count: int, inputs: list[Any], outputs: tuple[Any, ...] = ()) -> Tensor:
    """What the ``count`` faces or edges of all frames add to the vertices, ``[B, V, 3]``."""
    return scatter_split(kernel, vertices, count, inputs, vertices.shape, outputs=outputs, parts=SUMS)


def total(terms: Tensor) -> Tensor:
    """Sum of all entries of ``[N]``, blocks of them first, in double precision."""
    blocks = terms.new_empty(-(-len(terms) // _BLOCK))
    launch_split(sum_blocks_kernel, terms, tuple(blocks.shape), [scalars(terms)], [scalars(blocks)], grain=_GRAIN)
    return blocks.sum()


def scaled(frames: Tensor, scale: Tensor) -> Tensor:
    """``[B, V, 3]`` times one number."""
    result = torch.empty_like(frames)
    launch_split(
        scale_kernel, frames, (frames.shape[:2].numel(),), [rows(frames), scalars(scale.reshape(1))], [rows(result)]
    )
    return result
