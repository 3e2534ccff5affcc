"""What a fit can be told: one frozen class per part, each field with its unit. Files and overrides: ``config_io``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from selfrecon_warp.config_io import Section, load_section


class GridConfig(Section):
    """A multiresolution feature grid and the small network behind it."""

    levels: int = Field(10, ge=1, description="levels of the grid")
    features: int = Field(2, ge=1, description="features per level")
    coarsest_cell: float = Field(0.16, gt=0, description="cell edge of the first level [m]")
    finest_cell: float = Field(0.006, gt=0, description="cell edge of the last level [m]")
    log2_size: int = Field(15, ge=4, le=24, description="table rows per level, as a power of two")
    width: int = Field(32, ge=1, description="hidden units of the network behind the grid")


class SdfConfig(Section):
    """Canonical signed-distance field."""

    type: Literal["grid", "mlp"] = Field("grid", description="compact feature grid, or the paper's perceptron")
    grid: GridConfig = GridConfig()
    width: int = Field(512, ge=8, description="hidden units of the perceptron")
    depth: int = Field(8, ge=2, description="hidden layers of the perceptron")
    bands: int = Field(6, ge=0, description="octaves of the perceptron's position encoding")
    feature_size: int = Field(256, ge=1, description="length of the feature the perceptron hands to the colours")

    @model_validator(mode="after")
    def _room_for_the_skip(self) -> SdfConfig:
        encoded = 3 + 6 * self.bands
        if self.type == "mlp" and self.width <= encoded:
            raise ValueError(f"width must exceed the {encoded} inputs that join it half-way, got {self.width}")
        return self


class OffsetConfig(Section):
    """Learned per-frame displacement inside canonical space."""

    type: Literal["basis", "mlp"] = Field("basis", description="mixed basis fields, or the paper's perceptron")
    code_length: int = Field(16, ge=1, description="length of the per-frame code z")
    width: int = Field(64, ge=1, description="hidden units")
    depth: int = Field(2, ge=1, description="hidden layers")
    bands: int = Field(4, ge=0, description="octaves of the position encoding")
    anneal_iterations: int = Field(300, ge=1, description="iterations until every octave is switched on")
    anneal_start: float = Field(0.5, ge=0, le=1, description="share of the octaves that is on at the start")


class AppearanceConfig(Section):
    """Colour of the surface."""

    type: Literal["grid", "mlp"] = Field("grid", description="feature grid, or the paper's perceptron")
    grid: GridConfig = GridConfig(levels=8, finest_cell=0.004, log2_size=16, width=32)
    width: int = Field(512, ge=8, description="hidden units of the perceptron")
    depth: int = Field(4, ge=1, description="hidden layers of the perceptron")
    inputs: Literal["full", "no_view", "no_normal"] = Field("full", description="what the colours may depend on")
    code_length: int = Field(0, ge=0, description="length of a per-frame code for the colours; 0 for none")


class ModelConfig(Section):
    """The learned parts, and the static skinning volume."""

    sdf: SdfConfig = SdfConfig()
    offset: OffsetConfig = OffsetConfig()
    appearance: AppearanceConfig = AppearanceConfig()
    canonical_pose: Literal[0, 1] = Field(
        1, description="A-pose: 0 hips 10, shoulders 45; 1 hips 7, shoulders 55 [degrees]"
    )
    margin: tuple[float, float, float] = Field((0.15, 0.15, 0.2), description="canonical box beyond the body [m]")
    box: tuple[tuple[float, float, float], tuple[float, float, float]] | None = Field(
        None, description="lower and upper corner of the canonical box [m]; null for the body's with the margin"
    )
    skinning_cell: float = Field(0.025, gt=0, description="voxel edge of the skinning volume [m]")
    skinning_resolution: tuple[int, int, int] | None = Field(
        None, description="voxels of the skinning volume along x, y, z; null where skinning_cell says it"
    )
    skinning_neighbours: int = Field(10, ge=1, description="body vertices that a voxel of that volume averages")
    skinning_smoothing: int = Field(1, ge=0, description="passes that smooth it")
    skinning_at_offset: bool = Field(False, description="look weights up at the offset point, as the paper does")
    open_hems: bool = Field(True, description="the body model's legs under skirts, in place of a lid across the hem")
    body_hands: bool = Field(
        True, description="the body model's hands, fitted, in place of the surface's, unless the masks speak against it"
    )


class RegistrationConfig(Section):
    """Whole-sequence Gauss-Newton on poses, translations and body shape; sigmas are one standard deviation."""

    body_sweeps: int = Field(7, ge=0, description="sweeps on the naked body, before there is a clothed surface")
    rigid_body_sweeps: int = Field(3, ge=0, description="how many of them leave body shape and joints alone")
    body_contour_count: float = Field(30.0, ge=0, description="as contour_count, while the surface is the naked body")
    body_contour_inside: float = Field(
        0.1, ge=0, le=1, description="as contour_inside, while the surface is the naked body, which clothes widen"
    )
    body_normal_scale: float = Field(
        0.12, gt=0, description="as normal_scale, while the surface is the naked body: cloth has other normals"
    )
    contour_inside: float = Field(
        1.0, ge=0, le=1, description="trust in outlines that lie inside the mask, by that in outlines outside of it"
    )
    contour_scale_px: float = Field(3.0, gt=0, description="Geman-McClure scale of the contour term [px]")
    normal_scale: float = Field(0.4, gt=0, description="Geman-McClure scale of the normal term")
    colour_scale: float = Field(0.1, gt=0, description="Geman-McClure scale of the colour term")
    contour_px: float = Field(1.5, gt=0, description="silhouette against contour [px]")
    contour_count: float = Field(150.0, ge=0, description="independent silhouette measurements a frame counts as")
    normal: float = Field(0.2, gt=0, description="difference of unit normals")
    normal_count: float = Field(150.0, ge=0, description="independent normal measurements a frame counts as")
    colour: float = Field(0.05, gt=0, description="difference of band-passed colours in [0, 1]")
    colour_points: int = Field(4000, ge=1, description="points of the surface whose colours are compared")
    colour_count: float = Field(150.0, ge=0, description="independent colour measurements a frame counts as")
    acceleration_m: float = Field(
        0.008, gt=0, description="second difference of bone markers, at 3 degrees of turn a frame [m]"
    )
    pose_degrees: float = Field(3.0, gt=0, description="distance of joint rotations to the given ones [degrees]")
    usual_spread: float | None = Field(
        1.0, gt=0, description="distance of joint rotations to their mean, by the given ones' to theirs; null for none"
    )
    trans_m: float = Field(0.03, gt=0, description="distance of translations to the given ones [m]")
    shape: float = Field(0.3, gt=0, description="distance of shape coefficients to the given ones")
    joint_m: float = Field(0.003, gt=0, description="distance of rest joints to the body model's [m]")
    bump_spacing: float | None = Field(
        0.05, gt=0, description="distance of the bumps that shape the surface beside the poses [m]; null for none"
    )
    bump_m: float = Field(0.05, gt=0, description="height of a bump in one sweep [m]")
    samples: int = Field(500, ge=1, description="pixels a frame for normals and colours")


class InitConfig(Section):
    """First shape of the canonical field."""

    shape: Literal["body", "hull", "surface"] = Field(
        "hull", description="naked body, visual hull joined with it, or the paper's fit to the body's surface points"
    )
    cell: float = Field(0.016, gt=0, description="lattice cell of the first shape [m]")
    frames: int = Field(60, ge=1, description="frames whose masks carve the hull, at most")
    outside_share: float = Field(0.12, ge=0, lt=1, description="share of frames that may see a hull point outside")
    iterations: int = Field(1200, ge=0, description="passes that fit a perceptron field to the first shape")
    cache: bool = Field(True, description="keep a perceptron's first shape for the next fit of the same body")


class LossConfig(Section):
    """Weights; zero switches a term off."""

    contour: float = Field(1.0, ge=0, description="distance between silhouette edges and mask contours")
    contour_scale_px: float = Field(3.0, gt=0, description="Geman-McClure scale of the contour term [px]")
    mask: float = Field(0.5, ge=0, description="soft intersection over union")
    consistency: float = Field(0.1, ge=0, description="length of the learned offset")
    consistency_scale: float | None = Field(
        0.02, gt=0, description="Geman-McClure scale of the consistency term [m]; null for its plain square"
    )
    laplacian: float = Field(0.0, ge=0, description="uniform Laplacian of the explicit mesh")
    edge: float = Field(0.0, ge=0, description="squared edge length of the explicit mesh")
    normal_consistency: float = Field(0.0, ge=0, description="angle between faces of the explicit mesh")
    pull: float = Field(60.0, ge=0, description="field value at the explicit vertices")
    colour: float = Field(0.5, ge=0, description="L1 colour difference, three channels summed")
    normal: float = Field(1.0, ge=0, description="pulled-back normal difference")
    eikonal: float = Field(0.1, ge=0, description="unit gradient of the field")
    rigidity: float = Field(0.1, ge=0, description="log singular values of the offset's Jacobian")
    rigidity_scale: float = Field(0.5, gt=0, description="Geman-McClure scale of the rigidity term")
    offset: float = Field(0.0, ge=0, description="length of the learned offset at the rays' points [per metre]")
    temporal: float = Field(1.0, ge=0, description="high-frequency motion of the joints [per metre]")


class StageConfig(Section):
    """One stage of the schedule."""

    name: str = Field(description="name shown in progress, logs and overrides")
    iterations: int | None = Field(None, ge=0, description="optimiser steps at most")
    epochs: int | None = Field(None, ge=0, description="passes over all frames at most")
    frames_per_step: int = Field(4, ge=1, description="frames in one batch, B")
    cell: float = Field(0.016, gt=0, description="cell edge of the extraction lattice [m]")
    resolution: tuple[int, int, int] | None = Field(
        None, description="nodes of the extraction lattice along x, y, z; null where cell says it"
    )
    shrink: float = Field(0.0, description="the surface is where the field is minus this [m]")
    splat_radius: float = Field(
        0.006, gt=0, description="radius of the points of a splatted silhouette, by half the shorter image side"
    )
    remesh_period: int = Field(30, ge=1, description="iterations between extractions")
    rays: int = Field(1024, ge=1, description="pixels per frame and step")
    solve_steps: int = Field(2, ge=1, description="Gauss-Newton steps per ray at most")
    registration_period: int = Field(0, ge=0, description="iterations between registration sweeps; 0 for none")
    losses: LossConfig = LossConfig()

    @model_validator(mode="after")
    def _some_length(self) -> StageConfig:
        if self.iterations is None and self.epochs is None:
            raise ValueError("must give iterations, epochs, or both (the shorter counts)")
        return self

    def steps(self, frame_count: int) -> int:
        """Optimiser steps on a capture of that many frames."""
        per_epoch = -(-frame_count // self.frames_per_step)
        lengths = [self.iterations, None if self.epochs is None else self.epochs * per_epoch]
        return min(length for length in lengths if length is not None)


class MethodConfig(Section):
    """Which form of each part the fit uses; ``docs/departures.md`` tells the published form of each, and why."""

    silhouette: Literal["antialiased", "splat"] = Field(
        "antialiased", description="mask of the explicit mesh: its anti-aliased outline, or the paper's point splats"
    )
    splats_per_pixel: int = Field(50, ge=1, description="nearest points a splatted pixel blends")
    posed_consistency: bool = Field(
        False, description="measure the offset's length in the world, after skinning, as the paper does"
    )
    dilate_masks: bool = Field(False, description="widen the target masks by what splats stand out, as the paper does")
    vertex_optimiser: Literal["smoothed", "sgd"] = Field(
        "smoothed", description="explicit vertices: smoothed adaptive steps, or the paper's SGD with momentum 0.9"
    )
    solver: Literal["gauss_newton", "polyak"] = Field(
        "gauss_newton", description="ray intersection: Gauss-Newton, or the paper's gradient step"
    )
    distance_tolerance: float = Field(1e-3, gt=0, description="field value at which a ray has converged [m]")
    angle_tolerance: float = Field(4.0, gt=0, description="angle off the ray at which it has converged [half pixels]")
    implicit_gradient: bool = Field(True, description="let the rays' points move with every parameter")
    follow_points: bool = Field(
        False,
        description="let that gradient see a perceptron's feature and normal and the deformation's Jacobian change "
        "where the points move, not their position alone",
    )
    published_scales: bool = Field(
        False,
        description="colours' differences on a range of 2, weighted normals by their number and not by their weights",
    )
    view_gradient: bool = Field(False, description="let the colours move the deformation through the view direction")
    pulled_vertices: int | None = Field(4096, ge=1, description="explicit vertices of the pull term; null for all")
    regularised_vertices: int = Field(
        0, ge=0, description="random vertices that join the rays' points in eikonal and rigidity terms"
    )
    jittered_rigidity: bool = Field(False, description="also ask for rigidity at points 0.01 m off the surface")
    eikonal_box: float | None = Field(
        None, gt=0, description="half side of the cube of the eikonal's far points [m]; null for the canonical box"
    )
    eikonal_share: float = Field(0.5, gt=0, le=1, description="share of the rays' points the eikonal term looks at")
    temporal_window: int = Field(30, ge=2, description="frames of a window of the temporal term")
    temporal_kept: int = Field(10, ge=1, description="slow cosines of a window the temporal term leaves free")
    temporal_translation: bool = Field(True, description="smooth translations too; the paper smooths poses alone")
    weighted_normals: bool = Field(True, description="trust observed normals by the squared cosine to the viewer")
    lean: bool = Field(
        False, description="the same losses from fewer evaluations: lean_vertices and lean_points of those they ask for"
    )
    lean_vertices: int = Field(
        16384, ge=1, description="explicit vertices, at most, that a lean iteration lets silhouettes move and pulls"
    )
    lean_points: int = Field(
        4096, ge=1, description="points of a lean iteration's consistency, eikonal and rigidity terms"
    )
    tf32: bool = Field(False, description="on a GPU, multiply matrices in TF32 except where rays are solved")
    deferred_switch: bool = Field(
        False, description="a stage's losses, radius and lattice wait for the next extraction, as in the paper"
    )


class OptimiserConfig(Section):
    """Learning rates."""

    grid: float = Field(2e-2, gt=0, description="feature tables")
    network: float = Field(4e-3, gt=0, description="network weights")
    appearance: float | None = Field(
        None, gt=0, description="network weights of the colours; null for the rate of the others"
    )
    codes: float = Field(2e-3, ge=0, description="per-frame codes")
    poses: float = Field(5e-5, ge=0, description="joint rotations, beside registration [rad]")
    trans: float = Field(5e-5, ge=0, description="translations, beside registration [m]")
    camera: float = Field(3e-3, ge=0, description="camera parameters named in camera_terms [px], [m]")
    vertices: float = Field(1e-3, gt=0, description="explicit vertices [m], or their SGD's rate")
    smoothing: int = Field(10, ge=0, description="passes that smooth the explicit vertices' gradient")
    camera_terms: tuple[Literal["focal", "principal", "quat", "T"], ...] = Field(
        ("focal", "principal"), description="refined"
    )
    final_factor: float = Field(0.1, gt=0, le=1, description="learning rates at the end, by the start's")
    milestones: tuple[int, ...] = Field((), description="epochs at which the rates drop; empty for a steady decline")
    milestone_factor: float = Field(0.333, gt=0, le=1, description="what the rates are multiplied by at a milestone")
    betas: tuple[float, float] = Field((0.9, 0.99), description="Adam's memory of gradients and of their squares")
    eps: float = Field(1e-12, gt=0, description="Adam's guard against division by zero")


class Config(Section):
    """Everything a fit depends on besides the capture and the body model."""

    seed: int = Field(0, ge=0, description="seed of every random number")
    model: ModelConfig = ModelConfig()
    method: MethodConfig = MethodConfig()
    registration: RegistrationConfig = RegistrationConfig()
    init: InitConfig = InitConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    output_cell: float = Field(0.008, gt=0, description="cell edge of the lattice that brings out the final mesh [m]")
    debug: bool = Field(False, description="leave each extraction's meshes, masks and pictures in the run's debug/")
    stages: list[StageConfig] = Field(min_length=1, description="schedule, in order")


def load_config(name_or_path: str | Path = "fast", overrides: Sequence[str] = ()) -> Config:
    """Read a packaged configuration by name, or a YAML file, and apply ``path.to.key=value`` overrides.

    Raises:
        ConfigError: File, key or value not understood; the message names file and line, key and nearest valid name.
    """
    return load_section(Config, name_or_path, overrides)
