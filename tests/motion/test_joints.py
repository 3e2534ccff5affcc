from selfrecon_warp.model.body import load_body
from selfrecon_warp.motion.joints import JOINT, JOINT_NAMES, PARENTS, known_joints


def test_the_tree_is_the_body_models():
    assert list(PARENTS) == load_body().parents
    assert [JOINT[name] for name in JOINT_NAMES] == list(range(24))


def test_smpls_own_names_in_every_spelling():
    for style in (
        lambda name: name,
        lambda name: name.replace("left_", "L_").replace("right_", "R_").title().replace("L_", "L_"),
        lambda name: f"m_avg_{name.replace('left_', 'L_').replace('right_', 'R_')}",
    ):
        names = [style(name) for name in JOINT_NAMES if "spine" not in name]
        found = known_joints(names)
        assert {JOINT_NAMES[joint]: name for joint, name in found.items()} == dict(
            zip([name for name in JOINT_NAMES if "spine" not in name], names, strict=True)
        )


def test_a_left_shoulder_is_a_collar_bone_to_mixamo_and_cmu():
    names = ["Hips", "Neck", "Head"] + [
        f"{side}{part}"
        for side in ("Left", "Right")
        for part in ("UpLeg", "Leg", "Foot", "ToeBase", "Shoulder", "Arm", "ForeArm", "Hand")
    ]
    for prefix in ("", "mixamorig:", "mixamorig1:", "mixamorig_", "someone:mixamorig:"):
        found = known_joints(prefix + name for name in names)
        named = {JOINT_NAMES[joint]: name.removeprefix(prefix) for joint, name in found.items()}
        assert named["left_collar"] == "LeftShoulder"
        assert named["left_shoulder"] == "LeftArm"
        assert named["right_elbow"] == "RightForeArm"
        assert named["right_knee"] == "RightLeg"
        assert named["left_ankle"] == "LeftFoot"
        assert named["pelvis"] == "Hips"
        assert len(found) == 19


def test_older_bvh_names_are_those_of_joints():
    names = ["Hips", "LeftHip", "LeftKnee", "LeftAnkle", "LeftCollar", "LeftShoulder", "LeftElbow", "LeftWrist"]
    named = {JOINT_NAMES[joint]: name for joint, name in known_joints(names).items()}
    assert named == {
        "pelvis": "Hips",
        "left_hip": "LeftHip",
        "left_knee": "LeftKnee",
        "left_ankle": "LeftAnkle",
        "left_collar": "LeftCollar",
        "left_shoulder": "LeftShoulder",
        "left_elbow": "LeftElbow",
        "left_wrist": "LeftWrist",
    }
