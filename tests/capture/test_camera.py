import math

import numpy as np
import pytest
import torch
from capture_files import shared_capture

from selfrecon_warp.capture.camera import Camera, read_arrays, read_camera, write_camera
from selfrecon_warp.errors import CaptureError

SIZE = {"height": 120, "width": 200}


def turned_camera(dtype=torch.float32) -> Camera:
    return Camera((150, 140), (90, 65), (0.3, -0.2, 0.8, 0.5), (0.1, -0.4, 0.6), **SIZE).to(dtype)


def test_opencv_frame_projects_as_opencv_does():
    camera = Camera((150, 140), (90, 65), **SIZE)
    x, y, z = point = torch.tensor([0.3, -0.2, 2.0])
    expected = torch.stack((90 + 150 * x / z, 65 + 140 * y / z, z))
    torch.testing.assert_close(camera.project(point), expected)


def test_identity_quaternion_has_x_left_and_y_up():
    u, v, _ = Camera((100, 100), (50, 60), (1, 0, 0, 0), **SIZE).project(torch.tensor([0.1, 0.1, 1.0])).tolist()
    assert u == pytest.approx(40)
    assert v == pytest.approx(50)


def test_rays_lead_back_to_their_pixels():
    camera = turned_camera(torch.float64)
    pixels = torch.tensor([[0.0, 0.0], [199.0, 119.0], [90.0, 65.0], [12.5, 100.25]], dtype=torch.float64)
    rays = camera.rays(pixels)
    torch.testing.assert_close(rays.norm(dim=-1), torch.ones(4, dtype=torch.float64))
    points = camera.centre() + 2.5 * rays
    torch.testing.assert_close(camera.project(points)[:, :2], pixels)


def test_centre_is_the_origin_of_camera_axes():
    camera = turned_camera(torch.float64)
    torch.testing.assert_close(camera.centre() @ camera.rotation() + camera.T, torch.zeros(3, dtype=torch.float64))


def test_length_of_the_quaternion_does_not_matter():
    camera = turned_camera()
    longer = Camera((150, 140), (90, 65), (0.9, -0.6, 2.4, 1.5), (0.1, -0.4, 0.6), **SIZE)
    torch.testing.assert_close(longer.rotation(), camera.rotation())


def test_projection_is_differentiable_in_every_parameter():
    camera = turned_camera(torch.float64)
    parameters = camera.optimise("focal", "principal", "quat", "T")
    points = torch.tensor([[0.2, 0.1, 2.0], [-0.3, 0.4, 1.0]], dtype=torch.float64, requires_grad=True)

    def project(points, *values):
        return torch.func.functional_call(
            _Projector(camera),
            dict(zip(("camera.focal", "camera.principal", "camera.quat", "camera.T"), values, strict=True)),
            points,
        )

    assert torch.autograd.gradcheck(project, (points, *parameters))


class _Projector(torch.nn.Module):
    def __init__(self, camera):
        super().__init__()
        self.camera = camera

    def forward(self, points):
        return self.camera.project(points)


def test_only_the_named_parameters_are_optimised():
    camera = Camera((150, 140), (90, 65), **SIZE)
    assert not any(parameter.requires_grad for parameter in camera.parameters())
    assert camera.optimise("focal") == [camera.focal]
    assert [name for name, p in camera.named_parameters() if p.requires_grad] == ["focal"]
    camera.optimise()
    assert not any(parameter.requires_grad for parameter in camera.parameters())
    with pytest.raises(ValueError, match="got zoom"):
        camera.optimise("zoom")


def test_points_on_the_camera_plane_stay_finite():
    assert Camera((150, 140), (90, 65), **SIZE).project(torch.zeros(3)).isfinite().all()


def test_angular_tolerance_is_half_a_pixel_at_the_farthest_border():
    camera = Camera((2664.0, 2664.0), (539.5, 539.5), height=1080, width=1080)
    expected = math.atan(539.5 / 2664) - math.atan(539.0 / 2664)
    assert camera.angular_tolerance() == pytest.approx(expected, rel=1e-9)
    assert math.degrees(camera.angular_tolerance()) == pytest.approx(0.0103, abs=5e-5)
    off_centre = Camera((150, 140), (30, 65), **SIZE)
    assert off_centre.angular_tolerance() == pytest.approx(math.atan(169 / 150) - math.atan(168.5 / 150), rel=1e-9)


def test_resizing_keeps_where_things_are():
    camera, half = turned_camera(), turned_camera().resized(60, 100)
    point = torch.tensor([0.4, 0.2, 2.0])
    expected = (camera.project(point)[:2] + 0.5) / 2 - 0.5
    torch.testing.assert_close(half.project(point)[:2], expected)


def test_file_round_trip(tmp_path):
    camera = turned_camera()
    write_camera(tmp_path / "camera.npz", camera)
    again = read_camera(tmp_path / "camera.npz", **SIZE)
    for name, parameter in camera.named_parameters():
        torch.testing.assert_close(again.get_parameter(name), parameter)
    assert (again.height, again.width) == (120, 200)


def good_arrays() -> dict:
    return {"fx": 100.0, "fy": 100.0, "cx": 5.0, "cy": 6.0, "quat": [0, 0, 0, 1], "T": [0, 0, 0]}


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_scalars_may_have_any_single_element_shape(tmp_path, shape):
    np.savez(tmp_path / "camera.npz", **(good_arrays() | {"fx": np.full(shape, 321.0)}))
    assert read_camera(tmp_path / "camera.npz", **SIZE).focal[0] == 321


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quat": [0, 0, 1]}, r"quat must be 4 number"),
        ({"fx": float("nan")}, "fx holds NaN"),
        ({"fy": -3.0}, "positive focal"),
        ({"quat": [0, 0, 0, 0]}, "quat must be a rotation"),
        ({"cx": "left"}, "cx must be 1 number"),
    ],
)
def test_bad_values_are_named(tmp_path, changes, message):
    np.savez(tmp_path / "camera.npz", **(good_arrays() | changes))
    with pytest.raises(CaptureError, match=message) as caught:
        read_camera(tmp_path / "camera.npz", **SIZE)
    assert str(tmp_path / "camera.npz") in str(caught.value)


def test_missing_key_is_named(tmp_path):
    arrays = good_arrays()
    del arrays["cy"]
    np.savez(tmp_path / "camera.npz", **arrays)
    with pytest.raises(CaptureError, match="lacks cy; it holds fx, fy, cx, quat, T"):
        read_camera(tmp_path / "camera.npz", **SIZE)


def test_missing_damaged_and_pickled_files_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(CaptureError, match="is missing"):
        read_arrays(path)
    np.savez(path, x=np.arange(1000))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CaptureError, match=r"damaged or no \.npz"):
        read_arrays(path)
    path.write_text("hello")
    with pytest.raises(CaptureError, match=r"a\.npz"):
        read_arrays(path)
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CaptureError, match="never loaded"):
        read_arrays(path)


@pytest.mark.parametrize("name", ["male_casual", "female_skirt"])
def test_rendered_captures_use_an_opencv_camera_frame(name):
    camera = read_camera(shared_capture(name) / "camera.npz", 540, 540)
    torch.testing.assert_close(camera.rotation(), torch.diag(torch.tensor([-1.0, -1.0, 1.0])))
    assert camera.centre().norm() == 0
