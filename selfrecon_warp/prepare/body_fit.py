"""Pose, translation, shape and focal length of a body from masks and keypoints of a whole sequence.

Flips of the detector are undone over the sequence (``body_fit_flips``), first poses come from the keypoints in space
(``body_fit_start``), and Gauss-Newton brings them to keypoints, outlines and steady motion (``body_fit_solver``). An
unknown focal length is searched among a few values by how well keypoints are met, then solved for with the rest:
nearer parts of a turning body are larger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.capture.overlap import intersection_over_union, mask_box, sample_frames, silhouettes
from selfrecon_warp.errors import PrepareError
from selfrecon_warp.model.body import BodyModel
from selfrecon_warp.prepare.body_fit_flips import AS_SEEN, unflip
from selfrecon_warp.prepare.body_fit_landmarks import Landmarks, landmarks_of
from selfrecon_warp.prepare.body_fit_outlines import shrunk_outlines
from selfrecon_warp.prepare.body_fit_prior import prior_centre
from selfrecon_warp.prepare.body_fit_solver import BodyProblem, body_height, shape_count, with_focal
from selfrecon_warp.prepare.body_fit_start import filled, first_poses, first_translations, lifted
from selfrecon_warp.prepare.body_fit_state import Evidence, Given, State, Trust
from selfrecon_warp.prepare.camera_file import Intrinsics
from selfrecon_warp.prepare.observations import PersonObservations
from selfrecon_warp.prepare.rotations import Floats
from selfrecon_warp.train.kinematics import Poses
from selfrecon_warp.train.pace import acceleration_factor, turn_per_frame

FEWEST_FRAMES = 3
TYPICAL_FIELD_OF_VIEW = 60.0
"""Of a phone's video along its longer side [degrees], where the camera is unknown."""
FOCAL_SPREAD = 0.5
"""How far the logarithm of the focal length may be from the first guess, one standard deviation."""
FOCALS_TRIED = (0.6, 0.77, 1.0, 1.3, 1.7, 2.2, 2.9)
FRAMES_FOR_FOCAL = 40
KEYPOINT_NOISE = 0.0125
"""Error of a detected joint, share of the person's height in the picture."""
OVERLAP_FRAMES = 24
HEIGHTS_CM = (50.0, 260.0)
POOR_JOINTS = 0.03
"""Median distance of keypoints, share of the person's height in the picture, above which the user is told."""

_SEARCH = ((6, 0.3), (4, 1.0))
"""Sweeps and trust in depth [m], with keypoints alone."""
_OUTLINE_SWEEPS = 6
_FREE_FOCAL_SWEEPS = 8


@dataclass(frozen=True)
class FittedBody:
    """One person's body over ``N`` frames, in the camera's world.

    Attributes:
        poses: Axis-angle [rad], ``[N, 24, 3]``.
        trans: Translation [m], ``[N, 3]``.
        betas: Shape coefficients, ``[K]``.
        focal: Focal length [px].
        joint_error_px: Median distance of the body's keypoints to the detected ones; NaN without any.
        overlap: Mean intersection over union of body and masks.
        remarks: What the user should know.
    """

    poses: Floats
    trans: Floats
    betas: Floats
    focal: float
    joint_error_px: float
    overlap: float
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class _Setting:
    """What stays the same over the stages."""

    body: BodyModel
    camera: Camera
    observations: PersonObservations
    landmarks: Landmarks
    evidence: Evidence
    trust: Trust


def fit_body(
    observations: PersonObservations,
    camera: Camera | None,
    body: BodyModel,
    *,
    height_cm: float | None = None,
    initial: tuple[Floats, Floats, Floats] | None = None,
    focal_free: bool = False,
    clips: tuple[tuple[int, int], ...] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FittedBody:
    """Fit a body to what was seen of one person.

    Args:
        observations: Masks and keypoints; keypoints may be none at all (K = 0) where ``initial`` is given.
        camera: The camera; ``None`` where it is unknown, for one that looks at the middle of the picture.
        body: Body model.
        height_cm: Height of the person; the mean body's scale when absent.
        initial: Poses ``[N, 24, 3]``, translations ``[N, 3]`` and shape to start from and stay near.
        focal_free: Whether the focal length of ``camera`` is a guess to be improved.
        clips: First and one-past-last frame of each continuous clip; one clip when absent.
        progress: Called with sweeps done and sweeps in all.

    Raises:
        PrepareError: Too few frames, an impossible height, empty masks, or keypoints that cannot tell a pose.
    """
    _check(observations, height_cm, initial)
    size = observations.masks.shape[1], observations.masks.shape[2]
    free = focal_free or camera is None
    camera = camera or typical_camera(size)
    remarks = []
    if observations.names:
        corrected = unflip(observations)
        changed = int((corrected.kinds != AS_SEEN).sum())
        if changed:
            remarks.append(f"left and right were told apart anew in {changed} of {len(observations)} frames")
        observations = corrected.observations
    setting = _setting(observations, camera, body, height_cm, clips)
    searches = len(FOCALS_TRIED) if free and initial is None else 0
    keypoint_sweeps = sum(count for count, _ in _SEARCH) if observations.names else 0
    outline_sweeps = _FREE_FOCAL_SWEEPS if free else _OUTLINE_SWEEPS
    report = _Sweeps(progress, searches + keypoint_sweeps + outline_sweeps)
    if initial is None:
        if free:
            setting = replace(setting, camera=_searched(setting, report))
        state = _started(setting)
        given = None
    else:
        poses, trans, betas = (torch.from_numpy(np.asarray(part)).float() for part in initial)
        full = torch.zeros(shape_count(body))
        full[: len(betas)] = betas[: len(full)]
        start = Poses(poses, trans, full, torch.zeros(body.joint_count, 3))
        state, given = State(start, setting.landmarks.offsets), Given(start)
    trust = replace(_paced(setting, state), focal=FOCAL_SPREAD if free else 0.0)
    over_guess = float(setting.camera.focal[0] / camera.focal[0])
    problem = BodyProblem(body, setting.camera, setting.landmarks, setting.evidence, given, over_guess)
    generator = torch.Generator().manual_seed(0)
    if observations.names:
        for sweeps, depth in _SEARCH:
            for _ in range(sweeps):
                state, _ = problem.step(state, replace(trust, depth_m=depth), generator)
                report.done()
    outlines, scale = shrunk_outlines(observations.masks)
    problem.evidence = replace(setting.evidence, outlines=outlines, outline_scale=scale)
    for _ in range(outline_sweeps):
        state, _ = problem.step(state, replace(trust, depth_m=1.0), generator)
        report.done()
    return _result(problem, state, observations, height_cm, free, remarks)


def typical_camera(size: tuple[int, int]) -> Camera:
    """The camera of a typical phone's video of (height, width) [px], looking at its middle."""
    focal = 0.5 * max(size) / np.tan(np.deg2rad(TYPICAL_FIELD_OF_VIEW / 2))
    return Intrinsics.centred(float(focal), size).camera(size)


def require_height(height_cm: float | None) -> None:
    """Refuse what is no person's height.

    Raises:
        PrepareError: It is given and lies outside :data:`HEIGHTS_CM`.
    """
    if height_cm is not None and not HEIGHTS_CM[0] <= height_cm <= HEIGHTS_CM[1]:
        raise PrepareError(
            f"--height must be the person's in centimetres, {HEIGHTS_CM[0]:g} to {HEIGHTS_CM[1]:g}, got {height_cm:g}"
        )


def _check(
    observations: PersonObservations, height_cm: float | None, initial: tuple[Floats, Floats, Floats] | None
) -> None:
    N = len(observations)
    if N < FEWEST_FRAMES:
        raise PrepareError(f"a body is fitted to {FEWEST_FRAMES} frames or more, got {N}")
    require_height(height_cm)
    empty = np.flatnonzero(~observations.masks.any((1, 2)))
    if len(empty):
        raise PrepareError(f"the masks of {len(empty)} frames are empty, first of frame {empty[0]}; leave these out")
    landmarks_of(observations.names)
    if initial is None and not observations.names:
        raise PrepareError("without first poses a body is fitted to keypoints, and there are none")
    if initial is not None and (initial[0].shape != (N, 24, 3) or initial[1].shape != (N, 3)):
        raise PrepareError(
            f"first poses must be ({N}, 24, 3) and translations ({N}, 3), got {initial[0].shape}, {initial[1].shape}"
        )


class _Sweeps:
    """Counts sweeps for a progress display."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self.progress, self.count, self.total = progress, 0, total

    def done(self) -> None:
        self.count += 1
        if self.progress is not None:
            self.progress(self.count, self.total)


def _setting(
    observations: PersonObservations,
    camera: Camera,
    body: BodyModel,
    height_cm: float | None,
    clips: tuple[tuple[int, int], ...] | None,
) -> _Setting:
    boxes = np.array([mask_box(mask) for mask in observations.masks])
    person_px = float(np.median(boxes[:, 3] - boxes[:, 1] + 1))
    landmarks = landmarks_of(observations.names)
    seen = np.isfinite(observations.keypoints).all(-1)[:, landmarks.columns]
    keypoints = filled(observations.keypoints[:, landmarks.columns].astype(np.float64))
    trust = np.where(seen, observations.confidence[:, landmarks.columns], 0.0)
    depth, known = np.zeros(trust.shape), np.zeros(trust.shape)
    if observations.keypoints3d is not None and observations.names:
        space = observations.keypoints3d[..., 2].astype(np.float64)
        hips = [observations.names.index(f"{side}_hip") for side in ("left", "right")]
        depth = (space - space[:, hips].mean(1, keepdims=True))[:, landmarks.columns]
        known = np.where(np.isfinite(depth), observations.confidence[:, landmarks.columns], 0.0)
        depth = np.nan_to_num(depth)
    steps = np.diff(observations.times)
    evidence = Evidence(
        keypoints=torch.from_numpy(keypoints).float(),
        trust=torch.from_numpy(trust).float(),
        depth=torch.from_numpy(depth).float(),
        depth_trust=torch.from_numpy(known).float(),
        outlines=None,
        outline_scale=1.0,
        steps=torch.from_numpy(np.clip(steps / np.median(steps), 0.25, 4.0)).float(),
        clips=clips or ((0, len(observations)),),
        height=None if height_cm is None else 0.01 * height_cm,
    )
    return _Setting(body, camera, observations, landmarks, evidence, Trust(KEYPOINT_NOISE * person_px))


@torch.no_grad()
def _started(setting: _Setting) -> State:
    """First poses from places in space, translations from pixels."""
    body, camera, observations, marks = setting.body, setting.camera, setting.observations, setting.landmarks
    flip = torch.tensor([-1.0, -1.0, 1.0])
    to_world = (camera.rotation() * flip).double().numpy()  # from x right, y down, z forward
    if observations.keypoints3d is not None:
        space = filled(observations.keypoints3d.astype(np.float64))
    else:
        space = lifted(filled(observations.keypoints.astype(np.float64)), observations.names)
    betas = torch.zeros(shape_count(body))
    poses = torch.from_numpy(first_poses(space @ to_world.T, observations.names, body, betas)).float()
    if observations.keypoints3d is None:  # flat limbs mislead: these start as people hold them
        poses[:, 1:] = prior_centre(poses)[1:]
    canonical = body.canonical(betas)
    bones = body.bones(poses, torch.zeros(len(poses), 3), None, canonical)[:, marks.bones]
    places = marks.positions(canonical.joints, marks.offsets)
    relative = torch.einsum("nkab,kb->nka", bones[..., :3, :3], places) + bones[..., :3, 3]
    intrinsics = Intrinsics.of(camera)
    shift = first_translations(
        relative.double().numpy() @ to_world,
        setting.evidence.keypoints.double().numpy(),
        setting.evidence.trust.double().numpy() + 1e-6,
        (intrinsics.fx, intrinsics.fy),
        (intrinsics.cx, intrinsics.cy),
    )
    trans = torch.from_numpy(shift @ to_world.T).float() + camera.centre()
    return State(Poses(poses, trans, betas, torch.zeros(body.joint_count, 3)), marks.offsets)


def _paced(setting: _Setting, state: State) -> Trust:
    """Trust that allows for as much acceleration as the person's turn between two frames brings about."""
    factor = acceleration_factor(turn_per_frame(state.body.poses[:, 0], list(setting.evidence.clips)))
    return replace(setting.trust, acceleration_m=factor * setting.trust.acceleration_m)


def _searched(setting: _Setting, report: _Sweeps) -> Camera:
    """The camera with the focal length, of a few, under which the keypoints of some frames are met best."""
    chosen = np.array(sample_frames(len(setting.observations), FRAMES_FOR_FOCAL))
    fewer = setting.observations.frames(chosen)
    height = None if setting.evidence.height is None else 100.0 * setting.evidence.height
    clips = tuple((int(a), int(b)) for a, b in (np.searchsorted(chosen, clip) for clip in setting.evidence.clips))
    generator = torch.Generator().manual_seed(0)
    tried = []
    for factor in FOCALS_TRIED:
        camera = with_focal(setting.camera, factor)
        trial = _setting(fewer, camera, setting.body, height, clips)
        state = _started(trial)
        trust = _paced(trial, state)
        problem = BodyProblem(setting.body, camera, trial.landmarks, trial.evidence)
        for sweeps, depth in _SEARCH:
            for _ in range(sweeps):
                state, figures = problem.step(state, replace(trust, depth_m=depth), generator)
        tried.append((figures.cost + (np.log(factor) / FOCAL_SPREAD) ** 2, factor))
        report.done()
    return with_focal(setting.camera, min(tried)[1])


@torch.no_grad()
def _result(
    problem: BodyProblem,
    state: State,
    observations: PersonObservations,
    height_cm: float | None,
    free: bool,
    remarks: list[str],
) -> FittedBody:
    camera, body = problem.camera_of(state), problem.body
    chosen = sample_frames(len(observations), OVERLAP_FRAMES)
    vertices = body.posed(state.body.betas, state.body.poses[chosen], state.body.trans[chosen])[0]
    overlap = intersection_over_union(silhouettes(vertices, body, camera), observations.masks[chosen]).mean()
    error = problem.keypoint_error(state)
    boxes = np.array([mask_box(mask) for mask in observations.masks[chosen]])
    person_px = float(np.median(boxes[:, 3] - boxes[:, 1] + 1))
    tall = 100.0 * float(body_height(body, state.body.betas))
    if height_cm is None and problem.given is None:
        remarks.append(
            f"one camera cannot tell a size: the person is taken to be {tall:.0f} cm tall; --height CM sets it"
        )
    if free:
        longest = max(camera.height, camera.width)
        angle = 2 * np.rad2deg(np.arctan(0.5 * longest / float(camera.focal[0])))
        remarks.append(
            f"the focal length was estimated: {float(camera.focal[0]):.0f} px, {angle:.0f} degrees along the longer "
            "side of these pictures, uncertain by a fifth"
        )
    if error > POOR_JOINTS * person_px:
        remarks.append(f"the body meets the keypoints by only {error:.1f} px; look at `selfrecon check`")
    return FittedBody(
        poses=state.body.poses.double().numpy(),
        trans=state.body.trans.double().numpy(),
        betas=state.body.betas.double().numpy(),
        focal=float(camera.focal[0]),
        joint_error_px=error,
        overlap=float(overlap),
        remarks=tuple(remarks),
    )
