"""BVH files made from a skeleton and local rotations, in any channel order, unit, axes and rest pose."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation


def write_bvh(
    path: Path,
    names: Sequence[str],
    parents: Sequence[int],
    offsets: np.ndarray,
    rotations: np.ndarray,
    root: np.ndarray,
    *,
    orders: Sequence[str] | str = "ZXY",
    rate: float = 30.0,
    ends: bool = True,
) -> Path:
    """Write local rotations ``[N, K, 3, 3]`` and root positions ``[N, 3]``; ``orders`` as channels are listed."""
    orders = [orders] * len(names) if isinstance(orders, str) else orders
    lines = ["HIERARCHY"]
    order: list[int] = []

    def joint(index: int, depth: int) -> None:
        order.append(index)
        pad = "\t" * depth
        lines.append(f"{pad}{'ROOT' if depth == 0 else 'JOINT'} {names[index]}")
        lines.append(pad + "{")
        lines.append(f"{pad}\tOFFSET " + " ".join(f"{value:.9f}" for value in offsets[index]))
        channels = " ".join(f"{axis}rotation" for axis in orders[index])
        lines.append(
            f"{pad}\tCHANNELS " + (f"6 Xposition Yposition Zposition {channels}" if depth == 0 else f"3 {channels}")
        )
        children = [child for child, parent in enumerate(parents) if parent == index]
        for child in children:
            joint(child, depth + 1)
        if not children and ends:
            lines.extend([f"{pad}\tEnd Site", pad + "\t{", f"{pad}\t\tOFFSET 0 0.1 0", pad + "\t}"])
        lines.append(pad + "}")

    joint(0, 0)
    lines += ["MOTION", f"Frames: {len(rotations)}", f"Frame Time: {1 / rate:.9f}"]
    for frame in range(len(rotations)):
        numbers = list(root[frame])
        for index in order:
            numbers += (
                Rotation.from_matrix(rotations[frame, index]).as_euler(orders[index].upper(), degrees=True).tolist()
            )
        lines.append(" ".join(f"{number:.9f}" for number in numbers))
    path.write_text("\n".join(lines) + "\n")
    return path
