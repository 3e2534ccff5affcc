import numpy as np
import pytest
import torch
import trimesh
from capture_files import shared_capture
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from selfrecon_warp.capture.ground_truth import ClothedMesh, PosedMeshes, read_ground_truth
from selfrecon_warp.model.body import load_body
from selfrecon_warp.view.metrics import (
    AvatarScore,
    ColourScore,
    GeometryScore,
    JointScore,
    mean_colour_score,
    metrics_record,
    score_colours,
    score_geometry,
    score_joints,
    silhouette_iou,
)
from selfrecon_warp.view.metrics_surface import (
    CLOUD_POINTS,
    SurfaceScore,
    align_surface,
    rigid_alignment,
    sample_surface,
    score_surface,
)


def from_trimesh(mesh: trimesh.Trimesh) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32), torch.tensor(np.asarray(mesh.faces))


def sphere(radius: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    return from_trimesh(trimesh.creation.icosphere(4, radius))


def lopsided() -> tuple[torch.Tensor, torch.Tensor]:
    """A shape that no rotation maps to itself."""
    vertices, faces = sphere()
    vertices = vertices * torch.tensor([0.5, 1.0, 0.3])
    bump = torch.exp(-((vertices - torch.tensor([0.2, 0.2, 0.0])) ** 2).sum(-1) / 0.02)
    return vertices + 0.15 * bump[:, None], faces


def turned(vertices: torch.Tensor, degrees: float, shift: tuple[float, float, float]) -> torch.Tensor:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return vertices @ torch.tensor([[c, s, 0], [-s, c, 0], [0, 0, 1.0]]).float() + torch.tensor(shift)


def test_samples_spread_by_area_and_repeat():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [10, 0, 0], [12, 0, 0], [10, 1.5, 0]])
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]])  # areas 0.5 and 1.5
    points, index = sample_surface(vertices, faces, 40_000, seed=3)
    assert (index == 1).float().mean().item() == pytest.approx(0.75, abs=1e-3)
    torch.testing.assert_close(points[index == 0].mean(0), vertices[:3].mean(0), atol=0.01, rtol=0)
    assert (points[index == 0] >= 0).all()
    assert (points[index == 0].sum(-1) <= 1 + 1e-6).all()
    assert torch.equal(points, sample_surface(vertices, faces, 40_000, seed=3)[0])
    assert not torch.equal(points, sample_surface(vertices, faces, 40_000, seed=4)[0])


def test_a_surface_without_area_is_refused():
    with pytest.raises(ValueError, match="surface with area"):
        sample_surface(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]), 10)
    with pytest.raises(ValueError, match=r"faces must have shape \[F, 3\]"):
        sample_surface(torch.zeros(3, 3), torch.tensor([0, 1, 2]), 10)


def test_identical_surfaces_touch_and_agree():
    raw, aligned = score_surface(sphere(), sphere())
    for score in (raw, aligned):
        assert score.predicted_to_truth < 3e-4
        assert score.truth_to_predicted < 3e-4
        assert score.normal_consistency > 0.999
        assert score.chamfer == pytest.approx(0.5 * np.sqrt(np.pi / CLOUD_POINTS), rel=0.05)


def test_concentric_spheres_lie_their_radii_apart():
    raw, aligned = score_surface(sphere(0.53), sphere(0.5))
    for score in (raw, aligned):
        assert score.predicted_to_truth == pytest.approx(0.03, rel=0.02)
        assert score.truth_to_predicted == pytest.approx(0.03, rel=0.02)
        assert score.chamfer == pytest.approx(0.03, rel=0.02)
        assert score.normal_consistency > 0.998


def test_shifted_sphere_scores_the_known_distance_and_aligns_to_zero():
    vertices, faces = sphere()
    shift = 0.04
    raw, aligned = score_surface((vertices + torch.tensor([shift, 0, 0]), faces), (vertices, faces))
    assert raw.predicted_to_truth == pytest.approx(shift / 2, rel=0.03)  # mean of |shift cos| over a sphere
    assert raw.truth_to_predicted == pytest.approx(shift / 2, rel=0.03)
    assert aligned.predicted_to_truth < 5e-4


def test_alignment_finds_the_motion_back():
    vertices, faces = lopsided()
    moved = turned(vertices, 6, (0.02, -0.03, 0.01))
    rotation, translation = align_surface((moved, faces), (vertices, faces))
    back = moved.double() @ rotation.T + translation
    assert (back - vertices).norm(dim=-1).mean() < 2e-3
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))


def test_aligned_scores_do_not_change_under_rigid_motion():
    vertices, faces = lopsided()
    truth = vertices * torch.tensor([1.0, 1.05, 1.0]), faces
    _, still = score_surface((vertices, faces), truth)
    raw, moved = score_surface((turned(vertices, 4, (0.03, 0.01, -0.02)), faces), truth)
    assert moved.chamfer == pytest.approx(still.chamfer, rel=0.03)
    assert moved.normal_consistency == pytest.approx(still.normal_consistency, abs=0.003)
    assert raw.chamfer > 1.5 * moved.chamfer


def test_scores_repeat_exactly():
    vertices, faces = lopsided()
    first = score_surface((vertices, faces), (1.02 * vertices, faces))
    assert first == score_surface((vertices, faces), (1.02 * vertices, faces))


def test_geometry_is_scored_against_exterior_faces_of_the_frames_asked_for():
    vertices, faces = sphere()
    inner = 0.3 * vertices
    canonical = ClothedMesh(
        faces=torch.cat((faces, faces + len(vertices))),
        face_part=torch.zeros(2 * len(faces), dtype=torch.long),
        part_names=("skin",),
        face_exterior=torch.arange(2 * len(faces)) < len(faces),
        vertices_tpose=vertices,
        vertices_apose=vertices,
        apose=torch.zeros(24, 3),
        joints_rest=torch.zeros(24, 3),
    )
    scale = 1e-4
    posed = torch.stack([torch.cat((vertices, inner)) + torch.tensor([x, 0, 0]) for x in (0.0, 0.5)])
    quantised = (posed / scale).round().to(torch.int16).numpy()
    meshes = PosedMeshes((3, 7), quantised, scale, np.zeros(3, np.float32))
    seen: list[int] = []
    score = score_geometry(
        lambda frame: (vertices + torch.tensor([0.5 * (frame == 7), 0, 0]), faces), canonical, meshes
    )
    one = score_geometry(lambda _: (vertices, faces), canonical, meshes, frames=[3], progress=seen.append)
    assert score.frames == (3, 7)
    assert len(score.raw_frames) == len(score.aligned_frames) == 2
    assert score.raw.truth_to_predicted < 2e-4  # the hidden inner sphere does not count
    assert score.raw.chamfer == pytest.approx(np.mean([s.chamfer for s in score.raw_frames]))
    assert one.raw == score.raw_frames[0]
    assert seen == [1]
    with pytest.raises(ValueError, match="at least one frame"):
        score_geometry(lambda _: (vertices, faces), canonical, meshes, frames=[])


def test_rigid_alignment_recovers_similarity_and_never_reflects():
    points = np.random.default_rng(0).normal(size=(20, 3))
    rotation = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    linear, translation = rigid_alignment(points, 1.7 * points @ rotation.T + 0.3, scaled=True)
    np.testing.assert_allclose(linear, 1.7 * rotation, atol=1e-9)
    np.testing.assert_allclose(translation, 0.3, atol=1e-9)
    mirrored, _ = rigid_alignment(points, points * [-1, 1, 1])
    assert np.linalg.det(mirrored) == pytest.approx(1)


def test_joint_error_is_a_mean_distance_and_procrustes_removes_similarity():
    joints = torch.randn(4, 24, 3, generator=torch.Generator().manual_seed(0))
    shifted = score_joints(joints + torch.tensor([0.03, 0.0, 0.04]), joints)
    assert shifted.raw == pytest.approx(0.05, rel=1e-5)
    assert shifted.procrustes == pytest.approx(0, abs=1e-6)
    scaled = score_joints(1.1 * turned(joints, 30, (0, 1, 0)), joints)
    assert scaled.raw > 0.5
    assert scaled.procrustes == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="truth must have shape"):
        score_joints(joints, joints[:3])


def test_silhouette_overlap():
    truth = np.zeros((2, 8, 8), bool)
    truth[0, 2:6, 2:6] = True
    predicted = np.roll(truth, 2, axis=2)
    np.testing.assert_allclose(silhouette_iou(predicted, truth), [8 / 24, 1.0])
    assert silhouette_iou(truth[0], truth[0]) == 1
    with pytest.raises(ValueError, match="shape of truth"):
        silhouette_iou(truth, truth[:, :4])


@pytest.fixture
def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    image = np.kron(rng.integers(0, 255, (10, 12, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    noisy = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    return noisy, image


def test_colour_scores_match_scikit_image(pictures):
    noisy, image = pictures
    score = score_colours(noisy, image, np.ones(image.shape[:2], bool))
    _, similarity = structural_similarity(
        image,
        noisy,
        channel_axis=-1,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert score.psnr == pytest.approx(peak_signal_noise_ratio(image, noisy, data_range=255), rel=1e-6)
    assert score.ssim == pytest.approx(similarity.mean(), rel=1e-5)


def test_colours_outside_the_mask_do_not_count(pictures):
    noisy, image = pictures
    mask = np.zeros(image.shape[:2], bool)
    mask[8:30, 10:30] = True
    score = score_colours(noisy, image, mask)
    assert score == score_colours(np.where(mask[..., None], noisy, 7).astype(np.uint8), image, mask)
    assert score_colours(image, image, mask) == ColourScore(100.0, pytest.approx(1.0))
    assert mean_colour_score([score, ColourScore(score.psnr + 2, score.ssim)]).psnr == pytest.approx(score.psnr + 1)
    with pytest.raises(ValueError, match="at least one pixel"):
        score_colours(noisy, image, np.zeros_like(mask))
    with pytest.raises(ValueError, match="image must have shape"):
        score_colours(noisy, image[:5], mask)
    with pytest.raises(ValueError, match="at least one frame"):
        mean_colour_score([])


def test_record_holds_what_was_measured_in_named_units():
    surface = SurfaceScore(0.02, 0.018, 0.022, 0.9)
    aligned = SurfaceScore(0.01, 0.009, 0.011, 0.95)
    fit = AvatarScore(GeometryScore(surface, aligned, (4,), (surface,), (aligned,)), JointScore(0.03, 0.02), 0.97)
    record = metrics_record(fit, AvatarScore(silhouette_iou=0.8), frames_scored=1)
    assert record["fit"]["chamfer_cm"] == 2.0
    assert record["fit"]["chamfer_aligned_cm"] == 1.0
    assert record["fit"]["joint_error_procrustes_cm"] == 2.0
    assert record["fit"]["frames"] == {"4": {"chamfer_aligned_cm": 1.0, "normal_consistency_aligned": 0.95}}
    assert "psnr_db" not in record["fit"]
    assert record["initial"] == {"silhouette_iou": 0.8}
    assert record["frames_scored"] == 1
    assert "initial" not in metrics_record(fit)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "noisy", "true"),
    [
        ("male_casual", (2.17, 1.79, 0.896), (1.40, 1.41, 0.950)),
        ("female_skirt", (2.05, 1.57, 0.884), (0.94, 0.93, 0.934)),
    ],
)
def test_naked_bodies_score_as_published(name, noisy, true):
    """Chamfer [cm] raw and aligned and normal consistency aligned, as the captures' own notes state them."""
    folder = shared_capture(name)
    truth, body = read_ground_truth(folder), load_body()
    with np.load(folder / "smpl_rec.npz") as given:
        estimate = [torch.from_numpy(given[key]) for key in ("shape", "poses", "trans")]
    for (betas, poses, trans), expected in ((estimate, noisy), ((truth.betas, truth.poses, truth.trans), true)):
        posed = body.posed(betas, poses, trans)[0]
        score = score_geometry(lambda i, p=posed: (p[i], body.faces), truth.canonical, truth.meshes)
        found = 100 * score.raw.chamfer, 100 * score.aligned.chamfer, score.aligned.normal_consistency
        assert found[:2] == pytest.approx(expected[:2], rel=0.02)
        assert found[2] == pytest.approx(expected[2], abs=0.005)
