"""Canonical points in the frames of the capture, with everything the fit found: offset, then skinning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.model.avatar import Avatar

FRAMES_AT_ONCE = 8


@torch.no_grad()
def posed_points(avatar: Avatar, points: Tensor, frames: Sequence[int]) -> Tensor:
    """World positions [m] of canonical points ``[P, 3]`` in frames of the capture, ``[N, P, 3]``.

    Raises:
        ValueError: The points' shape is another.
    """
    require_shapes(points=(points, "P 3"))
    weights = avatar.deformation.skinning_weights(points)
    posed = points.new_zeros(len(frames), *points.shape)
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        index = torch.tensor(frames[start : start + FRAMES_AT_ONCE], device=points.device)
        some = avatar.deformation(points, avatar.codes[index], avatar.bones(index), weights)[0]
        posed[start : start + len(index)] = some
    return posed
