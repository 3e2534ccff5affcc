"""Debugging viewer of a run: canonical mesh, posed meshes on a time slider, the images in their camera.

Everything is drawn in the viewer frame of the capture's camera: x right, y up, z towards the camera, metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polyscope as ps
import polyscope.imgui as imgui
import trimesh

from selfrecon_warp.capture.dataset import Capture, read_capture
from selfrecon_warp.errors import RunError
from selfrecon_warp.train.run_folder import RunFolder

CANONICAL_OFFSET = 1.3
"""How far left of the posed mesh the canonical one stands [m]."""
IMAGE_DISTANCE = 0.6
"""How far behind the posed mesh its image hangs [m]; looked at through the camera the two coincide."""
PLAYBACK_FRAMES_PER_SECOND = 15.0
HEADLESS_BACKEND = "openGL3_egl"

Floats = npt.NDArray[np.float64]


def view_run(run: RunFolder, *, frame: int = 0, screenshot: Path | None = None) -> None:
    """Show a run in a window until it is closed, or draw one picture without a window.

    Args:
        run: A run that `selfrecon infer` has been through.
        frame: Frame shown first.
        screenshot: Where to write the picture; a window opens when absent.

    Raises:
        RunError: The run has no meshes yet or no such frame, or no display can be opened.
        CaptureError: The capture of the run is gone or damaged.
    """
    scene = _read_scene(run)
    if not 0 <= frame < len(scene.mesh_files):
        raise RunError(f"--frame {frame}: {run.path} has frames 0 to {len(scene.mesh_files) - 1}")
    _open_display(headless=screenshot is not None)
    shown = _Shown(scene, frame)
    if screenshot is None:
        ps.set_user_callback(shown.draw_controls)
        ps.show()
    else:
        try:
            screenshot.parent.mkdir(parents=True, exist_ok=True)
            screenshot.touch()
        except OSError as error:
            raise RunError(f"--screenshot {screenshot}: cannot be written ({error.strerror})") from error
        ps.screenshot(str(screenshot), transparent_bg=False)
    ps.remove_all_structures()


@dataclass(frozen=True)
class _Scene:
    capture: Capture
    canonical_file: Path
    mesh_files: list[Path]
    viewer_from_world: Floats  # [4, 4]


def _read_scene(run: RunFolder) -> _Scene:
    mesh_files = sorted((run.infer / "meshes").glob("*.ply"))
    if not mesh_files or not run.canonical_mesh.is_file():
        raise RunError(f"{run.path}: has no meshes yet; run `selfrecon infer {run.path}` first")
    capture = read_capture(run.capture_folder)
    camera = capture.camera
    viewer_from_world = np.eye(4)
    viewer_from_world[:3, :3] = np.diag([-1.0, 1.0, -1.0]) @ camera.rotation().detach().double().numpy().T
    viewer_from_world[:3, 3] = -viewer_from_world[:3, :3] @ camera.centre().detach().double().numpy()
    return _Scene(capture, run.canonical_mesh, mesh_files, viewer_from_world)


def _open_display(*, headless: bool) -> None:
    ps.set_verbosity(0)
    ps.set_use_prefs_file(False)
    try:
        if headless:
            ps.set_allow_headless_backends(True)
            ps.init(HEADLESS_BACKEND)
        else:
            ps.init()
    except RuntimeError as error:
        remedy = (
            "install Mesa's EGL (Debian: libegl1 libegl-dev libgl1-mesa-dri)"
            if headless
            else "run it where a display is, or draw a picture with --screenshot PNG"
        )
        raise RunError(f"no display could be opened ({error}); {remedy}") from error
    imgui.GetIO().IniFilename = ""  # a viewer leaves no settings in the folder it is called from
    ps.set_up_dir("y_up")
    ps.set_front_dir("z_front")
    ps.set_ground_plane_mode("none")


class _Shown:
    """The scene on display and its controls."""

    def __init__(self, scene: _Scene, frame: int) -> None:
        self._scene, self._frame = scene, frame
        self._playing, self._clock = False, 0.0
        posed = _read_mesh(scene.mesh_files[frame])
        canonical = _read_mesh(scene.canonical_file)
        self._posed = ps.register_surface_mesh("posed", self._vertices(posed), posed.faces, smooth_shade=True)
        middle = self._vertices(posed).mean(0) - np.array([CANONICAL_OFFSET, 0.0, 0.0])
        standing = np.asarray(canonical.vertices) - canonical.vertices.mean(0) + middle
        rest = ps.register_surface_mesh("canonical", standing, canonical.faces, smooth_shade=True)
        _show_colours(self._posed, posed)
        _show_colours(rest, canonical)
        self._camera = ps.register_camera_view("camera", self._camera_parameters(), widget_thickness=0.0004)
        depth = -self._vertices(posed)[:, 2].min()
        self._camera.set_widget_focal_length(depth + IMAGE_DISTANCE, relative=False)
        self._show_image()
        target = middle + np.array([0.5 * CANONICAL_OFFSET, 0.0, 0.0])
        ps.look_at(target + np.array([0.9, 0.3, 3.2]), target)

    def draw_controls(self) -> None:
        """Slider and play button; called by the window once per drawn picture."""
        changed, frame = imgui.SliderInt("frame", self._frame, 0, len(self._scene.mesh_files) - 1)
        if imgui.Button("pause" if self._playing else "play"):
            self._playing = not self._playing
        if imgui.Button("look through the camera"):
            self._camera.set_view_to_this_camera(with_flight=True)
        if self._playing:
            self._clock += imgui.GetIO().DeltaTime * PLAYBACK_FRAMES_PER_SECOND
            steps, self._clock = int(self._clock), self._clock % 1.0
            changed, frame = changed or steps > 0, (frame + steps) % len(self._scene.mesh_files)
        if changed:
            self._frame = frame
            self._posed.update_vertex_positions(self._vertices(_read_mesh(self._scene.mesh_files[frame])))
            self._show_image()

    def _show_image(self) -> None:
        frame = int(self._scene.mesh_files[self._frame].stem)
        image = self._scene.capture.load_image(frame) / 255.0
        self._camera.add_color_image_quantity("image", image, enabled=True, show_in_camera_billboard=True)

    def _vertices(self, mesh: Any) -> Floats:
        transform = self._scene.viewer_from_world
        vertices: Floats = np.asarray(mesh.vertices) @ transform[:3, :3].T + transform[:3, 3]
        return vertices

    def _camera_parameters(self) -> ps.CameraParameters:
        height, width = self._scene.capture.image_size
        focal = float(self._scene.capture.camera.focal.detach()[1])
        field = float(np.degrees(2 * np.arctan(0.5 * height / focal)))
        return ps.CameraParameters(
            ps.CameraIntrinsics(fov_vertical_deg=field, aspect=width / height),
            ps.CameraExtrinsics(
                root=np.zeros(3), look_dir=np.array([0.0, 0.0, -1.0]), up_dir=np.array([0.0, 1.0, 0.0])
            ),
        )


def _show_colours(structure: ps.SurfaceMesh, mesh: Any) -> None:
    """Vertex colours, where the mesh has them; they can be switched off in the window."""
    if mesh.visual.kind == "vertex":
        colours = np.asarray(mesh.visual.vertex_colors)[:, :3] / 255.0
        structure.add_color_quantity("colours", colours, defined_on="vertices", enabled=True)


def _read_mesh(path: Path) -> Any:
    try:
        return trimesh.load(path, process=False)
    except Exception as error:  # the reader raises many kinds
        raise RunError(f"{path}: damaged mesh ({error}); run `selfrecon infer` again") from error
