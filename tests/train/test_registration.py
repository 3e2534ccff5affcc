from dataclasses import replace

import numpy as np
import pytest
import torch
from capture_files import default_body, write_capture
from scipy.spatial.transform import Rotation

from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.config import RegistrationConfig
from selfrecon_warp.kernels.rasterize import interpolate, rasterize
from selfrecon_warp.kernels.skinning import skin_points
from selfrecon_warp.surface.mesh import vertex_normals
from selfrecon_warp.train.bumps import make_bumps
from selfrecon_warp.train.kinematics import Kinematics, Poses, SurfacePoints
from selfrecon_warp.train.normal_equations import NormalEquations
from selfrecon_warp.train.observations import observe_capture
from selfrecon_warp.train.priors import Priors
from selfrecon_warp.train.registration import Registration, RegistrationSurface, body_surface

FRAMES = 8
STILL = RegistrationConfig(acceleration_m=10.0, pose_degrees=6.0, trans_m=0.1, samples=1000)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A turning body, its observations and its exact surface."""
    capture = read_capture(write_capture(tmp_path_factory.mktemp("scene") / "capture", FRAMES, (480, 400)))
    body = default_body()
    exact = Poses(capture.poses, capture.trans, torch.zeros(10), torch.zeros(24, 3))
    return capture, body, observe_capture(capture, torch.device("cpu")), exact, body_surface(body, exact)


def joints(body, estimate: Poses) -> torch.Tensor:
    rest = body.shaped(estimate.betas)[1] + estimate.joint_offsets
    return body.posed_joints(estimate.poses, estimate.trans, rest)


def turned(poses: torch.Tensor, joint: int, turns: torch.Tensor) -> torch.Tensor:
    """Poses whose ``joint`` is turned by rotation vectors ``[N, 3]`` in its parent's frame."""
    moved = poses.clone()
    moved[:, joint] = torch.from_numpy(
        (Rotation.from_rotvec(turns.numpy()) * Rotation.from_rotvec(poses[:, joint].numpy())).as_rotvec()
    ).float()
    return moved


def run(scene, start: Poses, sweeps: int, terms=STILL, **options) -> Poses:
    capture, body, observations, _, surface = scene
    registration = Registration(body, capture.camera, observations, start, list(capture.clips), terms)
    generator = torch.Generator().manual_seed(0)
    for _ in range(sweeps):
        start = registration.sweep(start, surface, generator=generator, **options).estimate
    return start


def test_rows_are_the_derivative_by_joint_turns_and_translation(scene):
    _, body, _, exact, surface = scene
    kinematics = Kinematics(body, pose_type=1)
    canonical = kinematics.canonical(exact)
    index = torch.arange(0, 6890, 300)
    points = SurfacePoints(surface.vertices[index], surface.weights[index], surface.normals[index])
    gradient = torch.randn(len(index), 3, generator=torch.Generator().manual_seed(0))
    poses = exact.poses[2:3].clone()
    poses[:, 1:] += 0.3 * torch.randn(1, 23, 3, generator=torch.Generator().manual_seed(1))

    def heights(poses: torch.Tensor, trans: torch.Tensor) -> torch.Tensor:
        bones = body.bones(poses, trans, None, canonical)
        return (skin_points(points.canonical, points.weights, bones)[0] * gradient).sum(-1)

    bones = body.bones(poses, exact.trans[2:3], None, canonical)[0]
    rows, _ = kinematics.point_rows(kinematics.skeleton(bones, canonical, None), points, gradient[:, None])
    rows = rows[:, 0]
    for joint in (0, 2, 5, 13, 17, 21):
        for axis in range(3):
            turn = torch.zeros(1, 3)
            turn[0, axis] = 1e-2
            ends = [heights(turned(poses, joint, sign * turn), exact.trans[2:3]) for sign in (1, -1)]
            slope = (ends[0] - ends[1]) / 2e-2
            torch.testing.assert_close(rows[:, 3 * joint + axis], slope, atol=2e-3, rtol=1e-2)
    shift = torch.tensor([[0.0, 1e-2, 0.0]])
    ends = [heights(poses, exact.trans[2:3] + sign * shift) for sign in (1, -1)]
    torch.testing.assert_close(rows[:, -2], (ends[0] - ends[1]) / 2e-2, atol=2e-3, rtol=1e-2)


def test_exact_poses_stay(scene):
    _, body, _, exact, _ = scene
    moved = run(scene, exact, 2)
    assert (joints(body, moved) - joints(body, exact)).norm(dim=-1).mean() < 0.005


@pytest.mark.parametrize(("joint", "angle"), [(4, 0.12), (16, 0.12), (18, 0.2)], ids=["knee", "shoulder", "elbow"])
def test_a_wrong_limb_comes_back(scene, joint, angle):
    _, body, _, exact, _ = scene
    sign = torch.tensor([1.0, -1.0]).repeat(FRAMES // 2)[:, None]
    wrong = replace(exact, poses=turned(exact.poses, joint, angle * sign * torch.tensor([[0.6, 0.0, 0.8]])))
    limb = {4: 7, 16: 18, 18: 20}[joint]
    before = (joints(body, wrong) - joints(body, exact))[:, limb].norm(dim=-1)
    # Sweeps see other samples each; whether half as many do depends on rounding.
    after = (joints(body, run(scene, wrong, 24)) - joints(body, exact))[:, limb].norm(dim=-1)
    assert after.mean() < 0.4 * before.mean()


def test_shifted_bodies_come_back(scene):
    _, body, _, exact, _ = scene
    sign = torch.tensor([1.0, -1.0]).repeat(FRAMES // 2)[:, None]
    wrong = replace(exact, trans=exact.trans + sign * torch.tensor([[0.02, -0.015, 0.0]]))
    before, after = ((joints(body, e) - joints(body, exact)).norm(dim=-1) for e in (wrong, run(scene, wrong, 5)))
    assert after.mean() < 0.4 * before.mean()


@pytest.mark.parametrize("normal_count", [0.0, 150.0], ids=["outlines", "outlines-and-normals"])
def test_shape_is_found_and_stays(scene, normal_count):
    capture, body, observations, exact, _ = scene
    estimate = replace(exact, betas=torch.zeros(10) + torch.eye(10)[0])
    free = STILL.model_copy(update={"shape": 3.0, "normal_count": normal_count})
    registration = Registration(body, capture.camera, observations, estimate, list(capture.clips), free)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        surface = body_surface(body, estimate, with_shape=True)
        options = {"solve_shared": True, "free_surface": False}
        estimate = registration.sweep(estimate, surface, generator=generator, **options).estimate
    before = (body.shaped(torch.eye(10)[0])[0] - body.shaped(torch.zeros(10))[0]).norm(dim=-1).mean()
    after = (body.shaped(estimate.betas)[0] - body.shaped(torch.zeros(10))[0]).norm(dim=-1).mean()
    assert after < 0.1 * before


def test_what_the_surface_could_absorb_is_left_as_given(scene):
    capture, _, _, exact, _ = scene
    constant = torch.tensor([[0.0, 0.1, 0.0]]).expand(FRAMES, 3)
    given = replace(exact, poses=turned(exact.poses, 18, constant))
    moved = run(scene, given, 2)
    change = Rotation.from_rotvec(given.poses[:, 18].numpy()).inv() * Rotation.from_rotvec(moved.poses[:, 18].numpy())
    assert np.abs(np.median(change.as_rotvec(), 0)).max() < 0.02
    forward = capture.camera.rotation()[:, 2]
    assert abs(((moved.trans - given.trans) @ forward).median()) < 1e-3


def test_jitter_is_smoothed_when_nothing_is_seen(scene):
    _, body, _, exact, _ = scene
    blind = RegistrationConfig(
        contour_count=0.0, normal_count=0.0, colour_count=0.0, acceleration_m=1e-5, pose_degrees=20.0, trans_m=1.0
    )
    noise = 0.03 * torch.randn(FRAMES, 3, generator=torch.Generator().manual_seed(0))
    still = replace(exact, poses=exact.poses[:1].expand(FRAMES, -1, -1).contiguous())
    jittered = replace(still, poses=turned(still.poses, 18, noise))
    moved = run(scene, jittered, 2, blind)

    def roughness(estimate: Poses) -> torch.Tensor:
        paths = joints(body, estimate)
        return (paths[2:] - 2 * paths[1:-1] + paths[:-2]).norm(dim=-1).mean()

    assert roughness(moved) < 0.3 * roughness(jittered)


def turn_of(joint: int, there: Poses, here: Poses) -> np.ndarray:
    """Angle between the rotations of a joint in two estimates, ``[N]``."""
    first, second = (Rotation.from_rotvec(estimate.poses[:, joint].numpy()) for estimate in (there, here))
    return (first.inv() * second).magnitude()


@pytest.mark.parametrize(("usual_spread", "least", "most"), [(1.0, 0.1, 0.3), (None, 0.99, 1.01)])
def test_what_nothing_shows_is_thought_to_be_as_usual(scene, usual_spread, least, most):
    _, _, _, exact, _ = scene
    blind = RegistrationConfig(
        contour_count=0.0, normal_count=0.0, colour_count=0.0, acceleration_m=1e6, usual_spread=usual_spread
    )
    turns = torch.zeros(FRAMES, 3)
    turns[3] = torch.tensor([0.0, 0.0, 0.12])
    turns -= turns.mean(0)  # the mean stays where it is
    astray = replace(exact, poses=turned(exact.poses, 18, turns))
    moved = run(scene, astray, 3, blind, free_surface=False)
    left = turn_of(18, exact, moved)[3] / turn_of(18, exact, astray)[3]
    assert least < left < most


def test_a_joint_that_moves_much_is_not_held(scene):
    _, _, _, exact, _ = scene
    swinging = torch.zeros(FRAMES, 3)
    swinging[:, 0] = torch.linspace(-0.6, 0.6, FRAMES)
    swung = replace(exact, poses=turned(exact.poses, 18, swinging))
    blind = RegistrationConfig(contour_count=0.0, normal_count=0.0, colour_count=0.0, acceleration_m=1e6)
    moved = run(scene, swung, 3, blind, free_surface=False)
    assert turn_of(18, swung, moved).max() < 0.06 * 0.6


def test_colours_pin_a_twist_that_outlines_hardly_show(scene):
    capture, body, observations, exact, surface = scene
    bones = body.bones(exact.poses, exact.trans, None, Kinematics(body, 1).canonical(exact))
    pixel = capture.camera.project(skin_points(surface.vertices, surface.weights, bones))
    H, W = observations.masks.shape[1:]
    index, barycentrics, _ = rasterize(pixel, surface.faces, H, W)
    pattern = interpolate(surface.vertices, surface.faces, (index, barycentrics))
    painted = (127.5 * (1.0 + torch.sin(150.0 * pattern))).to(torch.uint8)
    scene = (capture, body, replace(observations, images=painted), exact, surface)
    outlines = STILL.model_copy(update={"normal_count": 0.0, "colour_count": 600.0, "usual_spread": None})
    sign = torch.tensor([1.0, -1.0]).repeat(FRAMES // 2)[:, None]
    twisted = replace(exact, poses=turned(exact.poses, 1, 0.1 * sign * torch.tensor([[0.0, 1.0, 0.0]])))

    def twist(estimate: Poses) -> float:
        there, here = (Rotation.from_rotvec(poses[:, 1].numpy()) for poses in (exact.poses, estimate.poses))
        return float(np.abs((there.inv() * here).as_rotvec()[:, 1]).mean())

    blind, seeing = (twist(run(scene, twisted, 8, outlines, colour_points=points)) for points in (0, 3000))
    assert seeing < 0.6 * blind


def test_bumps_bring_a_wrong_surface_back(scene):
    capture, body, observations, exact, surface = scene
    heights = 0.012 * torch.sin(8.0 * surface.vertices[:, 1]) + 0.006
    vertices = surface.vertices + heights[:, None] * surface.normals
    registration = Registration(body, capture.camera, observations, exact, list(capture.clips), STILL)
    generator = torch.Generator().manual_seed(0)
    estimate = exact
    for _ in range(5):
        normals = vertex_normals(vertices, surface.faces)
        bumps = make_bumps(vertices, surface.faces, normals, 0.06)
        moving = RegistrationSurface(vertices, surface.faces, surface.weights, normals, bumps=bumps)
        sweep = registration.sweep(estimate, moving, generator=generator)
        estimate, vertices = sweep.estimate, vertices + normals * sweep.heights[:, None]
    left = ((vertices - surface.vertices) * surface.normals).sum(-1)
    assert left.abs().mean() < 0.4 * heights.abs().mean()


def test_without_normals_light_that_stands_still_does_not_dent_the_turning_body(scene):
    capture, body, observations, exact, surface = scene
    H, W = observations.masks.shape[1:]
    light = 127.5 * (1.0 + torch.sin(torch.arange(W) / 12.0))
    lit = replace(observations, images=light.to(torch.uint8)[None, None, :, None].expand(FRAMES, H, W, 3))
    fixed = {"pose_degrees": 0.01, "trans_m": 1e-4}
    terms = STILL.model_copy(update={"normal_count": 0.0, "colour_count": 600.0, **fixed})
    registration = Registration(body, capture.camera, lit, exact, list(capture.clips), terms)
    normals = vertex_normals(surface.vertices, surface.faces)
    bumps = make_bumps(surface.vertices, surface.faces, normals, 0.06)
    moving = RegistrationSurface(surface.vertices, surface.faces, surface.weights, normals, bumps=bumps)
    sweep = registration.sweep(exact, moving, generator=torch.Generator().manual_seed(0), colour_points=3000)
    assert sweep.heights is not None
    assert sweep.figures["colour"] > 0.05
    assert sweep.heights.abs().max() < 0.008


def test_without_normals_bumps_hold_one_another_and_move_freely_as_one(scene):
    _, _, _, exact, surface = scene
    bumps = make_bumps(surface.vertices, surface.faces, surface.normals, 0.06)
    added = []
    for held in (True, False):
        system = NormalEquations(FRAMES, 75, bumps.count, exact.poses)
        Priors(exact, STILL).add(system, exact, bumps, held)
        added.append(system.shared)
    extra = added[1] - added[0]
    together = torch.full((bumps.count,), 0.01)
    uneven = 0.01 * torch.randn(bumps.count, generator=torch.Generator().manual_seed(0))
    assert uneven @ extra @ uneven > 100.0 * (together @ extra @ together).abs()
    assert uneven @ extra @ uneven > uneven @ added[0] @ uneven


def test_outlines_that_clothes_widen_hardly_pull_the_body(scene):
    capture, body, observations, exact, surface = scene
    thin = replace(surface, vertices=surface.vertices - 0.015 * surface.normals)
    registration = Registration(body, capture.camera, observations, exact, list(capture.clips), STILL)
    turns = []
    for inside in (1.0, 0.0):
        terms = STILL.model_copy(update={"normal_count": 0.0, "contour_inside": inside})
        sweep = registration.sweep(exact, thin, generator=torch.Generator().manual_seed(0), terms=terms)
        turns.append(sweep.figures["turn_degrees"])
    assert turns[1] < 0.5 * turns[0]


def test_a_hand_in_the_wrong_place_is_moved_back_as_one(scene):
    capture, body, observations, exact, surface = scene
    hand = surface.weights[:, [20, 22]].sum(-1) > 0.9
    parts = torch.where(hand, 0, -1)
    shift = torch.tensor([0.006, -0.01, 0.0])
    vertices = surface.vertices + hand[:, None] * shift
    registration = Registration(body, capture.camera, observations, exact, list(capture.clips), STILL)
    generator = torch.Generator().manual_seed(0)
    estimate = exact
    for _ in range(4):
        normals = vertex_normals(vertices, surface.faces)
        bumps = make_bumps(vertices, surface.faces, normals, 0.06, parts)
        moving = RegistrationSurface(vertices, surface.faces, surface.weights, normals, bumps=bumps)
        sweep = registration.sweep(estimate, moving, generator=generator)
        (move,) = sweep.moves
        raised = vertices + normals * sweep.heights[:, None]
        estimate = sweep.estimate
        vertices = torch.where(hand[:, None], vertices @ move[:3, :3].T + move[:3, 3], raised)
    left = (vertices - surface.vertices)[hand].norm(dim=-1).mean()
    assert left < 0.4 * shift.norm()
