"""Normal equations of a whole sequence: banded in time, bordered by the unknowns that all frames share.

What ties a frame to the mean of all frames would fill the matrix; the mean joins the border as an unknown instead.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from scipy import sparse
from torch import Tensor

SharedRows: TypeAlias = "Tensor | sparse.csr_array | None"
"""Derivatives of residuals by the shared unknowns, ``[P, S]``: dense, sparse, or ``None`` where nothing is shared."""


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
        self.mean_weight = like.new_zeros(unknowns)
        self.mean_right = like.new_zeros(unknowns)

    @property
    def shared_count(self) -> int:
        """Shared unknowns S."""
        return len(self.shared_right)

    def add(self, frame: int, rows: Tensor, shared: SharedRows, residual: Tensor, weight: Tensor) -> None:
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
        if shared is None:
            return
        if isinstance(shared, Tensor):
            scaled = shared * weight[:, None]
            mixed, square, right = rows.T @ scaled, scaled.T @ shared, scaled.T @ residual
        else:
            trusted = sparse.diags_array(weight.cpu().numpy()) @ shared
            sums = (
                (trusted.T @ rows.cpu().numpy()).T,
                (trusted.T @ shared).toarray(),
                trusted.T @ residual.cpu().numpy(),
            )
            mixed, square, right = (torch.from_numpy(values).to(self.right) for values in sums)
        self.mixed[frame] += mixed
        self.shared += square
        self.shared_right -= right

    def add_differences(
        self, first: int, last: int, rows: Tensor, values: Tensor, weight: float, steps: Tensor | None = None
    ) -> float:
        """Add second differences in time of the frames ``first .. last - 1``; returns their weighted squares' sum.

        Args:
            first: First frame.
            last: One past the last frame.
            rows: Derivatives of what is differenced, ``[N, M, D]``.
            values: What is differenced, ``[N, M]``.
            weight: Of every squared difference.
            steps: Time from each frame to the next, ``[N - 1]``, in the unit of the weight; one when absent.
        """
        if last - first < 3:
            return 0.0
        steps = rows.new_ones(len(values) - 1) if steps is None else steps
        before, after = (steps[first + k : last - 2 + k] for k in range(2))
        shares = (2.0 / (before * (before + after)), -2.0 / (before * after), 2.0 / (after * (before + after)))
        places = [slice(first + k, last - 2 + k) for k in range(3)]
        parts = [share[:, None, None] * rows[at] for share, at in zip(shares, places, strict=True)]
        terms = [share[:, None] * values[at] for share, at in zip(shares, places, strict=True)]
        difference = terms[0] + terms[1] + terms[2]
        for i, left in enumerate(parts):
            self.right[places[i]] -= weight * (left.mT @ difference[..., None])[..., 0]
            for k in range(i + 1):
                self.ahead[i - k][places[k]] += weight * left.mT @ parts[k]
        return weight * float((difference**2).sum())

    def add_deviations(self, values: Tensor, weight: Tensor) -> None:
        """Add deviations from the mean over all frames, which may move itself.

        Args:
            values: How far each unknown lies from its mean, ``[N, D]``.
            weight: Of every squared deviation, ``[D]``.
        """
        self.diagonal.diagonal(dim1=1, dim2=2).add_(weight)
        self.right -= weight * values
        self.mean_weight += weight
        self.mean_right += weight * values.sum(0)

    def solve(self, still: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Steps of the frames ``[N, D]`` and of the shared unknowns ``[S]``.

        Cholesky factorisation over the frames, Schur complement over the shared unknowns; in double precision.

        Args:
            still: Directions ``[C, N, D]`` along which the frames' steps must sum to zero: what nothing tells apart
                from the shared unknowns, so that none of these makes up for a step that is not taken.
        """
        N, D = self.right.shape
        means = self.mean_weight.nonzero()[:, 0]
        by_mean = -torch.diag(self.mean_weight)[:, means].expand(N, -1, -1)
        still = self.right.new_zeros(0, N, D) if still is None else still
        border = torch.cat([self.mixed, by_mean], -1).double().reshape(N * D, -1)
        right = torch.cat([still, self.right[None]]).double()
        sides = torch.cat([border.view(N, D, -1), right.permute(1, 2, 0)], -1)
        by_border, frames = self._solve_frames(sides).reshape(N * D, -1).split([border.shape[1], len(right)], 1)
        shared = torch.zeros(border.shape[1], len(right), dtype=border.dtype, device=border.device)
        if len(shared):
            shared[:, -1] = torch.cat([self.shared_right, self.mean_right[means]])
            corner = torch.block_diag(self.shared, torch.diag(N * self.mean_weight[means])).double()
            complement = corner - border.T @ by_border
            complement.diagonal().add_(1e-6 * complement.max())
            shared = torch.linalg.solve(complement, shared - border.T @ frames)
            frames = frames - by_border @ shared
        steps = torch.cat([frames, shared]).T
        if len(still):
            sums = right[:-1].flatten(1) @ frames
            steps[-1] -= torch.linalg.solve(sums[:, :-1], sums[:, -1]) @ steps[:-1]
        step = steps[-1].to(self.right)
        return step[: N * D].view(N, D), step[N * D : N * D + self.shared_count]

    def _solve_frames(self, right: Tensor) -> Tensor:
        """Solve the frames' part for right sides ``[N, D, R]``.

        Frames in pairs couple to the neighbouring pair alone: a block-tridiagonal matrix.
        """
        N, D, R = right.shape
        pairs = (N + 1) // 2
        diagonal, next_frame, after_next = (right.new_zeros(2 * pairs, D, D) for _ in range(3))
        for blocks, given in zip((diagonal, next_frame, after_next), self.ahead, strict=True):
            blocks[: len(given)] = given
        damping = 1e-6 * diagonal.max()
        diagonal.diagonal(dim1=1, dim2=2).add_(damping)  # alone in the frame that fills up the last pair
        even, odd = slice(0, None, 2), slice(1, None, 2)
        own = right.new_zeros(pairs, 2 * D, 2 * D)
        own[:, :D, :D], own[:, D:, D:], own[:, D:, :D] = diagonal[even], diagonal[odd], next_frame[even]
        own[:, :D, D:] = next_frame[even].transpose(1, 2)
        below = right.new_zeros(pairs, 2 * D, 2 * D)  # the next pair by this one
        below[:, :D, :D], below[:, :D, D:], below[:, D:, D:] = after_next[even], next_frame[odd], after_next[odd]
        sides = right.new_zeros(2 * pairs, D, R)
        sides[:N] = right
        sides = sides.view(pairs, 2 * D, R)

        factors: list[Tensor] = []
        links: list[Tensor] = []
        forward: list[Tensor] = []
        for pair in range(pairs):
            block, side = own[pair], sides[pair]
            if pair:
                link = torch.linalg.solve_triangular(factors[-1], below[pair - 1].T, upper=False).T
                links.append(link)
                block, side = block - link @ link.T, side - link @ forward[-1]
            factors.append(torch.linalg.cholesky(block))
            forward.append(torch.linalg.solve_triangular(factors[-1], side, upper=False))
        steps: list[Tensor] = []
        for pair in range(pairs - 1, -1, -1):
            side = forward[pair] - links[pair].T @ steps[-1] if steps else forward[pair]
            steps.append(torch.linalg.solve_triangular(factors[pair].T, side, upper=True))
        return torch.stack(steps[::-1]).view(2 * pairs, D, R)[:N]
