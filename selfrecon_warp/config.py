"""What a fit can be told: one frozen class per part, each field with its unit. Files and overrides: ``config_io``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

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


class OffsetConfig(Section):
    """Learned per-frame displacement inside canonical space."""

    type: Literal["basis", "mlp"] = Field("basis", description="mixed basis fields, or the paper's perceptron")
    code_length: int = Field(16, ge=1, description="length of the per-frame code z")
    width: int = Field(64, ge=1, description="hidden units")
    depth: int = Field(2, ge=1, description="hidden layers")
    bands: int = Field(4, ge=0, description="octaves of the position encoding")
    anneal_iterations: int = Field(300, ge=1, description="iterations until every octave is switched on")


class AppearanceConfig(Section):
    """Colour of the surface."""

    type: Literal["grid", "mlp"] = Field("grid", description="feature grid, or the paper's perceptron")
    grid: GridConfig = GridConfig(levels=8, finest_cell=0.004, log2_size=16, width=32)
    width: int = Field(512, ge=8, description="hidden units of the perceptron")
    depth: int = Field(4, ge=1, description="hidden layers of the perceptron")


class ModelConfig(Section):
    """The learned parts, and the static skinning volume."""

    sdf: SdfConfig = SdfConfig()
    offset: OffsetConfig = OffsetConfig()
    appearance: AppearanceConfig = AppearanceConfig()
    canonical_pose: Literal[0, 1] = Field(
        1, description="A-pose: 0 hips 10, shoulders 45; 1 hips 7, shoulders 55 [degrees]"
    )
    margin: tuple[float, float, float] = Field((0.15, 0.15, 0.2), description="canonical box beyond the body [m]")
    skinning_cell: float = Field(0.025, gt=0, description="voxel edge of the skinning volume [m]")
    skinning_at_offset: bool = Field(False, description="look weights up at the offset point, as the paper does")


class RegistrationConfig(Section):
    """Whole-sequence Gauss-Newton on poses, translations and body shape; sigmas are one standard deviation."""

    body_sweeps: int = Field(7, ge=0, description="sweeps on the naked body, before there is a clothed surface")
    rigid_body_sweeps: int = Field(3, ge=0, description="how many of them leave body shape and joints alone")
    body_contour_count: float = Field(30.0, ge=0, description="as contour_count, while the surface is the naked body")
    contour_scale_px: float = Field(3.0, gt=0, description="Geman-McClure scale of the contour term [px]")
    normal_scale: float = Field(0.4, gt=0, description="Geman-McClure scale of the normal term")
    colour_scale: float = Field(0.1, gt=0, description="Geman-McClure scale of the colour term")
    contour_px: float = Field(1.5, gt=0, description="silhouette against contour [px]")
    contour_count: float = Field(150.0, ge=0, description="independent silhouette measurements a frame counts as")
    normal: float = Field(0.2, gt=0, description="difference of unit normals")
    normal_count: float = Field(150.0, ge=0, description="independent normal measurements a frame counts as")
    colour: float = Field(0.05, gt=0, description="difference of band-passed colours in [0, 1]")
    colour_count: float = Field(150.0, ge=0, description="independent colour measurements a frame counts as")
    acceleration_m: float = Field(
        0.004, gt=0, description="second difference of bone markers, at 3 degrees of turn a frame [m]"
    )
    pose_degrees: float = Field(3.0, gt=0, description="distance of joint rotations to the given ones [degrees]")
    trans_m: float = Field(0.03, gt=0, description="distance of translations to the given ones [m]")
    shape: float = Field(0.3, gt=0, description="distance of shape coefficients to the given ones")
    joint_m: float = Field(0.003, gt=0, description="distance of rest joints to the body model's [m]")
    samples: int = Field(500, ge=1, description="pixels a frame for normals and colours")


class InitConfig(Section):
    """First shape of the canonical field."""

    shape: Literal["body", "hull"] = Field("hull", description="naked body, or visual hull joined with it")
    cell: float = Field(0.016, gt=0, description="lattice cell of the first shape [m]")
    frames: int = Field(60, ge=1, description="frames whose masks carve the hull, at most")
    outside_share: float = Field(0.12, ge=0, lt=1, description="share of frames that may see a hull point outside")
    iterations: int = Field(1200, ge=0, description="steps that fit a perceptron field to the first shape")


class LossConfig(Section):
    """Weights; zero switches a term off."""

    contour: float = Field(1.0, ge=0, description="distance between silhouette edges and mask contours")
    contour_scale_px: float = Field(3.0, gt=0, description="Geman-McClure scale of the contour term [px]")
    mask: float = Field(0.5, ge=0, description="soft intersection over union")
    consistency: float = Field(0.1, ge=0, description="length of the learned offset")
    consistency_scale: float = Field(0.02, gt=0, description="Geman-McClure scale of the consistency term [m]")
    pull: float = Field(60.0, ge=0, description="field value at the explicit vertices")
    colour: float = Field(0.5, ge=0, description="L1 colour difference, three channels summed")
    normal: float = Field(1.0, ge=0, description="pulled-back normal difference")
    eikonal: float = Field(0.1, ge=0, description="unit gradient of the field")
    rigidity: float = Field(0.1, ge=0, description="log singular values of the offset's Jacobian")
    rigidity_scale: float = Field(0.5, gt=0, description="Geman-McClure scale of the rigidity term")
    temporal: float = Field(1.0, ge=0, description="high-frequency motion of the joints [per metre]")


class StageConfig(Section):
    """One stage of the schedule."""

    name: str = Field(description="name shown in progress, logs and overrides")
    iterations: int = Field(ge=0, description="optimiser steps")
    frames_per_step: int = Field(4, ge=1, description="frames in one batch, B")
    cell: float = Field(0.016, gt=0, description="cell edge of the extraction lattice [m]")
    remesh_period: int = Field(30, ge=1, description="iterations between extractions")
    rays: int = Field(1024, ge=1, description="pixels per frame and step")
    solve_steps: int = Field(2, ge=1, description="Gauss-Newton steps per ray at most")
    registration_period: int = Field(0, ge=0, description="iterations between registration sweeps; 0 for none")
    losses: LossConfig = LossConfig()


class OptimiserConfig(Section):
    """Learning rates."""

    grid: float = Field(2e-2, gt=0, description="feature tables")
    network: float = Field(4e-3, gt=0, description="network weights")
    codes: float = Field(2e-3, ge=0, description="per-frame codes")
    poses: float = Field(5e-5, ge=0, description="joint rotations, beside registration [rad]")
    trans: float = Field(5e-5, ge=0, description="translations, beside registration [m]")
    camera: float = Field(3e-3, ge=0, description="camera parameters named in camera_terms [px], [m]")
    vertices: float = Field(1e-3, gt=0, description="explicit vertices [m]")
    smoothing: int = Field(10, ge=0, description="passes that smooth the explicit vertices' gradient")
    camera_terms: tuple[Literal["focal", "principal", "quat", "T"], ...] = Field(
        ("focal", "principal"), description="refined"
    )
    final_factor: float = Field(0.1, gt=0, le=1, description="learning rates at the end, by the start's")


class Config(Section):
    """Everything a fit depends on besides the capture and the body model."""

    seed: int = Field(0, ge=0, description="seed of every random number")
    model: ModelConfig = ModelConfig()
    registration: RegistrationConfig = RegistrationConfig()
    init: InitConfig = InitConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    output_cell: float = Field(0.008, gt=0, description="cell edge of the lattice that brings out the final mesh [m]")
    stages: list[StageConfig] = Field(min_length=1, description="schedule, in order")


def load_config(name_or_path: str | Path = "fast", overrides: Sequence[str] = ()) -> Config:
    """Read a packaged configuration by name, or a YAML file, and apply ``path.to.key=value`` overrides.

    Raises:
        ConfigError: File, key or value not understood; the message names file and line, key and nearest valid name.
    """
    return load_section(Config, name_or_path, overrides)
