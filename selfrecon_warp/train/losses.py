"""One pure function per loss term; no weights inside."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.small_matrices import singular_values_3x3
from selfrecon_warp.model.deformation import dct_basis


def geman_mcclure(residual: Tensor, scale: float) -> Tensor:
    """``2 (r/c)² / ((r/c)² + 4)``, elementwise: quadratic near zero, two far away. Source: SelfRecon, supplement."""
    square = (residual / scale) ** 2
    return 2.0 * square / (square + 4.0)


def geman_mcclure_weight(residual: Tensor, scale: float) -> Tensor:
    """Weight of iteratively reweighted least squares for :func:`geman_mcclure`, one at zero."""
    return 1.0 / (1.0 + (residual / (2.0 * scale)) ** 2) ** 2


def loss_mask_iou(rendered: Tensor, target: Tensor) -> Tensor:
    """One minus the soft intersection over union of masks ``[B, H, W]``, mean over frames."""
    both = (rendered * target).sum((1, 2))
    either = (rendered + target - rendered * target).sum((1, 2))
    return (1.0 - both / either.clamp_min(1.0)).mean()


def loss_consistency(displacement: Tensor, scale: float | None) -> Tensor:
    """Mean robust length of the learned offset ``[..., 3]`` [m]; ``scale`` [m].

    Without a scale it is the mean squared length. Source: SelfRecon, Eq. 9.
    """
    if scale is None:
        return displacement.square().sum(-1).mean()
    return geman_mcclure(displacement.norm(dim=-1), scale).mean()


def loss_offset(displacement: Tensor) -> Tensor:
    """Mean length [m] of the learned offset ``[..., 3]``. Source: SelfRecon's reference implementation."""
    return displacement.norm(dim=-1).mean()


def loss_colour(rendered: Tensor, observed: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the three channels' summed L1 difference; colours ``[B, R, 3]``, weights ``[B, R]``."""
    return (weights * (rendered - observed).abs().sum(-1)).sum() / weights.sum().clamp_min(1.0)


def loss_normal(gradient: Tensor, jacobian: Tensor, observed: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of ``‖Jᵀ n_observed − ∇f/‖∇f‖‖``: observed normals are pulled back to canonical space.

    Args:
        gradient: ``∇f``, ``[B, R, 3]``.
        jacobian: ``∂D/∂p``, ``[B, R, 3, 3]``.
        observed: Unit normals in the world, ``[B, R, 3]``.
        weights: ``[B, R]``; zero where the observation is not valid.

    Source: SelfRecon, Eq. 13.
    """
    pulled = (jacobian.transpose(-1, -2) @ observed[..., None])[..., 0]
    normal = gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    return (weights * ((pulled - normal).square().sum(-1) + 1e-8).sqrt()).sum() / weights.sum().clamp_min(1.0)


def loss_eikonal(gradient: Tensor) -> Tensor:
    """Mean squared deviation of ``‖∇f‖`` from one. Source: IGR (Gropp et al. 2020)."""
    return (gradient.norm(dim=-1) - 1.0).square().mean()


def loss_rigidity(jacobian: Tensor, scale: float) -> Tensor:
    """Mean robust length of the log singular values of the offset map's Jacobian ``[..., 3, 3]``.

    Differentiable once, the identity included; singular values below 1e-3 count as 1e-3. Source: SelfRecon, Eq. 10,
    after Nerfies (Park et al. 2021).
    """
    log_singular = singular_values_3x3(jacobian).clamp_min(1e-3).log()
    return geman_mcclure((log_singular.square().sum(-1) + 1e-12).sqrt(), scale).mean()


def loss_temporal(joints: Tensor, clips: list[tuple[int, int]], window: int = 30, kept: int = 10) -> Tensor:
    """Mean absolute high-frequency DCT coefficient of joint paths.

    Args:
        joints: Posed joints [m], ``[N, J, 3]``.
        clips: First and one-past-last frame of each clip; clips shorter than ``window`` use their own length.
        window: Frames per window.
        kept: Coefficients left free.

    Source: SelfRecon, Eq. 11.
    """
    terms = []
    for first, last in clips:
        size = min(window, last - first)
        if size <= kept:
            continue
        basis = dct_basis(size)[kept:].to(joints)
        paths = joints[first:last].flatten(1).unfold(0, size, 1)
        terms.append((paths @ basis.T).abs().mean())
    return torch.stack(terms).mean() if terms else joints.sum() * 0.0


def loss_acceleration(values: Tensor, clips: list[tuple[int, int]]) -> Tensor:
    """Mean squared second difference in time of ``[N, ...]``, inside each clip."""
    terms = []
    for first, last in clips:
        part = values[first:last]
        if len(part) > 2:
            terms.append((part[2:] - 2.0 * part[1:-1] + part[:-2]).square().mean())
    return torch.stack(terms).mean() if terms else values.sum() * 0.0
