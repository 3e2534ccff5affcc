"""A reader of binary glTF that shares nothing with the writer: the specification, in NumPy."""

import json
import struct
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

KINDS = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


class Glb:
    """A GLB file, its structure checked."""

    def __init__(self, data: bytes | Path) -> None:
        data = data if isinstance(data, bytes) else data.read_bytes()
        magic, version, length = struct.unpack_from("<4sII", data)
        assert (magic, version, length) == (b"glTF", 2, len(data))
        size, kind = struct.unpack_from("<I4s", data, 12)
        assert kind == b"JSON"
        assert size % 4 == 0
        self.json = json.loads(data[20 : 20 + size])
        binary_size, kind = struct.unpack_from("<I4s", data, 20 + size)
        assert kind == b"BIN\0"
        assert binary_size % 4 == 0
        self.binary = data[28 + size :]
        assert len(self.binary) == binary_size == self.json["buffers"][0]["byteLength"]

    def view(self, index: int) -> bytes:
        view = self.json["bufferViews"][index]
        start, size = view["byteOffset"], view["byteLength"]
        assert start % 4 == 0
        assert start + size <= len(self.binary)
        return self.binary[start : start + size]

    def accessor(self, index: int) -> np.ndarray:
        entry = self.json["accessors"][index]
        kind, width = KINDS[entry["componentType"]], WIDTHS[entry["type"]]
        values = np.frombuffer(self.view(entry["bufferView"]), kind).reshape(-1, width)
        assert len(values) == entry["count"]
        if "min" in entry:
            assert entry["min"] == values.min(0).tolist()
            assert entry["max"] == values.max(0).tolist()
        values = values / np.float64(np.iinfo(kind).max) if entry.get("normalized") else values
        if width == 16:
            return values.reshape(-1, 4, 4).transpose(0, 2, 1)
        return values[:, 0] if width == 1 else values

    @property
    def primitive(self) -> dict:
        return self.json["meshes"][0]["primitives"][0]

    def attribute(self, name: str) -> np.ndarray:
        return self.accessor(self.primitive["attributes"][name])

    @property
    def node_names(self) -> list[str]:
        return [node["name"] for node in self.json["nodes"]]

    def tracks(self) -> dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]:
        """Times and values of every animated property, by node and path."""
        (animation,) = self.json["animations"]
        samplers = [(self.accessor(s["input"]), self.accessor(s["output"])) for s in animation["samplers"]]
        return {(c["target"]["node"], c["target"]["path"]): samplers[c["sampler"]] for c in animation["channels"]}

    def globals(self, key: int | None = None) -> np.ndarray:
        """World transform of every node at a key of the animation, or at rest, ``[nodes, 4, 4]``."""
        nodes, tracks = self.json["nodes"], {} if key is None else self.tracks()
        transforms = np.tile(np.eye(4), (len(nodes), 1, 1))

        def visit(index: int, above: np.ndarray) -> None:
            node = nodes[index]
            value = {
                path: tracks[index, path][1][key] for path in ("rotation", "translation") if (index, path) in tracks
            }
            turn = value.get("rotation", node.get("rotation", (0, 0, 0, 1)))
            local = np.eye(4)
            local[:3, :3] = Rotation.from_quat(turn).as_matrix()
            local[:3, 3] = value.get("translation", node.get("translation", (0, 0, 0)))
            transforms[index] = above @ local
            for child in node.get("children", ()):
                visit(child, transforms[index])

        for root in self.json["scenes"][self.json["scene"]]["nodes"]:
            visit(root, np.eye(4))
        return transforms

    def posed(self, key: int | None = None) -> np.ndarray:
        """World positions of the vertices at a key of the animation, or at rest, ``[C, 3]``."""
        (skin,) = self.json["skins"]
        (body,) = [index for index, node in enumerate(self.json["nodes"]) if "mesh" in node]
        inverse = self.accessor(skin["inverseBindMatrices"]).astype(np.float64)
        bones = self.globals(key)[skin["joints"]] @ inverse
        points = self.attribute("POSITION").astype(np.float64)
        if key is not None and "targets" in self.primitive:
            targets = [self.accessor(target["POSITION"]) for target in self.primitive["targets"]]
            points = points + np.tensordot(self.tracks()[body, "weights"][1].reshape(-1, len(targets))[key], targets, 1)
        blended = np.zeros((len(points), 4, 4))
        for group in range(2):
            if f"JOINTS_{group}" in self.primitive["attributes"]:
                joints, weights = self.attribute(f"JOINTS_{group}"), self.attribute(f"WEIGHTS_{group}")
                blended += np.einsum("ck,ckij->cij", weights, bones[joints])
        return np.einsum("cij,cj->ci", blended[:, :3, :3], points) + blended[:, :3, 3]
