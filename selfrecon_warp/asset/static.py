"""Files without a skeleton: Wavefront OBJ with its material and textures, PLY with vertex colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from selfrecon_warp.asset.rigged import RiggedMesh, encoded_image
from selfrecon_warp.surface.mesh import vertex_normals
from selfrecon_warp.view.mesh_io import write_ply


def write_obj(path: Path, rigged: RiggedMesh, vertices: np.ndarray) -> None:
    """Write ``NAME.obj``, ``NAME.mtl`` and the textures beside it; untextured, colours follow the positions.

    Args:
        path: The ``.obj`` file.
        rigged: Topology and looks.
        vertices: Positions [m], ``[V, 3]``.
    """
    faces, texcoords = rigged.faces + 1, rigged.texcoords
    columns = vertices
    if rigged.texture is None and rigged.vertex_colours is not None:
        columns = np.concatenate((vertices, rigged.vertex_colours / 255), 1)
    normals = vertex_normals(torch.from_numpy(vertices), torch.from_numpy(rigged.faces)).numpy()
    blocks = [f"mtllib {path.stem}.mtl\nusemtl person\n", _rows("v", columns), _rows("vn", normals)]
    if texcoords is not None and rigged.face_texcoords is not None:
        blocks.append(_rows("vt", np.stack((texcoords[:, 0], 1.0 - texcoords[:, 1]), 1)))
        corners = np.stack((faces, rigged.face_texcoords + 1, faces), 2).reshape(-1, 9)
        blocks.append(_rows("f", corners, " ".join(["%d/%d/%d"] * 3)))
    else:
        blocks.append(_rows("f", np.stack((faces, faces), 2).reshape(-1, 6), " ".join(["%d//%d"] * 3)))
    path.write_text("".join(blocks), encoding="ascii")
    material = ["newmtl person", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "illum 1"]
    for keys, name, rgb in (
        (("map_Kd",), f"{path.stem}_texture.png", rigged.texture),
        (("norm", "map_Bump"), f"{path.stem}_normal_map.png", rigged.normal_map),
    ):
        if rgb is not None:
            path.with_name(name).write_bytes(encoded_image(rgb, ".png"))
            material += [f"{key} {name}" for key in keys]
    path.with_suffix(".mtl").write_text("\n".join(material) + "\n", encoding="ascii")


def write_coloured_ply(path: Path, rigged: RiggedMesh, vertices: np.ndarray) -> None:
    """Write a binary PLY file, textures turned into vertex colours.

    Args:
        path: The file.
        rigged: Topology and looks.
        vertices: Positions [m], ``[V, 3]``.
    """
    colours = rigged.vertex_colours if rigged.texture is None else colours_from_texture(rigged)
    tensors = None if colours is None else torch.from_numpy(colours)
    write_ply(path, torch.from_numpy(vertices), torch.from_numpy(rigged.faces), tensors)


def colours_from_texture(rigged: RiggedMesh) -> np.ndarray:
    """Colour of every vertex in the texture, the mean over its faces' corners, ``[V, 3]`` uint8."""
    assert rigged.texture is not None
    assert rigged.texcoords is not None
    assert rigged.face_texcoords is not None
    height, width = rigged.texture.shape[:2]
    column, row = (rigged.texcoords * (width, height)).astype(int).T
    texels = rigged.texture[row.clip(0, height - 1), column.clip(0, width - 1)].astype(np.float64)
    sums, count = np.zeros((len(rigged.vertices), 3)), np.zeros((len(rigged.vertices), 1))
    np.add.at(sums, rigged.faces.ravel(), texels[rigged.face_texcoords.ravel()])
    np.add.at(count, rigged.faces.ravel(), 1)
    return np.rint(sums / np.maximum(count, 1)).astype(np.uint8)


def _rows(keyword: str, values: np.ndarray, form: str | None = None) -> str:
    line = f"{keyword} {form or ' '.join(['%.6g'] * values.shape[1])}\n"
    return (line * len(values)) % tuple(values.ravel().tolist())
