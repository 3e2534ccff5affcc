import numpy as np
import torch
from capture_files import write_capture

from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.train.observations import (
    band_passed,
    contour_points,
    observe_capture,
    sample_image,
    sample_image_with_gradient,
    signed_distance,
)


def disc(size: int, radius: float) -> np.ndarray:
    """A centred disc, ``[size, size]`` bool."""
    v, u = np.mgrid[:size, :size]
    return np.hypot(u - (size - 1) / 2, v - (size - 1) / 2) < radius


def test_distance_of_a_disc_is_its_radius_deficit():
    distance = signed_distance(disc(64, 20.0))
    v, u = np.mgrid[:64, :64]
    exact = np.hypot(u - 31.5, v - 31.5) - 20.0
    assert np.abs(distance - exact)[np.abs(exact) < 10].max() < 0.8


def test_contour_points_lie_on_the_disc_and_face_outward():
    points, outward = contour_points(signed_distance(disc(64, 20.0)))
    radial = points - 31.5
    assert (radial.norm(dim=-1) - 20.0).abs().max() < 0.8
    assert (torch.nn.functional.normalize(radial, dim=-1) * outward).sum(-1).min() > 0.95


def test_a_person_cut_by_the_border_has_no_contour_there():
    mask = np.zeros((40, 40), bool)
    mask[10:, 10:30] = True
    points, _ = contour_points(signed_distance(mask))
    assert points[:, 1].max() < 38


def test_sampling_is_bilinear_with_its_exact_derivative():
    images = torch.rand(2, 6, 7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    frame = torch.tensor([0, 1, 1])
    pixels = torch.tensor([[2.25, 3.5], [0.5, 0.5], [4.75, 1.1]])
    value, slope = sample_image_with_gradient(images, frame, pixels)
    torch.testing.assert_close(sample_image(images, frame, pixels), value)
    for axis in range(2):
        step = torch.zeros(2)
        step[axis] = 0.01
        ahead, behind = (sample_image(images, frame, pixels + sign * step) for sign in (1, -1))
        torch.testing.assert_close(slope[..., axis], (ahead - behind) / 0.02, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(sample_image(images, frame, torch.tensor([[2.0, 3.0]] * 3))[1], images[1, 3, 2])


def test_a_capture_is_observed_whole(tmp_path):
    capture = read_capture(write_capture(tmp_path / "capture", frames=3))
    observations = observe_capture(capture, torch.device("cpu"))
    assert observations.frame_count == 3
    assert observations.contour_start[-1] == len(observations.contour_pixels)
    assert ((observations.distance < 0) == observations.masks).all()
    lengths = (observations.normals.float() / 127.0).norm(dim=-1)
    assert (lengths[observations.masks] - 1.0).abs().max() < 0.02
    assert not lengths[~observations.masks].any()


def test_slow_shading_is_filtered_out(tmp_path):
    capture = read_capture(write_capture(tmp_path / "capture", frames=1))
    observations = observe_capture(capture, torch.device("cpu"))
    flat = observations.images.clone()
    flat[...] = torch.linspace(60, 200, flat.shape[1])[None, :, None, None].to(torch.uint8)
    shaded = band_passed(type(observations)(**{**vars(observations), "images": flat}))
    assert shaded[observations.masks].float().abs().median() < 0.02
