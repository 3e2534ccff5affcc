"""What the fit compares against: the capture's pictures, and distances and contours derived from the masks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from selfrecon_warp.capture.dataset import Capture, decode_normals, parallel

MAX_DISTANCE = 100.0


@dataclass(frozen=True)
class Observations:
    """A whole capture in memory, on one device.

    Attributes:
        images: RGB, ``[N, H, W, 3]`` uint8.
        masks: Person, ``[N, H, W]`` bool.
        normals: Unit normals in the world, times 127 and rounded, ``[N, H, W, 3]`` int8; zero where not valid.
        distance: Signed distance to the mask's contour [px], negative inside, clamped, ``[N, H, W]`` float16.
        contour_pixels: Points on the contours (u, v) [px], ``[K, 2]``, sorted by frame.
        contour_normals: Outward unit normals of the contour in the image, ``[K, 2]``.
        contour_start: First contour point of each frame and, last, their number, ``[N + 1]`` int64.
    """

    images: Tensor
    masks: Tensor
    normals: Tensor
    distance: Tensor
    contour_pixels: Tensor
    contour_normals: Tensor
    contour_start: Tensor

    @property
    def frame_count(self) -> int:
        """Frames N."""
        return len(self.masks)


def observe(images: Tensor, masks: Tensor, normals_world: Tensor, device: torch.device) -> Observations:
    """Derive distances and contours from the masks and put everything on ``device``.

    Args:
        images: RGB, ``[N, H, W, 3]`` uint8.
        masks: ``[N, H, W]`` bool.
        normals_world: Unit normals in the world, zero where not valid, ``[N, H, W, 3]`` float or int8 times 127.
        device: Where the result lives.
    """
    distances = torch.empty(masks.shape, dtype=torch.float16)

    def derive(frame: int) -> tuple[Tensor, Tensor]:
        distance = signed_distance(masks[frame].numpy())
        distances[frame] = torch.from_numpy(distance)
        return contour_points(distance)

    contours = parallel(derive, range(len(masks)))
    start = np.cumsum([0, *(len(points) for points, _ in contours)])
    normals = normals_world
    if normals.dtype != torch.int8:
        normals = (normals * 127.0).round().to(torch.int8)
    return Observations(
        images=images.to(device),
        masks=masks.to(device),
        normals=normals.to(device),
        distance=distances.to(device),
        contour_pixels=torch.cat([points for points, _ in contours]).to(device),
        contour_normals=torch.cat([outward for _, outward in contours]).to(device),
        contour_start=torch.from_numpy(start).to(device),
    )


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the contour [px], ``[H, W]`` float32: negative inside, zero half-way between the nearest pixels."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.clip(np.where(mask, 0.5 - inside, outside - 0.5), -MAX_DISTANCE, MAX_DISTANCE).astype(np.float32)


def contour_points(distance: np.ndarray) -> tuple[Tensor, Tensor]:
    """Contour points (u, v) ``[K, 2]`` and outward normals ``[K, 2]`` of one signed distance image.

    Border pixels of the person, moved onto the zero level along the smoothed gradient; those on the image border, where
    the person is cut off, are left out.
    """
    smooth = cv2.GaussianBlur(distance, (0, 0), 1.5)
    dv, du = np.gradient(smooth)
    length = np.sqrt(du * du + dv * dv)
    border = (distance <= 0) & (distance > -1.0) & (length > 0.3)
    border[:2] = border[-2:] = False
    border[:, :2] = border[:, -2:] = False
    v, u = np.nonzero(border)
    normal = np.stack([du[v, u], dv[v, u]], -1) / length[v, u, None]
    points = np.stack([u, v], -1) - normal * distance[v, u, None]
    return torch.from_numpy(points.astype(np.float32)), torch.from_numpy(normal.astype(np.float32))


def sample_image(images: Tensor, frame: Tensor, pixels: Tensor) -> Tensor:
    """Bilinear values ``[P, C]`` of ``images[frame]``, ``[N, H, W, C]``, at (u, v) ``[P, 2]`` [px].

    Outside an image its border's value counts.
    """
    return sample_image_with_gradient(images, frame, pixels)[0]


def sample_image_with_gradient(images: Tensor, frame: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`sample_image`, with the exact derivative of the bilinear patch by (u, v), ``[P, C, 2]``."""
    N, H, W, C = images.shape
    u, v = pixels[:, 0].clamp(0.0, W - 1.001), pixels[:, 1].clamp(0.0, H - 1.001)
    u0, v0 = u.floor().long(), v.floor().long()
    fu, fv = (u - u0)[:, None], (v - v0)[:, None]
    flat = images.reshape(N * H * W, C)
    index = (frame.long() * H + v0) * W + u0
    a, b, c, d = (flat[index + step].float() for step in (0, 1, W, W + 1))
    top, bottom = a + fu * (b - a), c + fu * (d - c)
    slope = torch.stack([(1 - fv) * (b - a) + fv * (d - c), bottom - top], -1)
    return top + fv * (bottom - top), slope


def band_passed(observations: Observations, fine_px: float = 1.0, coarse_px: float = 8.0) -> Tensor:
    """Images without their slow shading, ``[N, H, W, 3]`` float16: blurred minus a mask-normalised wider blur."""
    images, masks = observations.images.cpu().numpy(), observations.masks.cpu().numpy()
    result = torch.empty(images.shape, dtype=torch.float16)

    def derive(frame: int) -> None:
        weight = masks[frame].astype(np.float32)[..., None]
        picture = images[frame].astype(np.float32) / 255.0 * weight
        bands = []
        for sigma in (fine_px, coarse_px):
            share = cv2.GaussianBlur(weight, (0, 0), sigma)[..., None]
            bands.append(cv2.GaussianBlur(picture, (0, 0), sigma) / np.maximum(share, 1e-3))
        result[frame] = torch.from_numpy((bands[0] - bands[1]) * weight)

    parallel(derive, range(len(images)))
    return result.to(observations.images.device)


def observe_capture(capture: Capture, device: torch.device) -> Observations:
    """Read a whole capture and derive what the fit compares against."""
    pixels = capture.load_all()
    normals = torch.zeros(*pixels.masks.shape, 3, dtype=torch.int8)
    if pixels.normals is not None:
        rotation = capture.camera.rotation().detach().cpu()
        encoded, valid = pixels.normals, pixels.normals_valid

        def decode(frame: int) -> None:
            world = decode_normals(encoded[frame], rotation) * valid[frame][..., None]
            normals[frame] = (world * 127.0).round().to(torch.int8)

        parallel(decode, range(len(normals)))
    return observe(pixels.images, pixels.masks, normals, device)
