"""Triangles to fragments: which face each pixel shows, where on it, and how far away.

A face tests the pixels of its bounding box, wide boxes row by row within what the edges leave, and writes depth and
index into an image by one atomic maximum. On the CPU each thread draws all faces into rows of its own. A pass over the
pixels then reads faces, barycentrics and depths.

Vertices are projected already: ``(u, v, z)`` with ``u`` right and ``v`` down in pixels and ``z`` the depth along the
camera's axis in metres. Integer coordinates are pixel centres, so pixel ``[row, column]`` samples ``(u, v) = (column,
row)``.

Rules, the same on every device:

* A pixel belongs to a face when its centre lies inside or on the border of the projected triangle. Two faces find
  exactly opposite values along an edge they share, so they leave no gap.
* The nearest face wins. Depths are compared as the float32 value of ``1 / z``; equal ones go to the lower face index.
* Faces with a vertex at ``z <= NEAR`` (behind the camera included: nothing is clipped), with zero projected area, or
  with a coordinate or an area that is not finite are skipped; vertices of theirs that other faces do not share get a
  gradient of zero. A face may be larger than the picture; in float32 its border is sharp to about a millionth of its
  extent.
* A face is front-facing when its vertices run counter-clockwise as seen in the picture, which is what outward-oriented
  meshes show the camera.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_indices, require_like, require_range, require_sizes, triangles
from selfrecon_warp.kernels.internal.rasterize_kernels import (
    draw_faces_kernel,
    interpolate_kernel,
    interpolate_to_attributes_kernel,
    interpolate_to_barycentrics_kernel,
    locate_pixels_kernel,
    locate_pixels_vjp_kernel,
    read_faces_kernel,
    read_fragments_kernel,
    read_fragments_vjp_kernel,
)
from selfrecon_warp.kernels.internal.triangle import NEAR as NEAR
from selfrecon_warp.kernels.interop import (
    bits,
    clear,
    cleared,
    ints,
    launch_split,
    scalars,
    scatter_split,
    split_parts,
    vec2s,
    vec3is,
    vec3s,
)

MOST_KEYS = 2**22
"""Pixels that are drawn at once, by whole frames: 32 MB, as much as the allocator keeps at hand."""

MOST_PARTS = 4
"""Threads that draw on the CPU at most, a power of two: each looks at all faces."""


class Fragments(NamedTuple):
    """What every pixel shows."""

    face_index: Tensor
    """``[B, H, W]`` int32; -1 where no face is seen."""
    barycentrics: Tensor
    """``[B, H, W, 3]`` perspective-correct weights of the face's vertices; 0 where no face is seen."""
    depth: Tensor
    """``[B, H, W]`` depth along the camera axis [m]; 0 where no face is seen."""


def _keys(vertices: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """Room for the image of some frames, ``[frames, H W]``; taken before the results, it leaves no gap beneath them."""
    frames = min(len(vertices), max(1, MOST_KEYS // (height * width))) if len(faces) else 0
    return torch.empty(frames, height * width, dtype=torch.int64, device=vertices.device)


def _draw(
    keys: Tensor, vertices: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool
) -> Iterator[tuple[slice, Any]]:
    """Nearest face and depth of every pixel, for some frames at a time.

    Yields:
        Frames and their image.
    """
    B, V = vertices.shape[:2]
    parts = 1 << (min(split_parts(vertices, B * len(faces)), MOST_PARTS).bit_length() - 1)
    faulty = cleared(vertices, 1, dtype=torch.int32)
    for start in range(0, B, len(keys)) if len(keys) else ():
        frames = slice(start, min(start + len(keys), B))
        some = vertices[frames]
        nearest = bits(clear(keys[: len(some)]).view(-1))
        inputs = [vec3s(some.view(-1, 3)), vec3is(faces), len(some), V, height, width, cull_backfaces, parts]
        launch_split(draw_faces_kernel, vertices, (parts, len(faces)), inputs, [nearest, ints(faulty)], grain=1)
        if start == 0 and faulty.item():
            require_range("faces", faces, 0, V)
        yield frames, nearest


def _blank(vertices: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """Room for the face index image: -1 without faces, else still to be written."""
    face_index = torch.empty(len(vertices), height, width, dtype=torch.int32, device=vertices.device)
    return face_index if len(faces) else face_index.fill_(-1)


class _ReadFragments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, vertices: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        B, V = vertices.shape[:2]
        keys = _keys(vertices, faces, height, width)
        face_index = _blank(vertices, faces, height, width)
        make = vertices.new_empty if len(faces) else vertices.new_zeros
        barycentrics, depth = make(B, height, width, 3), make(B, height, width)
        for frames, nearest in _draw(keys, vertices, faces, height, width, cull_backfaces):
            index = face_index[frames].view(-1)
            inputs = [nearest, vec3s(vertices[frames].view(-1, 3)), vec3is(faces), V, height, width]
            outputs = [ints(index), vec3s(barycentrics[frames].view(-1, 3)), scalars(depth[frames].view(-1))]
            launch_split(read_fragments_kernel, vertices, (len(index),), inputs, outputs)
        ctx.save_for_backward(vertices, faces, face_index)
        ctx.mark_non_differentiable(face_index)
        return face_index, barycentrics, depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, grad_barycentrics: Tensor, grad_depth: Tensor) -> tuple[Tensor | None, ...]:
        vertices, faces, face_index = ctx.saved_tensors
        height, width = face_index.shape[1:]
        inputs = [
            vec3s(vertices.view(-1, 3)),
            vec3is(faces),
            vertices.shape[1],
            height,
            width,
            ints(face_index.view(-1)),
            vec3s(grad_barycentrics.contiguous().view(-1, 3)),
            scalars(grad_depth.contiguous().view(-1)),
        ]
        pixels = face_index.numel() if len(faces) else 0
        return scatter_split(read_fragments_vjp_kernel, vertices, pixels, inputs, vertices.shape), *[None] * 4


class _LocatePixels(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, vertices: Tensor, faces: Tensor, batch_index: Tensor, pixels: Tensor, face_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        barycentrics = vertices.new_zeros(len(pixels), 3)
        depth = vertices.new_zeros(len(pixels))
        inputs = _LocatePixels.inputs(vertices, faces, batch_index, pixels, face_index)
        rows = (len(pixels) if len(faces) else 0,)
        launch_split(locate_pixels_kernel, vertices, rows, inputs, [vec3s(barycentrics), scalars(depth)])
        ctx.save_for_backward(vertices, faces, batch_index, pixels, face_index)
        return barycentrics, depth

    @staticmethod
    def inputs(vertices: Tensor, faces: Tensor, batch_index: Tensor, pixels: Tensor, face_index: Tensor) -> list[Any]:
        shared = [vec3s(vertices.view(-1, 3)), vec3is(faces), vertices.shape[1]]
        return [*shared, ints(batch_index), vec2s(pixels), ints(face_index)]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_barycentrics: Tensor, grad_depth: Tensor) -> tuple[Tensor | None, ...]:
        vertices, faces, _, pixels, _ = ctx.saved_tensors
        inputs = _LocatePixels.inputs(*ctx.saved_tensors)
        inputs += [vec3s(grad_barycentrics.contiguous()), scalars(grad_depth.contiguous())]
        rows = len(pixels) if len(faces) else 0
        kernel = locate_pixels_vjp_kernel
        return scatter_split(kernel, vertices, rows, inputs, vertices.shape, parts=1), *[None] * 4


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, attributes: Tensor, faces: Tensor, face_index: Tensor, barycentrics: Tensor) -> Tensor:
        values = attributes.new_zeros(*face_index.shape, attributes.shape[2])
        dim, shared = _Interpolate.extent(attributes, faces, face_index)
        inputs = [scalars(attributes.flatten(0, 1)), vec3is(faces), ints(face_index.view(-1))]
        inputs += [vec3s(barycentrics.view(-1, 3)), *shared]
        launch_split(interpolate_kernel, values, dim, inputs, [scalars(values.flatten(0, 1))])
        ctx.save_for_backward(attributes, faces, face_index, barycentrics)
        return values

    @staticmethod
    def extent(attributes: Tensor, faces: Tensor, face_index: Tensor) -> tuple[tuple[int], list[int]]:
        """Threads of a launch over the pixels, none where there is nothing to carry, and the two strides."""
        work = face_index.numel() if attributes.numel() and len(faces) else 0
        return (work,), [attributes.shape[1] if len(attributes) > 1 else 0, face_index.shape[1]]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_values: Tensor) -> tuple[Tensor | None, ...]:
        attributes, faces, face_index, barycentrics = ctx.saved_tensors
        dim, shared = _Interpolate.extent(attributes, faces, face_index)
        grad_values = grad_values.contiguous().flatten(0, 1)
        to_attributes, to_barycentrics = None, None
        if ctx.needs_input_grad[0]:
            inputs = [vec3is(faces), ints(face_index.view(-1)), vec3s(barycentrics.view(-1, 3))]
            inputs += [scalars(grad_values), *shared]
            to_attributes = scatter_split(
                interpolate_to_attributes_kernel,
                attributes,
                dim[0],
                inputs,
                attributes.shape,
                view=lambda part: scalars(part.flatten(0, 1)),
            )
        if ctx.needs_input_grad[3]:
            to_barycentrics = torch.zeros_like(barycentrics)
            inputs = [scalars(attributes.flatten(0, 1)), vec3is(faces), ints(face_index.view(-1))]
            inputs += [scalars(grad_values), *shared]
            outputs = [vec3s(to_barycentrics.view(-1, 3))]
            launch_split(interpolate_to_barycentrics_kernel, attributes, dim, inputs, outputs)
        return to_attributes, None, None, to_barycentrics


def _checked(vertices_pixel: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The inputs contiguous, or an error that names what is wrong."""
    V = require_shapes(vertices_pixel=(vertices_pixel, "B V 3"), faces=(faces, "F 3"))["V"]
    require_like("vertices_pixel", vertices_pixel)
    require_sizes(height=height, width=width)
    if faces.dtype == torch.int32 and faces.device == vertices_pixel.device and V:
        return vertices_pixel.contiguous(), faces.contiguous()  # drawing finds indices out of range
    return vertices_pixel.contiguous(), triangles(faces, V, vertices_pixel.device)


def visible_faces(
    vertices_pixel: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool = False
) -> Tensor:
    """Draw a mesh into face indices only: the cheapest form of :func:`rasterize`.

    Args:
        vertices_pixel: Projected vertices ``(u, v, z)`` [pixel, pixel, m], ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        height: Rows of the image.
        width: Columns of the image.
        cull_backfaces: Leave out faces whose vertices run clockwise in the picture.

    Returns:
        Face seen by each pixel, ``[B, H, W]`` int32, -1 where none; no gradient.

    Raises:
        ValueError: A shape or index disagrees; the message names the argument.
    """
    vertices, faces = _checked(vertices_pixel.detach(), faces, height, width)
    keys = _keys(vertices, faces, height, width)
    face_index = _blank(vertices, faces, height, width)
    for frames, nearest in _draw(keys, vertices, faces, height, width, cull_backfaces):
        index = face_index[frames].view(-1)
        launch_split(read_faces_kernel, vertices, (len(index),), [nearest], [ints(index)])
    return face_index


def rasterize(
    vertices_pixel: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool = False
) -> Fragments:
    """Draw a mesh: face, barycentrics and depth at every pixel centre.

    Args:
        vertices_pixel: Projected vertices ``(u, v, z)`` [pixel, pixel, m], ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        height: Rows of the image.
        width: Columns of the image.
        cull_backfaces: Leave out faces whose vertices run clockwise in the picture.

    Returns:
        The fragments. Barycentrics and depth are differentiable once in ``vertices_pixel`` with the face held fixed;
        what happens at a border of visibility is no part of the gradient (see ``kernels/silhouette.py``).

    Raises:
        ValueError: A shape or index disagrees; the message names the argument.
    """
    vertices, faces = _checked(vertices_pixel, faces, height, width)
    return Fragments(*_ReadFragments.apply(vertices, faces, height, width, cull_backfaces))


def pixel_barycentrics(
    vertices_pixel: Tensor, faces: Tensor, batch_index: Tensor, pixels: Tensor, face_index: Tensor
) -> tuple[Tensor, Tensor]:
    """Barycentrics and depth at chosen pixels only, on faces already known (from :func:`visible_faces`).

    Args:
        vertices_pixel: Projected vertices ``(u, v, z)`` [pixel, pixel, m], ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        batch_index: Which of the ``B`` frames each pixel belongs to, ``[R]``.
        pixels: Positions ``(u, v)`` [pixel], ``[R, 2]``; integers or fractions, constants to the gradient.
        face_index: Face seen at each pixel, ``[R]``; -1 gives zeros.

    Returns:
        Perspective-correct barycentrics ``[R, 3]`` and depth [m] ``[R]``; differentiable once in ``vertices_pixel``.

    Raises:
        ValueError: A shape or index disagrees; the message names the argument.
    """
    sizes = require_shapes(
        vertices_pixel=(vertices_pixel, "B V 3"),
        faces=(faces, "F 3"),
        batch_index=(batch_index, "R"),
        pixels=(pixels, "R 2"),
        face_index=(face_index, "R"),
    )
    require_like("vertices_pixel", vertices_pixel)
    require_indices("vertices_pixel", vertices_pixel, batch_index=batch_index, face_index=face_index)
    require_range("batch_index", batch_index, 0, sizes["B"])
    require_range("face_index", face_index, -1, sizes["F"])
    barycentrics, depth = _LocatePixels.apply(
        vertices_pixel.contiguous(),
        triangles(faces, sizes["V"], vertices_pixel.device),
        batch_index.to(torch.int32).contiguous(),
        pixels.detach().to(vertices_pixel.dtype).contiguous(),
        face_index.to(torch.int32).contiguous(),
    )
    return barycentrics, depth


def interpolate(attributes: Tensor, faces: Tensor, fragments: tuple[Tensor, ...]) -> Tensor:
    """Carry vertex attributes to the pixels.

    Args:
        attributes: Values at the vertices, ``[V, C]`` for every frame or ``[B, V, C]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        fragments: What :func:`rasterize` or ``rasterize_layers`` returned for the same faces: any tuple that begins
            with face indices ``[B, ...]``, -1 where none, and barycentrics ``[B, ..., 3]``.

    Returns:
        Values at the pixels, ``[B, ..., C]``, 0 where no face is seen; differentiable once in ``attributes`` and in
        ``fragments.barycentrics``.

    Raises:
        ValueError: A shape or index disagrees; the message names the argument.
    """
    face_index, barycentrics = fragments[:2]
    if face_index.dim() == 0 or barycentrics.shape != (*face_index.shape, 3):
        expected = f"[{', '.join(map(str, [*face_index.shape, 3]))}] after face_index"
        raise ValueError(f"barycentrics must have shape {expected}, got {list(barycentrics.shape)}")
    B = len(face_index)
    shaped = attributes if attributes.dim() == 3 else attributes[None]
    require_shapes(faces=(faces, "F 3"), attributes=(attributes, "V C" if attributes.dim() == 2 else "B V C"))
    if attributes.dim() == 3 and len(shaped) != B:
        raise ValueError(f"attributes must have shape [V, C] or [B={B}, V, C], got {list(attributes.shape)}")
    require_like("barycentrics", barycentrics, attributes=attributes)
    require_indices("barycentrics", barycentrics, face_index=face_index)
    require_range("face_index", face_index, -1, len(faces))
    values: Tensor = _Interpolate.apply(
        shaped.contiguous(),
        triangles(faces, shaped.shape[1], attributes.device),
        face_index.reshape(B, -1 if B else 0).to(torch.int32).contiguous(),
        barycentrics.reshape(B, -1 if B else 0, 3).contiguous(),
    )
    return values.view(*face_index.shape, shaped.shape[-1])
