"""The best pictures of surface points: visible, seen from the front, away from borders.

Every point of a surface, given as a face and barycentrics, is looked up in every picture in which the mesh was drawn,
and keeps the ``K`` pictures that weigh most. A picture's weight for a point is

    trust * cosine ** sharpness / z ** 2

with the cosine between normal and line of sight and the depth ``z``; ``trust`` is the picture's own map, read
bilinearly, of which pixels count where the depth image shows the point itself. It is zero behind what the depth image
shows, by more than a tolerance that grows with the surface's slope.

Vertices are projected already: ``(u, v, z)`` with ``u`` right and ``v`` down in pixels, integer coordinates at pixel
centres, and ``z`` the depth along the camera's axis in metres; interpolation is perspective-correct.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_indices, require_like, require_range, triangles
from selfrecon_warp.kernels.internal.triangle import NEAR
from selfrecon_warp.kernels.interop import ints, launch_split, scalars, vec2s, vec3s, vec4s

wp.set_module_options({"enable_backward": False})

LEAST_COSINE = wp.constant(0.05)
"""Pictures that see a point at a more grazing angle than this show nothing of it."""


class BestViews(NamedTuple):
    """What :func:`best_views` found, heaviest picture first.

    Attributes:
        weight: ``[T, K]``, 0 where a point is seen in fewer pictures.
        picture: ``[T, K]`` int32, -1 there.
        pixel: Place ``(u, v)`` in the picture [pixel], ``[T, K, 2]``, zeros there.
    """

    weight: Tensor
    picture: Tensor
    pixel: Tensor


@wp.func
def trusted(trust: wp.array3d[Any], depth: wp.array3d[Any], n: wp.int32, u: Any, v: Any, furthest: Any):
    """Trust at a place, read bilinearly from the pixels that show what is no further than the point."""
    column = wp.int32(wp.floor(u))
    row = wp.int32(wp.floor(v))
    total = type(u)(0.0)
    for i in range(2):
        for j in range(2):
            r = row + i
            c = column + j
            if r >= 0 and c >= 0 and r < trust.shape[1] and c < trust.shape[2]:
                seen = depth[n, r, c]
                if seen > type(u)(0.0) and seen >= furthest:
                    along = type(u)(1.0) - wp.abs(u - type(u)(c))
                    down = type(u)(1.0) - wp.abs(v - type(u)(r))
                    total += along * down * trust[n, r, c]
    return total


@wp.kernel
def best_views_kernel(
    first: wp.int32,
    corners: wp.array2d[Any],  # [V, N] vec4: u z, v z, z, cosine
    faces: wp.array2d[wp.int32],  # [F, 3]
    face_index: wp.array[wp.int32],  # [T]
    barycentrics: wp.array[Any],  # [T] vec3
    depth: wp.array3d[Any],  # [N, H, W]
    trust: wp.array3d[Any],  # [N, H, W]
    tolerance: wp.array[Any],  # [2]: metres, and metres per metre of depth and unit of slope
    sharpness: Any,
    # outputs
    weight: wp.array2d[Any],  # [T, K]
    picture: wp.array2d[wp.int32],  # [T, K]
    pixel: wp.array2d[Any],  # [T, K] vec2
):
    t = wp.tid()
    t += first
    K = weight.shape[1]
    for k in range(K):
        picture[t, k] = -1
        weight[t, k] = type(sharpness)(0.0)
        pixel[t, k] = pixel.dtype()
    f = face_index[t]
    if f >= 0:
        b = barycentrics[t]
        p0 = faces[f, 0]
        p1 = faces[f, 1]
        p2 = faces[f, 2]
        for n in range(corners.shape[1]):
            a0 = corners[p0, n]
            a1 = corners[p1, n]
            a2 = corners[p2, n]
            at = a0 * b[0] + a1 * b[1] + a2 * b[2]
            z = at[2]
            cosine = at[3]
            if cosine > type(z)(1.0):  # a minimum would turn what is no number into 1
                cosine = type(z)(1.0)
            near = wp.min(a0[2], wp.min(a1[2], a2[2]))
            if near > type(z)(NEAR) and cosine > type(z)(LEAST_COSINE):
                u = at[0] / z
                v = at[1] / z
                if (
                    u > type(z)(-1.0)
                    and v > type(z)(-1.0)
                    and u < type(z)(trust.shape[2])
                    and v < type(z)(trust.shape[1])
                ):
                    front = wp.pow(cosine, sharpness) / (z * z)
                    slope = wp.sqrt(type(z)(1.0) - cosine * cosine) / cosine
                    furthest = z - tolerance[0] - tolerance[1] * z * slope
                    w = front * trusted(trust, depth, n, u, v, furthest)
                    if w > weight[t, K - 1]:
                        k = K - 1
                        while k > 0 and w > weight[t, wp.max(k - 1, 0)]:
                            weight[t, k] = weight[t, k - 1]
                            picture[t, k] = picture[t, k - 1]
                            pixel[t, k] = pixel[t, k - 1]
                            k -= 1
                        weight[t, k] = w
                        picture[t, k] = n
                        pixel[t, k] = pixel.dtype(u, v)


def best_views(
    vertices_pixel: Tensor,
    cosines: Tensor,
    faces: Tensor,
    face_index: Tensor,
    barycentrics: Tensor,
    depth: Tensor,
    trust: Tensor,
    count: int,
    *,
    sharpness: float = 4.0,
    tolerance: float = 5e-3,
    slope_tolerance: float = 2e-3,
) -> BestViews:
    """Find the pictures that show points of a surface best.

    Args:
        vertices_pixel: Projected vertices ``(u, v, z)`` [pixel, pixel, m] in every picture, ``[N, V, 3]``.
        cosines: Between the vertex normals and the directions to the camera, ``[N, V]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        face_index: Face each point lies on, ``[T]``; -1 gives no picture.
        barycentrics: Where on it, ``[T, 3]``.
        depth: Depth images of the mesh [m], 0 where none of it is, ``[N, H, W]``.
        trust: How much every pixel counts, at least 0, ``[N, H, W]``.
        count: Pictures kept for a point, ``K``.
        sharpness: Power of the cosine.
        tolerance: Depth behind the depth image at which a point still counts as visible [m].
        slope_tolerance: What is added to it for a surface at 45 degrees, as a share of the depth; about the extent of a
            pixel on the surface.

    Returns:
        Weights, pictures and places; no gradient. Pictures in which a corner of the point's face lies at the near plane
        or before it do not count; among equal weights the lower picture comes first.

    Raises:
        ValueError: A shape, dtype or index disagrees, or a number is out of range; the message names the argument.
    """
    sizes = require_shapes(
        vertices_pixel=(vertices_pixel, "N V 3"),
        cosines=(cosines, "N V"),
        faces=(faces, "F 3"),
        face_index=(face_index, "T"),
        barycentrics=(barycentrics, "T 3"),
        depth=(depth, "N H W"),
        trust=(trust, "N H W"),
    )
    require_like("vertices_pixel", vertices_pixel, cosines=cosines, barycentrics=barycentrics, depth=depth, trust=trust)
    require_indices("vertices_pixel", vertices_pixel, face_index=face_index)
    require_range("face_index", face_index, -1, sizes["F"])
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    for name, value in (("sharpness", sharpness), ("tolerance", tolerance), ("slope_tolerance", slope_tolerance)):
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    like = vertices_pixel.detach()
    T = sizes["T"]
    weight, pixel = like.new_zeros(T, count), like.new_zeros(T, count, 2)
    picture = torch.full((T, count), -1, dtype=torch.int32, device=like.device)
    index = triangles(faces, sizes["V"], like.device)
    if T and len(index) and depth.numel():
        z = like[..., 2:]
        corners = torch.cat((like[..., :2] * z, z, cosines.detach()[..., None]), -1).transpose(0, 1).contiguous()
        inputs = [vec4s(corners), ints(index), ints(face_index.to(torch.int32).contiguous())]
        inputs += [vec3s(barycentrics.detach().contiguous())]
        inputs += [scalars(depth.detach().contiguous()), scalars(trust.detach().contiguous())]
        inputs += [scalars(like.new_tensor([tolerance, slope_tolerance]))]
        exponent = scalars(like.new_zeros(1)).dtype(sharpness)
        launch_split(
            best_views_kernel,
            like,
            (T,),
            [*inputs, exponent],
            [scalars(weight), ints(picture), vec2s(pixel)],
            grain=256,
        )
    return BestViews(weight, picture, pixel)
