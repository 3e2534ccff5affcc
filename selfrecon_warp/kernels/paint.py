"""Faces to pictures: what a texture or the vertices' colours show at every pixel, averaged over finer samples.

``rasterize.visible_faces`` tells which face each sample of a picture ``samples`` times as large sees; here every pixel
averages its samples. Nothing is stored for a sample, and the many that see no face cost one comparison.

Texture coordinates are ``u`` to the right and ``v`` down from the texture's top left corner, in [0, 1], so the middle
of the first texel is at half a texel; lookups are bilinear, and the outermost texels go on beyond the border.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_indices, require_like, require_range, require_sizes, triangles
from selfrecon_warp.kernels.internal.triangle import locate
from selfrecon_warp.kernels.interop import CPU_FLAGS, cleared, ints, launch_split, vec2s, vec3is, vec3s, vec4s

FULL = wp.constant(255.0)
"""What a texel of full brightness holds."""


@wp.func
def within(place: Any, last: Any):
    """A place between 0 and ``last``; 0 where it is no number."""
    positive = wp.where(place > type(place)(0.0), place, type(place)(0.0))
    return wp.where(positive < last, positive, last)


@wp.func
def texel(texture: wp.array2d[wp.vec3ub], row: wp.int32, column: wp.int32, like: Any):
    """One texel, as bright as its bytes say."""
    stored = texture[row, column]
    return wp.vector(type(like)(stored[0]), type(like)(stored[1]), type(like)(stored[2]))


@wp.kernel(enable_backward=False, module="unique", module_options={"cpu_compiler_flags": CPU_FLAGS})
def paint_texture_kernel(
    first: wp.int32,
    face_index: wp.array3d[wp.int32],  # [B, H samples, W samples]
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    texcoords: wp.array[Any],  # [T] vec2
    face_texcoords: wp.array[wp.vec3i],  # [F]
    texture: wp.array2d[wp.vec3ub],  # [X, Y]
    samples: wp.int32,
    # outputs
    picture: wp.array3d[Any],  # [B, H, W] vec4
):
    """Average the texture over the samples of a pixel."""
    b, h, w = wp.tid()
    h += first
    total = picture.dtype()
    for i in range(samples):
        for j in range(samples):
            row = h * samples + i
            column = w * samples + j
            f = face_index[b, row, column]
            if f >= 0:
                corner = faces[f]
                p0 = vertices[b, corner[0]]
                p1 = vertices[b, corner[1]]
                p2 = vertices[b, corner[2]]
                weights, _z = locate(p0, p1, p2, p0.dtype(column), p0.dtype(row))
                t = face_texcoords[f]
                at = weights[0] * texcoords[t[0]] + weights[1] * texcoords[t[1]] + weights[2] * texcoords[t[2]]
                last_column = texture.shape[1] - 1
                last_row = texture.shape[0] - 1
                x = within(at[0] * p0.dtype(texture.shape[1]) - p0.dtype(0.5), p0.dtype(last_column))
                y = within(at[1] * p0.dtype(texture.shape[0]) - p0.dtype(0.5), p0.dtype(last_row))
                left = wp.int32(wp.floor(x))
                top = wp.int32(wp.floor(y))
                right = wp.min(left + 1, last_column)
                bottom = wp.min(top + 1, last_row)
                x -= p0.dtype(left)
                y -= p0.dtype(top)
                one = p0.dtype(1.0)
                upper = (one - x) * texel(texture, top, left, one) + x * texel(texture, top, right, one)
                lower = (one - x) * texel(texture, bottom, left, one) + x * texel(texture, bottom, right, one)
                colour = ((one - y) * upper + y * lower) / p0.dtype(FULL)
                total += wp.vector(colour[0], colour[1], colour[2], one)
    picture[b, h, w] = total / total.dtype(samples * samples)


@wp.kernel(enable_backward=False, module="unique", module_options={"cpu_compiler_flags": CPU_FLAGS})
def paint_vertices_kernel(
    first: wp.int32,
    face_index: wp.array3d[wp.int32],  # [B, H samples, W samples]
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    colours: wp.array2d[Any],  # [1 or B, V] vec3
    samples: wp.int32,
    # outputs
    picture: wp.array3d[Any],  # [B, H, W] vec4
):
    """Average the vertices' colours over the samples of a pixel."""
    b, h, w = wp.tid()
    h += first
    c = wp.min(b, colours.shape[0] - 1)
    total = picture.dtype()
    for i in range(samples):
        for j in range(samples):
            row = h * samples + i
            column = w * samples + j
            f = face_index[b, row, column]
            if f >= 0:
                corner = faces[f]
                p0 = vertices[b, corner[0]]
                p1 = vertices[b, corner[1]]
                p2 = vertices[b, corner[2]]
                weights, _z = locate(p0, p1, p2, p0.dtype(column), p0.dtype(row))
                colour = weights[0] * colours[c, corner[0]]
                colour += weights[1] * colours[c, corner[1]]
                colour += weights[2] * colours[c, corner[2]]
                total += wp.vector(colour[0], colour[1], colour[2], p0.dtype(1.0))
    picture[b, h, w] = total / total.dtype(samples * samples)


def paint_texture(
    face_index: Tensor,
    vertices_pixel: Tensor,
    faces: Tensor,
    texcoords: Tensor,
    face_texcoords: Tensor,
    texture: Tensor,
    samples: int = 1,
) -> Tensor:
    """Draw a textured mesh whose visible faces are known.

    Args:
        face_index: What ``visible_faces`` gave for ``vertices_pixel``, ``[B, H samples, W samples]``; -1 where none.
        vertices_pixel: Projected vertices ``(u, v, z)`` [sample, sample, m], ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        texcoords: See the module, ``[T, 2]``.
        face_texcoords: Texture coordinate of every face's corners, ``[F, 3]``.
        texture: RGB, ``[X, Y, 3]`` uint8, X rows.
        samples: Samples a pixel, along each side.

    Returns:
        RGB in [0, 1] times coverage, and coverage, ``[B, H, W, 4]``; no gradient.

    Raises:
        ValueError: A shape or index disagrees; the message names the argument.
    """
    vertices, triangle, index = _checked(face_index, vertices_pixel, faces, samples)
    T = require_shapes(texcoords=(texcoords, "T 2"), face_texcoords=(face_texcoords, f"{len(faces)} 3"))["T"]
    require_like("vertices_pixel", vertices_pixel, texcoords=texcoords)
    require_indices("vertices_pixel", vertices_pixel, face_texcoords=face_texcoords)
    require_range("face_texcoords", face_texcoords, 0, T)
    if texture.dim() != 3 or texture.shape[2] != 3 or texture.dtype != torch.uint8 or not texture.numel():
        raise ValueError(
            f"texture must be uint8 of shape [X, Y, 3], not empty, got {texture.dtype} {list(texture.shape)}"
        )
    if texture.device != vertices.device:
        raise ValueError(f"texture must be on {vertices.device} like vertices_pixel, got {texture.device}")
    inputs = [
        vec2s(texcoords.contiguous()),
        vec3is(face_texcoords.to(torch.int32).contiguous()),
        wp.from_torch(texture.contiguous(), dtype=wp.vec3ub),
    ]
    return _painted(paint_texture_kernel, vertices, triangle, index, inputs, samples)


def paint_vertices(
    face_index: Tensor, vertices_pixel: Tensor, faces: Tensor, colours: Tensor, samples: int = 1
) -> Tensor:
    """Draw a mesh with coloured vertices whose visible faces are known.

    Args:
        face_index: What ``visible_faces`` gave for ``vertices_pixel``, ``[B, H samples, W samples]``; -1 where none.
        vertices_pixel: Projected vertices ``(u, v, z)`` [sample, sample, m], ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        colours: Any three numbers a vertex, ``[V, 3]`` or ``[B, V, 3]``.
        samples: Samples a pixel, along each side.

    Returns:
        The numbers times coverage, and coverage, ``[B, H, W, 4]``; no gradient.

    Raises:
        ValueError: A shape or index disagrees; the message names the argument.
    """
    vertices, triangle, index = _checked(face_index, vertices_pixel, faces, samples)
    B, V = vertices.shape[:2]
    require_shapes(colours=(colours, f"{V} 3" if colours.dim() == 2 else f"{B} {V} 3"))
    require_like("vertices_pixel", vertices_pixel, colours=colours)
    inputs = [vec3s(colours.contiguous().view(-1, V, 3))]
    return _painted(paint_vertices_kernel, vertices, triangle, index, inputs, samples)


def _checked(face_index: Tensor, vertices_pixel: Tensor, faces: Tensor, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices, faces and face index, contiguous, or an error that names what is wrong."""
    sizes = require_shapes(
        vertices_pixel=(vertices_pixel, "B V 3"), faces=(faces, "F 3"), face_index=(face_index, "B H W")
    )
    require_sizes(samples=samples)
    if sizes["H"] % samples or sizes["W"] % samples:
        raise ValueError(
            f"face_index must have sides that are multiples of samples={samples}, got {list(face_index.shape)}"
        )
    require_like("vertices_pixel", vertices_pixel)
    require_indices("vertices_pixel", vertices_pixel, face_index=face_index)
    require_range("face_index", face_index, -1, sizes["F"])
    triangle = triangles(faces, sizes["V"], vertices_pixel.device)
    return vertices_pixel.detach().contiguous(), triangle, face_index.to(torch.int32).contiguous()


def _painted(
    kernel: Any, vertices: Tensor, faces: Tensor, face_index: Tensor, inputs: list[Any], samples: int
) -> Tensor:
    B, rows, columns = face_index.shape
    picture = cleared(vertices, B, rows // samples, columns // samples, 4)
    if len(faces) and picture.numel():
        given = [ints(face_index), vec3s(vertices), vec3is(faces), *inputs, samples]
        launch_split(kernel, vertices, tuple(picture.shape[:3]), given, [vec4s(picture)], axis=1, grain=16)
    return picture
