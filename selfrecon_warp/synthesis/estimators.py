"""What the tools of a real capture would report instead of the truth: poses, masks and normals with lasting errors."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial.transform import Rotation

from selfrecon_warp.synthesis.mesh_tools import Array, unit
from selfrecon_warp.synthesis.noise import correlated_signal
from selfrecon_warp.synthesis.person import Motion

USUAL_POSE_NOISE = 2.6  # degrees a joint, with which the two below go
TRANS_NOISE = np.array([0.0075, 0.0075, 0.0145], np.float32)  # metres, mostly depth
BETA_NOISE = 0.24
SLACK = 0.75  # share of the normals' error that blur may contribute


def estimated(rng: np.random.Generator, motion: Motion, betas: Array, degrees: float) -> tuple[Motion, Array]:
    """What a pose estimator would report: errors that last, mean rotation error a joint equal to ``degrees``.

    Returns:
        The disturbed motion and shape coefficients; depth errs most, as it does for one camera.
    """
    count = len(motion.poses)
    level = np.float32(degrees / USUAL_POSE_NOISE)
    slow, fast = correlated_signal(rng, count, 72, 8.0), correlated_signal(rng, count, 72, 1.0)
    lasting = rng.standard_normal((1, 72)).astype(np.float32)
    error = (0.75 * slow + 0.35 * fast + 0.55 * lasting).reshape(count, 24, 3)
    error[:, 0] *= 0.6
    error[:, 22:] *= 0.5
    error = error * np.float32(np.radians(degrees) / np.linalg.norm(error, axis=-1).mean())
    given = Rotation.from_rotvec(motion.poses.reshape(-1, 3)) * Rotation.from_rotvec(error.reshape(-1, 3))
    poses = given.as_rotvec().reshape(count, 24, 3).astype(np.float32)
    wobble = 0.8 * correlated_signal(rng, count, 3, 5.0) + 0.45 * rng.standard_normal((count, 3))
    wobble += 0.4 * rng.standard_normal((1, 3))
    trans = motion.trans + level * TRANS_NOISE * wobble.astype(np.float32)
    shape = betas + level * np.float32(BETA_NOISE) * rng.standard_normal(10).astype(np.float32)
    return Motion(poses, trans.astype(np.float32)), shape.astype(np.float32)


class RaggedMask:
    """Masks whose outline wanders: smooth bulges and bites that drift from frame to frame, and ragged grain.

    Args:
        rng: Source of the errors.
        count: Number of frames.
        size: Side of the square image [pixel].
        pixels: Mean absolute displacement of the outline [pixel]; 0 leaves masks exact.
    """

    def __init__(self, rng: np.random.Generator, count: int, size: int, pixels: float) -> None:
        self.pixels = pixels
        if pixels:
            coarse = max(size // 18, 4)
            drift = correlated_signal(rng, count, 6, 6.0)
            fields = rng.standard_normal((6, coarse, coarse)).astype(np.float32)
            large = np.stack([cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC) for field in fields])
            self._drift, self._fields, self._rng = drift, large, rng

    def __call__(self, mask: NDArray[np.bool_], frame: int) -> NDArray[np.bool_]:
        """The mask a segmenter might give for an exact one, ``[H, W]``."""
        if not self.pixels or not mask.any():
            return mask
        field = np.tensordot(self._drift[frame], self._fields, 1)
        grain = gaussian_filter(self._rng.standard_normal(mask.shape).astype(np.float32), 1.0)
        field = field / field.std() + 0.6 * grain / grain.std()
        inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
        signed = np.where(mask, inside - 0.5, 0.5 - outside)
        shifted = signed + self.pixels * field / np.abs(field).mean()
        return np.asarray(shifted > 0, np.bool_)


class BlurryNormals:
    """Normals as a network predicts them: half resolution, blurred, with errors that drift over the image and in time.

    Args:
        rng: Source of the errors.
        count: Number of frames.
        size: Side of the square image [pixel].
        degrees: Mean angle to the exact normals; 0 leaves them exact. Blur gives up to three quarters of it.
    """

    def __init__(self, rng: np.random.Generator, count: int, size: int, degrees: float) -> None:
        self.degrees = degrees
        self._half = max(size // 2, 2)
        drift = correlated_signal(rng, count, 8, 3.0)
        self._drift = drift / np.linalg.norm(drift, axis=1, keepdims=True)
        coarse = max(size // 14, 4)
        fields = rng.standard_normal((8, coarse, coarse, 2)).astype(np.float32)
        side = (self._half, self._half)
        self._fields = np.stack([cv2.resize(field, side, interpolation=cv2.INTER_CUBIC) for field in fields])
        self._rng = rng
        self._blur: float | None = None
        self._level = 0.1

    def __call__(self, normals: Array, mask: NDArray[np.bool_], frame: int) -> Array:
        """Predicted-like normals ``[H, W, 3]`` everywhere, of exact ones ``[H, W, 3]`` on ``mask``."""
        spread = _spread(normals, mask)
        if not self.degrees:
            return spread
        grain = self._rng.standard_normal((self._half, self._half, 2)).astype(np.float32)
        noise = np.tensordot(self._drift[frame], self._fields, 1) + 0.6 * gaussian_filter(grain, (2, 2, 0)) * 7.0
        if self._blur is None:
            self._blur = 0.0035 * spread.shape[0]
            while self._blur > 0.05 and _error(self._soft(spread), normals, mask) > SLACK * self.degrees:
                self._blur *= 0.7
        soft = self._soft(spread)
        most = SLACK * self.degrees
        share = min(1.0, most / max(_error(soft, normals, mask), 1e-6))  # few pixels: half of them lose too much
        soft = unit(spread + share * (soft - spread))
        noise = cv2.resize(noise, spread.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        noise = np.pad(noise, ((0, 0), (0, 0), (0, 1)))
        blurred, noisy = _error(soft, normals, mask), _error(unit(soft + self._level * noise), normals, mask)
        gain = max(noisy**2 - blurred**2, 1e-6) / self._level**2  # the two errors add up in squares
        self._level = float(np.clip(np.sqrt(max(self.degrees**2 - blurred**2, 1e-6) / gain), 1e-3, 2.0))
        return unit(soft + self._level * noise)

    def _soft(self, spread: Array) -> Array:
        """Halved, blurred and scaled up again."""
        small = cv2.resize(spread, (self._half, self._half), interpolation=cv2.INTER_AREA)
        small = gaussian_filter(small, (self._blur, self._blur, 0))
        return unit(cv2.resize(small, spread.shape[1::-1], interpolation=cv2.INTER_LINEAR))


def _error(predicted: Array, normals: Array, mask: NDArray[np.bool_]) -> float:
    """Mean angle on the mask [degrees]."""
    cosine = np.clip((predicted[mask] * normals[mask]).sum(1), -1, 1)
    return float(np.degrees(np.arccos(cosine)).mean()) if mask.any() else 0.0


def _spread(normals: Array, mask: NDArray[np.bool_]) -> Array:
    """Normals continued past the mask from the nearest pixel inside."""
    if not mask.any():
        return normals
    nearest = distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return np.asarray(normals[tuple(nearest)], np.float32)
