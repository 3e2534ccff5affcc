"""Repeatable smooth randomness: a tiling noise volume in space, periodic and correlated signals in time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

Array = NDArray[Any]

_TURN = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]], np.float32)  # between octaves


class NoiseVolume:
    """Value noise on a 32-cell lattice that repeats in every direction.

    Args:
        rng: Source of the lattice values.
    """

    CELLS = 32

    def __init__(self, rng: np.random.Generator) -> None:
        values = rng.uniform(-1, 1, (self.CELLS,) * 3).astype(np.float32)
        self._values = (values / values.std()).reshape(-1)

    def __call__(self, points: Array) -> Array:
        """Noise of about zero mean at ``points``, measured in lattice cells, ``[P, 3]`` -> ``[P]``."""
        floor = np.floor(points)
        t = (points - floor).astype(np.float32)
        t = t * t * (3 - 2 * t)
        low = floor.astype(np.int32) & (self.CELLS - 1)
        high = (low + 1) & (self.CELLS - 1)
        x = (low[:, 0] * self.CELLS**2, high[:, 0] * self.CELLS**2)
        y = (low[:, 1] * self.CELLS, high[:, 1] * self.CELLS)
        z = (low[:, 2], high[:, 2])
        planes = []
        for i in (0, 1):
            rows = []
            for j in (0, 1):
                base = x[i] + y[j]
                near, far = self._values[base + z[0]], self._values[base + z[1]]
                rows.append(near + (far - near) * t[:, 2])
            planes.append(rows[0] + (rows[1] - rows[0]) * t[:, 1])
        return np.asarray(planes[0] + (planes[1] - planes[0]) * t[:, 0], np.float32)

    def fractal(self, points: Array, frequency: float | Array, octaves: int = 3, gain: float = 0.5) -> Array:
        """Sum of octaves, unit variance; ``frequency`` in cells a metre, a scalar or one per axis."""
        scaled = np.asarray(points * np.asarray(frequency, np.float32), np.float32)
        total = np.zeros(len(points), np.float32)
        power = 0.0
        for octave in range(octaves):
            total += gain**octave * self(scaled)
            power += gain ** (2 * octave)
            scaled = (scaled @ _TURN) * np.float32(2.03) + np.float32(17.31)
        return total / np.float32(np.sqrt(0.35 * power))


def periodic_signal(rng: np.random.Generator, count: int, channels: int, harmonics: int = 4) -> Array:
    """Smooth signals that close after ``count`` samples, unit standard deviation, ``[count, channels]``."""
    phase = np.arange(count)[:, None, None] / max(count, 1) * 2 * np.pi
    order = np.arange(1, harmonics + 1)[:, None]
    amplitude = rng.standard_normal((harmonics, channels)) / np.sqrt(order)
    shift = rng.uniform(0, 2 * np.pi, (harmonics, channels))
    scale = np.sqrt((amplitude**2).sum(0) / 2) + 1e-9
    return np.asarray((amplitude * np.sin(phase * order + shift)).sum(1) / scale, np.float32)


def correlated_signal(rng: np.random.Generator, count: int, channels: int, window: float) -> Array:
    """Gaussian noise smoothed over ``window`` samples, unit standard deviation expected, ``[count, channels]``."""
    margin = int(np.ceil(4 * window))
    white = rng.standard_normal((count + 2 * margin, channels))
    smooth = gaussian_filter1d(white, window, axis=0, mode="nearest")[margin : margin + count]
    return np.asarray(smooth * np.sqrt(2 * np.sqrt(np.pi) * window), np.float32)


def smoothstep(low: float | Array, high: float | Array, value: Array) -> Array:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = np.clip((value - low) / (np.asarray(high) - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)
