import numpy as np
import pytest
import torch

from selfrecon_warp.capture.camera import Camera, write_camera
from selfrecon_warp.errors import RunError
from selfrecon_warp.view.shots import fixed_shot, following_shot, read_view, smooth_path

LOW, HIGH = torch.tensor([-0.5, 0.0, -0.3]), torch.tensor([0.5, 1.8, 0.3])


def corners(centre: torch.Tensor) -> torch.Tensor:
    return torch.cartesian_prod(*torch.stack((LOW, HIGH), 1)) + centre


@pytest.mark.parametrize("orbit", [None, 12])
@pytest.mark.parametrize("size", [(200, 200), (300, 150)])
def test_a_following_camera_sees_everything_in_every_picture(orbit, size):
    centres = torch.linspace(0, 5, 24)[:, None] * torch.tensor([0.3, 0.0, 1.0])
    shot = following_shot(LOW, HIGH, centres, *size, orbit_pictures=orbit)
    spans = []
    for picture in range(len(shot)):
        u, v, z = shot.camera.project(shot.place(corners(centres[picture]), picture)).unbind(-1)
        assert u.min() > 0
        assert u.max() < size[1] - 1
        assert v.min() > 0
        assert v.max() < size[0] - 1
        assert z.min() > 0
        spans.append(max(float(np.ptp(u.numpy())) / size[1], float(np.ptp(v.numpy())) / size[0]))
    assert max(spans) > 0.75  # it fills the picture


def test_it_stands_in_front_and_goes_around_by_the_left():
    shot = following_shot(LOW, HIGH, torch.zeros(4, 3), 100, 100, orbit_pictures=4, elevation=0.0)
    points = torch.tensor([[0.0, 0.9, 0.3], [0.5, 0.9, 0.0]])
    first, second = (shot.camera.project(shot.place(points, picture)) for picture in (0, 1))
    assert first[0, 2] < first[1, 2]  # the front is nearest
    assert first[1, 0] > first[0, 0]  # the model's left is on the right
    assert second[0, 0] > second[1, 0]


def test_a_shot_of_a_turned_world_shows_the_same():
    world = torch.eye(4)
    world[:3, :3] = torch.tensor([[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
    world[:3, 3] = torch.tensor([0.3, -0.2, 3.0])
    points = corners(torch.tensor([0.2, 0.0, 0.1]))
    shot = following_shot(LOW, HIGH, torch.tensor([[0.2, 0.0, 0.1]]).expand(3, 3), 64, 64, orbit_pictures=5)
    moved = shot.seen_from(world)
    for picture in range(3):
        torch.testing.assert_close(
            moved.place(points @ world[:3, :3].T + world[:3, 3], picture), shot.place(points, picture)
        )


def test_a_fixed_camera_leaves_the_world_alone():
    camera = Camera((50.0, 50.0), (10.0, 10.0), height=20, width=20)
    shot = fixed_shot(camera, 3)
    points = torch.randn(5, 3)
    assert len(shot) == 3
    torch.testing.assert_close(shot.place(points, 2), points)


def test_smooth_paths_keep_the_way_and_lose_the_steps():
    way = np.linspace(0, 4, 120)[:, None] * [0.0, 0.0, 1.0]
    steps = way + 0.02 * np.sin(np.arange(120) * 2 * np.pi / 12)[:, None] * [1.0, 0.0, 0.0]
    smooth = smooth_path(steps, 0.5, 30.0)
    np.testing.assert_allclose(smooth[:, 2], way[:, 2], atol=1e-9)
    assert np.abs(smooth[30:90, 0]).max() < 0.002
    np.testing.assert_array_equal(smooth_path(way[:2], 0.5, 30.0), way[:2])


def test_camera_files(tmp_path):
    write_camera(tmp_path / "c.npz", Camera((50.0, 60.0), (10.0, 11.0), T=(0.0, 1.0, 2.0), height=20, width=30))
    camera = read_view(tmp_path / "c.npz", 20, 30)
    assert (camera.height, camera.width, camera.focal.tolist()) == (20, 30, [50.0, 60.0])
    arrays = dict(np.load(tmp_path / "c.npz"))
    np.savez(tmp_path / "sized.npz", **arrays, height=40, width=60)
    assert read_view(tmp_path / "sized.npz", 20, 30).width == 60
    np.savez(tmp_path / "bad.npz", **arrays, height=-1)
    for name, message in (("bad.npz", "whole numbers of pixels"), ("none.npz", "--camera: .*missing")):
        with pytest.raises(RunError, match=message):
            read_view(tmp_path / name, 20, 30)
