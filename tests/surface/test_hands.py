import pytest
import torch
import trimesh

from selfrecon_warp.kernels.closest_point import closest_point
from selfrecon_warp.model.body import load_body
from selfrecon_warp.model.deformation import HAND_BLEND_M
from selfrecon_warp.surface.distance import signed_distance_to_body
from selfrecon_warp.surface.extraction import extract_mesh, lattice
from selfrecon_warp.surface.hands import body_hand, wear_hands

CELL = 0.016


@pytest.fixture(scope="module")
def body():
    model = load_body()
    return model.canonical(torch.zeros(model.shape_count))


@pytest.fixture(scope="module")
def mittens(body):
    margin = 0.1
    box = lattice(body.vertices.amin(0) - margin, body.vertices.amax(0) + margin, CELL)
    mesh = extract_mesh(lambda p: signed_distance_to_body(p, body) - 0.006, *box, min_fraction=0.05)
    return mesh.vertices, mesh.faces


def hands_of(body, moves=None):
    moves = torch.eye(4).repeat(2, 1, 1) if moves is None else moves
    return [body_hand(body, side, moves[side]) for side in range(2)]


def distance(points, vertices, faces):
    return closest_point(points, vertices, faces.int())[0]


def test_a_hand_is_the_bodys_own_beyond_the_wrist(body):
    for side, hand in enumerate(hands_of(body)):
        mesh = trimesh.Trimesh(hand.vertices.numpy(), hand.faces.numpy(), process=False)
        assert mesh.body_count == 1
        assert mesh.is_winding_consistent
        assert mesh.euler_number == 1
        assert 0.12 < float(((hand.vertices - hand.origin) @ hand.axis).max()) < 0.22
        assert (hand.vertices[:, 0] > 0).all() if side == 0 else (hand.vertices[:, 0] < 0).all()
        assert distance(hand.vertices, body.vertices, body.faces).max() < 1e-5


def test_a_surface_with_hands_is_closed_and_has_the_bodys_fingers(body, mittens):
    vertices, faces = mittens
    handed = wear_hands(vertices, faces, hands_of(body))
    mesh = trimesh.Trimesh(handed.vertices.numpy(), handed.faces.numpy(), process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.body_count == 1
    assert handed.sides == [0, 1]
    free = handed.side < 0
    assert distance(handed.vertices[free], vertices, faces).max() < 1e-5
    for side, hand in enumerate(hands_of(body)):
        mine = handed.vertices[handed.side == side]
        far = mine[(mine - hand.origin) @ hand.axis > HAND_BLEND_M]
        assert distance(far, body.vertices, body.faces).max() < 1e-5
        near = mine[(mine - hand.origin) @ hand.axis < 0.005]
        assert distance(near, vertices, faces).max() < 1e-3
    reach = [(hand.vertices, (hand.vertices - hand.origin) @ hand.axis) for hand in hands_of(body)]
    tips = torch.cat([points[height.topk(5).indices] for points, height in reach])
    assert distance(tips, handed.vertices, handed.faces).max() < 1e-5 < distance(tips, vertices, faces).max()


def test_a_moved_hand_is_sewn_on_where_it_is(body, mittens):
    moves = torch.eye(4).repeat(2, 1, 1)
    moves[0, :3, 3] = torch.tensor([0.004, -0.008, 0.003])
    plain, moved = (wear_hands(*mittens, hands_of(body, m)) for m in (None, moves))
    tips = [mesh.vertices[mesh.side == 0][:, 1].min() for mesh in (plain, moved)]
    assert (tips[1] - tips[0]).item() == pytest.approx(-0.008, abs=1e-4)
    assert trimesh.Trimesh(moved.vertices.numpy(), moved.faces.numpy(), process=False).is_watertight


def test_a_side_not_wanted_stays_as_it_is(body, mittens):
    vertices, faces = mittens
    handed = wear_hands(vertices, faces, [None, hands_of(body)[1]])
    assert handed.sides == [1]
    left = vertices[vertices[:, 0] > 0]
    kept = handed.vertices[handed.vertices[:, 0] > 0]
    torch.testing.assert_close(kept, left, rtol=0, atol=0)
    untouched = wear_hands(vertices, faces, [None, None])
    assert torch.equal(untouched.vertices, vertices)
    assert torch.equal(untouched.faces, faces)
    assert untouched.sides == []


def test_a_hand_grown_into_the_hip_or_missing_is_left_alone(body, mittens):
    hands = hands_of(body)
    vertices, faces = mittens
    height = (vertices - hands[0].origin) @ hands[0].axis
    stump = faces[(height[faces.long()] < 0.0).all(-1)]
    assert 0 not in wear_hands(vertices, stump, hands).sides

    def clinging(points):  # a rod from the palm to the hip
        start, end = hands[0].vertices.mean(0), body.joints[1]
        along = ((points - start) @ (end - start) / (end - start).square().sum()).clamp(0, 1)
        rod = (points - start - along[:, None] * (end - start)).norm(dim=-1) - 0.04
        return torch.minimum(signed_distance_to_body(points, body) - 0.006, rod)

    box = lattice(body.vertices.amin(0) - 0.1, body.vertices.amax(0) + 0.1, CELL)
    mesh = extract_mesh(clinging, *box, min_fraction=0.05)
    handed = wear_hands(mesh.vertices, mesh.faces, hands)
    assert handed.sides == [1]
