"""Normals of faces as long as twice their area, and sums over the faces around each vertex.

Faces are shared by the frames of a batch: row ``i`` of what lies on faces is face ``i % F`` of frame ``i / F``. No
operation of its own: reference, tests and benchmarks are those of ``mesh``, ``mesh_losses`` and ``laplacian``.
"""

from __future__ import annotations

from typing import Any

import warp as wp


@wp.func
def area_vector(a: Any, b: Any):
    """Normal of the triangle between two of its sides, as long as twice its area; exactly zero where they coincide."""
    if a == b:  # a product and a difference rounded together would leave a remainder
        return type(a)()
    return wp.cross(a, b)


@wp.func
def frame_of(i: wp.int32, count: wp.int32):
    """``i / count``, without a division in the first frame."""
    if i < count:
        return wp.int32(0)
    return i / count


@wp.func
def face_rows(faces: wp.array[wp.vec3i], vertex_count: wp.int32, i: wp.int32):
    """Rows of the vertices of face ``i % F`` in frame ``i / F``."""
    b = frame_of(i, faces.shape[0])
    base = b * vertex_count
    return faces[i - b * faces.shape[0]] + wp.vec3i(base, base, base)


@wp.func
def edge_rows(edges: wp.array[wp.vec2i], vertex_count: wp.int32, i: wp.int32):
    """Rows of the vertices of edge ``i % E`` in frame ``i / E``, the lower vertex first."""
    b = frame_of(i, edges.shape[0])
    base = b * vertex_count
    return edges[i - b * edges.shape[0]] + wp.vec2i(base, base)


@wp.func
def face_area_vector(vertices: wp.array[Any], face: wp.vec3i):
    """Normal of the face between three rows, as long as twice its area."""
    p0 = vertices[face[0]]
    return area_vector(vertices[face[1]] - p0, vertices[face[2]] - p0)


@wp.func
def add_at_face(frames: wp.array[Any], face: wp.vec3i, to_0: Any, to_1: Any, to_2: Any):
    """Add to the rows of a face's vertices."""
    wp.atomic_add(frames, face[0], to_0)
    wp.atomic_add(frames, face[1], to_1)
    wp.atomic_add(frames, face[2], to_2)


@wp.func
def nonzero(vector: Any):
    """Whether a vector has a component other than zero."""
    zero = type(vector[0])(0.0)
    return vector[0] != zero or vector[1] != zero or vector[2] != zero


@wp.func
def area_vector_vjp(vertices: wp.array[Any], face: wp.vec3i, grad: Any, grad_vertices: wp.array[Any]):
    """Add the gradient of a face's area vector to those of its vertices."""
    if nonzero(grad):  # zero where the face is not finite, whose border must not be multiplied with it
        p0 = vertices[face[0]]
        p1 = vertices[face[1]]
        p2 = vertices[face[2]]
        add_at_face(grad_vertices, face, wp.cross(p1 - p2, grad), wp.cross(p2 - p0, grad), wp.cross(p0 - p1, grad))
