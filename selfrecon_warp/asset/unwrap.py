"""Texture coordinates: a mesh cut into charts that lie beside each other in a square, and what lies in each texel.

Texture coordinates run from 0 to 1, u to the right and v down from the top left corner, as in glTF: the centre of the
texel in row ``r`` and column ``c`` of a texture of ``S`` texels a side lies at ``((c + 0.5) / S, (r + 0.5) / S)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import xatlas
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.rasterize import rasterize

GUTTER = 5
"""Texels between two charts of a texture of 2048 texels a side; in proportion for others."""


@dataclass(frozen=True)
class Atlas:
    """A mesh laid flat.

    Attributes:
        texcoords: Texture coordinates, ``[T, 2]`` float32.
        faces: Texture coordinate of every corner of every face, ``[F, 3]`` int32.
        vertices: Mesh vertex of every texture coordinate, ``[T]`` int32.
        charts: Pieces the mesh was cut into.
    """

    texcoords: np.ndarray
    faces: np.ndarray
    vertices: np.ndarray
    charts: int


@dataclass(frozen=True)
class TexelMap:
    """Which point of the surface each covered texel shows.

    Attributes:
        size: Texels a side, ``S``.
        texel: Row-major index of every covered texel, ascending, ``[T]`` int64.
        face_index: Face it shows, ``[T]`` int32.
        barycentrics: Where on it, ``[T, 3]``.
    """

    size: int
    texel: Tensor
    face_index: Tensor
    barycentrics: Tensor

    def interpolate(self, values: Tensor, faces: Tensor) -> Tensor:
        """Values at the corners ``[V, C]`` of faces ``[F, 3]`` carried to the texels, ``[T, C]``."""
        corners = faces.long().index_select(0, self.face_index.long())
        total = torch.zeros(len(corners), values.shape[1], dtype=values.dtype, device=values.device)
        for k in range(3):
            total += self.barycentrics[:, k : k + 1] * values.index_select(0, corners[:, k])
        return total

    def image(self, values: Tensor) -> Tensor:
        """Values of the covered texels ``[T, C]`` as a texture ``[S, S, C]`` without a blank texel.

        Every other texel takes the value of the nearest covered one, so that no filter ever reads past a chart.
        """
        S = self.size
        blank = np.ones(S * S, np.uint8)
        blank[self.texel.cpu().numpy()] = 0
        _, label = cv2.distanceTransformWithLabels(
            blank.reshape(S, S), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        row = np.zeros(int(label.max()) + 1, np.int64)
        row[label.reshape(-1)[blank == 0]] = np.arange(len(self.texel))
        nearest = torch.from_numpy(row[label.reshape(-1)]).to(values.device)
        return values.index_select(0, nearest).view(S, S, -1)


def unwrap(vertices: np.ndarray, faces: np.ndarray, size: int) -> Atlas:
    """Cut a mesh into charts and pack them into a square, each face in a place of its own.

    Args:
        vertices: Positions [m], ``[V, 3]``; every one belongs to a face.
        faces: Vertex indices, ``[F, 3]``.
        size: Texels a side of the texture that is to be, ``S``; gutters depend on it.

    Raises:
        ValueError: A shape disagrees, there is no face or the size is not positive.

    Source: ``xatlas``, after the charting and packing of thekla_atlas.
    """
    require_shapes(vertices=(vertices, "V 3"), faces=(faces, "F 3"))
    if len(faces) == 0 or size < 1:
        raise ValueError(f"faces must hold at least one face and size be positive, got {len(faces)} and {size}")
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding, packing.bilinear = size, max(1, round(GUTTER * size / 2048)), True
    atlas = xatlas.Atlas()
    atlas.add_mesh(np.ascontiguousarray(vertices, dtype=np.float32), np.ascontiguousarray(faces, dtype=np.uint32))
    atlas.generate(xatlas.ChartOptions(), packing)
    origin, index, texcoords = atlas[0]
    extent = np.array([atlas.width, atlas.height], np.float32)
    return Atlas(
        texcoords=(texcoords * extent / extent.max()).astype(np.float32),
        faces=index.astype(np.int32),
        vertices=origin.astype(np.int32),
        charts=int(atlas.chart_count),
    )


def texel_map(atlas: Atlas, size: int, device: torch.device) -> TexelMap:
    """Find the point of the surface that each texel's centre shows.

    Args:
        atlas: The mesh laid flat.
        size: Texels a side.
        device: Where to compute.

    Raises:
        ValueError: The size is not positive.
    """
    flat = torch.from_numpy(atlas.texcoords).to(device) * size - 0.5
    flat = torch.cat((flat, torch.ones_like(flat[:, :1])), -1)
    face_index, barycentrics, _ = rasterize(flat[None], torch.from_numpy(atlas.faces).to(device), size, size)
    texel = torch.nonzero(face_index.view(-1) >= 0)[:, 0]
    return TexelMap(size, texel, face_index.view(-1)[texel], barycentrics.view(-1, 3)[texel])
