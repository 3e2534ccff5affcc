"""A fitted avatar as a mesh that can be posed and drawn in any frame of its capture."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from selfrecon_warp.kernels.rasterize import pixel_barycentrics, visible_faces
from selfrecon_warp.kernels.small_matrices import inverse_3x3
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.surface.extraction import extract_mesh, lattice
from selfrecon_warp.surface.hands import with_hands
from selfrecon_warp.surface.hems import open_hems
from selfrecon_warp.train.fit import FLOATER_SHARE
from selfrecon_warp.view.render import Canvas

DIFFERENCE_M = 2e-3
"""Step of the forward differences that give the deformation's derivative."""
POINTS_AT_ONCE = 1 << 18
"""Points, over all frames of a batch, that the deformation is asked for in one call."""
PIXELS_AT_ONCE = 1 << 16
FRAMES_LOOKED_AT = 24
"""Frames that tell what of the surface is seen."""
FRONTAL_COSINE = 0.1
"""Rays that graze the surface more than this stay where the mesh puts them."""
MAX_STEP_M = 0.01


class Reconstruction:
    """The canonical mesh of an avatar, extracted cold, without floaters, with its hands, and what carries it along.

    Args:
        avatar: A fitted avatar.
        cell: Cell edge of the extraction lattice [m].

    Attributes:
        avatar: The avatar.
        vertices: Canonical positions [m], ``[V, 3]``.
        faces: Vertex indices, ``[F, 3]`` int32, the same in every frame.

    Raises:
        RunError: The field has no surface.
    """

    @torch.no_grad()
    def __init__(self, avatar: Avatar, cell: float) -> None:
        self.avatar = avatar
        mesh = extract_mesh(avatar.sdf, *lattice(avatar.lower, avatar.upper, cell), min_fraction=FLOATER_SHARE)
        handed = with_hands(avatar, mesh.vertices, mesh.faces)
        self.vertices, self.faces = handed.vertices, handed.faces
        self._weights = avatar.deformation.skinning_weights(self.vertices)
        if avatar.config.open_hems:
            self.vertices, self.faces = open_hems(
                (self.vertices, self.faces), avatar.canonical_body(), avatar.sdf, self._seen
            )
            self._weights = avatar.deformation.skinning_weights(self.vertices)
        steps = DIFFERENCE_M * torch.eye(3, device=self.vertices.device)
        self._stencil = (self.vertices + steps[:, None]).flatten(0, 1)  # [3V, 3], x of all vertices first
        self._stencil_weights = avatar.deformation.skinning_weights(self._stencil)

    def _seen(self) -> Tensor:
        """Vertices that some frame shows, ``[V]`` bool."""
        camera, count = self.avatar.camera, len(self.avatar.poses)
        seen = torch.zeros(len(self.vertices), dtype=torch.bool, device=self.vertices.device)
        for frame in torch.linspace(0, count - 1, min(FRAMES_LOOKED_AT, count)).round().long().unique().tolist():
            pixels = camera.project(self.posed([frame]))
            face = visible_faces(pixels, self.faces, camera.height, camera.width)
            seen[self.faces[face[face >= 0].long()].flatten().long()] = True
        return seen

    def with_weights(self, weights: Tensor) -> Reconstruction:
        """The same mesh under other skinning weights of its vertices, ``[V, J]``; how they change in space stays.

        A configuration that looks weights up at the offset point keeps its own.
        """
        changed = copy.copy(self)
        changed._weights = weights
        changed._stencil_weights = self._stencil_weights + (weights - self._weights).repeat(3, 1)
        return changed

    @torch.no_grad()
    def posed(self, frames: Sequence[int]) -> Tensor:
        """World positions [m] of the vertices in some frames, ``[B, V, 3]``."""
        return self._deformed(self.vertices, self._weights, frames)

    @torch.no_grad()
    def offset(self, frame: int) -> Tensor:
        """Canonical positions [m] of the vertices as one frame's learned offset alone moves them, ``[V, 3]``."""
        displacement: Tensor = self.avatar.deformation.displacement(self.vertices, self.avatar.codes[frame : frame + 1])
        return self.vertices + displacement[0]

    @torch.no_grad()
    def jacobians(self, frames: Sequence[int], posed: Tensor) -> Tensor:
        """Derivative of the world position by the canonical one at the vertices, ``[B, V, 3, 3]``.

        Args:
            frames: ``B`` of them.
            posed: What :meth:`posed` gave for them.
        """
        moved = self._deformed(self._stencil, self._stencil_weights, frames)
        moved = moved.view(len(frames), 3, -1, 3).permute(0, 2, 3, 1)
        return (moved - posed[..., None]) / DIFFERENCE_M

    def batches(self, frames: Sequence[int]) -> Iterator[Sequence[int]]:
        """The frames in groups that fit into memory together."""
        size = max(1, POINTS_AT_ONCE // len(self._stencil))
        for start in range(0, len(frames), size):
            yield frames[start : start + size]

    @torch.no_grad()
    def vertex_colours(self) -> Tensor:
        """Colours in [0, 1] of the vertices, each seen from straight outside, ``[V, 3]``."""
        colours = []
        for points in self.vertices.split(PIXELS_AT_ONCE):
            sample = self.avatar.sdf.sample(points)
            normals = normalize(sample.gradient, dim=-1)
            colours.append(self.avatar.colours(points, -normals, normals, sample.feature))
        return torch.cat(colours)

    @torch.no_grad()
    def pixel_colours(self, canvas: Canvas, jacobians: Tensor) -> tuple[Tensor, Tensor]:
        """Colours of one picture, every pixel's own, so that they are finer than the mesh.

        A pixel's ray starts on the mesh and takes one Newton step along itself onto the field's surface; there the
        appearance network is asked.

        Args:
            canvas: The mesh drawn in some pose by some camera.
            jacobians: Derivative of the drawn position by the canonical one at the vertices, ``[V, 3, 3]``.

        Returns:
            Row-major pixel index ``[R]`` and colours in [0, 1] ``[R, 3]`` of the pixels that show the mesh.
        """
        index, face = canvas.pixels()
        camera = canvas.camera
        projected = camera.project(canvas.vertices)[None]
        colours = [index.new_zeros(0, 3, dtype=projected.dtype)]
        for pixel, seen in zip(index.split(PIXELS_AT_ONCE), face.split(PIXELS_AT_ONCE), strict=True):
            pixels = torch.stack((pixel % camera.width, pixel // camera.width), -1).to(projected.dtype)
            barycentrics, _ = pixel_barycentrics(projected, self.faces, torch.zeros_like(seen), pixels, seen)
            barycentrics = normalize(barycentrics.clamp_min(0.0), p=1.0, dim=-1)  # rims lie just outside their face
            corners = self.faces[seen.long()].long()
            points = _blend(self.vertices, corners, barycentrics)
            inverse, _ = inverse_3x3(_blend(jacobians.flatten(1), corners, barycentrics).view(-1, 3, 3))
            along = (inverse @ camera.rays(pixels)[..., None])[..., 0]
            colours.append(self._colours_along(points, along))
        return index, torch.cat(colours)

    def _colours_along(self, points: Tensor, along: Tensor) -> Tensor:
        """Colours where canonical rays through points ``[R, 3]`` meet the surface close by."""
        sample = self.avatar.sdf.sample(points)
        directions = normalize(along, dim=-1)
        slope = (sample.gradient * directions).sum(-1)
        frontal = slope < -FRONTAL_COSINE
        step = -sample.value / torch.where(frontal, slope, torch.ones_like(slope))
        step = torch.where(frontal & (step.abs() < MAX_STEP_M), step, torch.zeros_like(step))
        points = points + step[:, None] * directions
        sample = self.avatar.sdf.sample(points)
        normals = normalize(sample.gradient, dim=-1)
        return self.avatar.colours(points, directions, normals, sample.feature)

    def _deformed(self, points: Tensor, weights: Tensor, frames: Sequence[int]) -> Tensor:
        index = torch.tensor(frames, device=points.device)
        avatar = self.avatar
        posed: Tensor = avatar.deformation(points, avatar.codes[index], avatar.bones(index), weights)[0]
        return posed


def _blend(values: Tensor, corners: Tensor, barycentrics: Tensor) -> Tensor:
    """Vertex values ``[V, C]`` inside triangles with ``corners [R, 3]``, ``[R, C]``."""
    return torch.einsum("rk,rkc->rc", barycentrics, values[corners])
