"""Plain-torch twin of the blend of layers."""

from __future__ import annotations

import torch
from torch import Tensor


def composite_alpha(alphas: Tensor, point_index: Tensor, features: Tensor, ends: Tensor | None = None) -> Tensor:
    """Blend features front to back: ``sum_k alpha_k f_k prod_{j<k} (1 - alpha_j)``."""
    alphas, point_index = _padded(alphas, point_index, ends)
    through = (1.0 - alphas).cumprod(-1).roll(1, -1)
    through = torch.cat([torch.ones_like(through[..., :1]), through[..., 1:]], -1)
    return composite_weighted(alphas * through, point_index, features)


def composite_weighted(alphas: Tensor, point_index: Tensor, features: Tensor, ends: Tensor | None = None) -> Tensor:
    """Blend features as if nothing hid anything: ``sum_k alpha_k f_k``."""
    alphas, point_index = _padded(alphas, point_index, ends)
    features = features.expand(len(alphas), *features.shape[-2:])
    chosen = torch.stack([frame[index] for frame, index in zip(features, point_index.clamp_min(0).long(), strict=True)])
    return (alphas[..., None] * chosen).sum(-2)


def _padded(alphas: Tensor, point_index: Tensor, ends: Tensor | None) -> tuple[Tensor, Tensor]:
    """Alphas, zero where there is no point, and indices, both ``[B, H, W, K]``."""
    if ends is None:
        return alphas.masked_fill(point_index < 0, 0.0), point_index
    flat = ends.flatten().long()
    counts = flat.diff(prepend=flat.new_zeros(1))
    slots = torch.arange(int(counts.max()) + 1, device=alphas.device)
    inside = slots < counts[:, None]
    source = torch.where(inside, (flat - counts)[:, None] + slots, 0)
    shape = (*ends.shape, len(slots))
    lists = alphas[source].masked_fill(~inside, 0.0), point_index[source].masked_fill(~inside, -1)
    return _padded(lists[0].view(shape), lists[1].view(shape), None)
