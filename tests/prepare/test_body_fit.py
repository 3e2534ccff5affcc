"""The body fit finds a known motion again from what a detector would see of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from capture_files import default_body
from people_seen import joint_error, person_seen

from selfrecon_warp.errors import PrepareError
from selfrecon_warp.prepare import body_fit
from selfrecon_warp.prepare.body_fit import fit_body, typical_camera
from selfrecon_warp.prepare.body_fit_flips import EXCHANGED, read_as
from selfrecon_warp.prepare.body_fit_landmarks import landmarks_of
from selfrecon_warp.prepare.body_fit_levers import Levers
from selfrecon_warp.prepare.body_fit_solver import body_height
from selfrecon_warp.prepare.observations import BODY_33
from selfrecon_warp.train.kinematics import Kinematics


@pytest.fixture(scope="module")
def seen():
    return person_seen(quat=(0.1, 0.3, -0.2, 0.9), T=(0.3, -0.2, 0.5))  # a camera may stand anywhere


def fitted(seen, **changes):
    observations = changes.pop("observations", seen.observations)
    return fit_body(observations, changes.pop("camera", seen.camera), default_body(), **changes)


def test_exact_keypoints_give_the_motion_back(seen):
    counted = []
    body = fitted(seen, height_cm=seen.height_cm, progress=lambda done, total: counted.append((done, total)))
    assert joint_error(body, seen) < 0.012
    assert np.abs(body.trans - seen.trans).max() < 0.06
    assert body.joint_error_px < 0.5
    assert body.overlap > 0.95
    assert body.remarks == ()
    assert [done for done, _ in counted] == list(range(1, counted[-1][1] + 1))


def test_noise_and_missing_joints_cost_little(seen):
    rng = np.random.default_rng(0)
    keypoints = seen.observations.keypoints + rng.normal(0, 1.5, seen.observations.keypoints.shape).astype(np.float32)
    space = seen.observations.keypoints3d + rng.normal(0, 0.05, seen.observations.keypoints3d.shape).astype(np.float32)
    confidence = seen.observations.confidence.copy()
    for name in ("right_elbow", "left_wrist", "left_index"):
        column = BODY_33.index(name)
        rows = slice(None) if name == "right_elbow" else slice(4, 7)
        keypoints[rows, column], space[rows, column], confidence[rows, column] = np.nan, np.nan, 0.0
    seen_badly = replace(seen.observations, keypoints=keypoints, keypoints3d=space, confidence=confidence)
    assert joint_error(fitted(seen, observations=seen_badly, height_cm=seen.height_cm), seen) < 0.035


def test_exchanged_sides_are_put_right(seen):
    rows = np.zeros(len(seen.observations), bool)
    rows[3:7] = True
    other = read_as(seen.observations, EXCHANGED)
    mixed = replace(
        seen.observations,
        keypoints=np.where(rows[:, None, None], other.keypoints, seen.observations.keypoints),
        keypoints3d=np.where(rows[:, None, None], other.keypoints3d, seen.observations.keypoints3d),
    )
    body = fitted(seen, observations=mixed)
    assert joint_error(body, seen) < 0.04
    assert "in 4 of 12 frames" in body.remarks[0]
    assert "cannot tell a size" in body.remarks[1]


def test_pixels_alone_suffice(seen):
    flat = replace(seen.observations, keypoints3d=None)
    assert joint_error(fitted(seen, observations=flat, height_cm=seen.height_cm), seen) < 0.04


def test_unknown_focal_length_is_found(monkeypatch):
    monkeypatch.setattr(body_fit, "FOCALS_TRIED", (0.77, 1.7))
    seen = person_seen(field=1.8)
    guess = typical_camera(seen.observations.masks.shape[1:])
    camera = type(guess)(guess.focal.tolist(), seen.camera.principal.tolist(), height=guess.height, width=guess.width)
    body = fitted(seen, camera=camera, focal_free=True, height_cm=seen.height_cm)
    assert body.focal == pytest.approx(float(seen.camera.focal[0]), rel=0.1)
    assert joint_error(body, seen) < 0.02
    assert "focal length was estimated" in body.remarks[0]


def test_height_sets_the_size(seen):
    few = seen.observations.frames(np.arange(0, 12, 3))
    body = fit_body(few, seen.camera, default_body(), height_cm=190)
    tall = float(body_height(default_body(), torch.from_numpy(body.betas).float()))
    assert tall == pytest.approx(1.9, abs=0.02)


def test_derivatives_of_landmarks_match_finite_differences(seen):
    body = default_body().double()
    try:
        kinematics = Kinematics(body, 1)
        poses, trans = (torch.from_numpy(part[:2]).double() for part in (seen.poses, seen.trans))
        canonical = body.canonical(torch.zeros(10).double())
        marks = landmarks_of(BODY_33)
        at = marks.positions(canonical.joints, marks.offsets.double())

        def places(poses, trans):
            bones = body.bones(poses, trans, None, canonical)
            mine = bones[:, marks.bones]
            return torch.einsum("nkab,kb->nka", mine[..., :3, :3], at) + mine[..., :3, 3], bones

        world, bones = places(poses, trans)
        rows = Levers.of(kinematics, bones, canonical).rows(world, marks.bones)
        shift = 1e-6
        moved = places(poses, trans + torch.tensor([0.0, shift, 0.0]))[0]
        torch.testing.assert_close((moved - world) / shift, rows[..., -2], atol=1e-6, rtol=1e-4)
        turned = poses.clone()
        turned[:, 7] += torch.tensor([shift, 0.0, 0.0])  # from rest a turn of the axis-angle is the turn itself
        torch.testing.assert_close((places(turned, trans)[0] - world) / shift, rows[..., 3 * 7], atol=1e-5, rtol=1e-4)
    finally:
        body.float()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.frames(np.arange(2)), "3 frames or more"),
        (lambda o: replace(o, masks=np.zeros_like(o.masks)), "masks of 12 frames are empty, first of frame 0"),
        (
            lambda o: replace(
                o, keypoints=o.keypoints[:, :11], confidence=o.confidence[:, :11], keypoints3d=None, names=BODY_33[:11]
            ),
            "lack left_shoulder, right_shoulder, left_hip, right_hip",
        ),
        (
            lambda o: replace(
                o, keypoints=o.keypoints[:, :0], confidence=o.confidence[:, :0], keypoints3d=None, names=()
            ),
            "there are none",
        ),
    ],
)
def test_names_what_is_missing(seen, change, message):
    with pytest.raises(PrepareError, match=message):
        fitted(seen, observations=change(seen.observations))


def test_refuses_an_impossible_height(seen):
    with pytest.raises(PrepareError, match=r"centimetres, 50 to 260, got 1\.8"):
        fitted(seen, height_cm=1.8)
