"""What registration takes to be likely before it looks: the given estimate, and what the person usually does."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from selfrecon_warp.config import RegistrationConfig
from selfrecon_warp.train.bumps import Bumps
from selfrecon_warp.train.kinematics import Poses, relative_rotation, rotations
from selfrecon_warp.train.losses import geman_mcclure_weight
from selfrecon_warp.train.normal_equations import NormalEquations

PLAINLY_WRONG_DEGREES = 10.0
"""Geman-McClure scale of the prior on joint rotations: a limb given far from where the picture shows it lets go."""

LEAST_SPREAD_DEGREES = 0.5
"""No joint is held closer to its usual rotation than this standard deviation."""

LOOSE_SLOPE = 0.3
"""Slope that bumps add to a surface in one sweep where no normals hold it."""

FRAMES_PER_SHAPE_PRIOR = 10.0
"""Frames see the same body again: the shape's prior counts once for so many."""


class Priors:
    """Priors of one capture.

    Args:
        given: The estimate the capture came with.
        terms: Trust in it.
    """

    def __init__(self, given: Poses, terms: RegistrationConfig) -> None:
        self.given = given
        self.terms = terms
        others = max(len(given.poses) - 1, 1)
        self.variance = _from_usual(given.poses).square().sum((0, 2)) / (3 * others)  # [J] an axis [rad^2]

    def add(self, system: NormalEquations, estimate: Poses, bumps: Bumps | None, held: bool) -> None:
        """Add the given poses, what joints usually do, and the given body shape or the surface as it stands.

        Args:
            system: They are added to it.
            estimate: Where it is linearised.
            bumps: Ways the surface may change its shape; ``None`` where it is a body model's.
            held: Whether normals hold the surface between its outlines; without them, bumps hold one another.
        """
        self._add_given(system, estimate)
        self._add_usual(system, estimate.poses)
        frames = len(estimate.poses) / FRAMES_PER_SHAPE_PRIOR
        if bumps is not None:
            system.shared.diagonal().add_(frames / self.terms.bump_m**2)
            if not held:
                slopes = bumps.slopes * np.sqrt(3.0 * bumps.count / bumps.slopes.shape[0])  # as one measurement a bump
                square = torch.from_numpy((slopes.T @ slopes).toarray()).to(system.shared)
                system.shared += frames / LOOSE_SLOPE**2 * square
        elif system.shared_count:
            weight = torch.full_like(system.shared_right, frames / self.terms.joint_m**2)
            weight[: len(estimate.betas)] = frames / self.terms.shape**2
            offset = torch.cat([estimate.betas - self.given.betas, estimate.joint_offsets.flatten()])
            system.shared.diagonal().add_(weight)
            system.shared_right -= weight * offset

    def _add_given(self, system: NormalEquations, estimate: Poses) -> None:
        """The given poses and translations."""
        relative = relative_rotation(estimate.poses, self.given.poses)
        residual = torch.cat([relative.flatten(1), estimate.trans - self.given.trans], -1)
        trusted = geman_mcclure_weight(relative.norm(dim=-1), np.deg2rad(PLAINLY_WRONG_DEGREES)).repeat_interleave(3, 1)
        weight = torch.full_like(residual, 1.0 / self.terms.trans_m**2)
        weight[:, :-3] = trusted / np.deg2rad(self.terms.pose_degrees) ** 2
        system.diagonal.diagonal(dim1=1, dim2=2).add_(weight)
        system.right -= weight * residual

    def _add_usual(self, system: NormalEquations, poses: Tensor) -> None:
        """Each joint's mean rotation, trusted by how far the given ones spread about theirs; the root turns freely.

        A limb that the trunk hides, or a twist that nothing shows, has no better estimate than what is given and what
        the person does in the other frames.
        """
        if self.terms.usual_spread is None or len(poses) < 2:
            return
        least = np.deg2rad(LEAST_SPREAD_DEGREES) ** 2
        weight = 1.0 / (self.terms.usual_spread**2 * self.variance).clamp_min(least)
        weight[0] = 0.0
        apart = torch.nn.functional.pad(_from_usual(poses).flatten(1), (0, 3))  # translations have no usual place
        system.add_deviations(apart, torch.nn.functional.pad(weight.repeat_interleave(3), (0, 3)))


def _from_usual(poses: Tensor) -> Tensor:
    """Rotation vectors that turn each joint's mean rotation into its rotations [rad], ``[N, J, 3]``."""
    N, J = poses.shape[:2]
    turns = rotations(poses.transpose(0, 1))
    mean = Rotation.concatenate([turns[N * joint : N * (joint + 1)].mean() for joint in range(J)])
    return relative_rotation(poses, torch.from_numpy(mean.as_rotvec()).to(poses).expand_as(poses))
