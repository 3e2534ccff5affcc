"""The fit: registration of the body, first shape, then the staged loop of explicit and implicit branch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from selfrecon_warp.capture.dataset import Capture
from selfrecon_warp.config import Config, StageConfig
from selfrecon_warp.errors import RunError
from selfrecon_warp.kernels.sparse_grid import GridWorkspace
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.model.body import BodyModel
from selfrecon_warp.model.sdf import GridSdf
from selfrecon_warp.surface.extraction import CanonicalMesh, extract_mesh, lattice
from selfrecon_warp.surface.hands import with_hands
from selfrecon_warp.surface.mesh import vertex_normals
from selfrecon_warp.train.bumps import make_bumps
from selfrecon_warp.train.checkpoint import LATEST, load_checkpoint, save_checkpoint
from selfrecon_warp.train.debug import dump_extraction
from selfrecon_warp.train.explicit import ExplicitMesh
from selfrecon_warp.train.hand_choice import choose_hands
from selfrecon_warp.train.initialisation import RAISED_WITHIN_M, fit_first_shape, heights_near, raise_surface
from selfrecon_warp.train.kinematics import Poses
from selfrecon_warp.train.observations import Observations, observe_capture
from selfrecon_warp.train.progress import FitInterrupted, FitProgress, StageProgress
from selfrecon_warp.train.registration import Registration, RegistrationSurface, Sweep, body_surface
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.train.step import fit_step

BODY_SCALES_PX = (8.0, 6.0, 4.0)
"""Geman-McClure scales of the first sweeps on the naked body; the last stays."""
FLOATER_SHARE = 0.05
"""Pieces of the canonical surface smaller than this share of the largest are dropped."""
SAVE_EVERY = 100
"""Iterations between checkpoints."""


class Fit:
    """State of one fit between two iterations, and the moves that advance it.

    Args:
        capture: The opened capture.
        body: Body model.
        config: Settings.
        device: Where everything lives.

    Attributes:
        iteration: Steps done.
        epoch: Passes over the frames done.
        waiting: Frames of this pass that still wait for their turn, ``[M]``.
        standing: Stage whose extraction the explicit mesh is, and the iterations it stands; ``None`` without a mesh.
    """

    avatar: Avatar
    mesh: ExplicitMesh
    optimiser: torch.optim.Optimizer

    def __init__(self, capture: Capture, body: BodyModel, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.body = body.to(device)
        self.camera = copy.deepcopy(capture.camera).to(device)
        self.clips = list(capture.clips)
        self.observations: Observations = observe_capture(capture, device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.workspaces: dict[tuple[int, int, int], GridWorkspace] = {}
        self.iteration = 0
        self.epoch = 0.0
        self.waiting = torch.zeros(0, dtype=torch.long)
        self.standing: tuple[int, int] | None = None
        offsets = torch.zeros(body.joint_count, 3, device=device)
        self.given = Poses(capture.poses.to(device), capture.trans.to(device), capture.betas.to(device), offsets)
        self.registration = Registration(
            self.body,
            self.camera,
            self.observations,
            self.given,
            self.clips,
            config.registration,
            config.model.canonical_pose,
        )

    @property
    def total(self) -> int:
        """Iterations of all stages."""
        return sum(self.lengths)

    @property
    def lengths(self) -> list[int]:
        """Iterations of each stage on this capture."""
        return [stage.steps(self.observations.frame_count) for stage in self.config.stages]

    def place(self) -> tuple[int, int]:
        """Index of the next iteration's stage, and the iterations done in it."""
        done = self.iteration
        for index, length in enumerate(self.lengths):
            if done < length:
                return index, done
            done -= length
        return len(self.lengths) - 1, self.lengths[-1]

    def prepare(self, progress: FitProgress) -> None:
        """Register the naked body, build the avatar around it, and bring the field to its first shape."""
        torch.manual_seed(self.config.seed)
        estimate = self.given
        for sweep in range(self.config.registration.body_sweeps):
            progress.phase(f"registering the body {sweep + 1}/{self.config.registration.body_sweeps}")
            moved = self._body_sweep(estimate, sweep)
            estimate = moved.estimate
            progress.event("body_registration", **moved.figures)
        self.registration.anchor = estimate
        progress.phase("first shape")
        self.avatar = Avatar(
            self.config.model,
            self.body,
            self.camera,
            estimate.poses,
            estimate.trans,
            estimate.betas,
            estimate.joint_offsets,
        )
        cached = fit_first_shape(self.avatar, self.observations, self.config.init, self.generator, self.config.seed)
        progress.event("first_shape", cached=float(cached))
        self._make_optimiser()

    def _body_sweep(self, estimate: Poses, sweep: int) -> Sweep:
        settings = self.config.registration
        with_shape = sweep >= settings.rigid_body_sweeps
        trust = {
            "contour_count": settings.body_contour_count,
            "contour_inside": settings.body_contour_inside,
            "contour_scale_px": BODY_SCALES_PX[min(sweep, len(BODY_SCALES_PX) - 1)],
            "normal_scale": settings.body_normal_scale,
        }
        return self.registration.sweep(
            estimate,
            body_surface(self.body, estimate, self.config.model.canonical_pose, with_shape),
            generator=self.generator,
            terms=settings.model_copy(update=trust),
            solve_shared=with_shape,
            free_surface=False,
        )

    def _make_optimiser(self) -> None:
        """Adam over everything learned but the explicit vertices."""
        rates, avatar = self.config.optimiser, self.avatar
        for term in rates.camera_terms:
            getattr(avatar.camera, term).requires_grad_(rates.camera > 0)
        avatar.poses.requires_grad_(rates.poses > 0)
        avatar.trans.requires_grad_(rates.trans > 0)
        groups: dict[str, list[Tensor]] = {"grid": [], "network": [], "appearance": [], "codes": [avatar.codes]}
        if avatar.colour_codes.numel():
            groups["codes"].append(avatar.colour_codes)
        for name, parameter in avatar.named_parameters():
            part = name.split(".")[0]
            if part in ("sdf", "deformation", "appearance"):
                apart = part == "appearance" and rates.appearance is not None
                groups["grid" if name.endswith("table") else "appearance" if apart else "network"].append(parameter)
        moving = {"poses": [avatar.poses], "trans": [avatar.trans], "camera": list(avatar.camera.parameters())}
        for kind, parameters in moving.items():
            groups[kind] = [parameter for parameter in parameters if parameter.requires_grad]
        self.optimiser = torch.optim.Adam(
            [{"params": group, "lr": getattr(rates, kind), "kind": kind} for kind, group in groups.items() if group],
            eps=rates.eps,
            betas=rates.betas,
        )

    def remesh(self, stage: StageConfig) -> CanonicalMesh:
        """Replace the explicit mesh by the field's surface on a stage's lattice."""
        lower, upper = self.avatar.lower, self.avatar.upper
        if stage.resolution is None:
            lower, upper, resolution = lattice(lower, upper, stage.cell)
        else:
            resolution = stage.resolution
            half = 0.5 * (upper - lower) / torch.tensor(resolution, device=self.device)
            lower, upper = lower + half, upper - half
        if resolution not in self.workspaces:
            self.workspaces = {resolution: GridWorkspace(resolution, self.device)}
        extracted = extract_mesh(
            self.avatar.sdf,
            lower,
            upper,
            resolution,
            level=-stage.shrink,
            min_fraction=FLOATER_SHARE,
            workspace=self.workspaces[resolution],
        )
        weights = self.avatar.deformation.skinning_weights(extracted.vertices)
        self.mesh = ExplicitMesh.start(extracted.vertices, extracted.faces, weights)
        return extracted

    @torch.no_grad()
    def register(self) -> dict[str, float]:
        """One registration sweep of all poses to the explicit mesh."""
        avatar, mesh = self.avatar, self.mesh
        settings, explicit = self.config.registration, mesh.vertices.detach()
        figures = choose_hands(avatar, explicit, mesh.faces, self.observations)
        worn = with_hands(avatar, explicit, mesh.faces)
        normals = vertex_normals(worn.vertices, worn.faces)
        spacing = settings.bump_spacing if isinstance(avatar.sdf, GridSdf) else None
        bumps = None
        if spacing is not None:
            bumps = make_bumps(worn.vertices, worn.faces, normals, spacing, worn.side)
        weights = avatar.deformation.skinning_weights(worn.vertices)
        sweep = self.registration.sweep(
            Poses(avatar.poses.detach(), avatar.trans.detach(), avatar.betas, avatar.joint_offsets),
            RegistrationSurface(worn.vertices, worn.faces, weights, normals, bumps=bumps),
            generator=self.generator,
            colour_points=settings.colour_points if settings.colour_count > 0 else 0,
        )
        avatar.poses.copy_(sweep.estimate.poses)
        avatar.trans.copy_(sweep.estimate.trans)
        for side, move in zip(worn.sides, sweep.moves, strict=False):
            avatar.hand_moves[side] = move @ avatar.hand_moves[side]
        if sweep.heights is not None:
            raise_surface(avatar, worn.vertices, worn.faces, sweep.heights)
            raised, _ = heights_near(explicit, worn.vertices, worn.faces, sweep.heights, RAISED_WITHIN_M)
            mesh.vertices.add_(vertex_normals(explicit, mesh.faces) * raised[:, None])
        return {**sweep.figures, **figures}

    def advance(self, progress: FitProgress) -> dict[str, Tensor]:
        """One iteration, with extraction and registration where they are due."""
        index, done = self.place()
        scheduled = self.config.stages[index]
        if self._extraction_due(index):
            extracted = self.remesh(scheduled)
            self.standing = index, 0
            progress.event("extraction", vertices=len(extracted.vertices), queries=extracted.queries)
        assert self.standing is not None
        stage = self.config.stages[self.standing[0]]
        if self.iteration and stage.registration_period and done % stage.registration_period == 0:
            progress.event("registration", **self.register())
        rate = self._rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate * getattr(self.config.optimiser, group["kind"])
        self.avatar.anneal(self.iteration)
        if len(self.waiting) == 0:
            self.waiting = torch.randperm(self.observations.frame_count, generator=self.generator)
        frames, self.waiting = self.waiting.tensor_split([scheduled.frames_per_step])
        terms = fit_step(
            self.avatar,
            self.mesh,
            self.observations,
            frames.to(self.device),
            stage,
            self.config,
            self.optimiser,
            self.clips,
            self.generator,
            rate,
        )
        self.iteration += 1
        if self.iteration == self.total:
            mesh = self.mesh.vertices.detach(), self.mesh.faces
            progress.event("hands", **choose_hands(self.avatar, *mesh, self.observations))
        self.epoch += len(frames) / self.observations.frame_count
        self.standing = self.standing[0], self.standing[1] + 1
        return terms

    def _extraction_due(self, index: int) -> bool:
        if self.standing is None:
            return True
        stage, age = self.standing
        switched = stage != index and not self.config.method.deferred_switch
        return switched or age >= self.config.stages[stage].remesh_period

    def _rate(self) -> float:
        """Factor on every learning rate."""
        rates = self.config.optimiser
        if rates.milestones:
            passed = sum(self.epoch > milestone - 1e-6 for milestone in rates.milestones)
            return rates.milestone_factor**passed
        return rates.final_factor ** (self.iteration / max(self.total, 1))

    def dump(self, folder: Path) -> None:
        """Leave the explicit mesh and its masks in the first three frames in a folder."""
        assert self.standing is not None
        radius = self.config.stages[self.standing[0]].splat_radius
        frames = torch.arange(min(3, self.observations.frame_count), device=self.device)
        dump_extraction(folder, self.avatar, self.mesh, self.observations, frames, radius, self.config.method)

    def state(self) -> dict[str, Any]:
        """Everything :meth:`restore` needs."""
        mesh = self.mesh
        return {
            "avatar": self.avatar.fitted_state(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "epoch": self.epoch,
            "waiting": self.waiting,
            "standing": self.standing,
            "anchor": {"poses": self.registration.anchor.poses, "trans": self.registration.anchor.trans},
            "mesh": {
                "vertices": mesh.vertices.detach(),
                "faces": mesh.faces,
                "weights": mesh.weights,
                "momentum": mesh.momentum,
                "scale": mesh.scale,
                "steps": mesh.steps,
            },
        }

    def restore(self, state: Mapping[str, Any], iteration: int) -> None:
        """Continue from :meth:`state`; from an imported avatar alone, with everything else new."""
        self.iteration = iteration
        self.avatar = Avatar.from_state(self.config.model, self.body, self.camera, state["avatar"])
        self._make_optimiser()
        if "optimiser" not in state:
            return
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"].cpu())
        self.epoch, self.waiting, self.standing = state["epoch"], state["waiting"].cpu(), state["standing"]
        anchor = state["anchor"]
        self.registration.anchor = replace(self.given, poses=anchor["poses"], trans=anchor["trans"])
        mesh = state["mesh"]
        self.mesh = ExplicitMesh.start(mesh["vertices"], mesh["faces"], mesh["weights"])
        self.mesh.momentum, self.mesh.scale, self.mesh.steps = mesh["momentum"], mesh["scale"], mesh["steps"]


def fit_avatar(
    capture: Capture,
    body: BodyModel,
    run: RunFolder,
    config: Config,
    device: torch.device,
    *,
    resume: bool = False,
    tensorboard: bool = False,
    console: Console | None = None,
) -> None:
    """Fit an avatar and leave its checkpoints and log in the run folder.

    Args:
        capture: The opened capture.
        body: Body model.
        run: Folder made for this run.
        config: Settings.
        device: ``cpu`` or a CUDA device.
        resume: Continue from the last checkpoint.
        tensorboard: Also write TensorBoard events.
        console: Where progress is shown.

    Raises:
        FitInterrupted: The user asked to stop; a checkpoint was saved.
        RunError: The surface vanished or the loss is no number.
    """
    fit = Fit(capture, body, config, device)
    checkpoint = load_checkpoint(run.checkpoints / LATEST, device) if resume else None
    if checkpoint is not None:
        fit.restore(checkpoint.state, checkpoint.iteration)
    stages = [
        StageProgress(stage.name, length, stage.frames_per_step * (stage.rays + 0.5 / stage.cell**2))
        for stage, length in zip(config.stages, fit.lengths, strict=True)
    ]
    with FitProgress(
        stages,
        run.log_file,
        completed=fit.iteration,
        tensorboard=run.path / "tensorboard" if tensorboard else None,
        console=console,
    ) as progress:
        if checkpoint is None:
            fit.prepare(progress)
        while fit.iteration < fit.total:
            stage = config.stages[fit.place()[0]]
            terms = fit.advance(progress)
            if config.debug and fit.standing is not None and fit.standing[1] == 1:
                fit.dump(run.path / "debug" / f"{fit.iteration:06d}")
            if not bool(torch.isfinite(terms["explicit"])):
                raise RunError(
                    f"{run.path}: the loss is no number in iteration {fit.iteration}; lower optimiser.grid with --set"
                )
            losses = {name: value for name, value in terms.items() if name != "iou"}
            progress.update(stage.name, fit.iteration, losses, iou=terms["iou"])
            index, done = fit.place()
            following = config.stages[index]
            finished = stage.name if done == 0 or fit.iteration == fit.total else None
            if finished or progress.stop_requested or fit.iteration % SAVE_EVERY == 0:
                save_checkpoint(
                    run.checkpoints, fit.state(), iteration=fit.iteration, stage=following.name, label=finished
                )
            if progress.stop_requested and fit.iteration < fit.total:
                raise FitInterrupted(run.path)
