"""What is seen of one person in every frame of a video: the seam between detectors and the body fit.

Pixels: integer coordinates are pixel centres. Camera axes: x right, y down, z forward.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from selfrecon_warp.errors import PrepareError
from selfrecon_warp.prepare.safe_pickle import read_numpy

KEYPOINTS = "keypoints.npz"
"""Name under which a capture keeps the keypoints it was made with."""
BODY_33 = (
    "nose",
    "left_eye_inner",
    "left_eye",
    "left_eye_outer",
    "right_eye_inner",
    "right_eye",
    "right_eye_outer",
    "left_ear",
    "right_ear",
    "mouth_left",
    "mouth_right",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_pinky",
    "right_pinky",
    "left_index",
    "right_index",
    "left_thumb",
    "right_thumb",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
    "left_heel",
    "right_heel",
    "left_foot_index",
    "right_foot_index",
)
"""Standard names of keypoints, in the order of BlazePose's 33."""


@dataclass(frozen=True)
class PersonObservations:
    """One person over ``N`` frames of one camera.

    Attributes:
        masks: True on the person, ``[N, H, W]`` bool.
        keypoints: (u, v) [px], NaN where unseen, ``[N, K, 2]`` float32.
        confidence: 0 to 1, ``[N, K]`` float32.
        keypoints3d: Relative to the middle of the hips [m], camera axes, NaN where unknown, ``[N, K, 3]`` float32;
            ``None`` from a detector that gives none.
        names: What the keypoints are, ``K`` names among :data:`BODY_33`.
        times: When each frame was taken [s], increasing, ``[N]`` float64.

    Raises:
        PrepareError: Shapes disagree, a name is unknown or doubled, or a number is none.
    """

    masks: np.ndarray
    keypoints: np.ndarray
    confidence: np.ndarray
    keypoints3d: np.ndarray | None
    names: tuple[str, ...]
    times: np.ndarray

    def __post_init__(self) -> None:
        if self.masks.ndim != 3 or self.masks.dtype != np.bool_:
            raise PrepareError(f"masks must be [N, H, W] bool, got {self.masks.dtype} {list(self.masks.shape)}")
        N, K = len(self.masks), len(self.names)
        shapes = {"keypoints": (N, K, 2), "confidence": (N, K), "keypoints3d": (N, K, 3), "times": (N,)}
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array is None and name == "keypoints3d":
                continue
            if array.shape != shape or array.dtype.kind != "f":
                raise PrepareError(
                    f"{name} must be {list(shape)} floating numbers for {N} masks and {K} names, got {array.dtype} "
                    f"{list(array.shape)}"
                )
            if np.isinf(array).any():
                raise PrepareError(f"{name} holds infinity; leave NaN where a keypoint is unseen")
        unknown = [name for name in self.names if name not in BODY_33]
        if unknown or len(set(self.names)) < K:
            raise PrepareError(
                f"names must be different ones of {', '.join(BODY_33)}, got {', '.join(unknown or self.names)}"
            )
        if np.isnan(self.confidence).any() or (self.confidence < 0).any() or (self.confidence > 1).any():
            raise PrepareError("confidence must lie between 0 and 1; 0 where a keypoint is unseen")
        if np.isnan(self.times).any() or (np.diff(self.times) <= 0).any():
            raise PrepareError("times must increase from frame to frame")

    def __len__(self) -> int:
        """Frames N."""
        return len(self.masks)

    def frames(self, chosen: np.ndarray) -> PersonObservations:
        """Those of some frames, by increasing index."""
        return replace(
            self,
            masks=self.masks[chosen],
            keypoints=self.keypoints[chosen],
            confidence=self.confidence[chosen],
            keypoints3d=None if self.keypoints3d is None else self.keypoints3d[chosen],
            times=self.times[chosen],
        )


def write_keypoints(path: Path, observations: PersonObservations) -> None:
    """Store everything but the masks in an ``.npz`` file, for :func:`read_keypoints`."""
    space = {} if observations.keypoints3d is None else {"keypoints3d": observations.keypoints3d}
    np.savez_compressed(
        path,
        keypoints=observations.keypoints,
        confidence=observations.confidence,
        names=np.array(observations.names),
        times=observations.times,
        allow_pickle=False,
        **space,
    )


def read_keypoints(path: Path, masks: np.ndarray) -> PersonObservations:
    """Read keypoints stored beside masks.

    Args:
        path: ``.npz`` with keypoints ``[N, K, 2]``; optionally confidence ``[N, K]`` (1 where absent), keypoints3d
            ``[N, K, 3]``, names ``[K]`` (:data:`BODY_33` where absent and K is 33) and times ``[N]`` (one second a
            frame where absent).
        masks: ``[N, H, W]`` bool.

    Raises:
        PrepareError: Missing, damaged, unsafe, or shapes that do not fit the masks.
    """
    content = read_numpy(path)
    if not isinstance(content, dict) or "keypoints" not in content:
        raise PrepareError(f"{path} holds no keypoints; expected an .npz file with keypoints [N, K, 2]")
    keypoints = np.asarray(content["keypoints"])
    if keypoints.ndim != 3 or keypoints.shape[-1] != 2 or keypoints.dtype.kind not in "fiu":
        raise PrepareError(f"{path}: keypoints must be numbers [N, K, 2], got {keypoints.dtype} {keypoints.shape}")
    if len(keypoints) != len(masks):
        raise PrepareError(f"{path}: keypoints of {len(keypoints)} frames, the capture has {len(masks)}")
    names = tuple(str(name) for name in content["names"]) if "names" in content else BODY_33
    seen = np.isfinite(keypoints).all(-1)
    confidence = np.asarray(content.get("confidence", seen), np.float32)
    stored3d = content.get("keypoints3d")
    try:
        return PersonObservations(
            masks=masks,
            keypoints=keypoints.astype(np.float32),
            confidence=confidence,
            keypoints3d=None if stored3d is None else np.asarray(stored3d, np.float32),
            names=names,
            times=np.asarray(content.get("times", np.arange(len(masks))), np.float64),
        )
    except PrepareError as error:
        raise PrepareError(f"{path}: {error}") from error
