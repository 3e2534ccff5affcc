"""Binary glTF 2.0: mesh, skin, material, motion and morph targets in one file.

The first 12 bytes name the format; a JSON chunk describes what lies where in the binary chunk that follows.
https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from selfrecon_warp import __version__
from selfrecon_warp.asset.morphs import Morphs
from selfrecon_warp.asset.normal_map import tangents
from selfrecon_warp.asset.rigged import RiggedMesh, encoded_image
from selfrecon_warp.asset.seams import SplitMesh, split_at_seams
from selfrecon_warp.asset.unwrap import Atlas
from selfrecon_warp.surface.mesh import has_border, vertex_normals

MAGIC, VERSION, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 2, 0x4E4F534A, 0x004E4942
VERTEX_DATA, INDEX_DATA = 34962, 34963
COMPONENTS = {
    np.dtype(np.uint8): 5121,
    np.dtype(np.uint16): 5123,
    np.dtype(np.uint32): 5125,
    np.dtype(np.float32): 5126,
}
TYPES = {(): "SCALAR", (2,): "VEC2", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
LINEAR, LINEAR_MIPMAP_LINEAR, CLAMP_TO_EDGE = 9729, 9987, 33071
INFLUENCES = (4, 8)
IMAGES = ("jpeg", "png")

Json = dict[str, Any]


@dataclass
class _Document:
    """The JSON description and the bytes it points into, growing together."""

    json: Json
    binary: bytearray = field(default_factory=bytearray)

    def add(self, kind: str, entry: Json) -> int:
        """Append to one of the description's lists; the entry's index."""
        entries: list[Json] = self.json.setdefault(kind, [])
        entries.append(entry)
        return len(entries) - 1

    def view(self, data: bytes, target: int | None = None) -> int:
        """Append bytes, on a four-byte boundary; the buffer view's index."""
        self.binary.extend(bytes(-len(self.binary) % 4))
        view: Json = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data)}
        if target is not None:
            view["target"] = target
        self.binary.extend(data)
        return self.add("bufferViews", view)

    def accessor(
        self, values: np.ndarray, target: int | None = None, *, bounds: bool = False, normalized: bool = False
    ) -> int:
        """Append an array, items along its first axis; the accessor's index."""
        entry: Json = {
            "bufferView": self.view(np.ascontiguousarray(values).tobytes(), target),
            "componentType": COMPONENTS[values.dtype],
            "count": len(values),
            "type": TYPES[values.shape[1:]],
        }
        if normalized:
            entry["normalized"] = True
        if bounds:
            entry["min"], entry["max"] = (np.atleast_1d(end(values, axis=0)).tolist() for end in (np.min, np.max))
        return self.add("accessors", entry)

    def glb(self) -> bytes:
        """The whole file."""
        self.binary.extend(bytes(-len(self.binary) % 4))
        self.json["buffers"] = [{"byteLength": len(self.binary)}]
        text = json.dumps(self.json, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        header = struct.pack("<III", MAGIC, VERSION, 12 + 8 + len(text) + 8 + len(self.binary))
        chunks = struct.pack("<II", len(text), JSON_CHUNK) + text
        return header + chunks + struct.pack("<II", len(self.binary), BINARY_CHUNK) + bytes(self.binary)


def glb_bytes(
    rigged: RiggedMesh,
    *,
    influences: int = 4,
    morphs: Morphs | None = None,
    unlit: bool = False,
    image: str = "jpeg",
    motion_name: str = "capture",
    extras: Mapping[str, Any] | None = None,
) -> bytes:
    """A GLB file of a mesh as it stands: its world is taken for one with y up.

    Joints rest in the canonical pose; the motion has a key a frame.

    Args:
        rigged: The mesh. Textured, it carries no vertex colours.
        influences: Joints a vertex follows: 4, or 8 in a second set that not every program reads.
        morphs: Offsets that go along with the motion; as many frames as it has.
        unlit: Show base colours as they are (KHR_materials_unlit) where the program can.
        image: ``jpeg`` or ``png`` for the base colour; the normal map is always PNG.
        motion_name: Of the animation.
        extras: For the ``extras`` of the file's ``asset``.

    Raises:
        ValueError: A choice or a shape is not one of those above.
    """
    if influences not in INFLUENCES:
        raise ValueError(f"influences must be 4 or 8, got {influences}")
    if image not in IMAGES:
        raise ValueError(f"image must be jpeg or png, got {image!r}")
    if morphs is not None and (
        morphs.offsets.shape[1] != len(rigged.vertices) or len(morphs.weights) != rigged.frame_count
    ):
        raise ValueError(
            f"morphs must have shapes [K, {len(rigged.vertices)}, 3] and [{rigged.frame_count}, K], "
            f"got {list(morphs.offsets.shape)} and {list(morphs.weights.shape)}"
        )
    asset: Json = {"version": "2.0", "generator": f"selfrecon-warp {__version__}"}
    document = _Document({"asset": asset | ({"extras": dict(extras)} if extras else {}), "scene": 0})
    split = split_at_seams(rigged)
    joints = _add_joints(document, rigged)
    mesh = _add_mesh(document, rigged, split, _add_material(document, rigged, unlit, image), influences, morphs)
    inverse = np.linalg.inv(rigged.bind.astype(np.float64))
    inverse[:, 3] = (0.0, 0.0, 0.0, 1.0)
    inverse_bind = document.accessor(inverse.transpose(0, 2, 1).astype(np.float32))  # column by column
    skin = document.add(
        "skins", {"name": "skeleton", "joints": joints, "skeleton": joints[0], "inverseBindMatrices": inverse_bind}
    )
    body = document.add("nodes", {"name": "person", "mesh": mesh, "skin": skin})
    document.add("scenes", {"nodes": [joints[0], body]})
    if rigged.frame_count:
        _add_motion(document, rigged, joints, body, morphs, motion_name)
    return document.glb()


def quaternions(rigged: RiggedMesh) -> np.ndarray:
    """Local rotations (x, y, z, w), no sign change from frame to frame, ``[N, J, 4]`` float32."""
    turned = Rotation.from_rotvec(rigged.poses.reshape(-1, 3)).as_quat().reshape(*rigged.poses.shape[:2], 4)
    opposed = (turned[1:] * turned[:-1]).sum(-1) < 0
    signs = np.cumprod(np.concatenate((np.ones_like(opposed[:1]), np.where(opposed, -1, 1))), axis=0)
    return (turned * signs[..., None]).astype(np.float32)


def strongest_weights(weights: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` strongest joints ``[V, count]`` and weights that sum to one; joint 0 where the weight is zero."""
    order = np.argsort(-weights, axis=1, kind="stable")[:, :count]
    order = np.pad(order, ((0, 0), (0, count - order.shape[1])))
    values = np.take_along_axis(weights.astype(np.float64), order, 1)
    values[:, weights.shape[1] :] = 0.0
    values = (values / values.sum(1, keepdims=True)).astype(np.float32)
    return np.where(values > 0, order, 0), values


def linear_colours(rgb: np.ndarray) -> np.ndarray:
    """Bytes of sRGB as linear light in [0, 1], of any shape."""
    encoded = rgb.astype(np.float64) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def _add_joints(document: _Document, rigged: RiggedMesh) -> list[int]:
    """A node a joint, at rest in the canonical pose; the nodes' indices."""
    local = rigged.bind_local
    turns = Rotation.from_matrix(local[:, :3, :3]).as_quat()
    nodes = [
        {"name": name, "translation": matrix[:3, 3].tolist(), "rotation": turn.tolist()}
        for name, matrix, turn in zip(rigged.joint_names, local, turns, strict=True)
    ]
    indices = [document.add("nodes", node) for node in nodes]
    for joint, parent in enumerate(rigged.parents[1:], 1):
        nodes[parent].setdefault("children", []).append(indices[joint])
    return indices


def _add_material(document: _Document, rigged: RiggedMesh, unlit: bool, image: str) -> int:
    surface: Json = {"metallicFactor": 0.0, "roughnessFactor": 0.9}
    material: Json = {"name": "person", "pbrMetallicRoughness": surface}
    if rigged.texture is not None:
        surface["baseColorTexture"] = {"index": _add_texture(document, "base colour", rigged.texture, image)}
    if has_border(rigged.faces):  # programs leave out what they see from behind
        material["doubleSided"] = True
    if rigged.normal_map is not None:
        material["normalTexture"] = {"index": _add_texture(document, "normals", rigged.normal_map, "png")}
    if unlit:
        material["extensions"] = {"KHR_materials_unlit": {}}
        document.json["extensionsUsed"] = ["KHR_materials_unlit"]
    return document.add("materials", material)


def _add_texture(document: _Document, name: str, rgb: np.ndarray, image: str) -> int:
    if not document.json.get("samplers"):
        sides = {"wrapS": CLAMP_TO_EDGE, "wrapT": CLAMP_TO_EDGE}
        document.add("samplers", {"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR} | sides)
    data = encoded_image(rgb, ".png" if image == "png" else ".jpg")
    picture = {"name": name, "mimeType": f"image/{image}", "bufferView": document.view(data)}
    return document.add("textures", {"sampler": 0, "source": document.add("images", picture)})


def _add_mesh(
    document: _Document, rigged: RiggedMesh, split: SplitMesh, material: int, influences: int, morphs: Morphs | None
) -> int:
    source = split.source
    vertices, normals = rigged.vertices[source].astype(np.float32), _unit(rigged.normals)[source]
    attributes = {
        "POSITION": document.accessor(vertices, VERTEX_DATA, bounds=True),
        "NORMAL": document.accessor(normals, VERTEX_DATA),
    }
    if split.texcoords is not None:
        attributes["TEXCOORD_0"] = document.accessor(split.texcoords.astype(np.float32), VERTEX_DATA)
        if rigged.normal_map is not None:
            attributes["TANGENT"] = document.accessor(_tangents(rigged, split), VERTEX_DATA)
    if rigged.texture is None and rigged.vertex_colours is not None:
        colours = np.full((len(source), 4), 65535, np.uint16)
        colours[:, :3] = np.rint(linear_colours(rigged.vertex_colours[source]) * 65535)
        attributes["COLOR_0"] = document.accessor(colours, VERTEX_DATA, normalized=True)
    joints, weights = strongest_weights(rigged.weights[source], influences)
    kind = np.uint8 if len(rigged.parents) <= 256 else np.uint16
    for group in range(influences // 4):
        chosen = slice(4 * group, 4 * group + 4)
        attributes[f"JOINTS_{group}"] = document.accessor(joints[:, chosen].astype(kind), VERTEX_DATA)
        attributes[f"WEIGHTS_{group}"] = document.accessor(weights[:, chosen], VERTEX_DATA)
    index = split.faces.ravel().astype(np.uint16 if len(source) < 65535 else np.uint32)
    primitive: Json = {"attributes": attributes, "indices": document.accessor(index, INDEX_DATA), "material": material}
    mesh: Json = {"name": "person", "primitives": [primitive]}
    if morphs is not None:
        primitive["targets"] = [_add_target(document, rigged, source, offset) for offset in morphs.offsets]
        mesh["weights"] = [0.0] * len(morphs.offsets)
        mesh["extras"] = {"targetNames": [f"offset_{k}" for k in range(len(morphs.offsets))]}
    return document.add("meshes", mesh)


def _tangents(rigged: RiggedMesh, split: SplitMesh) -> np.ndarray:
    """The frames that the normal map was baked in, ``[C, 4]`` float32."""
    assert split.texcoords is not None
    atlas = Atlas(split.texcoords, split.faces, split.source, charts=1)
    vertices, normals, faces = map(torch.from_numpy, (rigged.vertices, _unit(rigged.normals), rigged.faces))
    found: np.ndarray = tangents(vertices, normals, faces, atlas).numpy()
    return found


def _add_target(document: _Document, rigged: RiggedMesh, source: np.ndarray, offset: np.ndarray) -> Json:
    """One morph target; normals change by what they would at weight one."""
    faces = torch.from_numpy(rigged.faces)
    before, after = (
        vertex_normals(torch.from_numpy(points), faces).numpy()
        for points in (rigged.vertices, rigged.vertices + offset)
    )
    return {
        "POSITION": document.accessor(offset[source].astype(np.float32), VERTEX_DATA, bounds=True),
        "NORMAL": document.accessor((after - before)[source], VERTEX_DATA),
    }


def _add_motion(
    document: _Document, rigged: RiggedMesh, joints: list[int], body: int, morphs: Morphs | None, name: str
) -> None:
    times = (np.arange(rigged.frame_count) / rigged.frame_rate).astype(np.float32)
    time = document.accessor(times, bounds=True)
    turned = quaternions(rigged)
    path = (rigged.offsets[0] + rigged.trans).astype(np.float32)
    tracks = [(joint, "rotation", turned[:, k]) for k, joint in enumerate(joints)]
    tracks.append((joints[0], "translation", path))
    if morphs is not None:
        tracks.append((body, "weights", morphs.weights.ravel()))
    samplers = [{"input": time, "output": document.accessor(values)} for _, _, values in tracks]
    channels = [
        {"sampler": sampler, "target": {"node": node, "path": target}}
        for sampler, (node, target, _) in enumerate(tracks)
    ]
    document.add("animations", {"name": name, "samplers": samplers, "channels": channels})


def _unit(normals: np.ndarray) -> np.ndarray:
    """Normals of length one; up where a vertex has none."""
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 1e-12, normals / np.where(length > 0, length, 1.0), (0.0, 1.0, 0.0)).astype(np.float32)
