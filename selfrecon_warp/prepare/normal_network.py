"""Normals of a capture from any network exported to ONNX that sees one picture of a person.

The person is cut out as the reference does: background black, the person's square with zero padding, resized to the
network's input; the answer is put back into the full picture and is valid on the mask, where it is no zero vector.
Squares come from ``imgs/<stem>_rect.txt`` where :func:`write_squares` or another tool left them, else from the body's
joints in the picture.

Source: SelfRecon's preprocessing, after PIFuHD (Saito et al. 2020).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from selfrecon_warp.capture.dataset import Capture, read_capture
from selfrecon_warp.capture.image_file import read_image
from selfrecon_warp.errors import PrepareError
from selfrecon_warp.model.body import BodyModel, load_body
from selfrecon_warp.prepare.capture_writer import encode_normals, encoded, fingerprint
from selfrecon_warp.prepare.normal_maps import AXES, SHORTEST
from selfrecon_warp.prepare.person_square import (
    Square,
    cut,
    put_back,
    read_squares,
    square_from_joints,
    square_line,
)
from selfrecon_warp.view.infer import progress_bars
from selfrecon_warp.view.video import write_video

DEFAULT_SIDE = 512
VIDEO_RATE = 30
VIDEO = "video.mp4"
_MEAN, _DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
SCALINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "signed": lambda picture: picture / 127.5 - 1,
    "unit": lambda picture: picture / 255,
    "imagenet": lambda picture: (picture / 255 - _MEAN) / _DEVIATION,
    "bytes": lambda picture: picture,
}
"""What a network's input means, from RGB 0..255: ``signed`` -1..1 (PIFuHD, ICON), ``unit`` 0..1, ``imagenet``
(Sapiens)."""


@dataclass(frozen=True)
class NormalNetwork:
    """An ONNX network with one picture in and one normal map out.

    Attributes:
        path: The file.
        side: (height, width) of its input [px].
        channels_last: Whether pictures are ``[1, h, w, 3]`` instead of ``[1, 3, h, w]``.
        run: From the input to the output array.
    """

    path: Path
    side: tuple[int, int]
    channels_last: bool
    run: Callable[[np.ndarray], np.ndarray]

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Stored components of a scaled picture ``[h, w, 3]``, ``[h', w', 3]``.

        Raises:
            PrepareError: The network fails, or its answer is no map of three channels.
        """
        given = np.ascontiguousarray(picture.astype(np.float32)[None])
        answer = self.run(given if self.channels_last else np.ascontiguousarray(given.transpose(0, 3, 1, 2)))
        if answer.ndim == 4 and answer.shape[0] == 1 and 3 in (answer.shape[1], answer.shape[3]):
            return answer[0] if answer.shape[3] == 3 and answer.shape[1] != 3 else answer[0].transpose(1, 2, 0)
        raise PrepareError(f"{self.path}: expected a normal map [1, 3, h, w], the network gives {list(answer.shape)}")


def open_network(path: Path) -> NormalNetwork:
    """Load a network on the CPU, or on CUDA where onnxruntime has it.

    Raises:
        PrepareError: No onnxruntime, no such file, damaged, or more than one input.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise PrepareError("running ONNX networks needs onnxruntime: pip install 'selfrecon-warp[prepare]'") from error
    if not path.is_file():
        raise PrepareError(f"{path} does not exist; give a normal network exported to ONNX")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    usable = [
        name
        for name in ("CUDAExecutionProvider", "CPUExecutionProvider")
        if name in onnxruntime.get_available_providers()
    ]
    try:
        session: Any = onnxruntime.InferenceSession(str(path), options, providers=usable)
    except Exception as error:  # onnxruntime's errors have no common base that is public
        raise PrepareError(f"{path} is damaged or no ONNX network: {str(error).splitlines()[0]}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        told = ", ".join(f"{one.name} {one.shape}" for one in inputs)
        raise PrepareError(f"{path}: expected one picture [1, 3, h, w] as input, the network takes {told}")
    shape = [size if isinstance(size, int) and size > 0 else None for size in inputs[0].shape]
    last = shape[3] == 3 and shape[1] != 3
    height, width = (shape[1], shape[2]) if last else (shape[2], shape[3])
    name = inputs[0].name

    def run(given: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(session.run(None, {name: given})[0])
        except Exception as error:
            raise PrepareError(
                f"{path}: the network fails on {list(given.shape)}: {str(error).splitlines()[0]}"
            ) from error

    return NormalNetwork(path, (height or width or DEFAULT_SIDE, width or height or DEFAULT_SIDE), last, run)


def predict_normals(
    folder: Path,
    model: Path,
    *,
    scaling: str = "signed",
    axes: str = "viewer",
    keep_background: bool = False,
    body_models: Path | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> list[Path]:
    """Write ``normals/`` of a capture, or of every capture in the numbered folders 0, 1, ... of ``folder``.

    The folder of normals appears whole; a killed process leaves its part hidden beside it, and the next one goes on
    there.

    Args:
        folder: The capture, or the folder of numbered captures.
        model: The network.
        scaling: One of :data:`SCALINGS`.
        axes: What its output means, one of :data:`~selfrecon_warp.prepare.normal_maps.AXES`.
        keep_background: Show it the surroundings too, instead of black.
        body_models: SMPL files; needed for squares alone.
        overwrite: Replace normals that are there.
        console: Where progress is shown; standard error when absent.

    Returns:
        The folders written.

    Raises:
        SelfReconError: A file is missing or damaged, the network is of another kind, or there are normals already.
    """
    for what, value, known in (("--input", scaling, tuple(SCALINGS)), ("--frame", axes, tuple(AXES))):
        if value not in known:
            raise PrepareError(f"{what} must be one of {', '.join(known)}, got {value!r}")
    captures = [read_capture(one) for one in numbered(folder)]
    for capture in captures:
        if (capture.root / "normals").exists() and not overwrite:
            raise PrepareError(f"{capture.root / 'normals'} exists; pass --overwrite to replace it")
    network = open_network(model)
    recipe = f"{fingerprint(model)} {scaling} {axes} {keep_background}"
    written = []
    for capture in captures:
        body = load_body(body_models, capture.gender)
        written.append(
            _write_normals(capture, body, network, SCALINGS[scaling], AXES[axes], keep_background, recipe, console)
        )
    return written


def write_squares(folder: Path, *, body_models: Path | None = None) -> int:
    """Write ``imgs/<stem>_rect.txt`` of every frame, as other normal predictors want them; returns how many.

    Raises:
        SelfReconError: No capture there.
    """
    count = 0
    for one in numbered(folder):
        capture = read_capture(one)
        for frame, square in enumerate(joint_squares(capture, load_body(body_models, capture.gender))):
            file = _square_file(capture, frame)
            try:
                file.write_text(square_line(square))
            except OSError as error:
                raise PrepareError(f"{file} cannot be written ({error.strerror}); check permissions") from error
            count += 1
    return count


def numbered(folder: Path) -> list[Path]:
    """The folder itself when it is a capture, else its numbered folders in order."""
    if (folder / "imgs").is_dir() or not folder.is_dir():
        return [folder]
    inner = [path for path in folder.iterdir() if path.is_dir() and path.name.isascii() and path.name.isdigit()]
    return sorted(inner, key=lambda path: int(path.name)) or [folder]


@torch.no_grad()
def joint_squares(capture: Capture, body: BodyModel) -> list[Square]:
    """The person's square in every frame, from the body's joints."""
    joints = body.posed_joints(capture.poses, capture.trans, body.shaped(capture.betas)[1])
    points = capture.camera.project(joints).double().numpy()
    height, width = capture.image_size
    seen = (points[..., 2] > 0) & (points[..., :2] >= 0).all(-1) & (points[..., 0] < width) & (points[..., 1] < height)
    return [square_from_joints(uv[:, :2], inside, (height, width)) for uv, inside in zip(points, seen, strict=True)]


def _square_file(capture: Capture, frame: int) -> Path:
    return capture.image_files[frame].with_name(f"{capture.names[frame]}_rect.txt")


def _write_normals(
    capture: Capture,
    body: BodyModel,
    network: NormalNetwork,
    scale: Callable[[np.ndarray], np.ndarray],
    axes: np.ndarray,
    keep_background: bool,
    recipe: str,
    console: Console | None,
) -> Path:
    out, staging = capture.root / "normals", capture.root / ".normals.partial"
    marker = staging / ".recipe"
    try:
        if staging.is_dir() and (not marker.is_file() or marker.read_text() != recipe):
            shutil.rmtree(staging)
        staging.mkdir(exist_ok=True)
        marker.write_text(recipe)
        squares = joint_squares(capture, body)
        with progress_bars(console) as progress:
            task = progress.add_task(f"normals {capture.root.name}", total=len(capture))
            for frame, square in enumerate(squares):
                file = staging / f"{capture.names[frame]}.png"
                if not file.is_file():
                    beside = _square_file(capture, frame)
                    square = read_squares(beside) if beside.is_file() else square
                    normals, valid = _predict(capture, frame, square, network, scale, axes, keep_background)
                    partial = file.with_name(f".{file.name}")
                    partial.write_bytes(encoded(encode_normals(normals, valid)))
                    partial.replace(file)
                progress.advance(task)
        write_video(staging / VIDEO, _pictures(staging, capture), VIDEO_RATE)
        marker.unlink()
        if out.is_dir():
            shutil.rmtree(out)
        staging.rename(out)
    except OSError as error:
        raise PrepareError(f"{out} cannot be written ({error.strerror or error}); free some space") from error
    except Exception:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return out


def _predict(
    capture: Capture,
    frame: int,
    square: Square,
    network: NormalNetwork,
    scale: Callable[[np.ndarray], np.ndarray],
    axes: np.ndarray,
    keep_background: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Viewer-frame normals ``[H, W, 3]`` and where they are valid ``[H, W]``."""
    picture, mask = capture.load_image(frame), capture.load_mask(frame)
    if not keep_background:
        picture[~mask] = 0
    height, width = network.side
    part = square.with_aspect(width / height)
    answer = network(scale(cut(picture, part, network.side)))
    normals = put_back(np.nan_to_num(answer), part, capture.image_size) @ axes.T
    return normals, mask & (np.linalg.norm(normals, axis=-1) > SHORTEST)


def _pictures(folder: Path, capture: Capture) -> Iterator[np.ndarray]:
    for name in capture.names:
        yield read_image(folder / f"{name}.png")
