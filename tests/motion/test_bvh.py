import numpy as np
import pytest
from bvh_files import write_bvh

from selfrecon_warp.errors import MotionError
from selfrecon_warp.motion.bvh import read_bvh
from selfrecon_warp.motion.joints import JOINT, JOINT_NAMES, PARENTS
from selfrecon_warp.motion.retarget import read_bvh_motion
from selfrecon_warp.motion.rotations import about, matrices, vectors

MIXAMO = {
    "pelvis": "Hips",
    "spine1": "Spine",
    "spine2": "Spine1",
    "spine3": "Spine2",
    "neck": "Neck",
    "head": "Head",
    **{
        f"{side}_{part}": f"{side.title()}{name}"
        for side in ("left", "right")
        for part, name in {
            "hip": "UpLeg",
            "knee": "Leg",
            "ankle": "Foot",
            "foot": "ToeBase",
            "collar": "Shoulder",
            "shoulder": "Arm",
            "elbow": "ForeArm",
            "wrist": "Hand",
            "hand": "HandMiddle1",
        }.items()
    },
}


def offsets_of(joints):
    return np.array([joints[j] - (joints[p] if p >= 0 else 0) for j, p in enumerate(PARENTS)])


def world(parents, offsets, rotations, root):
    """Global joint positions, joint by joint."""
    places, turns = np.zeros((len(rotations), len(parents), 3)), rotations.copy()
    for joint, parent in enumerate(parents):
        if parent < 0:
            places[:, joint] = root
        else:
            places[:, joint] = places[:, parent] + turns[:, parent] @ offsets[joint]
            turns[:, joint] = turns[:, parent] @ rotations[:, joint]
    return places


@pytest.mark.parametrize("orders", ["ZXY", "XYZ", "YXZ", "ZYX", "mixed"])
def test_joints_are_where_they_were_put(tmp_path, skeleton, turns, orders):
    mixed = [("ZXY", "XYZ", "YZX")[joint % 3] for joint in range(24)]
    offsets, root = offsets_of(skeleton.joints), np.random.default_rng(4).normal(size=(7, 3))
    chosen = mixed if orders == "mixed" else orders
    path = write_bvh(
        tmp_path / "a.bvh", JOINT_NAMES, PARENTS, offsets, matrices(turns), root, orders=chosen, rate=120.0
    )
    file = read_bvh(path)
    assert file.frame_rate == pytest.approx(120, abs=1e-3)
    index = [file.names.index(name) for name in JOINT_NAMES]
    np.testing.assert_allclose(file.forward()[1][:, index], world(PARENTS, offsets, matrices(turns), root), atol=1e-6)


def test_our_own_skeleton_comes_back_exactly(tmp_path, skeleton, turns):
    path = write_bvh(
        *(tmp_path / "own.bvh", JOINT_NAMES, PARENTS, offsets_of(skeleton.joints)), matrices(turns), np.ones((7, 3))
    )
    motion = read_bvh_motion(path, skeleton)
    np.testing.assert_allclose(matrices(motion.poses), matrices(turns), atol=1e-6)
    np.testing.assert_allclose(motion.pelvis, np.ones((7, 3)), atol=1e-6)
    assert motion.leg_length == pytest.approx(skeleton.leg_length)


@pytest.mark.parametrize("prefix", ["", "mixamorig:"])
@pytest.mark.parametrize("unit", [1.0, 100.0])
@pytest.mark.parametrize("up", ["y", "z"])
@pytest.mark.parametrize("rest", ["T", "A"])
def test_limbs_point_where_the_files_do(tmp_path, skeleton, turns, prefix, unit, up, rest):
    """Another rest pose, unit, axis and naming: bones of the retargeted limbs are parallel to the file's."""
    lowered = np.zeros((24, 3))
    if rest == "A":
        lowered[JOINT["left_shoulder"], 2], lowered[JOINT["right_shoulder"], 2] = -0.8, 0.8
        lowered[JOINT["left_hip"], 2], lowered[JOINT["right_hip"], 2] = 0.15, -0.15
    joints = skeleton.forward(lowered[None], -skeleton.joints[:1])[1][0] * 1.2 * unit
    basis = about("x", np.pi / 2) @ about("y", 0.0) if up == "z" else np.eye(3)
    offsets, rotations = offsets_of(joints) @ basis.T, basis @ matrices(turns) @ basis.T
    path_of_root = np.random.default_rng(5).normal(0, unit, (7, 3))
    names = [prefix + MIXAMO[name] for name in JOINT_NAMES]
    path = write_bvh(tmp_path / "m.bvh", names, PARENTS, offsets, rotations, path_of_root)
    motion = read_bvh_motion(path, skeleton)
    theirs = world(PARENTS, offsets, rotations, path_of_root) @ basis
    ours = skeleton.forward(motion.poses, np.zeros((7, 3)))[1]
    for part, end in (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist")):
        for side in ("left", "right"):
            a, b = JOINT[f"{side}_{part}"], JOINT[f"{side}_{end}"]
            bones = [places[:, b] - places[:, a] for places in (ours, theirs)]
            units = [bone / np.linalg.norm(bone, axis=1, keepdims=True) for bone in bones]
            np.testing.assert_allclose(units[0], units[1], atol=1e-5)
    assert motion.leg_length == pytest.approx(1.2 * unit * skeleton.leg_length, rel=1e-6)
    np.testing.assert_allclose(motion.pelvis, path_of_root @ basis, atol=1e-6 * unit)


def test_spines_of_other_lengths_keep_the_chest(tmp_path, skeleton):
    """CMU's hips carry dummy joints, its spine is called otherwise; here it has five parts, and hands are missing."""
    names = [
        "Hips",
        "LHipJoint",
        "LeftUpLeg",
        "LeftLeg",
        "LeftFoot",
        "RHipJoint",
        "RightUpLeg",
        "RightLeg",
        "RightFoot",
    ]
    parents = [-1, 0, 1, 2, 3, 0, 5, 6, 7]
    ours = [
        "pelvis",
        "pelvis",
        "left_hip",
        "left_knee",
        "left_ankle",
        "pelvis",
        "right_hip",
        "right_knee",
        "right_ankle",
    ]
    for part in range(5):
        names.append("LowerBack" if part == 0 else f"Spine{part}")
        parents.append(0 if part == 0 else len(names) - 2)
        ours.append("spine3")
    chest = len(names) - 1
    for side in ("Left", "Right"):
        for step, (name, joint) in enumerate({"Arm": "shoulder", "ForeArm": "elbow", "Hand": "wrist"}.items()):
            names.append(side + name)
            parents.append(chest if step == 0 else len(names) - 2)
            ours.append(f"{side.lower()}_{joint}")
    places = np.array([skeleton.joints[JOINT[name]] for name in ours])
    spine = np.arange(9, 14)
    places[spine] = np.linspace(0.2, 1.0, 5)[:, None] * skeleton.joints[JOINT["spine3"]]
    offsets = np.array([places[j] - (places[p] if p >= 0 else 0) for j, p in enumerate(parents)])
    local = matrices(np.random.default_rng(6).normal(0, 0.2, (4, len(names), 3)))
    path = write_bvh(tmp_path / "cmu.bvh", names, parents, offsets, local, np.zeros((4, 3)))
    motion = read_bvh_motion(path, skeleton)
    turned, _ = read_bvh(path).forward()
    ours_turned, _ = skeleton.forward(motion.poses, np.zeros((4, 3)))
    for joint, name in (("pelvis", "Hips"), ("spine1", "LowerBack"), ("spine2", "Spine2"), ("spine3", "Spine4")):
        source = read_bvh(path).names.index(name)
        np.testing.assert_allclose(ours_turned[:, JOINT[joint]], turned[:, source], atol=1e-6)
    assert not vectors(matrices(motion.poses[:, [JOINT["neck"], JOINT["head"], JOINT["left_hand"]]])).any()


GOOD = """HIERARCHY
ROOT Hips
{
  OFFSET 0 0 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT Chest
  {
    OFFSET 0 1 0
    CHANNELS 3 Zrotation Xrotation Yrotation
    End Site
    {
      OFFSET 0 1 0
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.0333333
0 0 0 0 0 0 0 0 0
0 0 0 0 0 0 90 0 0
"""


def test_end_sites_move_with_their_joint(tmp_path):
    (tmp_path / "a.bvh").write_text(GOOD)
    places = read_bvh(tmp_path / "a.bvh").forward()[1]
    np.testing.assert_allclose(places[0], [[0, 0, 0], [0, 1, 0], [0, 2, 0]], atol=1e-12)
    np.testing.assert_allclose(places[1], [[0, 0, 0], [0, 1, 0], [-1, 1, 0]], atol=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("HIERARCHY", "STRUCTURE", "line 1: expected HIERARCHY, found 'STRUCTURE'"),
        ("MOTION", "", "lacks the line MOTION"),
        (
            "OFFSET 0 1 0\n    CHANNELS",
            "OFFSET 0 one 0\n    CHANNELS",
            "line 8: an offset must be a number, found 'one'",
        ),
        ("3 Zrotation", "3 Wrotation", "line 9: channels are Xposition.*found 'Wrotation'"),
        ("  }\n}\nMOTION", "  }\nMOTION", "the hierarchy ends where"),
        ("}\nMOTION", "}\nROOT Other\n{\n}\nMOTION", "one skeleton a file"),
        ("Frames: 2", "Frames: 3", "tells of 3 frames but holds 2"),
        ("Frames: 2", "Frames: two", "line 17: Frames must be a number"),
        ("Frame Time: 0.0333333", "Frame Time: 0", "positive `Frame Time: S`"),
        ("0 0 0 0 0 0 90 0 0", "0 0 0 0 0 0 90 0", "line 20: a frame must have 9 numbers like the channels, found 8"),
        ("0 0 0 0 0 0 90 0 0", "0 0 0 0 0 0 x 0 0", "frames must be numbers"),
        ("0 0 0 0 0 0 90 0 0", "0 0 0 0 0 0 nan 0 0", "no NaN"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, old, new, message):
    assert old in GOOD
    (tmp_path / "bad.bvh").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(MotionError, match=message):
        read_bvh(tmp_path / "bad.bvh")


def test_missing_joints_and_rest_poses_of_no_body_are_refused(tmp_path, skeleton):
    (tmp_path / "a.bvh").write_text(GOOD)
    with pytest.raises(MotionError, match=r"no joint known as left_hip.*found Hips, Chest"):
        read_bvh_motion(tmp_path / "a.bvh", skeleton)
    with pytest.raises(MotionError, match="cannot be read"):
        read_bvh_motion(tmp_path / "none.bvh", skeleton)
    along = offsets_of(skeleton.joints)
    along[1:] = np.linalg.norm(along[1:], axis=1, keepdims=True) * [1.0, 0.0, 0.0]
    still = np.tile(np.eye(3), (1, 24, 1, 1))
    path = write_bvh(tmp_path / "line.bvh", JOINT_NAMES, PARENTS, along, still, np.zeros((1, 3)))
    with pytest.raises(MotionError, match="no standing body"):
        read_bvh_motion(path, skeleton)
