"""Colours of surface points from photographs of a mesh that moves.

A photograph counts for a point by how frontally and how near it sees it, and by how far the pixel lies inside both the
person's mask and the mesh's own outlines, at arms before the body as well: misfits of a few pixels must carry neither
the background nor an arm's colour elsewhere. From the best few photographs comes a weighted mean that outliers leave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import spsolve
from torch import Tensor
from torch.nn.functional import normalize

from selfrecon_warp.asset.unwrap import TexelMap
from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.best_views import best_views
from selfrecon_warp.kernels.rasterize import rasterize
from selfrecon_warp.surface.mesh import vertex_normals

VIEWS = 10
"""Photographs whose colours are combined at a point."""
COSINE_POWER = 4.0
MARGIN_M, LEAST_MARGIN_PX = 0.02, 3.0
"""Distance from outlines from which on a pixel counts in full: fits are off by less. The outermost one never counts."""
OVERLAP_M, OVERLAP_TRUST = 0.08, 5e-4
"""Distance from where one part lies before another within which pixels count less, and how little they count there.

At the mask's border a misfit shows; where a hand passes before the hip it does not, and views without are to be had.
"""
JUMP_M, JUMP_PIXELS = 0.015, 5.0
"""Depths within a pixel's surroundings that differ by more, or by more pixels' extents, belong to two surfaces."""
DEPTH_TOLERANCE_M = 5e-3
SPREAD, ROUNDS = 0.08, 3
"""Difference of colours, of 1, at which a photograph begins to be disbelieved, and how often this is weighed anew."""
POINTS_AT_ONCE = 1 << 17
TRUSTED_WEIGHT = 2e-3
"""Weight, of 1 for the best view there can be, at which a point's own colour and its surroundings' count alike."""


@dataclass(frozen=True)
class Photographs:
    """Pictures of a mesh, and the mesh as each of them shows it.

    Attributes:
        images: RGB, ``[N, H, W, 3]`` uint8.
        vertices_pixel: Projected vertices ``(u, v, z)``, ``[N, V, 3]``.
        cosines: Between the vertex normals and the directions to the camera, ``[N, V]``.
        depth: Of the mesh [m], 0 where it is not, ``[N, H, W]``.
        trust: How much every pixel counts, at least 0, ``[N, H, W]``.
        footprint: Extent of a pixel on a surface one metre away [m].
    """

    images: Tensor
    vertices_pixel: Tensor
    cosines: Tensor
    depth: Tensor
    trust: Tensor
    footprint: float


@torch.no_grad()
def photographs(
    posed: Tensor,
    faces: Tensor,
    camera: Camera,
    images: Tensor,
    masks: Tensor,
    sharpness: Tensor | None = None,
    progress: Callable[[int], None] | None = None,
) -> Photographs:
    """See where a mesh lies in pictures of it, and which of their pixels can be believed.

    Args:
        posed: World positions [m] in every picture, ``[N, V, 3]``.
        faces: Vertex indices, ``[F, 3]``.
        camera: What took the pictures.
        images: RGB, ``[N, H, W, 3]`` uint8.
        masks: True on the person, ``[N, H, W]`` bool.
        sharpness: Factor of every picture's weight, ``[N]``; 1 when absent.
        progress: Told the number of pictures done after each.

    Raises:
        ValueError: A shape disagrees.
    """
    require_shapes(
        posed=(posed, "N V 3"),
        faces=(faces, "F 3"),
        images=(images, f"N {camera.height} {camera.width} 3"),
        masks=(masks, f"N {camera.height} {camera.width}"),
    )
    pixels = camera.project(posed)
    towards = normalize(camera.centre() - posed, dim=-1)
    cosines = (vertex_normals(posed, faces) * towards).sum(-1)
    depth, trust = (posed.new_zeros(masks.shape) for _ in range(2))
    footprint = 1 / float(camera.focal.mean())
    for n in range(len(posed)):
        depth[n] = rasterize(pixels[n : n + 1], faces, camera.height, camera.width).depth[0]
        trust[n] = pixel_trust(depth[n], masks[n], footprint)
        if sharpness is not None:
            trust[n] *= sharpness[n]
        if progress is not None:
            progress(n + 1)
    return Photographs(images, pixels, cosines, depth, trust, footprint)


def pixel_trust(depth: Tensor, mask: Tensor, footprint: float) -> Tensor:
    """How much pixels count, 0 to 1: less towards the mask's border and the mesh's outlines, ``[H, W]``.

    Args:
        depth: Of the mesh [m], 0 where it is not, ``[H, W]``.
        mask: True on the person, ``[H, W]`` bool.
        footprint: Extent of a pixel on a surface one metre away [m].
    """
    shown = depth.cpu().float().numpy()
    covered = shown > 0
    if not covered.any():
        return torch.zeros_like(depth)
    extent = footprint * float(np.median(shown[covered]))
    square = np.ones((3, 3), np.uint8)
    jump = np.maximum(JUMP_M, JUMP_PIXELS * footprint * shown)
    nearest = cv2.erode(np.where(covered, shown, np.float32(np.inf)), square)
    steep = covered & (cv2.dilate(shown, square) - nearest > jump)
    outline = _ramp(mask.cpu().numpy() & covered & ~steep, max(LEAST_MARGIN_PX, MARGIN_M / extent)) ** 2
    overlap = _ramp(~steep, OVERLAP_M / extent) ** 4
    return torch.from_numpy(outline * (OVERLAP_TRUST + (1 - OVERLAP_TRUST) * overlap)).to(depth)


def _ramp(inside: np.ndarray, width: float) -> np.ndarray:
    """From 0 in the outermost pixels of a region to 1 that far inside [px], float32; 1 where nothing is outside."""
    if inside.all():
        return np.ones(inside.shape, np.float32)
    distance = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    return np.asarray(np.clip((distance - 1) / max(width, 1.0), 0, 1))


def edge_strength(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Variance of the second derivative of brightness on the person, ``[N]``: less where a picture is blurred.

    Args:
        images: RGB, ``[N, H, W, 3]`` uint8.
        masks: True on the person, ``[N, H, W]`` bool.
    """
    edges = np.zeros(len(images))
    for n, (image, mask) in enumerate(zip(images, masks, strict=True)):
        inside = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        curvature = cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_32F)
        edges[n] = curvature[inside].var() if inside.any() else 0.0
    return edges


def relative_sharpness(strength: np.ndarray, window: int = 5) -> np.ndarray:
    """How sharp pictures of a sequence are beside those next to them, which show nearly the same; 0.1 to 1.5, ``[N]``.

    Args:
        strength: What :func:`edge_strength` gave for them, ``[N]``.
        window: Pictures on either side that one is compared with.
    """
    usual = [np.median(strength[max(n - window, 0) : n + window + 1]) for n in range(len(strength))]
    return np.asarray(np.clip(strength / np.maximum(usual, 1e-6), 0.1, 1.5))


@torch.no_grad()
def bake_colours(
    texels: TexelMap, faces: Tensor, seen: Photographs, progress: Callable[[int], None] | None = None
) -> tuple[Tensor, Tensor]:
    """The colour of every texel from the photographs that show it best.

    Args:
        texels: What they show.
        faces: Vertex indices, ``[F, 3]``.
        seen: The photographs.
        progress: Told the number of texels done, now and then.

    Returns:
        Colours in [0, 1] ``[T, 3]``, zeros where no photograph shows the texel, and their weight ``[T]``: 1 when a
        frontal view of all trust stands behind it, 0 when none does.
    """
    colours = texels.barycentrics.new_zeros(len(texels.texel), 3)
    weights = torch.zeros_like(colours[:, 0])
    distance = seen.depth[seen.depth > 0]
    unit = float(distance.median()) ** 2 if len(distance) else 1.0
    for start in range(0, len(texels.texel), POINTS_AT_ONCE):
        some = slice(start, start + POINTS_AT_ONCE)
        found = best_views(
            seen.vertices_pixel,
            seen.cosines,
            faces,
            texels.face_index[some],
            texels.barycentrics[some],
            seen.depth,
            seen.trust,
            VIEWS + 1,
            sharpness=COSINE_POWER,
            tolerance=DEPTH_TOLERANCE_M,
            slope_tolerance=2 * seen.footprint,
        )
        weight = (found.weight - found.weight[:, -1:])[:, :-1] * unit  # the last one's goes to 0 before it is replaced
        samples = sample_pictures(seen.images, found.picture[:, :-1], found.pixel[:, :-1])
        colours[some] = robust_mean(samples, weight)
        weights[some] = weight.sum(1).clamp(max=1)
        if progress is not None:
            progress(min(some.stop, len(texels.texel)))
    return colours, weights


def sample_pictures(images: Tensor, picture: Tensor, pixel: Tensor) -> Tensor:
    """Colours in [0, 1] between pixels, ``[T, K, 3]``.

    Args:
        images: RGB, ``[N, H, W, 3]`` uint8.
        picture: Which of them, ``[T, K]``; any colour where it is negative.
        pixel: ``(u, v)`` [pixel], ``[T, K, 2]``; places outside take the border's colour.
    """
    H, W = images.shape[1:3]
    flat = images.view(-1, 3)
    low = pixel.floor()
    share = pixel - low
    u, v = low.long().unbind(-1)
    first = picture.clamp(min=0).long() * H
    total = pixel.new_zeros(*picture.shape, 3)
    for down in (0, 1):
        row = (first + (v + down).clamp(0, H - 1)) * W
        for right in (0, 1):
            weight = (share[..., 0] if right else 1 - share[..., 0]) * (share[..., 1] if down else 1 - share[..., 1])
            index = row + (u + right).clamp(0, W - 1)
            total += weight[..., None] * flat.index_select(0, index.view(-1)).view(*index.shape, 3)
    return total / 255


def robust_mean(samples: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of colours that those far from the others leave, ``[T, 3]``; zeros where no weight is.

    Args:
        samples: ``[T, K, 3]``.
        weight: At least 0, ``[T, K]``.

    Source: iteratively reweighted least squares from the weighted median, with the weights of Geman and McClure 1987.
    """
    order = samples.argsort(1)
    shares = weight[..., None].expand_as(samples).gather(1, order).cumsum(1)
    middle = (2 * shares >= shares[:, -1:]).int().argmax(1, keepdim=True)
    mean = samples.gather(1, order.gather(1, middle))[:, 0]
    for _ in range(ROUNDS):
        away = (samples - mean[:, None]).square().sum(-1)
        believed = weight / (1 + away / SPREAD**2).square()
        mean = torch.einsum("tk,tkc->tc", believed, samples) / believed.sum(1, keepdim=True).clamp(min=1e-12)
    return torch.where(weight.sum(1, keepdim=True) > 0, mean, 0)


def fill_unseen(colours: Tensor, weights: Tensor, texels: TexelMap, faces: Tensor, vertex_count: int) -> Tensor:
    """Colours of all texels: those little seen take what spreads from their surroundings over the surface.

    Args:
        colours: In [0, 1], ``[T, 3]``.
        weights: How much stands behind them, ``[T]``.
        texels: What they show.
        faces: Vertex indices of the mesh before it was cut, ``[F, 3]``, so that colours cross the charts' borders.
        vertex_count: Vertices of that mesh.

    Returns:
        ``[T, 3]`` in [0, 1]. Where not one texel is seen, mid grey.
    """
    around = texels.interpolate(spread_colours(colours, weights, texels, faces, vertex_count), faces)
    share = (weights / (weights + TRUSTED_WEIGHT))[:, None]
    return (share * colours + (1 - share) * around).clamp(0, 1)


def spread_colours(colours: Tensor, weights: Tensor, texels: TexelMap, faces: Tensor, vertex_count: int) -> Tensor:
    """Colours of all vertices in [0, 1] ``[V, 3]``, also of those around which no texel has any weight.

    Arguments as those of :func:`fill_unseen`.
    """
    corners = faces.long().index_select(0, texels.face_index.long())
    known = colours.new_zeros(vertex_count, 4)
    values = torch.cat((colours * weights[:, None], weights[:, None]), -1)
    for k in range(3):
        known.index_add_(0, corners[:, k], texels.barycentrics[:, k : k + 1] * values)
    return torch.from_numpy(_spread(known.double().cpu().numpy(), faces.cpu().numpy())).to(colours)


def _spread(known: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Smoothest vertex colours ``[V, 3]`` for weighted colours and weights ``[V, 4]``."""
    total, weight = known[:, :3], known[:, 3]
    if not weight.any():
        return np.full_like(total, 0.5)
    sides = np.concatenate((faces[:, :2], faces[:, 1:], faces[:, ::2]))
    sides = np.unique(np.sort(np.concatenate((sides, sides[:, ::-1])), axis=1), axis=0)
    count = len(known)
    pairs = np.concatenate((sides, sides[:, ::-1]))
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count)).tocsr()
    laplacian = diags(np.asarray(graph.sum(1)).reshape(-1)) - graph
    scale = weight[weight > 0].mean()
    system = (diags(weight / scale) + 1e-2 * laplacian + 1e-9 * diags(np.ones(count))).tocsc()
    mean = total.sum(0) / weight.sum()
    solved = spsolve(system, total / scale + 1e-9 * mean)
    return np.asarray(np.clip(solved, 0, 1))
