"""Normal equations of a whole sequence: banded in time, bordered by the unknowns that all frames share."""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import cho_solve_banded, cholesky_banded
from torch import Tensor


class NormalEquations:
    """``N`` frames of ``D`` unknowns that couple up to two frames ahead, and ``S`` shared unknowns.

    Args:
        frames: N.
        unknowns: D.
        shared: S.
        like: Device and dtype of the sums.
    """

    def __init__(self, frames: int, unknowns: int, shared: int, like: Tensor) -> None:
        self.diagonal = like.new_zeros(frames, unknowns, unknowns)
        self.ahead = (
            self.diagonal,
            like.new_zeros(max(frames - 1, 0), unknowns, unknowns),  # frame t + 1 by frame t
            like.new_zeros(max(frames - 2, 0), unknowns, unknowns),  # frame t + 2 by frame t
        )
        self.right = like.new_zeros(frames, unknowns)
        self.mixed = like.new_zeros(frames, unknowns, shared)
        self.shared = like.new_zeros(shared, shared)
        self.shared_right = like.new_zeros(shared)

    @property
    def shared_count(self) -> int:
        """Shared unknowns S."""
        return len(self.shared_right)

    def add(self, frame: int, rows: Tensor, shared: Tensor, residual: Tensor, weight: Tensor) -> None:
        """Add weighted residuals of one frame.

        Args:
            frame: Which.
            rows: Derivatives by the frame's unknowns, ``[P, D]``.
            shared: Derivatives by the shared unknowns, ``[P, S]``.
            residual: ``[P]``.
            weight: ``[P]``.
        """
        weighted = rows * weight[:, None]
        self.diagonal[frame] += weighted.T @ rows
        self.right[frame] -= weighted.T @ residual
        if self.shared_count:
            self.mixed[frame] += weighted.T @ shared
            scaled = shared * weight[:, None]
            self.shared += scaled.T @ shared
            self.shared_right -= scaled.T @ residual

    def add_differences(self, first: int, last: int, rows: Tensor, values: Tensor, weight: float) -> None:
        """Add second differences in time of the frames ``first .. last - 1``.

        Args:
            first: First frame.
            last: One past the last frame.
            rows: Derivatives of what is differenced, ``[N, M, D]``.
            values: What is differenced, ``[N, M]``.
            weight: Of every squared difference.
        """
        if last - first < 3:
            return
        a, b, c = (slice(first + k, last - 2 + k) for k in range(3))
        difference = values[a] - 2.0 * values[b] + values[c]
        parts = (rows[a], -2.0 * rows[b], rows[c])
        for i, left in enumerate(parts):
            self.right[first + i : last - 2 + i] -= weight * (left.transpose(1, 2) @ difference[..., None])[..., 0]
            for k in range(i + 1):
                self.ahead[i - k][first + k : last - 2 + k] += weight * left.transpose(1, 2) @ parts[k]

    def solve(self) -> tuple[Tensor, Tensor]:
        """Steps of the frames ``[N, D]`` and of the shared unknowns ``[S]``.

        Banded Cholesky over the frames, Schur complement over the shared unknowns.
        """
        N, D = self.right.shape
        S = self.shared_count
        banded = np.zeros((3 * D, N * D))
        a, b = np.meshgrid(np.arange(D), np.arange(D), indexing="ij")
        for step, blocks in enumerate(self.ahead):
            offset = step * D + a - b
            keep = offset >= 0
            for frame, block in enumerate(blocks.double().cpu().numpy()):
                banded[offset[keep], frame * D + b[keep]] = block[keep]
        banded[0] += 1e-6 * banded[0].max()
        factor = (cholesky_banded(banded, lower=True, check_finite=False), True)
        right = self.right.double().cpu().numpy().reshape(-1)
        if S == 0:
            frames, shared = cho_solve_banded(factor, right, check_finite=False), np.zeros(0)
        else:
            mixed = self.mixed.double().cpu().numpy().reshape(N * D, S)
            solved = cho_solve_banded(factor, np.column_stack([mixed, right]), check_finite=False)
            complement = self.shared.double().cpu().numpy() - mixed.T @ solved[:, :-1]
            rest = self.shared_right.double().cpu().numpy() - mixed.T @ solved[:, -1]
            shared = np.linalg.solve(complement + 1e-6 * np.eye(S) * complement.max(), rest)
            frames = solved[:, -1] - solved[:, :-1] @ shared
        return torch.from_numpy(frames.reshape(N, D)).to(self.right), torch.from_numpy(shared).to(self.right)
