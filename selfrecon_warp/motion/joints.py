"""The one table of joints: their names, their tree, and what other skeletons call them."""

from __future__ import annotations

import re
from collections.abc import Iterable

JOINT_NAMES = (
    *("pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle"),
    *("spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder"),
    *("right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand"),
)
"""SMPL's joints in SMPL's order."""

PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
"""Parent of every joint; -1 for the root."""

JOINT = {name: index for index, name in enumerate(JOINT_NAMES)}

_CENTRAL = ("pelvis", "neck", "head")
_SIDED = ("hip", "knee", "ankle", "foot", "collar", "shoulder", "elbow", "wrist", "hand")

# The spine is not listed: its joints are found between the hips and the chest, whatever they are called.
_CONVENTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "SMPL": {
        **{name: (name,) for name in (*_CENTRAL, *_SIDED)},
        "pelvis": ("pelvis", "hips", "root"),
        "foot": ("foot", "toe", "toes"),
        "collar": ("collar", "clavicle"),
    },
    "CMU, Mixamo": {
        "pelvis": ("hips", "hip", "pelvis"),
        "neck": ("neck",),
        "head": ("head",),
        "hip": ("upleg", "upperleg", "thigh"),
        "knee": ("leg", "lowerleg", "lowleg", "shin", "calf"),
        "ankle": ("foot",),
        "foot": ("toebase", "toe", "toes"),
        "collar": ("shoulder", "collar", "clavicle"),
        "shoulder": ("arm", "upperarm", "uparm"),
        "elbow": ("forearm", "lowerarm", "lowarm"),
        "wrist": ("hand",),
        "hand": ("handmiddle1", "fingerbase"),
    },
}
_PREFIX = re.compile(r"^(mixamorig\d*|[mf]_avg|bip\d+)[_ ]?", re.IGNORECASE)


def known_joints(names: Iterable[str]) -> dict[int, str]:
    """Which of a file's joints are which of ours.

    Understands the names of SMPL and those of CMU's and Mixamo's skeletons, with prefixes such as ``mixamorig:``; the
    convention that knows more of the names is taken, because a "left shoulder" is the collar bone in one and the
    upper arm in the other.

    Args:
        names: Joint names as written in a file.

    Returns:
        The file's name by index of our joint; joints of the spine are left out.
    """
    plain: dict[str, str] = {}
    for name in names:
        plain.setdefault(_plain(name), name)
    found = [
        {joint: plain[alias] for alias, joint in _aliases(table).items() if alias in plain}
        for table in _CONVENTIONS.values()
    ]
    return max(found, key=len)


def _aliases(table: dict[str, tuple[str, ...]]) -> dict[str, int]:
    """Our joint by plain name; where several names mean one joint the first listed comes last and wins."""
    aliases: dict[str, int] = {}
    for part, words in table.items():
        for word in reversed(words):
            if part in _CENTRAL:
                aliases[word] = JOINT[part]
                continue
            for side in ("left", "right"):
                for mark in (side, side[0]):
                    aliases[mark + word] = aliases[word + mark] = JOINT[f"{side}_{part}"]
    return aliases


def _plain(name: str) -> str:
    """A name without namespace, known prefix, case and punctuation."""
    return re.sub(r"[^a-z0-9]", "", _PREFIX.sub("", name.split(":")[-1]).lower())
