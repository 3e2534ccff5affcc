"""A run's frames, or its canonical mesh, as pictures of any kind: from the capture's camera or around the person."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from selfrecon_warp.asset.animate import AVATAR, painter_of
from selfrecon_warp.asset.relit import relighting
from selfrecon_warp.asset.rigged import RiggedMesh, rigged_mesh
from selfrecon_warp.asset.upright import upright
from selfrecon_warp.errors import RunError
from selfrecon_warp.staging import replacing_file, replacing_folder
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.train.saved import SavedFit, load_fit
from selfrecon_warp.view.infer import SUPERSAMPLE, progress_bars
from selfrecon_warp.view.painter import over
from selfrecon_warp.view.reconstruction import Reconstruction
from selfrecon_warp.view.render import WHITE, Background, Canvas
from selfrecon_warp.view.shots import ORBIT_SECONDS, Shot, fixed_shot, following_shot, read_view, smooth_path
from selfrecon_warp.view.video import write_video

KINDS = ("colour", "texture", "lit", "shaded", "normals", "depth", "mask", "wireframe")
FRAMES_AT_ONCE = 8
BOX_SAMPLES = 12
FOLLOW_SECONDS = 1.0
CLOTHES_M = 0.06
"""How far clothes and hair stand out from the body that frames an orbit."""
TURNTABLE_SECONDS = 3.0
DEPTH_UNIT_M = 0.001
"""One step of a depth picture's 16 bits; 0 is background."""
WIRE_PX = 0.75
WIRE, WIRED = (0.16, 0.19, 0.24), (0.86, 0.87, 0.88)
_PICTURE = re.compile(r"\d{6}\.png")


@dataclass(frozen=True)
class _Drawable:
    """A mesh in every picture, and how pictures of it are made.

    Attributes:
        positions: World positions [m] ``[V, 3]`` and, for the colour network, derivatives by the canonical position
            ``[V, 3, 3]``, picture by picture; for light, one derivative that stays as it is, ``[1, 3, 3]``.
        draw: A picture of placed vertices and turned derivatives in a shot's camera, over a background.
    """

    positions: Callable[[], Iterator[tuple[Tensor, Tensor | None]]]
    draw: Callable[[Tensor, Tensor | None, Shot, Background], np.ndarray]


def render_run(
    run: RunFolder,
    kind: str,
    out: Path,
    device: torch.device,
    *,
    frames: tuple[int, int] | None = None,
    over_photo: bool = False,
    transparent: bool = False,
    orbit: bool = False,
    turntable: bool = False,
    camera: Path | None = None,
    size: int = 720,
    frame_rate: float = 30.0,
    console: Console | None = None,
) -> int:
    """Draw a run into a folder of PNG files or a video; what was there goes only once the new pictures are complete.

    Args:
        run: A fitted run; texture, lit and wireframe are drawn on ``RUN/avatar``, the first two need it.
        kind: One of ``KINDS``. In PNG files depth has 16 bits of millimetres along the camera's axis, a mask one
            channel; in videos depth is a map of colours, near is bright.
        out: A folder for ``000000.png`` and so on, named by frame, or a video ending in ``.mp4``.
        device: Where to compute.
        frames: First frame and the one after the last; all when absent.
        over_photo: Draw over the capture's photographs.
        transparent: Leave the background out (RGBA).
        orbit: The camera goes around the person while the frames pass.
        turntable: The canonical mesh turns once instead of the frames.
        camera: Camera file, in the world of the capture; the capture's camera when absent.
        size: Height and width with ``orbit``, ``turntable`` or a camera file that does not tell [px].
        frame_rate: Frames a second of a video, and of the turntable.
        console: Where progress is shown; standard error when absent.

    Returns:
        Number of pictures.

    Raises:
        RunError: The choices contradict each other, the run has no usable checkpoint or avatar, or ``out`` cannot be
            written.
        CaptureError: The capture is damaged.
    """
    video = out.suffix.lower() == ".mp4"
    _require_possible(kind, out, video, over_photo, transparent, [orbit, turntable, camera is not None], frames)
    view = None if camera is None else read_view(camera, size, size)
    if not video:
        _require_own_pictures(out)
    fit = load_fit(run, device)
    first, end = _range(frames, len(fit.capture))
    chosen = range(first, end)
    count = round(TURNTABLE_SECONDS * frame_rate) if turntable else len(chosen)
    drawable = _drawable(run, fit, kind, None if turntable else chosen, count, video)
    if turntable:
        shot = _turntable(drawable, size, count)
    elif orbit:
        shot = _orbit(fit, chosen, size, frame_rate)
    else:
        shot = fixed_shot(view or fit.avatar.camera, count)

    def pictures() -> Iterator[np.ndarray]:
        plain: Background = None if transparent else (0, 0, 0) if kind == "normals" else WHITE
        for picture, (vertices, jacobians) in enumerate(drawable.positions()):
            background = fit.capture.load_image(chosen[picture]) if over_photo else plain
            turn = shot.turns[picture].to(vertices)
            turned = None if jacobians is None else turn @ jacobians
            yield drawable.draw(shot.place(vertices, picture), turned, shot, background)

    names = [f"{frame:06d}.png" for frame in (range(count) if turntable else chosen)]
    with progress_bars(console) as progress:
        task = progress.add_task(kind, total=count)
        if video:
            out.parent.mkdir(parents=True, exist_ok=True)
            with replacing_file(out) as staging:
                write_video(
                    staging,
                    (_coloured(picture) for picture in pictures()),
                    round(frame_rate),
                    progress=lambda done: progress.update(task, completed=done),
                )
        else:
            out.parent.mkdir(parents=True, exist_ok=True)
            with replacing_folder(out) as staging:
                for name, picture in zip(names, pictures(), strict=True):
                    (staging / name).write_bytes(_png(picture))
                    progress.advance(task)
    return count


def _require_possible(
    kind: str,
    out: Path,
    video: bool,
    over_photo: bool,
    transparent: bool,
    views: Sequence[bool],
    frames: tuple[int, int] | None,
) -> None:
    if kind not in KINDS:
        raise RunError(f"--what {kind}: choose one of {', '.join(KINDS)}")
    if not video and out.suffix:
        raise RunError(f"--out {out}: give a folder for PNG files or a video ending in .mp4")
    if sum(views) > 1:
        raise RunError("--orbit, --turntable and --camera exclude each other; choose one")
    if over_photo and any(views):
        raise RunError("--over-photo needs the capture's own camera; leave --orbit, --turntable and --camera out")
    if over_photo and transparent:
        raise RunError("--over-photo and --transparent exclude each other; leave one out")
    if transparent and video:
        raise RunError(f"--transparent: a video has no transparency; give a folder instead of {out}")
    if kind in ("depth", "mask") and (over_photo or transparent):
        raise RunError(f"--what {kind} has no background; leave --over-photo and --transparent out")
    if kind == "lit" and views[1]:
        raise RunError("--what lit: the light stands in the capture's world, where the canonical mesh has no place")
    if views[1] and frames is not None:
        raise RunError("--turntable shows the canonical mesh, which has no frames; leave --frames out")


def _require_own_pictures(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"--out {folder}: is a file; give a folder or a video ending in .mp4")
    others = [path.name for path in folder.iterdir() if not _PICTURE.fullmatch(path.name)] if folder.is_dir() else []
    if others:
        raise RunError(f"--out {folder}: holds {min(others)}, which would be lost; give an empty or a new folder")


def _range(frames: tuple[int, int] | None, count: int) -> tuple[int, int]:
    first, end = (0, count) if frames is None else frames
    if not 0 <= first < end <= count:
        raise RunError(
            f"--frames {first}:{end}: the capture has frames 0 to {count - 1}; give FIRST:END with END after"
        )
    return first, end


def _drawable(
    run: RunFolder, fit: SavedFit, kind: str, frames: Sequence[int] | None, count: int, video: bool
) -> _Drawable:
    """The mesh that suits a kind of picture; in the canonical pose, ``count`` times, when there are no frames."""
    folder = run.path / AVATAR
    if kind in ("texture", "lit") and not folder.is_dir():
        raise RunError(f"{run.path}: has no textured avatar yet; run `selfrecon texture {run.path}` first")
    if kind in ("texture", "lit", "wireframe") and folder.is_dir():
        avatar = RiggedMesh.load(folder)
        arrays = (avatar.vertices, avatar.faces, avatar.weights)
        vertices, faces, weights = (torch.from_numpy(array).to(fit.avatar.poses.device) for array in arrays)
        if kind in ("texture", "lit"):
            draw = _painting(avatar, kind == "lit", run, vertices.device)
            return _Drawable(lambda: _carried(fit, vertices, weights, frames, count), draw)
        return _Drawable(lambda: _carried(fit, vertices, weights, frames, count), _drawing(kind, faces, video))
    reconstruction = Reconstruction(fit.avatar, fit.config.output_cell)
    if kind == "colour":

        def colour(placed: Tensor, jacobians: Tensor | None, shot: Shot, background: Background) -> np.ndarray:
            canvas = Canvas(placed, reconstruction.faces, shot.camera, SUPERSAMPLE)
            given = torch.eye(3).expand(len(placed), 3, 3) if jacobians is None else jacobians
            return canvas.painted(*reconstruction.pixel_colours(canvas, given), background)

        return _Drawable(lambda: _reconstructed(reconstruction, frames, count, True), colour)
    draw = _drawing(kind, reconstruction.faces, video)
    return _Drawable(lambda: _reconstructed(reconstruction, frames, count, False), draw)


def _painting(
    avatar: RiggedMesh, lit_too: bool, run: RunFolder, device: torch.device
) -> Callable[[Tensor, Tensor | None, Shot, Background], np.ndarray]:
    """Pictures of the texture, as it is or in the light it was photographed in."""
    painter = painter_of(avatar, device)
    if not lit_too:
        return lambda placed, _, shot, background: over(painter.paint(placed, shot.camera), background)
    relight = relighting(avatar, device)
    if relight is None:
        raise RunError(f"{run.path / AVATAR}: holds no light; write it again with `selfrecon texture {run.path}`")

    def paint(placed: Tensor, turned: Tensor | None, shot: Shot, background: Background) -> np.ndarray:
        world = placed if turned is None else placed @ turned[0]
        return over(painter.paint(placed, shot.camera, relight(world)), background)

    return paint


def _reconstructed(
    reconstruction: Reconstruction, frames: Sequence[int] | None, count: int, with_jacobians: bool
) -> Iterator[tuple[Tensor, Tensor | None]]:
    if frames is None:
        vertices = reconstruction.vertices
        still = torch.eye(3).to(vertices).expand(len(vertices), 3, 3)
        yield from ((vertices, still) for _ in range(count))
        return
    for batch in reconstruction.batches(frames):
        posed = reconstruction.posed(batch)
        jacobians = reconstruction.jacobians(batch, posed) if with_jacobians else [None] * len(batch)
        yield from zip(posed, jacobians, strict=True)


@torch.no_grad()
def _carried(
    fit: SavedFit, vertices: Tensor, weights: Tensor, frames: Sequence[int] | None, count: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The avatar's vertices as the fit deforms them, pose-dependent offset included, and the identity."""
    still = torch.eye(3).to(vertices)[None]
    if frames is None:
        yield from ((vertices, still) for _ in range(count))
        return
    avatar = fit.avatar
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        index = torch.tensor(frames[start : start + FRAMES_AT_ONCE], device=vertices.device)
        for posed in avatar.deformation(vertices, avatar.codes[index], avatar.bones(index), weights)[0]:
            yield posed, still


def _drawing(kind: str, faces: Tensor, video: bool) -> Callable[[Tensor, Tensor | None, Shot, Background], np.ndarray]:
    """Pictures that need nothing but the shape."""

    def draw(placed: Tensor, _: Tensor | None, shot: Shot, background: Background) -> np.ndarray:
        canvas = Canvas(placed, faces, shot.camera, 1 if kind in ("depth", "mask") else SUPERSAMPLE)
        if kind == "shaded":
            return canvas.shaded(background)
        if kind == "normals":
            return canvas.normals(background)
        if kind == "mask":
            return canvas.covered.cpu().numpy().astype(np.uint8) * np.uint8(255)
        if kind == "depth":
            depth = canvas.depth.cpu().numpy()
            return _depth_colours(depth) if video else _depth_steps(depth)
        return canvas.picture(_wires(canvas), background)

    return draw


def _wires(canvas: Canvas) -> Tensor:
    """Colours of the samples, dark near the faces' edges, ``[P, 3]``."""
    corners = canvas.projected[canvas.faces[canvas.face_index], :2]
    sides = (corners.roll(-1, 1) - corners.roll(1, 1)).norm(dim=-1)  # opposite each corner
    (ax, ay), (bx, by) = ((corners[:, k] - corners[:, 0]).unbind(-1) for k in (1, 2))
    heights = (ax * by - ay * bx).abs()[:, None] / sides.clamp_min(1e-6)
    distance = (canvas.barycentrics * heights).amin(-1) / canvas.supersample
    paper = (distance / WIRE_PX).clamp(0, 1)[:, None]
    return paper * paper.new_tensor(WIRED) + (1 - paper) * paper.new_tensor(WIRE)


def _depth_steps(depth: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(np.rint(depth / DEPTH_UNIT_M), 0, 65535).astype(np.uint16))


def _depth_colours(depth: np.ndarray) -> np.ndarray:
    """Near is bright, far is dark, from the nearest to the farthest of the picture; background black."""
    seen = depth > 0
    if not seen.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    near, far = depth[seen].min(), depth[seen].max()
    share = np.clip((far - depth) / max(far - near, 1e-6), 0, 1)
    colours = cv2.applyColorMap((55 + 200 * share).astype(np.uint8), cv2.COLORMAP_MAGMA)[..., ::-1]
    return np.where(seen[..., None], colours, 0).astype(np.uint8)


def _turntable(drawable: _Drawable, size: int, count: int) -> Shot:
    vertices = next(drawable.positions())[0].cpu()
    low, high = vertices.amin(0), vertices.amax(0)
    centre = (low + high) / 2
    return following_shot(low - centre, high - centre, centre.expand(count, 3), size, size, orbit_pictures=count)


@torch.no_grad()
def _orbit(fit: SavedFit, frames: Sequence[int], size: int, frame_rate: float) -> Shot:
    """Around the person in the capture's world, whatever way that hangs; the body stands for the clothed person."""
    avatar = fit.avatar
    body = avatar.canonical_body()
    capture_from_asset = torch.from_numpy(upright(rigged_mesh(avatar, body.vertices, body.faces))[1])
    asset_from_capture = torch.linalg.inv(capture_from_asset)
    pelvis = avatar.joints()[list(frames), 0].cpu().double()
    path = (pelvis @ asset_from_capture[:3, :3].T + asset_from_capture[:3, 3]).numpy()
    path[:, 1] = path[:, 1].mean()
    centres = torch.from_numpy(smooth_path(path, FOLLOW_SECONDS, frame_rate))
    weights = avatar.deformation.skinning_weights(body.vertices)
    some = sorted({frames[round(k)] for k in np.linspace(0, len(frames) - 1, BOX_SAMPLES)})
    lows, highs = [], []
    for frame, (posed, _) in zip(some, _carried(fit, body.vertices, weights, some, 0), strict=True):
        place = posed.cpu().double() @ asset_from_capture[:3, :3].T + asset_from_capture[:3, 3]
        relative = place - centres[frame - frames[0]]
        lows.append(relative.amin(0))
        highs.append(relative.amax(0))
    low, high = torch.stack(lows).amin(0) - CLOTHES_M, torch.stack(highs).amax(0) + CLOTHES_M
    turn = round(ORBIT_SECONDS * frame_rate)
    return following_shot(low, high, centres, size, size, orbit_pictures=turn).seen_from(capture_from_asset)


def _coloured(picture: np.ndarray) -> np.ndarray:
    """Three channels for a video."""
    return np.repeat(picture[..., None], 3, -1) if picture.ndim == 2 else picture


def _png(picture: np.ndarray) -> bytes:
    codes = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    stored = picture if picture.ndim == 2 else cv2.cvtColor(picture, codes[picture.shape[2]])
    return bytes(cv2.imencode(".png", stored)[1].tobytes())
