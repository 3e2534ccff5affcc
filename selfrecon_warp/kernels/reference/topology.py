"""Plain-torch twin of a mesh's connections."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.topology import MeshTopology


def mesh_topology(faces: Tensor, vertex_count: int) -> MeshTopology:
    """Edges of a triangle mesh and the faces beside them."""
    sides: dict[tuple[int, int], list[int]] = {}
    next_side = list(range(3 * len(faces)))
    for f, face in enumerate(faces.tolist()):
        for k in range(3) if len(set(face)) == 3 else ():
            a, b = face[k], face[(k + 1) % 3]
            sides.setdefault((min(a, b), max(a, b)), []).append(3 * f + k)
    edges = sorted(sides)
    for beside in sides.values():
        for one, following in zip(beside, beside[1:] + beside[:1], strict=True):
            next_side[one] = following
    index = {"dtype": torch.int32, "device": faces.device}
    return MeshTopology(
        faces.int(),
        torch.tensor([sum(i in edge for edge in edges) for i in range(vertex_count)], **index),
        torch.tensor(edges, **index).view(-1, 2),
        torch.tensor([sides[edge][0] for edge in edges], **index),
        torch.tensor(next_side, **index),
        sum(len(each) * (len(each) - 1) // 2 for each in sides.values()),
    )


def face_indices(faces: Tensor | MeshTopology) -> Tensor:
    """The faces of either form."""
    return faces.faces.long() if isinstance(faces, MeshTopology) else faces.long()


def edge_pairs(faces: Tensor | MeshTopology) -> Tensor:
    """Vertex pairs, each edge once, in ascending order."""
    faces = face_indices(faces)
    v0, v1, v2 = faces.unbind(1)
    whole = faces[(v0 != v1) & (v1 != v2) & (v2 != v0)]
    low, high = torch.cat([whole[:, [0, 1]], whole[:, [1, 2]], whole[:, [2, 0]]]).sort(1).values.T
    pair = (low << 32 | high).unique()
    return torch.stack([pair >> 32, pair & 0xFFFFFFFF], 1)
