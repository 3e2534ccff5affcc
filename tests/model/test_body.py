import hashlib
import math

import numpy as np
import pytest
import smplx
import torch
from capture_files import default_body

from selfrecon_warp.errors import BodyModelError
from selfrecon_warp.model.body import DEFAULT_BODY, GENDERS, MODELS_VARIABLE, BodyModel, find_body_file, load_body
from selfrecon_warp.model.body_file import read_body_arrays


@pytest.fixture(scope="module")
def body() -> BodyModel:
    return default_body()


@pytest.fixture
def tiny(tiny_arrays) -> BodyModel:
    return BodyModel(tiny_arrays, "tiny").double()


def motion(count: int, seed: int = 0, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Betas, poses and trans of a lively person."""
    generator = torch.Generator().manual_seed(seed)
    betas = torch.randn(10, generator=generator, dtype=dtype)
    poses = 0.4 * torch.randn(count, 24, 3, generator=generator, dtype=dtype)
    return betas, poses, torch.randn(count, 3, generator=generator, dtype=dtype)


def skin(points, weights, bones):
    blended = torch.einsum("vj,bjmn->bvmn", weights, bones)
    return torch.einsum("bvmn,vn->bvm", blended[..., :3, :3], points) + blended[..., :3, 3]


def test_default_body_is_the_shipped_one(body):
    assert body.joint_count == 24
    assert body.shape_count == 10
    assert body.faces.dtype == torch.int64
    assert body.weights.shape == (6890, 24)
    torch.testing.assert_close(body.weights.sum(1), torch.ones(6890))
    assert body.fingerprint == hashlib.sha256(DEFAULT_BODY.read_bytes()).hexdigest()
    assert body.name == "CC0 body"
    assert list(body.parameters()) == []


def test_loading_prints_nothing(capfd):
    load_body()
    assert capfd.readouterr().out == ""


def test_posed_body_is_smplx_own(body):
    betas, poses, trans = motion(3)
    with torch.no_grad():
        model = smplx.SMPL("unused", data_struct=smplx.utils.Struct(**read_body_arrays(DEFAULT_BODY)))
        expected = model(
            betas=betas.expand(3, -1), global_orient=poses[:, 0], body_pose=poses[:, 1:].flatten(1), transl=trans
        )
    vertices, joints = body.posed(betas, poses, trans)
    torch.testing.assert_close(vertices, expected.vertices, atol=1e-5, rtol=0)
    torch.testing.assert_close(joints, expected.joints[:, :24], atol=1e-5, rtol=0)


def test_chains_of_joints_match_smplx(body):
    betas, poses, trans = motion(4, seed=1)
    joints_rest = body.shaped(betas)[1]
    torch.testing.assert_close(
        body.posed_joints(poses, trans, joints_rest), body.posed(betas, poses, trans)[1], atol=1e-5, rtol=0
    )


def test_zero_pose_leaves_the_shaped_body_where_it_is(body):
    betas, _, _ = motion(1)
    vertices, joints = body.shaped(betas)
    posed, posed_joints = body.posed(betas, torch.zeros(1, 24, 3), torch.zeros(1, 3))
    torch.testing.assert_close(posed[0], vertices, atol=1e-6, rtol=0)
    torch.testing.assert_close(posed_joints[0], joints, atol=1e-6, rtol=0)


def test_root_turns_about_the_pelvis(body):
    betas, poses, trans = motion(2)
    joints_rest = body.shaped(betas)[1]
    torch.testing.assert_close(body.posed_joints(poses, trans, joints_rest)[:, 0], joints_rest[0] + trans)


@pytest.mark.parametrize(("pose_type", "hip", "shoulder"), [(0, 10, -45), (1, 7, -55)])
def test_canonical_pose_types(body, pose_type, hip, shoulder):
    pose = torch.rad2deg(body.canonical_pose(pose_type))
    expected = torch.zeros(24, 3)
    expected[[1, 2, 16, 17], 2] = torch.tensor([hip, -hip, shoulder, -shoulder], dtype=torch.float32)
    torch.testing.assert_close(pose, expected)


def test_unknown_canonical_pose_is_refused(body):
    with pytest.raises(ValueError, match="pose_type must be one of 0, 1, got 2"):
        body.canonical_pose(2)


@pytest.mark.parametrize("pose_type", [0, 1])
def test_canonical_body_is_the_body_posed_canonically(body, pose_type):
    betas, _, _ = motion(1)
    canonical = body.canonical(betas, pose_type)
    vertices, joints = body.posed(betas, canonical.pose[None], torch.zeros(1, 3))
    torch.testing.assert_close(canonical.vertices, vertices[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(canonical.joints, joints[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(canonical.joints_rest[0], canonical.joints[0])


def test_arms_hang_and_legs_spread_in_the_canonical_pose(body):
    canonical = body.canonical(torch.zeros(10))
    rest, posed = canonical.joints_rest, canonical.joints
    assert posed[20, 1] < rest[20, 1] - 0.3  # left wrist
    assert posed[21, 1] < rest[21, 1] - 0.3
    assert posed[7, 0] > rest[7, 0] + 0.05  # left ankle, left is +x
    assert posed[8, 0] < rest[8, 0] - 0.05
    assert canonical.vertices[:, 1].max() - canonical.vertices[:, 1].min() > 1.5


def test_bones_of_the_canonical_pose_are_identities(body):
    canonical = body.canonical(motion(1)[0])
    bones = body.bones(canonical.pose[None], torch.zeros(1, 3), None, canonical)
    torch.testing.assert_close(bones, torch.eye(4).expand(1, 24, 4, 4), atol=1e-6, rtol=0)


def test_bones_carry_canonical_joints_to_posed_joints(body):
    betas, poses, trans = motion(5)
    canonical = body.canonical(betas)
    bones = body.bones(poses, trans, None, canonical)
    carried = torch.einsum("bjmn,jn->bjm", bones[..., :3, :3], canonical.joints) + bones[..., :3, 3]
    torch.testing.assert_close(carried, body.posed_joints(poses, trans, canonical.joints_rest), atol=1e-5, rtol=0)
    rotations = bones[..., :3, :3]
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand_as(rotations), atol=1e-5, rtol=0)
    assert (bones[..., 3, :] == torch.tensor([0.0, 0, 0, 1])).all()


def test_skinning_by_bones_differs_from_the_posed_body_by_correctives_alone(tiny_arrays):
    body = BodyModel(tiny_arrays | {"posedirs": np.zeros_like(tiny_arrays["posedirs"])}).double()
    rigid = torch.nn.functional.one_hot(body.weights.argmax(1), 24).double()  # blending is linear, its inverse is not
    body.smpl.lbs_weights = rigid
    betas, poses, trans = motion(3, dtype=torch.float64)
    canonical = body.canonical(betas)
    posed = skin(canonical.vertices, rigid, body.bones(poses, trans, None, canonical))
    torch.testing.assert_close(posed, body.posed(betas, poses, trans)[0])


def test_moved_rest_joints_move_the_pivots_of_both_poses(body):
    betas, poses, trans = motion(2)
    offsets = 0.02 * torch.randn(24, 3, generator=torch.Generator().manual_seed(3))
    canonical, corrected = body.canonical(betas), body.canonical(betas, joint_offsets=offsets)
    torch.testing.assert_close(corrected.joints_rest, canonical.joints_rest + offsets)
    torch.testing.assert_close(
        body.bones(poses, trans, canonical.joints_rest + offsets, canonical),
        body.bones(poses, trans, None, corrected),
        atol=1e-6,
        rtol=0,
    )
    torch.testing.assert_close(
        body.bones(poses, trans, canonical.joints_rest.clone(), canonical), body.bones(poses, trans, None, canonical)
    )


@pytest.mark.parametrize("at_zero", [True, False])
def test_bones_gradcheck(tiny, at_zero):
    betas, poses, trans = motion(2, dtype=torch.float64)
    canonical = tiny.canonical(betas)
    poses = (torch.zeros_like(poses) if at_zero else poses).requires_grad_()
    inputs = poses, trans.requires_grad_(), canonical.joints_rest.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda *args: tiny.bones(*args, canonical), inputs, fast_mode=True)


def test_canonical_and_posed_gradcheck(tiny):
    betas, poses, trans = (x.requires_grad_() for x in motion(1, dtype=torch.float64))
    offsets = torch.zeros(24, 3, dtype=torch.float64, requires_grad=True)

    def canonical(betas, offsets):
        result = tiny.canonical(betas, joint_offsets=offsets)
        return result.vertices, result.joints, result.bones_inverse

    assert torch.autograd.gradcheck(canonical, (betas, offsets), fast_mode=True)
    assert torch.autograd.gradcheck(tiny.posed, (betas, poses, trans), fast_mode=True)


def test_precision_follows_the_module(tiny):
    betas, poses, trans = motion(2, dtype=torch.float64)
    canonical = tiny.canonical(betas)
    assert canonical.vertices.dtype == tiny.bones(poses, trans, None, canonical).dtype == torch.float64


def test_device(device):
    body = load_body().to(device)
    betas, poses, trans = (x.to(device) for x in motion(2))
    canonical = body.canonical(betas)
    assert body.bones(poses, trans, None, canonical).device.type == device.type
    assert body.posed(betas, poses, trans)[0].device.type == device.type


def test_empty_batch(body):
    canonical = body.canonical(torch.zeros(10))
    assert body.bones(torch.zeros(0, 24, 3), torch.zeros(0, 3), None, canonical).shape == (0, 24, 4, 4)


def test_wrong_shapes_are_named(body):
    canonical = body.canonical(torch.zeros(10))
    with pytest.raises(ValueError, match=r"poses must have shape \[B, 24, 3\], got \[2, 23, 3\]"):
        body.bones(torch.zeros(2, 23, 3), torch.zeros(2, 3), None, canonical)
    with pytest.raises(ValueError, match=r"trans must have shape \[B=2, 3\], got \[3, 3\]"):
        body.posed_joints(torch.zeros(2, 24, 3), torch.zeros(3, 3), canonical.joints_rest)
    with pytest.raises(ValueError, match=r"betas must have shape \[10\]"):
        body.shaped(torch.zeros(1, 10))


def test_missing_betas_count_as_zero(body):
    betas = torch.tensor([0.5, -1.0])
    torch.testing.assert_close(body.shaped(betas), body.shaped(torch.cat((betas, torch.zeros(8)))))


def test_angles_are_degrees_about_z():
    assert math.degrees(default_body().canonical_pose()[1, 2]) == pytest.approx(7)


# ---- finding the file of a gender ----


def test_without_a_folder_every_gender_gets_the_shipped_body(monkeypatch):
    monkeypatch.delenv(MODELS_VARIABLE, raising=False)
    assert {load_body(gender=gender).fingerprint for gender in GENDERS} == {default_body().fingerprint}


@pytest.mark.parametrize(
    ("name", "gender"),
    [
        ("female.npz", "female"),
        ("SMPL_MALE.npz", "male"),
        ("smpl/SMPL_NEUTRAL.npz", "neutral"),
        ("basicModel_f_lbs_10_207_0_v1.0.0.npz", "female"),
        ("basicmodel_m_lbs_10_207_0_v1.1.0.npz", "male"),
        ("basicModel_neutral_lbs_10_207_0_v1.0.0.npz", "neutral"),
        ("male_smpl_with_cocoplus_reg.npz", "male"),
    ],
)
def test_published_names_are_found(tmp_path, monkeypatch, tiny_arrays, name, gender):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    np.savez(tmp_path / name, **tiny_arrays)
    assert find_body_file(tmp_path, gender) == tmp_path / name
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path))
    body = load_body(gender=gender)
    assert len(body.weights) == len(tiny_arrays["weights"])
    assert body.name == f"{(tmp_path / name).stem} ({gender})"
    others = [other for other in GENDERS if other != gender]
    for other in others:
        with pytest.raises(BodyModelError, match=f"holds no {other} body model; expected one of {other}.npz"):
            load_body(tmp_path, other)


def test_a_file_serves_every_gender(tmp_path, tiny_arrays):
    np.savez(tmp_path / "mine.npz", **tiny_arrays)
    assert load_body(tmp_path / "mine.npz", "male").name == "mine (male)"


def test_unknown_gender_and_folder(tmp_path):
    with pytest.raises(BodyModelError, match="gender must be one of"):
        load_body(gender="robot")
    with pytest.raises(BodyModelError, match="nowhere does not exist"):
        load_body(tmp_path / "nowhere")
