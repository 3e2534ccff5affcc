import pytest
import torch
from capture_files import default_body, write_capture

from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.kernels.skinning import skin_points
from selfrecon_warp.train.explicit import ExplicitMesh
from selfrecon_warp.train.observations import observe_capture
from selfrecon_warp.train.silhouettes import loss_contour


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    capture = read_capture(write_capture(tmp_path_factory.mktemp("scene") / "capture", 4, (240, 200)))
    body = default_body()
    canonical = body.canonical(torch.zeros(10))
    bones = body.bones(capture.poses, capture.trans, None, canonical)
    return capture, observe_capture(capture, torch.device("cpu")), canonical, bones


def contour(scene, mesh: ExplicitMesh) -> tuple[torch.Tensor, torch.Tensor]:
    capture, observations, _, bones = scene
    vertices_pixel = capture.camera.project(skin_points(mesh.vertices, mesh.weights, bones))
    face_index = visible_faces(vertices_pixel, mesh.faces, *capture.image_size)
    return loss_contour(vertices_pixel, mesh, face_index, observations, torch.arange(4), 3.0)


def test_the_right_mesh_costs_little(scene):
    canonical = scene[2]
    mesh = ExplicitMesh.start(canonical.vertices, canonical.faces.int(), canonical.weights)
    loss, mean_px = contour(scene, mesh)
    assert loss < 0.1
    assert mean_px < 0.6


def test_a_thinner_mesh_grows_to_the_masks(scene):
    canonical = scene[2]
    centre = canonical.vertices.mean(0)
    thin = centre + (canonical.vertices - centre) * torch.tensor([0.93, 1.0, 0.85])
    mesh = ExplicitMesh.start(thin, canonical.faces.int(), canonical.weights)
    first = contour(scene, mesh)[1]
    for _ in range(40):
        contour(scene, mesh)[0].backward()
        mesh.step(2e-3, 10)
    last = contour(scene, mesh)[1]
    assert first > 1.0
    assert last < 0.5 * first


def test_no_silhouette_no_gradient(scene):
    canonical = scene[2]
    mesh = ExplicitMesh.start(canonical.vertices + 100.0, canonical.faces.int(), canonical.weights)
    loss, mean_px = contour(scene, mesh)
    loss.backward()
    assert float(mean_px) == 0.0
    assert not mesh.vertices.grad.any()


def test_step_is_bounded_by_the_learning_rate_and_smooth(scene):
    canonical = scene[2]
    mesh = ExplicitMesh.start(canonical.vertices, canonical.faces.int(), canonical.weights)
    spike = torch.zeros_like(canonical.vertices)
    spike[1234] = 5.0
    mesh.vertices.grad = spike
    mesh.step(1e-3, 10)
    moved = (mesh.vertices.detach() - canonical.vertices).norm(dim=-1)
    assert moved.max() <= 1.001e-3 * 3**0.5
    assert (moved > 1e-5).sum() > 20
