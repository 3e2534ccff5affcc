"""Everything that a fit moves, in one module: body, camera, poses, codes, field, deformation, colours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.config import ModelConfig
from selfrecon_warp.errors import ConfigError
from selfrecon_warp.kernels.weight_field import build_weight_field
from selfrecon_warp.model.appearance import Appearance, GridAppearance, MlpAppearance
from selfrecon_warp.model.body import BodyModel, CanonicalBody, hand_places
from selfrecon_warp.model.deformation import BasisOffset, Deformation, MlpOffset, Offset, smooth_codes
from selfrecon_warp.model.sdf import CanonicalSdf, GridSdf, MlpSdf


class Avatar(nn.Module):
    """One person of one capture.

    Args:
        config: Sizes and kinds of the learned parts.
        body: Body model; not optimised.
        camera: Camera shared by all frames.
        poses: Axis-angle [rad], ``[N, J, 3]``.
        trans: Translations [m], ``[N, 3]``.
        betas: Shape coefficients, ``[K]``.
        joint_offsets: Correction of the rest joints [m], ``[J, 3]``.
        skinning_volume: Skinning weights around the canonical body, ``[X, Y, Z, J]``; built from the body when absent.

    Attributes:
        hand_moves: How the body's hands are moved in canonical space, left and right, ``[2, 4, 4]`` similarities.
    """

    betas: Tensor
    joint_offsets: Tensor
    lower: Tensor
    upper: Tensor
    hand_moves: Tensor

    def __init__(
        self,
        config: ModelConfig,
        body: BodyModel,
        camera: Camera,
        poses: Tensor,
        trans: Tensor,
        betas: Tensor,
        joint_offsets: Tensor,
        skinning_volume: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.body = body
        self.camera = camera
        self.poses = nn.Parameter(poses.clone())
        self.trans = nn.Parameter(trans.clone())
        self.register_buffer("betas", betas.clone())
        self.register_buffer("joint_offsets", joint_offsets.clone())
        self.register_buffer("hand_moves", torch.eye(4).to(betas).repeat(2, 1, 1))
        canonical = self.canonical_body()
        lower, upper = _box(config, canonical.vertices)
        self.register_buffer("lower", lower)
        self.register_buffer("upper", upper)
        if skinning_volume is None:
            x, y, z = config.skinning_resolution or ((upper - lower) / config.skinning_cell).round().int().tolist()
            nearest, passes = config.skinning_neighbours, config.skinning_smoothing
            skinning_volume = build_weight_field(
                canonical.vertices, canonical.weights, lower, upper, (x, y, z), nearest, passes
            )
        self.codes = nn.Parameter(smooth_codes(len(poses), config.offset.code_length).to(poses))
        self.colour_codes = nn.Parameter(smooth_codes(len(poses), config.appearance.code_length).to(poses))
        self.deformation = Deformation(
            _offset(config),
            skinning_volume,
            self.lower,
            self.upper,
            config.skinning_at_offset,
            hand_places(canonical) if config.body_hands else None,
        ).to(poses.device)
        self.sdf = _sdf(config, self.lower, self.upper).to(poses.device)
        self.appearance = _appearance(config, self.lower, self.upper, self.sdf.feature_size).to(poses.device)

    @classmethod
    def from_state(cls, config: ModelConfig, body: BodyModel, camera: Camera, state: dict[str, Tensor]) -> Avatar:
        """Rebuild an avatar from what :meth:`fitted_state` returned."""
        given = (state[name] for name in ("poses", "trans", "betas", "joint_offsets", "deformation.weights"))
        avatar = cls(config, body, camera, *given)
        if isinstance(avatar.sdf, GridSdf):
            avatar.sdf.set_base(state["sdf.base"][..., 0])
        held = {f"body.{name}": tensor for name, tensor in body.state_dict().items()}
        avatar.load_state_dict({**held, **state})
        return avatar

    def fitted_state(self) -> dict[str, Tensor]:
        """Everything a fit found, the body model's own arrays left out."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("body.")}

    @property
    def hands_worn(self) -> Tensor:
        """Whether the surface wears the body's hands, left and right, ``[2]`` bool; ``[0]`` where they are ruled out.

        See ``surface/hands.py``.
        """
        return self.deformation.hands_worn

    def canonical_body(self) -> CanonicalBody:
        """The naked body in the canonical pose, at the current shape."""
        return self.body.canonical(self.betas, self.config.canonical_pose, self.joint_offsets)

    def bones(self, frames: Tensor) -> Tensor:
        """World-from-canonical bones ``[B, J, 4, 4]`` of frames ``[B]``; differentiable in poses and translations."""
        return self.body.bones(self.poses[frames], self.trans[frames], None, self.canonical_body())

    def joints(self, with_translation: bool = True) -> Tensor:
        """World joints of every frame [m], ``[N, J, 3]``, or those of bodies left at the origin; differentiable."""
        _, joints = self.body.shaped(self.betas)
        trans = self.trans if with_translation else torch.zeros_like(self.trans)
        return self.body.posed_joints(self.poses, trans, joints + self.joint_offsets)

    def colours(
        self, points: Tensor, directions: Tensor, normals: Tensor, feature: Tensor, frame_index: Tensor | None = None
    ) -> Tensor:
        """Colours in [0, 1] ``[P, 3]`` of canonical points, see ``Appearance``.

        Args:
            points: Canonical positions [m], ``[P, 3]``.
            directions: Unit viewing directions in canonical space, ``[P, 3]``.
            normals: Canonical unit normals, ``[P, 3]``.
            feature: The field's descriptor, ``[P, C]``.
            frame_index: Frame whose light it is, ``[P]``; the mean over all frames when absent.
        """
        codes = None
        if self.config.appearance.code_length:
            mean = self.colour_codes.mean(0).expand(len(points), -1)
            codes = mean if frame_index is None else self.colour_codes[frame_index]
        colours: Tensor = self.appearance(points, directions, normals, feature, codes)
        return colours

    def anneal(self, iteration: int) -> None:
        """Fade in the frequency bands of the offset network as far as they are on in an iteration."""
        offset = self.config.offset
        done = min(iteration / offset.anneal_iterations, 1.0)
        self.deformation.offset.progress = offset.anneal_start + (1.0 - offset.anneal_start) * done


def _box(config: ModelConfig, vertices: Tensor) -> tuple[Tensor, Tensor]:
    """Corners of the canonical box around the canonical body's vertices ``[V, 3]``."""
    if config.box is not None:
        lower, upper = vertices.new_tensor(config.box)
        if not bool((upper > lower).all()):
            raise ConfigError(f"model.box: the upper corner must exceed the lower on every axis, got {config.box}")
        return lower, upper
    margin = vertices.new_tensor(config.margin)
    return vertices.amin(0) - margin, vertices.amax(0) + margin


def _offset(config: ModelConfig) -> Offset:
    offset = config.offset
    kind = BasisOffset if offset.type == "basis" else MlpOffset
    return kind(offset.code_length, offset.width, offset.depth, offset.bands)


def _sdf(config: ModelConfig, lower: Tensor, upper: Tensor) -> CanonicalSdf:
    sdf = config.sdf
    if sdf.type == "mlp":
        return MlpSdf(sdf.width, sdf.depth, sdf.bands, sdf.feature_size)
    return GridSdf(lower, upper, **sdf.grid.model_dump())


def _appearance(config: ModelConfig, lower: Tensor, upper: Tensor, feature_size: int) -> Appearance:
    appearance = config.appearance
    if appearance.type == "mlp":
        return MlpAppearance(
            feature_size,
            appearance.width,
            appearance.depth,
            inputs=appearance.inputs,
            code_length=appearance.code_length,
        )
    return GridAppearance(
        lower,
        upper,
        feature_size,
        **appearance.grid.model_dump(),
        inputs=appearance.inputs,
        code_length=appearance.code_length,
    )
