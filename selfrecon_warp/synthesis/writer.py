"""A synthetic capture on disk: the reference's processed layout with its exact ground truth under ``gt/``."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from selfrecon_warp.errors import RunError
from selfrecon_warp.synthesis.figure import PARTS, Figure
from selfrecon_warp.synthesis.mesh_tools import Array
from selfrecon_warp.synthesis.person import Motion, reported_apose
from selfrecon_warp.synthesis.scene import Camera, Photograph

JPEG_QUALITY = 95
STEP = 5e-5  # metres a unit of the stored vertices


class CaptureWriter:
    """Writes into a hidden sibling folder and moves it into place when all went well; removes it otherwise.

    Args:
        out: Folder of the capture.
        overwrite: Replace ``out`` where it holds something already.

    Raises:
        RunError: ``out`` is not empty and may not be replaced, or cannot be created.
    """

    def __init__(self, out: Path, overwrite: bool) -> None:
        self.out = out
        if out.exists() and not out.is_dir():
            raise RunError(f"{out} is a file; give a folder for the capture")
        if out.is_dir() and any(out.iterdir()) and not overwrite:
            raise RunError(f"{out} exists and is not empty; choose another folder or pass --overwrite to replace it")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
            self.folder.chmod(0o755)
        except OSError as error:
            raise RunError(f"{out} cannot be written ({error.strerror}); choose a folder you may write to") from error

    def __enter__(self) -> CaptureWriter:
        """Start with the folders of the layout."""
        for name in ("imgs", "masks", "normals", "gt/normals"):
            (self.folder / name).mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Move the capture into place, or leave nothing behind."""
        if kind is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            if isinstance(value, OSError):
                raise RunError(
                    f"{self.out} cannot be written ({value.strerror}); free space or choose another folder"
                ) from value
            return
        if self.out.is_dir():
            shutil.rmtree(self.out)
        self.folder.rename(self.out)

    def arrays(self, name: str, **arrays: Any) -> None:
        """Store named arrays in ``name``."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **arrays)

    def photograph(self, folder: str, frame: int, photograph: Photograph) -> None:
        """Store picture, exact mask and exact normals under ``folder``."""
        for name in ("imgs", "masks", "normals"):
            (self.folder / folder / name).mkdir(parents=True, exist_ok=True)
        self.image(f"{folder}/imgs/{frame:06d}.jpg", photograph.image)
        self.mask(f"{folder}/masks/{frame:06d}.png", photograph.mask)
        self.normals(f"{folder}/normals/{frame:06d}.png", photograph.normals, photograph.mask)

    def image(self, name: str, image: Array) -> None:
        """Store an sRGB picture ``[H, W, 3]`` in [0, 1] as JPEG."""
        data = np.rint(image[..., ::-1] * 255).astype(np.uint8)
        self._save(name, data, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])

    def mask(self, name: str, mask: NDArray[np.bool_]) -> None:
        """Store a mask ``[H, W]`` as 0 and 255."""
        self._save(name, mask.astype(np.uint8) * 255, [])

    def normals(self, name: str, normals: Array, mask: NDArray[np.bool_]) -> None:
        """Store normals (right, up, towards the camera) ``[H, W, 3]``; 0 outside the mask."""
        data = np.rint(127.5 * (normals + 1)) * mask[..., None]
        self._save(name, data[..., ::-1].astype(np.uint8), [])

    def _save(self, name: str, data: NDArray[np.uint8], options: list[int]) -> None:
        done, buffer = cv2.imencode(Path(name).suffix, np.ascontiguousarray(data), options)
        if not done:
            raise RunError(f"{self.out / name} could not be encoded")
        (self.folder / name).write_bytes(buffer.tobytes())

    def camera(self, camera: Camera) -> None:
        """Store the intrinsics; the world is an OpenCV camera frame."""
        self.arrays(
            "camera.npz",
            fx=np.float64(camera.focal),
            fy=np.float64(camera.focal),
            cx=np.float64(camera.cx),
            cy=np.float64(camera.cy),
            quat=np.array([0.0, 0.0, 0.0, 1.0]),
            T=np.zeros(3),
        )

    def body(self, name: str, motion: Motion, shape: Array, **more: Any) -> None:
        """Store body parameters."""
        self.arrays(name, poses=motion.poses, trans=motion.trans, shape=shape, gender="neutral", **more)

    def canonical(self, figure: Figure) -> None:
        """Store the dressed mesh, its parts, and how it is bound to the skeleton."""
        index, value = figure.strongest_weights()
        _, exterior = figure.visibility
        self.arrays(
            "gt/canonical.npz",
            faces=figure.faces,
            face_part=figure.face_part,
            part_names=np.array(PARTS),
            face_exterior=exterior,
            verts_tpose=figure.rest,
            verts_apose=figure.apose_vertices,
            apose=reported_apose(),
            weights_idx=index,
            weights_val=value,
            joints_rest=figure.person.joints,
        )

    def meta(self, values: dict[str, Any]) -> None:
        """Store a description people and programs can read."""
        (self.folder / "meta.json").write_text(json.dumps(values, indent=1) + "\n")


def quantised(vertices: Array, depth: float) -> dict[str, Any]:
    """World vertices ``[N, V, 3]`` [m] as the ground truth stores them."""
    offset = np.array([0.0, 0.0, depth])
    units = np.clip(np.rint((vertices - offset) / STEP), -32767, 32767)
    return {"verts_q": units.astype(np.int16), "scale": np.float64(STEP), "offset": offset}
