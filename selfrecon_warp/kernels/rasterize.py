"""Triangles to fragments: which face each pixel shows, where on it, and how far away.

Vertices are projected already: ``(u, v, z)`` with ``u`` right and ``v`` down in pixels and ``z`` the depth along the
camera's axis in metres. Integer coordinates are pixel centres, so pixel ``[row, column]`` samples ``(u, v) = (column,
row)``.

Rules, the same on every device:

* A pixel belongs to a face when its centre lies inside or on the border of the projected triangle. The three edge
  functions are evaluated in an order that depends on the end points alone, so two faces sharing an edge leave no gap.
* The nearest face wins. Depths are compared as the float32 value of ``1 / z``; equal ones go to the lower face index.
* Faces with a vertex at ``z <= NEAR``, with zero projected area or with a coordinate that is not finite are skipped.
* A face is front-facing when its vertices run counter-clockwise as seen in the picture, which is what outward-oriented
  meshes show the camera.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.interop import ints, launch, scalars, vec3s

NEAR = 1e-4
"""Nearest depth that is drawn [m]."""


class Fragments(NamedTuple):
    """What every pixel shows."""

    face_index: Tensor
    """``[B, H, W]`` int32; -1 where no face is seen."""
    barycentrics: Tensor
    """``[B, H, W, 3]`` perspective-correct weights of the face's vertices; 0 where no face is seen."""
    depth: Tensor
    """``[B, H, W]`` depth along the camera axis [m]; 0 where no face is seen."""


@wp.func
def edge_line(a: Any, b: Any):
    """Start and direction of the edge from ``a`` to ``b``, the same for both orders but for the direction's sign."""
    if a[0] < b[0] or (a[0] == b[0] and a[1] < b[1]):
        return wp.vector(a[0], a[1], b[0] - a[0], b[1] - a[1])
    return wp.vector(b[0], b[1], b[0] - a[0], b[1] - a[1])


@wp.func
def edge(a: Any, b: Any, u: Any, v: Any):
    """Twice the signed area of ``(a, b, pixel)``, exactly antisymmetric in ``a`` and ``b``."""
    line = edge_line(a, b)
    return line[2] * (v - line[1]) - line[3] * (u - line[0])


@wp.kernel(enable_backward=False, module="unique")
def draw_faces_kernel(
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array2d[wp.int32],  # [F, 3]
    height: wp.int32,
    width: wp.int32,
    near: wp.float32,
    cull_backfaces: wp.bool,
    # outputs
    nearest: wp.array3d[wp.uint64],  # [B, H, W] bits of float32 1 / z, then the face index, complemented
):
    """Write every face's depth and index into the pixels its bounding box covers and its edges contain."""
    b, f = wp.tid()
    p0 = vertices[b, faces[f, 0]]
    p1 = vertices[b, faces[f, 1]]
    p2 = vertices[b, faces[f, 2]]
    if not (wp.min(p0[2], wp.min(p1[2], p2[2])) > p0.dtype(near)):
        return
    area = edge(p0, p1, p2[0], p2[1])
    zero = p0.dtype(0.0)
    side = p0.dtype(1.0)
    if area < zero:
        side = p0.dtype(-1.0)
    if not (area * side > zero) or (cull_backfaces and area > zero):
        return
    last_column = p0.dtype(width - 1)
    last_row = p0.dtype(height - 1)
    left = wp.max(wp.ceil(wp.min(p0[0], wp.min(p1[0], p2[0]))), zero)
    right = wp.min(wp.floor(wp.max(p0[0], wp.max(p1[0], p2[0]))), last_column)
    top = wp.max(wp.ceil(wp.min(p0[1], wp.min(p1[1], p2[1]))), zero)
    bottom = wp.min(wp.floor(wp.max(p0[1], wp.max(p1[1], p2[1]))), last_row)
    if not (left <= right and top <= bottom):
        return
    q0 = p0.dtype(1.0) / p0[2]
    q1 = p0.dtype(1.0) / p1[2]
    q2 = p0.dtype(1.0) / p2[2]
    key = wp.uint64(~wp.uint32(f))
    line0 = edge_line(p1, p2)
    line1 = edge_line(p2, p0)
    line2 = edge_line(p0, p1)
    for row in range(int(top), int(bottom) + 1):
        v = p0.dtype(row)
        rise0 = side * line0[2] * (v - line0[1])
        rise1 = side * line1[2] * (v - line1[1])
        rise2 = side * line2[2] * (v - line2[1])
        for column in range(int(left), int(right) + 1):
            u = p0.dtype(column)
            w0 = rise0 - side * line0[3] * (u - line0[0])
            w1 = rise1 - side * line1[3] * (u - line1[0])
            w2 = rise2 - side * line2[3] * (u - line2[0])
            total = w0 + w1 + w2
            if wp.min(w0, wp.min(w1, w2)) >= zero and total > zero:
                inverse_depth = wp.float32((w0 * q0 + w1 * q1 + w2 * q2) / total)
                bits = wp.uint64(wp.cast(inverse_depth, wp.uint32))
                wp.atomic_max(nearest, b, row, column, (bits << wp.uint64(32)) | key)


@wp.kernel(enable_backward=False, module="unique")
def read_faces_kernel(
    nearest: wp.array[wp.uint64],  # [B H W]
    # outputs
    face_index: wp.array[wp.int32],  # [B H W]
):
    """Unpack the face index."""
    i = wp.tid()
    face_index[i] = -1
    if nearest[i] != wp.uint64(0):
        face_index[i] = wp.int32(~wp.uint32(nearest[i]))


@wp.func
def locate(p0: Any, p1: Any, p2: Any, u: Any, v: Any):
    """Perspective-correct barycentrics and depth where the ray of pixel ``(u, v)`` meets the triangle's plane."""
    w0 = edge(p1, p2, u, v)
    w1 = edge(p2, p0, u, v)
    w2 = edge(p0, p1, u, v)
    q0 = w0 / p0[2]
    q1 = w1 / p1[2]
    q2 = w2 / p2[2]
    total = q0 + q1 + q2
    return wp.vector(q0 / total, q1 / total, q2 / total), (w0 + w1 + w2) / total


@wp.kernel(module="unique")
def locate_image_kernel(
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array2d[wp.int32],  # [F, 3]
    face_index: wp.array3d[wp.int32],  # [B, H, W]
    # outputs
    barycentrics: wp.array3d[Any],  # [B, H, W] vec3
    depth: wp.array3d[Any],  # [B, H, W]
):
    """Barycentrics and depth at every covered pixel."""
    b, row, column = wp.tid()
    f = face_index[b, row, column]
    if f >= 0:
        p0 = vertices[b, faces[f, 0]]
        p1 = vertices[b, faces[f, 1]]
        p2 = vertices[b, faces[f, 2]]
        weights, z = locate(p0, p1, p2, p0.dtype(column), p0.dtype(row))
        barycentrics[b, row, column] = weights
        depth[b, row, column] = z


@wp.kernel(module="unique")
def locate_pixels_kernel(
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array2d[wp.int32],  # [F, 3]
    batch_index: wp.array[wp.int32],  # [R]
    pixels: wp.array2d[Any],  # [R, 2]
    face_index: wp.array[wp.int32],  # [R]
    # outputs
    barycentrics: wp.array[Any],  # [R] vec3
    depth: wp.array[Any],  # [R]
):
    """Barycentrics and depth at a list of pixels."""
    r = wp.tid()
    f = face_index[r]
    if f >= 0:
        b = batch_index[r]
        p0 = vertices[b, faces[f, 0]]
        p1 = vertices[b, faces[f, 1]]
        p2 = vertices[b, faces[f, 2]]
        weights, z = locate(p0, p1, p2, pixels[r, 0], pixels[r, 1])
        barycentrics[r] = weights
        depth[r] = z


@wp.kernel(module="unique")
def interpolate_kernel(
    attributes: wp.array3d[Any],  # [1 or B, V, C]
    faces: wp.array2d[wp.int32],  # [F, 3]
    face_index: wp.array2d[wp.int32],  # [B, H W]
    barycentrics: wp.array3d[Any],  # [B, H W, 3]
    # outputs
    values: wp.array3d[Any],  # [B, H W, C]
):
    """Vertex attributes at every covered pixel."""
    b, i = wp.tid()
    f = face_index[b, i]
    if f >= 0:
        a = wp.min(b, attributes.shape[0] - 1)
        v0 = faces[f, 0]
        v1 = faces[f, 1]
        v2 = faces[f, 2]
        w0 = barycentrics[b, i, 0]
        w1 = barycentrics[b, i, 1]
        w2 = barycentrics[b, i, 2]
        for c in range(attributes.shape[2]):
            values[b, i, c] = w0 * attributes[a, v0, c] + w1 * attributes[a, v1, c] + w2 * attributes[a, v2, c]


def _extent(face_index, *inputs):
    """Threads of a launch over ``face_index``: none where there is no mesh or nothing to carry."""
    return tuple(face_index.shape) if all(x.numel() for x in inputs) else (0,)


class _LocateImage(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vertices, faces, face_index):
        barycentrics = vertices.new_zeros(*face_index.shape, 3)
        depth = vertices.new_zeros(face_index.shape)
        inputs = [vec3s(vertices), ints(faces), ints(face_index)]
        launch(locate_image_kernel, vertices, _extent(face_index, faces), inputs, [vec3s(barycentrics), scalars(depth)])
        ctx.save_for_backward(vertices, faces, face_index, barycentrics, depth)
        return barycentrics, depth

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_barycentrics, grad_depth):
        vertices, faces, face_index, barycentrics, depth = ctx.saved_tensors
        grad = torch.zeros_like(vertices)
        launch(
            locate_image_kernel,
            vertices,
            _extent(face_index, faces),
            [vec3s(vertices), ints(faces), ints(face_index)],
            [vec3s(barycentrics), scalars(depth)],
            adj_inputs=[vec3s(grad), None, None],
            adj_outputs=[vec3s(grad_barycentrics.contiguous()), scalars(grad_depth.contiguous())],
            adjoint=True,
        )
        return grad, None, None


class _LocatePixels(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vertices, faces, batch_index, pixels, face_index):
        barycentrics = vertices.new_zeros(len(pixels), 3)
        depth = vertices.new_zeros(len(pixels))
        inputs = [vec3s(vertices), ints(faces), ints(batch_index), scalars(pixels), ints(face_index)]
        launch(
            locate_pixels_kernel, vertices, _extent(face_index, faces), inputs, [vec3s(barycentrics), scalars(depth)]
        )
        ctx.save_for_backward(vertices, faces, batch_index, pixels, face_index, barycentrics, depth)
        return barycentrics, depth

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_barycentrics, grad_depth):
        vertices, faces, batch_index, pixels, face_index, barycentrics, depth = ctx.saved_tensors
        grad = torch.zeros_like(vertices)
        launch(
            locate_pixels_kernel,
            vertices,
            _extent(face_index, faces),
            [vec3s(vertices), ints(faces), ints(batch_index), scalars(pixels), ints(face_index)],
            [vec3s(barycentrics), scalars(depth)],
            adj_inputs=[vec3s(grad), None, None, None, None],
            adj_outputs=[vec3s(grad_barycentrics.contiguous()), scalars(grad_depth.contiguous())],
            adjoint=True,
        )
        return grad, None, None, None, None


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, attributes, faces, face_index, barycentrics):
        values = attributes.new_zeros(*face_index.shape, attributes.shape[2])
        inputs = [scalars(attributes), ints(faces), ints(face_index), scalars(barycentrics)]
        launch(interpolate_kernel, values, _extent(face_index, faces, attributes), inputs, [scalars(values)])
        ctx.save_for_backward(attributes, faces, face_index, barycentrics, values)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_values):
        attributes, faces, face_index, barycentrics, values = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        grads = [torch.zeros_like(x) if wanted[i] else None for i, x in ((0, attributes), (3, barycentrics))]
        launch(
            interpolate_kernel,
            values,
            _extent(face_index, faces, attributes),
            [scalars(attributes), ints(faces), ints(face_index), scalars(barycentrics)],
            [scalars(values)],
            adj_inputs=[scalars(grads[0]), None, None, scalars(grads[1])],
            adj_outputs=[scalars(grad_values.contiguous())],
            adjoint=True,
        )
        return grads[0], None, None, grads[1]


def require_range(name: str, index: Tensor, low: int, end: int) -> None:
    """Check that every index lies in ``low <= index < end``.

    Raises:
        ValueError: One does not; the message names the argument and what it holds.
    """
    if index.numel():
        least, greatest = (int(x) for x in torch.aminmax(index))
        if least < low or greatest >= end:
            raise ValueError(f"{name} must hold indices from {low} to {end - 1}, got {least} to {greatest}")


def triangles(faces: Tensor, vertex_count: int) -> Tensor:
    """Faces as contiguous int32, checked to stay inside the vertex array.

    Raises:
        ValueError: ``faces`` holds something other than int32 or int64, or an index out of range.
    """
    if faces.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"faces must be int32 or int64, got {faces.dtype}")
    require_range("faces", faces, 0, vertex_count)
    return faces.to(torch.int32).contiguous()


def _draw(vertices: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool) -> Tensor:
    """Face index image of contiguous, checked inputs."""
    B = len(vertices)
    nearest = torch.zeros(B, height, width, dtype=torch.int64, device=vertices.device)
    face_index = torch.empty(B, height, width, dtype=torch.int32, device=vertices.device)
    if B == 0:
        return face_index
    keys = wp.from_torch(nearest, dtype=wp.uint64)
    inputs = [vec3s(vertices), ints(faces), height, width, NEAR, cull_backfaces]
    launch(draw_faces_kernel, vertices, (B, len(faces)), inputs, [keys])
    launch(read_faces_kernel, vertices, (nearest.numel(),), [keys.flatten()], [ints(face_index.view(-1))])
    return face_index


def _checked(vertices_pixel: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The inputs contiguous, or an error that names what is wrong."""
    V = require_shapes(vertices_pixel=(vertices_pixel, "B V 3"), faces=(faces, "F 3"))["V"]
    for name, size in (("height", height), ("width", width)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1 pixel, got {size}")
    return vertices_pixel.contiguous(), triangles(faces, V)


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
    vertices, faces = _checked(vertices_pixel, faces, height, width)
    return _draw(vertices.detach(), faces, height, width, cull_backfaces)


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
        what happens at a border of visibility is no part of the gradient (see ``soft_silhouette``).

    Raises:
        ValueError: A shape or index disagrees; the message names the argument.
    """
    vertices, faces = _checked(vertices_pixel, faces, height, width)
    face_index = _draw(vertices.detach(), faces, height, width, cull_backfaces)
    return Fragments(face_index, *_LocateImage.apply(vertices, faces, face_index))


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
    require_range("batch_index", batch_index, 0, sizes["B"])
    require_range("face_index", face_index, -1, sizes["F"])
    barycentrics, depth = _LocatePixels.apply(
        vertices_pixel.contiguous(),
        triangles(faces, sizes["V"]),
        batch_index.to(torch.int32).contiguous(),
        pixels.detach().to(vertices_pixel.dtype).contiguous(),
        face_index.to(torch.int32).contiguous(),
    )
    return barycentrics, depth


def interpolate(attributes: Tensor, faces: Tensor, fragments: Fragments) -> Tensor:
    """Carry vertex attributes to the pixels.

    Args:
        attributes: Values at the vertices, ``[V, C]`` for every frame or ``[B, V, C]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        fragments: What :func:`rasterize` returned for the same faces.

    Returns:
        Values at the pixels, ``[B, H, W, C]``, 0 where no face is seen; differentiable once in ``attributes`` and in
        ``fragments.barycentrics``.

    Raises:
        ValueError: A shape or index disagrees; the message names the argument.
    """
    shaped = attributes if attributes.dim() == 3 else attributes[None]
    face_index, barycentrics, _ = fragments
    B, H, W = face_index.shape
    require_shapes(face_index=(face_index, "B H W"), barycentrics=(barycentrics, "B H W 3"), faces=(faces, "F 3"))
    require_shapes(attributes=(attributes, "V C" if attributes.dim() == 2 else "B V C"))
    if attributes.dim() == 3 and len(shaped) != B:
        raise ValueError(f"attributes must have shape [V, C] or [B={B}, V, C], got {list(attributes.shape)}")
    if attributes.dtype != barycentrics.dtype:
        raise ValueError(f"attributes must be {barycentrics.dtype} like the barycentrics, got {attributes.dtype}")
    values: Tensor = _Interpolate.apply(
        shaped.contiguous(),
        triangles(faces, shaped.shape[1]),
        face_index.reshape(B, H * W).contiguous(),
        barycentrics.reshape(B, H * W, 3).contiguous(),
    )
    return values.view(B, H, W, values.shape[-1])
