"""Biovision hierarchies (``.bvh``): the text format, and where its joints are in every frame.

Joint rotations are relative to the parent and apply in the order in which the channels are listed; at zero rotation
the joints stand where the offsets put them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from selfrecon_warp.errors import MotionError
from selfrecon_warp.motion.rotations import Floats, about

_CHANNELS = {f"{axis}{kind}": (axis.lower(), kind) for axis in "XYZ" for kind in ("position", "rotation")}
MOST_BYTES = 1 << 29


@dataclass(frozen=True)
class Hierarchy:
    """What a file holds, in its own axes and unit of length.

    Attributes:
        names: Joint names, parents before children, ``K`` of them; end sites have empty names.
        parents: Parent of every joint; -1 for the root.
        offsets: Rest position relative to the parent, ``[K, 3]``.
        rotations: Rotation relative to the parent, ``[N, K, 3, 3]``.
        positions: Translation relative to the parent, ``[N, K, 3]``: the offset, or the position channels where there
            are some.
        frame_rate: Frames a second.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: Floats
    rotations: Floats
    positions: Floats
    frame_rate: float

    def rest(self) -> Floats:
        """Joint positions at zero rotation, the root at its offset, ``[K, 3]``."""
        places = self.offsets.copy()
        for joint, parent in enumerate(self.parents):
            if parent >= 0:
                places[joint] += places[parent]
        return places

    def forward(self) -> tuple[Floats, Floats]:
        """Global rotations ``[N, K, 3, 3]`` and joint positions ``[N, K, 3]``."""
        rotations, places = self.rotations.copy(), self.positions.copy()
        for joint, parent in enumerate(self.parents):
            if parent >= 0:
                places[:, joint] = (
                    places[:, parent] + (rotations[:, parent] @ self.positions[:, joint, :, None])[..., 0]
                )
                rotations[:, joint] = rotations[:, parent] @ rotations[:, joint]
        return rotations, places


def read_bvh(path: Path) -> Hierarchy:
    """Read a BVH file.

    Raises:
        MotionError: Missing file, or content that is no BVH; the message names the line.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise MotionError(f"{path}: larger than {MOST_BYTES >> 20} MiB; cut the motion")
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise MotionError(f"{path}: cannot be read ({error.strerror}); give a motion file") from error
    return _Parser(path, text).hierarchy()


class _Parser:
    """Reads the joints by recursion over words that know their line, then the numbers all at once."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        lines = text.splitlines()
        starts = [number for number, line in enumerate(lines) if line.strip().upper().startswith("MOTION")]
        if not starts:
            raise MotionError(f"{path}: no BVH file; it lacks the line MOTION")
        self.motion = lines[starts[0] + 1 :]
        self.motion_line = starts[0] + 2
        self.words = [(word, number) for number, line in enumerate(lines[: starts[0]], 1) for word in line.split()]
        self.at = 0
        self.names: list[str] = []
        self.parents: list[int] = []
        self.offsets: list[list[float]] = []
        self.channels: list[tuple[int, str, str]] = []  # joint, axis, kind

    def hierarchy(self) -> Hierarchy:
        self._expect("HIERARCHY")
        self._expect("ROOT")
        self._joint(-1)
        if self.at < len(self.words):
            self._fail(f"{self.words[self.at][0]!r} after the root joint; one skeleton a file is understood")
        return self._frames()

    def _fail(self, message: str, line: int | None = None) -> NoReturn:
        if line is None:
            line = self.words[min(self.at, len(self.words) - 1)][1] if self.words else 1
        raise MotionError(f"{self.path}, line {line}: {message}")

    def _word(self, wanted: str) -> str:
        if self.at >= len(self.words):
            self._fail(f"the hierarchy ends where {wanted} should follow")
        self.at += 1
        return self.words[self.at - 1][0]

    def _expect(self, keyword: str) -> None:
        found = self._word(keyword)
        if found.upper() != keyword:
            self.at -= 1
            self._fail(f"expected {keyword}, found {found!r}")

    def _number(self, wanted: str) -> float:
        word = self._word(wanted)
        try:
            value = float(word)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            self.at -= 1
            self._fail(f"{wanted} must be a number, found {word!r}")
        return value

    def _joint(self, root: int) -> None:
        """One joint and everything below it; a stack, so that depth is no limit."""
        stack = [root]
        self._open(stack)
        while len(stack) > 1:
            word = self._word("JOINT, End Site or }").upper()
            if word == "JOINT":
                self._open(stack)
            elif word == "END":
                self._expect("SITE")
                self._add("", stack[-1])
                self._expect("{")
                self._offset()
                self._expect("}")
            elif word == "OFFSET":
                self.at -= 1
                self._offset(stack[-1])
            elif word == "CHANNELS":
                self._read_channels(stack[-1])
            elif word == "}":
                stack.pop()
            else:
                self.at -= 1
                self._fail(f"expected JOINT, End Site, OFFSET, CHANNELS or }}, found {self.words[self.at][0]!r}")

    def _open(self, stack: list[int]) -> None:
        """The name and the opening brace; names may hold spaces."""
        words = [self._word("a joint's name")]
        while (word := self._word("{")) != "{":
            words.append(word)
        self._add(" ".join(words), stack[-1])
        stack.append(len(self.names) - 1)

    def _add(self, name: str, parent: int) -> None:
        self.names.append(name)
        self.parents.append(parent)
        self.offsets.append([0.0, 0.0, 0.0])

    def _offset(self, joint: int = -1) -> None:
        self._expect("OFFSET")
        self.offsets[joint] = [self._number("an offset") for _ in range(3)]

    def _read_channels(self, joint: int) -> None:
        count = int(self._number("the number of channels"))
        for _ in range(count):
            word = self._word("a channel")
            if word.capitalize() not in _CHANNELS:
                self.at -= 1
                self._fail(f"channels are {', '.join(_CHANNELS)}; found {word!r}")
            self.channels.append((joint, *_CHANNELS[word.capitalize()]))

    def _frames(self) -> Hierarchy:
        words: list[str] = []
        first = len(self.motion)
        header: dict[str, float] = {}
        for number, line in enumerate(self.motion):
            key, _, value = line.partition(":")
            if key.strip().lower() in ("frames", "frame time") and value.strip():
                try:
                    header[key.strip().lower()] = float(value)
                except ValueError:
                    self._fail(f"{key.strip()} must be a number, found {value.strip()!r}", self.motion_line + number)
            elif line.strip():
                first = number
                break
        if not header.get("frame time", 0.0) > 0 or "frames" not in header:
            self._fail("after MOTION, `Frames: N` and a positive `Frame Time: S` must follow", self.motion_line)
        for number, line in enumerate(self.motion[first:], self.motion_line + first):
            row = line.split()
            if row and len(row) != len(self.channels):
                self._fail(
                    f"a frame must have {len(self.channels)} numbers like the channels, found {len(row)}", number
                )
            words += row
        try:
            values = np.array(words, np.float64).reshape(-1, max(len(self.channels), 1))
        except ValueError as error:
            raise MotionError(f"{self.path}: the frames must be numbers ({error})") from error
        if not len(values) or not np.isfinite(values).all():
            raise MotionError(f"{self.path}: needs at least one frame, and no NaN or infinity in any")
        if len(values) != int(header["frames"]):
            raise MotionError(
                f"{self.path}: tells of {int(header['frames'])} frames but holds {len(values)}; the file is cut off or "
                "its line `Frames:` wrong"
            )
        return self._posed(values, 1.0 / header["frame time"])

    def _posed(self, values: Floats, frame_rate: float) -> Hierarchy:
        offsets = np.array(self.offsets)
        rotations = np.broadcast_to(np.eye(3), (len(values), len(self.names), 3, 3)).copy()
        positions = np.broadcast_to(offsets, (len(values), *offsets.shape)).copy()
        for column, (joint, axis, kind) in enumerate(self.channels):
            if kind == "position":
                positions[:, joint, "xyz".index(axis)] = values[:, column]
            else:
                rotations[:, joint] = rotations[:, joint] @ about(axis, np.radians(values[:, column]))
        return Hierarchy(tuple(self.names), tuple(self.parents), offsets, rotations, positions, frame_rate)
