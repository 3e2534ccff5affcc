"""Debugging viewer of a run: meshes on a time slider, images in their camera, layers over them.

Everything is drawn in the viewer frame of the capture's camera: x right, y up, z towards the camera, metres. The
canonical mesh stands beside the posed one, and what belongs to canonical space stands there with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polyscope as ps
import polyscope.imgui as imgui
import trimesh

from selfrecon_warp.capture.ground_truth import GroundTruth, read_ground_truth
from selfrecon_warp.errors import CaptureError, RunError
from selfrecon_warp.motion.joints import JOINT_NAMES
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.view.layers import (
    camera_around,
    distance_to_truth,
    initial_body,
    ray_misses,
    sdf_slice,
    skinning_weights,
)
from selfrecon_warp.view.scene import InferredScene, LiveScene, Scene

LAYERS = ("body", "normals", "error", "weights", "slice", "misses", "cameras")
"""The body that came with the capture; normals; distance to ground truth; skinning weights of a joint; a slice of the
signed-distance field; rays that find no surface; the cameras as the person sees them."""
OF_A_FRAME = ("body", "normals", "error", "misses")
"""Layers that change with the frame."""
CANONICAL_OFFSET = 1.3
"""How far left of the posed mesh the canonical one stands [m]."""
IMAGE_DISTANCE = 0.6
"""How far behind the posed mesh its image hangs [m]; looked at through the camera the two coincide."""
PLAYBACK_FRAMES_PER_SECOND = 15.0
MOST_ERROR_CM = 3.0
SLICE_REACH_M = 0.1
FRUSTA, FRUSTUM_M = 12, 0.25
HEADLESS_BACKEND = "openGL3_egl"

Floats = npt.NDArray[np.float64]


def view_run(
    run: RunFolder,
    *,
    frame: int = 0,
    screenshot: Path | None = None,
    ground_truth: Path | None = None,
    layers: Sequence[str] = (),
    watch: bool = False,
) -> None:
    """Show a run in a window until it is closed, or draw one picture without a window.

    Args:
        run: A run that `selfrecon infer` has been through, or that has a checkpoint when watching.
        frame: Frame shown first.
        screenshot: Where to write the picture; a window opens when absent.
        ground_truth: The capture's ``gt`` folder, for the layer ``error``.
        layers: Names among ``LAYERS`` that are on from the start; ``error`` needs ground truth.
        watch: Show the fit's last checkpoint instead of the inferred meshes, and follow it as it changes.

    Raises:
        RunError: The run has no meshes yet or no such frame or layer, or no display can be opened.
        CaptureError: The capture of the run, or its ground truth, is gone or damaged.
    """
    unknown = [layer for layer in layers if layer not in LAYERS]
    if unknown:
        raise RunError(f"--layer {unknown[0]}: choose among {', '.join(LAYERS)}")
    if "error" in layers and ground_truth is None:
        raise RunError("--layer error: needs --ground-truth DIR to compare with")
    truth = None if ground_truth is None else read_ground_truth(ground_truth)
    scene: Scene = LiveScene(run) if watch else InferredScene(run)
    if not 0 <= frame < scene.frame_count:
        raise RunError(f"--frame {frame}: {run.path} has frames 0 to {scene.frame_count - 1}")
    _open_display(headless=screenshot is not None)
    shown = _Shown(scene, frame, truth, layers)
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

    def __init__(self, scene: Scene, frame: int, truth: GroundTruth | None, layers: Sequence[str]) -> None:
        self._scene, self._frame, self._truth = scene, frame, truth
        self._playing, self._clock, self._message = False, 0.0, ""
        self._on = {name: name in layers for name in LAYERS if name != "error" or truth is not None}
        self._joint, self._slice = 0, 0.5
        camera = scene.capture.camera
        self._from_world = np.diag([-1.0, 1.0, -1.0]) @ camera.rotation().detach().double().numpy().T
        self._centre = camera.centre().detach().double().numpy()
        self._register()
        self._camera = ps.register_camera_view("camera", self._camera_parameters(), widget_thickness=0.0004)
        depth = -self._vertices[:, 2].min()
        self._camera.set_widget_focal_length(depth + IMAGE_DISTANCE, relative=False)
        self._show_frame()
        for name, on in self._on.items():
            if on:
                self._update(name)
        target = self._middle + np.array([0.5 * CANONICAL_OFFSET, 0.0, 0.0])
        ps.look_at(target + np.array([0.9, 0.3, 3.2]), target)

    def draw_controls(self) -> None:
        """Sliders, buttons and layers; called by the window once per drawn picture."""
        if self._scene.refreshed():
            self._register()
            self._changed()
        last = self._scene.frame_count - 1
        changed, frame = imgui.SliderInt("frame", self._frame, 0, last)
        if imgui.Button("pause" if self._playing else "play"):
            self._playing = not self._playing
        if imgui.Button("look through the camera"):
            self._camera.set_view_to_this_camera(with_flight=True)
        if self._playing:
            self._clock += imgui.GetIO().DeltaTime * PLAYBACK_FRAMES_PER_SECOND
            steps, self._clock = int(self._clock), self._clock % 1.0
            changed, frame = changed or steps > 0, (frame + steps) % (last + 1)
        if changed:
            self._frame = frame
            self._changed()
        self._draw_layers()
        overlaps = self._scene.overlaps
        if overlaps:
            worst = int(np.argmin(overlaps))
            imgui.PlotLines(
                "IoU", overlaps, overlay_text=f"frame {worst}: {overlaps[worst]:.3f}", graph_size=(0.0, 60.0)
            )
        if self._message:
            imgui.TextUnformatted(self._message)

    def _draw_layers(self) -> None:
        """A box for every layer, and what it can be told."""
        for name, on in self._on.items():
            switched, self._on[name] = imgui.Checkbox(name, on)
            if switched:
                self._update(name)
        if self._on["weights"]:
            moved, self._joint = imgui.SliderInt("joint", self._joint, 0, len(JOINT_NAMES) - 1)
            imgui.TextUnformatted(JOINT_NAMES[self._joint])
            if moved:
                self._update("weights")
        if self._on["slice"]:
            moved, self._slice = imgui.SliderFloat("back to front", self._slice, 0.0, 1.0)
            if moved:
                self._update("slice")

    def _register(self) -> None:
        """Both meshes anew."""
        posed, canonical = self._scene.posed(self._frame), self._scene.canonical()
        self._world = np.asarray(posed.vertices, np.float64)
        self._faces, self._rest = np.asarray(posed.faces), np.asarray(canonical.vertices, np.float64)
        self._posed = ps.register_surface_mesh("posed", self._vertices, self._faces, smooth_shade=True)
        self._middle = self._vertices.mean(0) - np.array([CANONICAL_OFFSET, 0.0, 0.0])
        self._beside = self._middle - self._rest.mean(0)
        self._canonical = ps.register_surface_mesh(
            "canonical", self._rest + self._beside, canonical.faces, smooth_shade=True
        )
        _show_colours(self._posed, posed if posed.visual.kind == "vertex" else canonical)
        _show_colours(self._canonical, canonical)

    def _changed(self) -> None:
        """Show the frame that is now chosen."""
        self._world = np.asarray(self._scene.posed(self._frame).vertices, np.float64)
        self._posed.update_vertex_positions(self._vertices)
        self._show_frame()
        for name, on in self._on.items():
            if on and name in OF_A_FRAME:
                self._update(name)

    def _show_frame(self) -> None:
        image = self._scene.capture.load_image(self._frame) / 255.0
        self._camera.add_color_image_quantity("image", image, enabled=True, show_in_camera_billboard=True)

    def _update(self, name: str) -> None:
        """Draw a layer as it is now, or take it away; what it lacks is told in the window."""
        self._message = ""
        try:
            getattr(self, f"_layer_{name}")(self._on[name])
        except (RunError, CaptureError) as error:
            self._on[name] = False
            self._message = str(error)

    def _layer_body(self, on: bool) -> None:
        if not on:
            ps.remove_surface_mesh("given body", error_if_absent=False)
            return
        vertices, faces = initial_body(self._scene.fit, self._frame)
        mesh = ps.register_surface_mesh("given body", self._seen(vertices), faces, smooth_shade=True)
        mesh.set_transparency(0.5)

    def _layer_normals(self, on: bool) -> None:
        mesh = trimesh.Trimesh(self._vertices, self._faces, process=False)
        colours = (np.asarray(mesh.vertex_normals) + 1) / 2
        self._posed.add_color_quantity("normals", colours, defined_on="vertices", enabled=on)

    def _layer_error(self, on: bool) -> None:
        assert self._truth is not None
        distances = distance_to_truth(self._truth, self._frame, self._world)
        if distances is None:
            self._message = f"frame {self._frame} has no ground-truth mesh; {list(self._truth.meshes.frames)} have"
            distances = np.zeros(len(self._world), np.float32)
        self._posed.add_scalar_quantity(
            "error [cm]", 100 * distances, enabled=on, vminmax=(0.0, MOST_ERROR_CM), cmap="turbo"
        )

    def _layer_weights(self, on: bool) -> None:
        weights = skinning_weights(self._scene.fit, self._rest)[:, self._joint]
        self._canonical.add_scalar_quantity("weights", weights, enabled=on, vminmax=(0.0, 1.0), cmap="viridis")

    def _layer_slice(self, on: bool) -> None:
        if not on:
            ps.remove_surface_mesh("slice", error_if_absent=False)
            return
        cut = sdf_slice(self._scene.fit, self._slice)
        mesh = ps.register_surface_mesh("slice", cut.vertices + self._beside, cut.faces)
        limits = (-SLICE_REACH_M, SLICE_REACH_M)
        mesh.add_scalar_quantity(
            "signed distance [m]", cut.distances, enabled=True, vminmax=limits, cmap="coolwarm", isolines_enabled=True
        )

    def _layer_misses(self, on: bool) -> None:
        if not on:
            ps.remove_point_cloud("misses", error_if_absent=False)
            return
        points, tried = ray_misses(self._scene.fit, self._frame, self._rest, self._world, self._faces)
        self._message = f"{len(points)} of {tried} rays found no surface"
        ps.register_point_cloud("misses", self._seen(points), radius=0.0015, color=(0.9, 0.1, 0.1))

    def _layer_cameras(self, on: bool) -> None:
        count = self._scene.frame_count
        for frame in np.unique(np.linspace(0, count - 1, min(FRUSTA, count)).astype(int)).tolist():
            name = f"camera of frame {frame}"
            if not on:
                ps.remove_camera_view(name, error_if_absent=False)
                continue
            around = camera_around(self._scene.fit, frame)
            pinhole = ps.CameraExtrinsics(root=around.place + self._beside, look_dir=around.look, up_dir=around.up)
            view = ps.register_camera_view(name, ps.CameraParameters(self._intrinsics(), pinhole))
            view.set_widget_focal_length(FRUSTUM_M, relative=False)
            image = self._scene.capture.load_image(frame)[::4, ::4] / 255.0
            view.add_color_image_quantity("image", image, enabled=True, show_in_camera_billboard=True)

    @property
    def _vertices(self) -> Floats:
        return self._seen(self._world)

    def _seen(self, world: Floats) -> Floats:
        """World positions in the viewer's frame."""
        return np.asarray((world - self._centre) @ self._from_world.T)

    def _intrinsics(self) -> ps.CameraIntrinsics:
        height, width = self._scene.capture.image_size
        focal = float(self._scene.capture.camera.focal.detach()[1])
        field = float(np.degrees(2 * np.arctan(0.5 * height / focal)))
        return ps.CameraIntrinsics(fov_vertical_deg=field, aspect=width / height)

    def _camera_parameters(self) -> ps.CameraParameters:
        forward, up = np.array([0.0, 0.0, -1.0]), np.array([0.0, 1.0, 0.0])
        return ps.CameraParameters(
            self._intrinsics(), ps.CameraExtrinsics(root=np.zeros(3), look_dir=forward, up_dir=up)
        )


def _show_colours(structure: ps.SurfaceMesh, mesh: Any) -> None:
    """Vertex colours, where the mesh has them; they can be switched off in the window."""
    if mesh.visual.kind == "vertex":
        colours = np.asarray(mesh.visual.vertex_colors)[:, :3] / 255.0
        structure.add_color_quantity("colours", colours, defined_on="vertices", enabled=True)
