"""Pictures of meshes: shaded, normals, vertex colours, a turntable.

Every picture is drawn larger by ``supersample`` and averaged down, so outlines are smooth. ``background`` is ``None``
for transparent (RGBA comes back), a colour, or a photograph to draw over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.rasterize import rasterize, visible_faces
from selfrecon_warp.surface.mesh import vertex_normals

Background = np.ndarray | tuple[int, int, int] | None

WHITE = (255, 255, 255)
PAPER = (236, 235, 231)
"""What the report lays pictures on: a video on it needs no frame."""
CLAY = (0.80, 0.77, 0.73)
KEY_LIGHT = (-0.45, 0.62, 0.64)  # towards the light: right, up, towards the viewer
FILL_LIGHT = (0.75, 0.10, 0.65)
SKY, GROUND = (0.52, 0.56, 0.62), (0.30, 0.26, 0.23)
CREASE_RADIUS = 0.012  # of the picture's height
CREASE_DEPTH = 0.02  # metres behind its surroundings at which a pixel is darkest
CREASE_DARKNESS = 0.45


def render_shaded(
    vertices: Tensor,
    faces: Tensor,
    camera: Camera,
    *,
    background: Background = WHITE,
    colour: Sequence[float] | Tensor = CLAY,
    supersample: int = 2,
) -> np.ndarray:
    """Draw a mesh in soft light: sky and ground, a key and a fill light from the camera's side, darkened creases.

    Args:
        vertices: World positions [m], ``[V, 3]``.
        faces: Vertex indices, ``[F, 3]``; both sides are lit.
        camera: Its size is the picture's.
        background: See the module.
        colour: Of the surface, in [0, 1]: three numbers, or ``[V, 3]``.
        supersample: Samples a pixel, along each side.

    Returns:
        RGB ``[H, W, 3]`` uint8, or RGBA without a background.
    """
    return Canvas(vertices, faces, camera, supersample).shaded(background, colour)


def render_normals(
    vertices: Tensor, faces: Tensor, camera: Camera, *, background: Background = (0, 0, 0), supersample: int = 2
) -> np.ndarray:
    """Draw a mesh's normals as captures store them: ``rgb = 127.5 (n + 1)``, n = (right, up, towards the camera).

    Args:
        vertices: World positions [m], ``[V, 3]``.
        faces: Vertex indices, ``[F, 3]``; normals of faces seen from behind are turned to the camera.
        camera: Its size is the picture's.
        background: See the module; black as in captures by default.
        supersample: Samples a pixel, along each side; 1 keeps normals unmixed at the outline.

    Returns:
        RGB ``[H, W, 3]`` uint8, or RGBA without a background.
    """
    return Canvas(vertices, faces, camera, supersample).normals(background)


def render_vertex_colours(
    vertices: Tensor,
    faces: Tensor,
    colours: Tensor,
    camera: Camera,
    *,
    background: Background = WHITE,
    supersample: int = 2,
) -> np.ndarray:
    """Draw a mesh in the colours of its vertices, without light.

    Args:
        vertices: World positions [m], ``[V, 3]``.
        faces: Vertex indices, ``[F, 3]``.
        colours: RGB, ``[V, 3]``: uint8, or floats in [0, 1].
        camera: Its size is the picture's.
        background: See the module.
        supersample: Samples a pixel, along each side.

    Returns:
        RGB ``[H, W, 3]`` uint8, or RGBA without a background.
    """
    require_shapes(vertices=(vertices, "V 3"), colours=(colours, "V 3"))
    canvas = Canvas(vertices, faces, camera, supersample)
    scale = 255 if colours.dtype == torch.uint8 else 1
    return canvas.picture(canvas.interpolate(colours.to(vertices.dtype) / scale), background)


def render_mask(vertices: Tensor, faces: Tensor, camera: Camera) -> np.ndarray:
    """True where a pixel's centre shows the mesh, ``[H, W]`` bool."""
    with torch.no_grad():
        index = visible_faces(camera.project(vertices)[None], faces, camera.height, camera.width)
    return np.asarray((index[0] >= 0).cpu().numpy())


def draw_outline(
    image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int] = (255, 64, 64), thickness: int = 1
) -> np.ndarray:
    """A copy of a picture with a mask's outline drawn on it.

    Args:
        image: RGB, ``[H, W, 3]`` uint8.
        mask: ``[H, W]`` bool.
        colour: RGB of the line.
        thickness: Width of the line [px].
    """
    require_shapes(image=(image, "H W 3"), mask=(mask, "H W"))
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(image.copy(), contours, -1, colour, thickness, cv2.LINE_AA))


def person_box(masks: Sequence[np.ndarray], margin: float = 0.06) -> tuple[slice, slice]:
    """Rows and columns that hold the person in every mask, with a margin of that fraction of the larger side.

    Args:
        masks: Each ``[H, W]`` bool, all of one size.
        margin: Fraction of the larger side of the box.

    Returns:
        Slices for rows and columns; the whole picture when every mask is empty.
    """
    anywhere = np.any(np.stack(masks), axis=0)
    if not anywhere.any():
        return slice(0, anywhere.shape[0]), slice(0, anywhere.shape[1])
    spans = [np.flatnonzero(anywhere.any(axis))[[0, -1]] for axis in (1, 0)]
    extra = round(margin * max(last - first + 1 for first, last in spans))
    rows, columns = (
        slice(max(int(first) - extra, 0), min(int(last) + 1 + extra, size))
        for (first, last), size in zip(spans, anywhere.shape, strict=True)
    )
    return rows, columns


def orbit_camera(vertices: Tensor, height: int, width: int, field_of_view: float = 25.0) -> Camera:
    """A camera in front of an upright mesh (y up, facing +z) that sees it whole from every side it is turned to.

    Args:
        vertices: Positions [m], ``[V, 3]``; the mesh turns about the vertical axis through its box's middle.
        height: Of the picture [px].
        width: Of the picture [px].
        field_of_view: Vertical, in degrees.
    """
    middle = (vertices.amin(0) + vertices.amax(0)) / 2
    centred = (vertices - middle).double().cpu()
    radius = centred[:, ::2].norm(dim=-1)
    slope = math.tan(math.radians(field_of_view) / 2)
    across = slope * width / height
    upright = float((centred[:, 1].abs() / slope + radius).max())
    distance = 1.03 * max(upright, float(radius.max()) * math.sqrt(1 + 1 / across**2))
    focal = height / 2 / slope
    centre = (width - 1) / 2, (height - 1) / 2
    # Looking along -z: left is -x, so the rotation is half a turn about y; the camera sits at -R T.
    x, y, z = middle.tolist()
    T = (x, -y, z + distance)
    return Camera((focal, focal), centre, (0.0, 0.0, 1.0, 0.0), T, height=height, width=width)


def turn_about_vertical(share: float) -> Tensor:
    """Rotation ``[3, 3]`` float32 about y by a share of a full turn."""
    cosine, sine = math.cos(2 * math.pi * share), math.sin(2 * math.pi * share)
    return torch.tensor([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])


def turntable(
    vertices: Tensor,
    faces: Tensor,
    views: int = 90,
    height: int = 720,
    width: int = 540,
    *,
    colours: Tensor | None = None,
    background: Background = WHITE,
    supersample: int = 2,
) -> Iterator[np.ndarray]:
    """Views of an upright mesh turning once about its vertical axis, beginning with the front.

    Args:
        vertices: Canonical positions (y up, facing +z) [m], ``[V, 3]``.
        faces: Vertex indices, ``[F, 3]``.
        views: How many.
        height: Of the pictures [px].
        width: Of the pictures [px].
        colours: RGB of the vertices, ``[V, 3]`` in [0, 1] or uint8; clay when ``None``.
        background: See the module.
        supersample: Samples a pixel, along each side.

    Yields:
        RGB ``[H, W, 3]`` uint8, or RGBA without a background; lit from the camera's side throughout.
    """
    camera = orbit_camera(vertices, height, width).to(vertices.device)
    middle = (vertices.amin(0) + vertices.amax(0)) / 2
    surface: Sequence[float] | Tensor = CLAY
    if colours is not None:
        surface = colours.to(vertices.dtype) / (255 if colours.dtype == torch.uint8 else 1)
    for view in range(views):
        turned = (vertices - middle) @ turn_about_vertical(view / views).to(vertices).T + middle
        yield render_shaded(turned, faces, camera, background=background, colour=surface, supersample=supersample)


def contact_strip(pictures: Sequence[np.ndarray], columns: int | None = None) -> np.ndarray:
    """Pictures of one size side by side, in rows of ``columns`` (one row by default); missing ones stay blank.

    Raises:
        ValueError: There are none, or their shapes differ.
    """
    if not pictures or any(picture.shape != pictures[0].shape for picture in pictures):
        raise ValueError(f"pictures must be of one shape, got {[picture.shape for picture in pictures]}")
    columns = columns or len(pictures)
    blank = np.full_like(pictures[0], 255 if pictures[0].shape[-1] == 3 else 0)
    filled = [*pictures, *[blank] * (-len(pictures) % columns)]
    rows = [np.concatenate(filled[start : start + columns], axis=1) for start in range(0, len(filled), columns)]
    return np.concatenate(rows, axis=0)


class Canvas:
    """One mesh drawn into a magnified picture, from which several pictures can be taken.

    What follows is computed at the ``P`` covered samples alone, or at the ``R`` pixels that hold any.

    Args:
        vertices: World positions [m], ``[V, 3]``.
        faces: Vertex indices, ``[F, 3]``.
        camera: Its size is the picture's.
        supersample: Samples a pixel, along each side.
    """

    @torch.no_grad()
    def __init__(self, vertices: Tensor, faces: Tensor, camera: Camera, supersample: int) -> None:
        require_shapes(vertices=(vertices, "V 3"), faces=(faces, "F 3"))
        if supersample < 1:
            raise ValueError(f"supersample must be at least 1, got {supersample}")
        self.vertices, self.faces, self.supersample = vertices.detach(), faces.long(), supersample
        self.camera, self.height, self.width = camera, camera.height, camera.width
        large = camera.resized(camera.height * supersample, camera.width * supersample).to(vertices.device)
        self.rotation = large.rotation().to(vertices.dtype)
        self.projected = large.project(self.vertices)
        index, barycentrics, depth = rasterize(self.projected[None], self.faces, large.height, large.width)
        self.depth, self.covered = depth[0], index[0] >= 0
        self.face_index = index[0][self.covered].long()
        self.barycentrics = barycentrics[0][self.covered]
        rows, columns = (positions // supersample for positions in torch.where(self.covered))
        self.pixel = rows * self.width + columns

    def shaded(self, background: Background = WHITE, colour: Sequence[float] | Tensor = CLAY) -> np.ndarray:
        """See :func:`render_shaded`."""
        normals = self.viewer_normals
        surface = torch.as_tensor(colour, dtype=normals.dtype, device=normals.device)
        albedo = self.interpolate(surface) if surface.dim() == 2 else surface.expand(normals.shape)
        height = 0.5 + 0.5 * normals[:, 1:2]
        ambient = normals.new_tensor(GROUND) * (1 - height) + normals.new_tensor(SKY) * height
        key = (normals @ normalize(normals.new_tensor(KEY_LIGHT), dim=0)).clamp(min=0)
        fill = (normals @ normalize(normals.new_tensor(FILL_LIGHT), dim=0)).clamp(min=0)
        rim = (1 - normals[:, 2].clamp(0, 1)) ** 3
        light = ambient + (0.58 * key + 0.14 * fill)[:, None] * normals.new_tensor((1.0, 0.98, 0.94))
        return self.picture(albedo * light * ((1 - 0.25 * rim) * self.creases())[:, None], background)

    def normals(self, background: Background = (0, 0, 0)) -> np.ndarray:
        """See :func:`render_normals`."""
        return self.picture((self.viewer_normals + 1) / 2, background)

    @cached_property
    def centre_faces(self) -> Tensor:
        """Face seen through every pixel's centre, ``[H, W]`` int32; -1 where none is."""
        return visible_faces(self.camera.project(self.vertices)[None], self.faces, self.height, self.width)[0]

    def pixels(self) -> tuple[Tensor, Tensor]:
        """Row-major index of every pixel that shows the mesh, and a face seen in it, ``[R]`` each.

        It is the face at the pixel's centre, or any other where only the pixel's rim shows the mesh.
        """
        somewhere = self.centre_faces.new_full((self.height * self.width,), -1)
        somewhere.scatter_reduce_(0, self.pixel, self.face_index.int(), "amax")
        faces = torch.where(self.centre_faces.view(-1) >= 0, self.centre_faces.view(-1), somewhere)
        index = torch.where(somewhere >= 0)[0]
        return index, faces[index]

    def painted(self, index: Tensor, colours: Tensor, background: Background = WHITE) -> np.ndarray:
        """A picture of one colour in [0, 1] a pixel, ``[R, 3]``, at the pixels ``[R]`` that :meth:`pixels` gave."""
        picture = colours.new_zeros(self.height * self.width, 3)
        picture[index] = colours
        return self.picture(picture[self.pixel], background)

    def interpolate(self, attributes: Tensor) -> Tensor:
        """Vertex attributes ``[V, C]`` at the samples, ``[P, C]``."""
        corners = self.faces[self.face_index]
        return sum((self.barycentrics[:, k, None] * attributes[corners[:, k]] for k in range(3)), torch.zeros(()))

    @cached_property
    def viewer_normals(self) -> Tensor:
        """Unit normals (right, up, towards the viewer) on the side the camera sees, ``[P, 3]``."""
        normals = self.interpolate(vertex_normals(self.vertices, self.faces) @ self.rotation)
        normals = normalize(normals * normals.new_tensor((-1.0, 1.0, -1.0)), dim=-1)
        return torch.where(self._seen_from_behind()[:, None], -normals, normals)

    def creases(self) -> Tensor:
        """Brightness factor that darkens what lies a little behind its surroundings, ``[P]``.

        Source: unsharp masking of the depth buffer, Luft et al. 2006.
        """
        s = self.supersample
        depth, covered = (values[::s, ::s].float().cpu().numpy() for values in (self.depth, self.covered))
        mean, share = (cv2.GaussianBlur(values, (0, 0), CREASE_RADIUS * self.height) for values in (depth, covered))
        surroundings = torch.from_numpy(mean / np.maximum(share, 1e-6)).to(self.depth).view(-1)[self.pixel]
        behind = ((self.depth[self.covered] - surroundings) / CREASE_DEPTH).clamp(min=0)
        return 1 - CREASE_DARKNESS * behind * (1 - behind).exp()

    def picture(self, values: Tensor, background: Background) -> np.ndarray:
        """Average samples in [0, 1], ``[P, 3]``, down to pixels and put them over the background."""
        channels = torch.cat((values.clamp(0, 1), torch.ones_like(values[:, :1])), -1)
        total = channels.new_zeros(self.height * self.width, 4).index_add_(0, self.pixel, channels)
        averaged = (total / self.supersample**2).view(self.height, self.width, 4).cpu().double().numpy()
        colour, alpha = averaged[..., :3], averaged[..., 3:]
        if background is None:
            straight = np.divide(colour, alpha, out=np.zeros_like(colour), where=alpha > 0)
            return _bytes(np.concatenate((straight, alpha), -1))
        behind = np.asarray(background, np.float64) / 255
        if behind.ndim == 3:
            require_shapes(background=(behind, f"{self.height} {self.width} 3"))
        return _bytes(colour + (1 - alpha) * behind)

    def _seen_from_behind(self) -> Tensor:
        """Samples whose face turns its back to the camera, ``[P]`` bool."""
        first, second, third = self.projected[self.faces, :2].unbind(1)
        along, across = second - first, third - first
        clockwise = along[:, 0] * across[:, 1] - along[:, 1] * across[:, 0] > 0
        return clockwise[self.face_index]


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8))
