"""Fast pictures of a coloured mesh: faces by the rasteriser, colours by one pass over the pixels."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.kernels.paint import paint_texture, paint_vertices
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.view.render import WHITE, Background

COARSEST = 2
"""Most halvings of a texture seen from afar: the gutters between its charts bear no more."""
FAR_BLUR, NEAR_BLUR = 0.03, 0.008
"""Width of the shadows of a whole mesh and of what is close to the ground, of the picture's height."""
FAR_DARKNESS, NEAR_DARKNESS = 0.18, 0.32
COARSER = 4
"""Shadows are drawn that many times smaller."""


class Painter:
    """Draws one mesh in many poses, by texture or by the colours of its vertices, without light.

    Args:
        faces: Vertex indices, ``[F, 3]``.
        colours: sRGB of the vertices, ``[V, 3]`` uint8; what is drawn when there is no texture.
        texture: sRGB, ``[S, S, 3]`` uint8.
        texcoords: u to the right, v down, in [0, 1], ``[T, 2]``.
        face_texcoords: Texture coordinate of every face's corners, ``[F, 3]``.
        samples: Samples a pixel, along each side.

    Raises:
        ValueError: There is neither a texture with coordinates nor colours.
    """

    def __init__(
        self,
        faces: Tensor,
        colours: Tensor | None = None,
        *,
        texture: Tensor | None = None,
        texcoords: Tensor | None = None,
        face_texcoords: Tensor | None = None,
        samples: int = 2,
    ) -> None:
        self.faces, self.samples = faces.int(), samples
        self._levels: list[Tensor] = []
        self._camera: Camera | None = None
        self._large: Camera | None = None
        if texture is not None and texcoords is not None and face_texcoords is not None:
            self._texcoords, self._face_texcoords = texcoords.float(), face_texcoords.int()
            self._levels = _halved(texture)
        elif colours is not None:
            self._colours = colours.float() / 255
        else:
            raise ValueError("texture, texcoords and face_texcoords must be given, or colours")

    @torch.no_grad()
    def paint(self, vertices: Tensor, camera: Camera, light: Tensor | None = None) -> np.ndarray:
        """Colour in [0, 1] times coverage, and coverage, ``[H, W, 4]`` float32.

        Args:
            vertices: World positions [m], ``[V, 3]``.
            camera: Its size is the picture's.
            light: What the colours are multiplied by at the vertices, ``[V, 3]``; 1 when absent.
        """
        s = self.samples
        first = camera is not self._camera or self._large is None
        if self._large is None or first:
            large = camera.resized(camera.height * s, camera.width * s).to(vertices.device)
            self._camera, self._large = camera, large
        projected = self._large.project(vertices.float())[None]
        index = visible_faces(projected, self.faces, self._large.height, self._large.width)
        if not self._levels:
            painted = paint_vertices(index, projected, self.faces, self._colours, s)
        else:
            if first:
                self._texture = self._levels[self._level(projected[0], index)]
            given = self._texcoords, self._face_texcoords, self._texture
            painted = paint_texture(index, projected, self.faces, *given, s)
        if light is not None:
            falling = paint_vertices(index, projected, self.faces, light.float(), s)
            lit = painted[..., :3] * falling[..., :3] / falling[..., 3:].clamp_min(1e-6)
            painted = torch.cat((torch.minimum(lit, painted[..., 3:]), painted[..., 3:]), -1)
        return _array(painted)

    def picture(
        self, vertices: Tensor, camera: Camera, background: Background = WHITE, light: Tensor | None = None
    ) -> np.ndarray:
        """:meth:`paint` over a background: RGB ``[H, W, 3]`` uint8, or RGBA without a background."""
        return over(self.paint(vertices, camera, light), background)

    def _level(self, projected: Tensor, index: Tensor) -> int:
        """Which halving of the texture has about one texel a sample, in the middle of the faces seen."""
        seen = index[index >= 0].unique().long()
        if not len(seen):
            return 0
        on_screen = _areas(projected[self.faces[seen].long(), :2])
        height, width = self._levels[0].shape[:2]
        scale = self._texcoords.new_tensor([width, height])
        on_texture = _areas(self._texcoords[self._face_texcoords[seen].long()] * scale)
        ratio = float((on_texture / on_screen.clamp_min(1e-6)).median().clamp_min(1e-6).sqrt())
        return min(max(math.floor(math.log2(ratio)), 0), len(self._levels) - 1)


def over(painted: np.ndarray, background: Background) -> np.ndarray:
    """What :meth:`Painter.paint` gave, over a background: RGB ``[H, W, 3]`` uint8, or RGBA without a background."""
    colour, alpha = painted[..., :3], painted[..., 3:]
    if background is None:
        straight = np.divide(colour, alpha, out=np.zeros_like(colour), where=alpha > 0)
        return _bytes(np.concatenate((straight, alpha), -1) * 255)
    return _bytes(colour * 255 + (1 - alpha) * np.asarray(background, np.float32))


@torch.no_grad()
def soft_shadow(flattened: Tensor, faces: Tensor, near: Tensor, camera: Camera) -> np.ndarray:
    """Brightness ``[H, W, 1]`` float32 of a ground on which a mesh casts a soft shadow.

    Args:
        flattened: The mesh pressed onto the ground along the light [m], ``[V, 3]``.
        faces: Vertex indices, ``[F, 3]``.
        near: Those close to the ground, whose shadow is darker and sharper.
        camera: Its size is the picture's.
    """
    small = camera.resized(max(camera.height // COARSER, 1), max(camera.width // COARSER, 1)).to(flattened.device)
    projected = small.project(flattened.float())[None]
    brightness = np.ones((camera.height, camera.width), np.float32)
    for cast, blur, darkness in ((faces, FAR_BLUR, FAR_DARKNESS), (near, NEAR_BLUR, NEAR_DARKNESS)):
        covered = visible_faces(projected, cast.int(), small.height, small.width)[0] >= 0
        soft = cv2.GaussianBlur(covered.float().cpu().numpy(), (0, 0), max(blur * small.height, 0.5))
        brightness -= darkness * cv2.resize(soft, (camera.width, camera.height), interpolation=cv2.INTER_LINEAR)
    return brightness[..., None]


def _halved(texture: Tensor) -> list[Tensor]:
    """The texture and its halvings."""
    levels = [texture]
    while len(levels) <= COARSEST and min(levels[-1].shape[:2]) >= 2:
        pixels = levels[-1].cpu().numpy()
        small = cv2.resize(pixels, (pixels.shape[1] // 2, pixels.shape[0] // 2), interpolation=cv2.INTER_AREA)
        levels.append(torch.from_numpy(small).to(texture.device))
    return levels


def _areas(triangles: Tensor) -> Tensor:
    """Areas ``[N]`` of triangles ``[N, 3, 2]``."""
    (ax, ay), (bx, by) = ((triangles[:, k] - triangles[:, 0]).unbind(-1) for k in (1, 2))
    return (ax * by - ay * bx).abs() / 2


def _array(painted: Tensor) -> np.ndarray:
    return np.asarray(painted[0].cpu().numpy())


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(values + 0.5, 0, 255).astype(np.uint8))
