"""The body model's hands in place of a free surface's: fingers that no lattice of this size and no picture resolves.

A surface extracted at a centimetre turns a hand into a mitten. The naked body knows fingers, and a hand moves as the
skeleton says. Each mesh is cut across the wrist, the body's hand is fitted to the cut and sewn on.

Source: replacing hands as ECON does (Xiu et al., "ECON: Explicit Clothed humans Optimized via Normal integration", CVPR
2023), here by cutting and sewing instead of Poisson reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selfrecon_warp.kernels.closest_point import closest_point
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.model.body import LOWER_ARMS, CanonicalBody, hand_places
from selfrecon_warp.model.deformation import HAND_BLEND_M
from selfrecon_warp.surface.mesh import connected_pieces
from selfrecon_warp.surface.sewing import clip, zip_loops

SEAM_M = 0.004
"""The body's hand begins so far beyond the cut."""
DRAWN_M = 0.008
"""A surface further off than this is less and less followed, from twice this on not at all: it is a wide sleeve."""
REACH_M = 0.3
"""A piece beyond the cut that extends further than this from the wrist is more than a hand."""


@dataclass(frozen=True)
class Hand:
    """One hand of the naked body in canonical space, beyond the wrist.

    Attributes:
        vertices: Positions [m], ``[V, 3]``.
        faces: Outward, ``[F, 3]`` int64; open at the cut.
        rim: Vertices along the cut in order, ``[R]``, as the faces' own sides run.
        origin: A point of the cut's plane [m], ``[3]``.
        axis: Unit normal of the plane, towards the fingers, ``[3]``.
    """

    vertices: Tensor
    faces: Tensor
    rim: np.ndarray
    origin: Tensor
    axis: Tensor


@dataclass(frozen=True)
class HandedMesh:
    """A canonical mesh that wears hands of the body.

    Attributes:
        vertices: Positions [m], ``[V, 3]``.
        faces: ``[F, 3]`` int32.
        side: Which hand a vertex belongs to, ``[V]`` int64; -1 for none.
    """

    vertices: Tensor
    faces: Tensor
    side: Tensor

    @property
    def sides(self) -> list[int]:
        """Hands that were sewn on, in order."""
        return [side for side in self.side.unique().tolist() if side >= 0]


def body_hand(body: CanonicalBody, side: int, move: Tensor) -> Hand | None:
    """One hand of the naked body, cut off at the wrist.

    Args:
        body: The body in its canonical pose, with the joints of SMPL.
        side: 0 for the left hand, 1 for the right.
        move: Similarity transform in canonical space, ``[4, 4]``.

    Returns:
        The hand; ``None`` where the body has no such joints or no simple cross-section at the wrist.
    """
    places = hand_places(body)
    if places is None:
        return None
    origin, axis = places[side]
    mine = body.weights[:, LOWER_ARMS[side]].sum(-1) > 0.5
    faces = body.faces[mine[body.faces].all(-1)]
    vertices = body.vertices @ move[:3, :3].T + move[:3, 3]
    height = (vertices - origin) @ axis - SEAM_M
    clipped = clip(vertices, faces, -height)
    if len(clipped.loops) != 1:
        return None
    faces, rim = clipped.faces, clipped.loops[0]
    piece = connected_pieces(faces.cpu().numpy(), len(clipped.vertices))
    faces = faces[torch.from_numpy(piece[faces[:, 0].cpu().numpy()] == piece[rim[0]]).to(faces.device)]
    used, faces = torch.unique(faces, return_inverse=True)
    place = {int(vertex): index for index, vertex in enumerate(used.tolist())}
    return Hand(clipped.vertices[used], faces, np.array([place[int(v)] for v in rim]), origin, axis)


def with_hands(avatar: Avatar, vertices: Tensor, faces: Tensor) -> HandedMesh:
    """A canonical mesh ``vertices [V, 3]``, ``faces [F, 3]`` of an avatar with the hands that the avatar wears."""
    body, worn = avatar.canonical_body(), avatar.hands_worn.tolist()
    hands = [body_hand(body, side, avatar.hand_moves[side]) if worn[side] else None for side in range(len(worn))]
    return wear_hands(vertices, faces, hands)


def wear_hands(vertices: Tensor, faces: Tensor, hands: Sequence[Hand | None]) -> HandedMesh:
    """Replace what a canonical mesh has beyond the wrists by hands of the body.

    A hand is left as it is where the mesh beyond the wrist is not one piece with one round cut: where it has grown
    together with the hip, or is missing.

    Args:
        vertices: Positions [m], ``[V, 3]``.
        faces: Outward, ``[F, 3]`` int32, closed.
        hands: Left and right; ``None`` leaves that side alone.
    """
    side = torch.full((len(vertices),), -1, dtype=torch.long, device=vertices.device)
    current, indices = vertices, faces.long()
    for index, hand in enumerate(hands):
        sewn = None if hand is None else _sew(current, indices, hand, (vertices, faces))
        if sewn is not None:
            current, indices, taken = sewn
            side = torch.cat([side[taken], side.new_full((len(current) - len(taken),), index)])
    return HandedMesh(current, indices.to(faces.dtype), side)


def _sew(
    vertices: Tensor, faces: Tensor, hand: Hand, replaced: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Vertices and faces with one hand sewn on, and which of the given vertices stay; they come first, in order."""
    height = (vertices - hand.origin) @ hand.axis
    beyond = _beyond(vertices, faces, height, hand)
    if beyond is None:
        return None
    clipped = clip(vertices, faces[beyond], height)
    if len(clipped.loops) != 1:
        return None
    rim = clipped.loops[0]
    fitted = _drawn_on(hand, replaced)
    bridge = zip_loops(
        clipped.vertices.cpu().numpy(), rim, fitted.cpu().numpy(), hand.rim[::-1], offset=len(clipped.vertices)
    )
    joined = torch.cat([clipped.vertices, fitted])
    all_faces = torch.cat(
        [
            faces[~beyond],
            clipped.faces,
            torch.from_numpy(bridge).to(faces),
            hand.faces + len(clipped.vertices),
        ]
    )
    used = torch.zeros(len(joined), dtype=torch.bool, device=faces.device)
    used[all_faces.flatten()] = True
    place = used.long().cumsum(0) - 1
    taken = used[: len(vertices)].nonzero()[:, 0]
    return joined[used], place[all_faces], taken


def _beyond(vertices: Tensor, faces: Tensor, height: Tensor, hand: Hand) -> Tensor | None:
    """Which faces reach beyond the cut on this wrist, ``[F]`` bool; ``None`` where they are no hand."""
    reach = (height[faces] > 0).any(-1)
    index = reach.nonzero()[:, 0]
    if len(index) == 0:
        return None
    piece = connected_pieces(faces[index].cpu().numpy(), len(vertices))[faces[index, 0].cpu().numpy()]
    corners = vertices[faces[index]].mean(1)
    nearest = int((corners - hand.vertices.mean(0)).norm(dim=-1).argmin())
    mine = torch.from_numpy(piece == piece[nearest]).to(faces.device)
    if float((corners[mine] - hand.origin).norm(dim=-1).max()) > REACH_M:
        return None
    beyond = torch.zeros_like(reach)
    beyond[index[mine]] = True
    return beyond


def _drawn_on(hand: Hand, replaced: tuple[Tensor, Tensor]) -> Tensor:
    """The hand's vertices, near the cut drawn onto the surface that it replaces."""
    height = (hand.vertices - hand.origin) @ hand.axis
    near = (height < HAND_BLEND_M).nonzero()[:, 0]
    points = hand.vertices[near]
    surface, faces = replaced
    _, face, barycentrics = closest_point(points, surface, faces)
    onto = (barycentrics[..., None] * surface[faces[face].long()]).sum(1)
    share = ((HAND_BLEND_M - height[near]) / (HAND_BLEND_M - SEAM_M)).clamp(0.0, 1.0)
    share = share * share * (3.0 - 2.0 * share)
    share = share * (2.0 - (onto - points).norm(dim=-1) / DRAWN_M).clamp(0.0, 1.0)
    return hand.vertices.index_copy(0, near, points + share[:, None] * (onto - points))
