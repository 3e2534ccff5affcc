import torch

from selfrecon_warp.model.networks import (
    Perceptron,
    frequency_encoding,
    frequency_encoding_jacobian,
)


def test_encoding_without_progress_keeps_the_identity_alone():
    points = torch.rand(4, 3)
    encoded = frequency_encoding(points, 6, progress=-1.0)
    assert encoded.shape == (4, 39)
    torch.testing.assert_close(encoded[:, :3], points)
    assert not encoded[:, 3:].any()


def test_bands_fade_in_one_after_the_other():
    points = torch.full((1, 3), 0.3)
    half = frequency_encoding(points, 2, progress=0.5)
    torch.testing.assert_close(half[0, 3:6], points[0].sin())
    assert not half[0, 9:].any()


def test_encoding_jacobian_is_the_derivative():
    points = torch.rand(5, 3, dtype=torch.float64)
    exact = torch.func.vmap(torch.func.jacrev(lambda p: frequency_encoding(p, 4, 0.7)))(points)
    torch.testing.assert_close(frequency_encoding_jacobian(points, 4, 0.7), exact.transpose(1, 2))


def test_perceptron_tangents_are_the_derivative():
    torch.manual_seed(0)
    network = Perceptron([3, 16, 16, 4]).double()
    points = torch.randn(6, 3, dtype=torch.float64)
    tangents = torch.eye(3, dtype=torch.float64).expand(6, 3, 3)
    value, moved = network.with_tangents(points, tangents)
    torch.testing.assert_close(value, network(points))
    exact = torch.func.vmap(torch.func.jacrev(network))(points)
    torch.testing.assert_close(moved, exact.transpose(1, 2))
