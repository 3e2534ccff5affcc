"""Triangle meshes in PLY files, vertices in metres, colours optional."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.errors import RunError


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh.

    Attributes:
        vertices: Positions [m], ``[V, 3]`` float32.
        faces: Vertex indices, ``[F, 3]`` int64.
        colours: RGB of the vertices, ``[V, 3]`` uint8, ``None`` where the mesh has none.
    """

    vertices: Tensor
    faces: Tensor
    colours: Tensor | None = None


def write_ply(path: Path, vertices: Tensor, faces: Tensor, colours: Tensor | None = None) -> None:
    """Write a binary PLY file; appears whole or not at all. Vertex order and topology are kept.

    Args:
        path: The file.
        vertices: Positions [m], ``[V, 3]``.
        faces: Vertex indices, ``[F, 3]``.
        colours: RGB of the vertices, ``[V, 3]``: uint8, or floats in [0, 1].

    Raises:
        ValueError: A shape disagrees.
        RunError: The file cannot be written.
    """
    require_shapes(vertices=(vertices, "V 3"), faces=(faces, "F 3"))
    values = None
    if colours is not None:
        require_shapes(vertices=(vertices, "V 3"), colours=(colours, "V 3"))
        values = to_bytes(colours).numpy()
    mesh = trimesh.Trimesh(
        vertices.detach().cpu().numpy().astype(np.float32),
        faces.detach().cpu().numpy(),
        vertex_colors=values,
        process=False,
    )
    data = bytes(mesh.export(file_type="ply", encoding="binary", vertex_normal=False))  # type: ignore[arg-type]
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from error


def read_ply(path: Path) -> Mesh:
    """Read a PLY file.

    Raises:
        RunError: The file is missing, damaged or holds no triangles.
    """
    if not path.is_file():
        raise RunError(f"{path} is missing; run the command that writes it again")
    try:
        loaded = trimesh.load(path, file_type="ply", process=False, maintain_order=True)
    except Exception as error:  # parsers of damaged files raise whatever they stumble over
        raise RunError(f"{path} is damaged or no PLY file: {error}") from error
    if not isinstance(loaded, trimesh.Trimesh) or len(loaded.faces) == 0:
        raise RunError(f"{path} holds no triangles")
    visual: Any = loaded.visual
    colours = torch.from_numpy(np.array(visual.vertex_colors[:, :3])) if visual.kind == "vertex" else None
    return Mesh(
        torch.from_numpy(np.array(loaded.vertices, np.float32)), torch.from_numpy(np.array(loaded.faces)), colours
    )


def to_bytes(colours: Tensor) -> Tensor:
    """Colours as uint8 on the CPU: floats in [0, 1] are scaled and clamped, bytes are kept."""
    colours = colours.detach().cpu()
    return colours if colours.dtype == torch.uint8 else (colours.clamp(0, 1) * 255).round().to(torch.uint8)
