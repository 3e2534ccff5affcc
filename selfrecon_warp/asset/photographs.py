"""Photographs of a mesh that moves: where it lies in them and which of their pixels can be believed.

A pixel counts by how far it lies inside both the person's mask and the mesh's own outlines, at arms before the body as
well: misfits of a few pixels must carry neither the background nor an arm's colour elsewhere. What lies beyond an
outline is noted beside it, so that a colour can be recognised that belongs there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.rasterize import rasterize
from selfrecon_warp.surface.mesh import vertex_normals

MARGIN_M, LEAST_MARGIN_PX = 0.02, 3.0
"""Distance from outlines from which on a pixel counts in full: fits are off by less. The outermost one never counts."""
OVERLAP_M, OVERLAP_TRUST = 0.08, 5e-4
"""Distance from where one part lies before another within which pixels count less, and how little they count there.

At the mask's border a misfit shows; where a hand passes before the hip it does not, and views without are to be had.
"""
ASTRAY_M, ASTRAY_TRUST = 0.012, 0.01
"""Width from which on what only the mask or only the mesh covers betrays a limb that is posed wrongly; around it, as
far as around overlaps, pixels count that little."""
JUMP_M, JUMP_PIXELS = 0.015, 5.0
"""Depths within a pixel's surroundings that differ by more, or by more pixels' extents, belong to two surfaces."""
NEXT, STEEPER = 0.5, 2.0
"""Share of that from which on two pixels side by side do, unless a slope leads from one to the other: the difference is
less than so many times the one before or behind it."""
FRONTAL, OUTSIDE, OUTSIDE_PX = 0.3, 0.5, 1
"""What lies more than so many pixels outside the mask, in that share of the views that see it at such a cosine or more
frontally and against the backdrop, is not the person's."""
COLOUR, BACKDROP = 1, 2
"""Bits of what :func:`colours_beyond` tells of a pixel: the colour can be relied upon; the backdrop is what is near."""
BEYOND_M, LEAST_BEYOND_PX = 0.01, 2
"""How far beyond an outline is looked for what lies there: nearer, the photograph may still show what lies before."""


@dataclass(frozen=True)
class Photographs:
    """Pictures of a mesh, and the mesh as each of them shows it.

    Attributes:
        images: RGB, ``[N, H, W, 3]`` uint8.
        vertices_pixel: Projected vertices ``(u, v, z)``, ``[N, V, 3]``.
        normals: Unit, of the vertices in the world, ``[N, V, 3]``.
        cosines: Between the vertex normals and the directions to the camera, ``[N, V]``.
        depth: Of the mesh [m], 0 where it is not, ``[N, H, W]``.
        trust: How much every pixel counts, at least 0, ``[N, H, W]``.
        beyond: What :func:`colours_beyond` gave, ``[N, H, W, 4]`` uint8.
        real: Belief, 0 to 1, that vertices are part of the person: masks leave a web between two fingers out in the
            views that could show it, ``[V]``.
        footprint: Extent of a pixel on a surface one metre away [m].
        distance: Of what the pictures show, its median [m]; 1 where they show nothing.
    """

    images: Tensor
    vertices_pixel: Tensor
    normals: Tensor
    cosines: Tensor
    depth: Tensor
    trust: Tensor
    beyond: Tensor
    real: Tensor
    footprint: float
    distance: float


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
    normals = vertex_normals(posed, faces)
    cosines = (normals * towards).sum(-1)
    beyond = images.new_zeros(*masks.shape, 4)
    depth, trust = (posed.new_zeros(masks.shape) for _ in range(2))
    footprint = 1 / float(camera.focal.mean())
    frontal, outside = (posed.new_zeros(posed.shape[1]) for _ in range(2))
    for n in range(len(posed)):
        depth[n] = rasterize(pixels[n : n + 1], faces, camera.height, camera.width).depth[0]
        trust[n] = pixel_trust(depth[n], masks[n], footprint)
        beyond[n] = colours_beyond(images[n], depth[n], masks[n], footprint)
        shown = _shown(pixels[n], depth[n]) & (cosines[n] > FRONTAL)
        shown &= (_read(beyond[n, ..., 3], pixels[n]) & BACKDROP) > 0
        frontal += shown
        outside += shown & ~_read(_grown(masks[n]), pixels[n])
        if sharpness is not None:
            trust[n] *= sharpness[n]
        if progress is not None:
            progress(n + 1)
    real = (1 - outside / frontal.clamp(min=1) / OUTSIDE).clamp(min=0)
    shown_depths = depth[depth > 0]
    distance = float(shown_depths.median()) if len(shown_depths) else 1.0
    return Photographs(images, pixels, normals, cosines, depth, trust, beyond, real, footprint, distance)


def _read(image: Tensor, pixels: Tensor) -> Tensor:
    """Values of an image ``[H, W]`` in the pixels around places ``(u, v, ...)`` ``[V, ...]``, ``[V]``."""
    H, W = image.shape
    u, v = pixels[:, :2].nan_to_num(0.0).clamp(-1e6, 1e6).round().long().unbind(-1)
    return image[v.clamp(0, H - 1), u.clamp(0, W - 1)]


def _shown(pixels: Tensor, depth: Tensor) -> Tensor:
    """Vertices ``[V]`` that a depth image ``[H, W]`` shows."""
    H, W = depth.shape
    u, v, z = pixels.unbind(-1)
    nearest = _read(depth, pixels)
    within = (u > -0.5) & (v > -0.5) & (u < W - 0.5) & (v < H - 0.5)
    return within & (nearest > 0) & (nearest > z - JUMP_M)


def _grown(mask: Tensor) -> Tensor:
    """A mask ``[H, W]`` that reaches a little further."""
    grown = cv2.dilate(mask.cpu().numpy().astype(np.uint8), _square(OUTSIDE_PX))
    return torch.from_numpy(grown > 0).to(mask.device)


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
    steep = _steep(shown, footprint)
    outline = _ramp(mask.cpu().numpy() & covered & ~steep, max(LEAST_MARGIN_PX, MARGIN_M / extent)) ** 2
    overlap = _ramp(~steep, OVERLAP_M / extent) ** 4
    apart = (mask.cpu().numpy() ^ covered).astype(np.uint8)
    astray = cv2.morphologyEx(apart, cv2.MORPH_OPEN, np.ones((max(round(ASTRAY_M / extent), 3),) * 2, np.uint8)) > 0
    right = _ramp(~astray, OVERLAP_M / extent) ** 4
    overlap, right = (OVERLAP_TRUST + (1 - OVERLAP_TRUST) * overlap, ASTRAY_TRUST + (1 - ASTRAY_TRUST) * right)
    return torch.from_numpy(outline * overlap * right).to(depth)


def colours_beyond(image: Tensor, depth: Tensor, mask: Tensor, footprint: float) -> Tensor:
    """What lies beyond the outline next to a pixel: the backdrop or another part of the person, further away.

    It is what a sample there shows if the surface in truth ends before.

    Args:
        image: RGB, ``[H, W, 3]`` uint8.
        depth: Of the mesh [m], 0 where it is not, ``[H, W]``.
        mask: True on the person, ``[H, W]`` bool.
        footprint: Extent of a pixel on a surface one metre away [m].

    Returns:
        RGB, and the sum of ``COLOUR`` where an outline is so near that it matters and ``BACKDROP`` where the backdrop
        is nearer than any other part, though perhaps less near; all 0 elsewhere; ``[H, W, 4]`` uint8.
    """
    shown = depth.cpu().float().numpy()
    covered, inside = shown > 0, mask.cpu().numpy()
    if not covered.any():
        return torch.zeros_like(image[..., :1]).repeat(1, 1, 4)
    extent, jump = footprint * float(np.median(shown[covered])), _jump(shown, footprint)
    reach = max(LEAST_BEYOND_PX, round(BEYOND_M / extent))
    before = np.where(_steep(shown, footprint), _nearest(shown, 1), np.float32(np.inf))
    close, around = (cv2.erode(before, _square(steps * reach)) for steps in (1, 2))
    further = covered & inside & (shown - close <= jump) & (shown - around > jump)
    backdrop = cv2.dilate(inside.astype(np.uint8), _square(1)) == 0
    source = further | backdrop
    if not source.any():
        return torch.zeros_like(image[..., :1]).repeat(1, 1, 4)
    distance, label = cv2.distanceTransformWithLabels(
        (~source).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    place = np.zeros(int(label.max()) + 1, np.int64)
    place[label[source]] = np.flatnonzero(source)
    nearest = place[label]
    there = np.where(further, shown, np.float32(np.inf)).reshape(-1)[nearest]
    behind = np.isinf(there)
    valid = covered & (distance < np.where(behind, MARGIN_M, OVERLAP_M) / extent) & (there - shown > jump)
    told = valid * np.uint8(COLOUR) + (covered & behind & (distance < OVERLAP_M / extent)) * np.uint8(BACKDROP)
    layers = np.dstack((image.cpu().numpy(), np.full(source.shape, 255, np.uint8))) * source[..., None]
    mean = cv2.blur(layers, (5, 5)).astype(np.float32)
    colours = (255 * mean[..., :3] / np.maximum(mean[..., 3:], 1)).clip(0, 255).astype(np.uint8).reshape(-1, 3)[nearest]
    return torch.from_numpy(np.dstack((colours, told)) * (told > 0)[..., None]).to(image)


def _square(reach: int) -> np.ndarray:
    return np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)


def _nearest(shown: np.ndarray, reach: int) -> np.ndarray:
    """Least depth around every pixel, up to ``reach`` pixels away."""
    return np.asarray(cv2.erode(np.where(shown > 0, shown, np.float32(np.inf)), _square(reach)))


def _steep(shown: np.ndarray, footprint: float) -> np.ndarray:
    """Pixels beside which another surface begins, ``[H, W]`` bool; slopes, however grazingly seen, are none."""
    steep = np.zeros(shown.shape, bool)
    for depth, marked in ((shown, steep), (shown.T, steep.T)):
        step = np.where((depth[:, 1:] > 0) & (depth[:, :-1] > 0), np.diff(depth), 0)
        around = np.pad(step, ((0, 0), (1, 1)))
        slope = np.maximum(np.sign(step) * around[:, :-2], np.sign(step) * around[:, 2:]).clip(min=0)
        jump = np.abs(step) > np.maximum(NEXT * _jump(depth[:, 1:], footprint), STEEPER * slope)
        marked[:, 1:] |= jump
        marked[:, :-1] |= jump
    return steep


def _jump(shown: np.ndarray, footprint: float) -> np.ndarray:
    """Difference of depths [m] from which on two pixels show two surfaces, ``[H, W]``."""
    return np.maximum(np.float32(JUMP_M), np.float32(JUMP_PIXELS * footprint) * shown)


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
