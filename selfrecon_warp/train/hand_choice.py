"""Whether the body model's hands are the person's: gloves, fists and bags are not."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.surface.hands import HandedMesh, with_hands
from selfrecon_warp.train.observations import Observations

FRAMES = 24
"""So many frames are looked at."""
MARGIN_PX = 12
"""Pixels around a hand that count as its surroundings."""
WORSE_SHARE = 0.2
"""Fingers may miss the masks by this share of the hand's pixels more than the free surface does: it was fitted to them,
and has no gaps to get wrong."""


@torch.no_grad()
def choose_hands(avatar: Avatar, vertices: Tensor, faces: Tensor, observations: Observations) -> dict[str, float]:
    """Let an avatar wear the body's hands unless its configuration or the masks speak against them.

    Args:
        avatar: Its ``hands_worn`` are set.
        vertices: Canonical surface without them [m], ``[V, 3]``.
        faces: ``[F, 3]``.
        observations: The capture.

    Returns:
        What :func:`hand_misfit` says of both; nothing where the configuration forbids them.
    """
    if not len(avatar.hands_worn):
        return {}
    avatar.hands_worn.fill_(True)
    misfit = hand_misfit(avatar, (vertices, faces), with_hands(avatar, vertices, faces), observations)
    avatar.hands_worn.copy_(misfit <= WORSE_SHARE)
    return {"left_hand_misfit": float(misfit[0]), "right_hand_misfit": float(misfit[1])}


@torch.no_grad()
def hand_misfit(avatar: Avatar, plain: tuple[Tensor, Tensor], handed: HandedMesh, observations: Observations) -> Tensor:
    """How much worse the masks agree with the body's hands than with the surface that they replace.

    Args:
        avatar: Gives poses and camera.
        plain: Canonical vertices ``[V, 3]`` and faces ``[F, 3]`` of the surface.
        handed: The same with hands.
        observations: The capture.

    Returns:
        Pixels that are wrong around each hand, beyond those of the plain surface, by the hand's pixels, ``[2]``;
        zero where no hand was sewn on or none is in the picture.
    """
    N, (H, W) = observations.frame_count, observations.masks.shape[1:]
    frames = torch.linspace(0, N - 1, min(FRAMES, N), device=plain[0].device).round().long().unique()
    bones = avatar.bones(frames)
    more, own = plain[0].new_zeros(2), plain[0].new_zeros(2)
    meshes = plain, (handed.vertices, handed.faces)
    weights = [avatar.deformation.skinning_weights(vertices) for vertices, _ in meshes]
    worn = avatar.hands_worn.clone()
    for b, frame in enumerate(frames.tolist()):
        drawn, pixels = [], plain[0]
        code = avatar.codes[frame : frame + 1]
        for has, (vertices, faces), mixed in zip((False, True), meshes, weights, strict=True):
            avatar.hands_worn.fill_(has)  # without, the learned offset moves them
            pixels = avatar.camera.project(avatar.deformation(vertices, code, bones[b : b + 1], mixed)[0])
            drawn.append(visible_faces(pixels, faces, H, W)[0])
        wrong = [(face >= 0) != observations.masks[frame] for face in drawn]
        shown = handed.side[handed.faces[:, 0].long()][drawn[1].clamp_min(0).long()]
        for side in handed.sides:
            place = pixels[0, handed.side == side, :2]
            lower = (place.amin(0) - MARGIN_PX).floor().clamp_min(0).int().tolist()
            upper = (place.amax(0) + MARGIN_PX).ceil().clamp_min(0).int().tolist()
            box = slice(lower[1], upper[1]), slice(lower[0], upper[0])
            more[side] += wrong[1][box].sum() - wrong[0][box].sum()
            own[side] += ((shown == side) & (drawn[1] >= 0)).sum()
    avatar.hands_worn.copy_(worn)
    return more / own.clamp_min(1.0)
