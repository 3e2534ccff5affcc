import numpy as np
import pytest
import torch

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.view.painter import Painter, over, soft_shadow

SIZE = 32


def board() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Camera]:
    """A square that covers a camera's picture exactly, and its texture coordinates; world x left, y up, z forward."""
    half = SIZE / 2 / 40.0
    corners = [(half, half), (-half, half), (-half, -half), (half, -half)]
    vertices = torch.tensor([[x, y, 1.0] for x, y in corners])
    faces = torch.tensor([[0, 2, 1], [0, 3, 2]])
    texcoords = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    camera = Camera((40.0, 40.0), (SIZE / 2 - 0.5,) * 2, (1.0, 0.0, 0.0, 0.0), height=SIZE, width=SIZE)
    return vertices, faces, texcoords, camera


def painter(texture: np.ndarray, samples: int = 1) -> tuple[Painter, torch.Tensor, Camera]:
    vertices, faces, texcoords, camera = board()
    made = Painter(faces, texture=torch.from_numpy(texture), texcoords=texcoords, face_texcoords=faces, samples=samples)
    return made, vertices, camera


def test_a_texture_arrives_texel_by_texel():
    texture = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    made, vertices, camera = painter(texture)
    np.testing.assert_array_equal(made.picture(vertices, camera), texture)


def test_light_multiplies_what_is_drawn():
    texture = np.full((SIZE, SIZE, 3), 100, np.uint8)
    made, vertices, camera = painter(texture, samples=2)
    light = torch.tensor([[0.5, 1.0, 9.0]]).expand(4, 3)
    picture = over(made.paint(vertices, camera, light), (0, 0, 0))
    np.testing.assert_array_equal(picture[SIZE // 2, SIZE // 2], [50, 100, 255])


def test_large_textures_are_halved_first():
    """A fine checker seen from afar is grey, not a pattern of chance."""
    checker = (np.indices((4 * SIZE, 4 * SIZE)).sum(0) % 2 * 200).astype(np.uint8)
    made, vertices, camera = painter(np.repeat(checker[..., None], 3, -1))
    np.testing.assert_array_equal(made.picture(vertices, camera), 100)


def test_backgrounds_and_coverage():
    vertices, faces, _, camera = board()
    made = Painter(faces, torch.tensor([[200, 100, 50]], dtype=torch.uint8).expand(4, 3))
    half = vertices * torch.tensor([0.5, 0.5, 1.0])
    picture = made.picture(half, camera, (10, 20, 30))
    np.testing.assert_array_equal(picture[0, 0], [10, 20, 30])
    np.testing.assert_array_equal(picture[SIZE // 2, SIZE // 2], [200, 100, 50])
    rgba = made.picture(half, camera, None)
    assert rgba.shape == (SIZE, SIZE, 4)
    assert (rgba[..., 3] > 0).mean() == pytest.approx(0.25, abs=0.02)
    photograph = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    np.testing.assert_array_equal(made.picture(half, camera, photograph)[:4], photograph[:4])


def test_half_covered_pixels_mix():
    painted = np.zeros((1, 1, 4), np.float32)
    painted[0, 0] = [0.5, 0.0, 0.0, 0.5]
    np.testing.assert_array_equal(over(painted, (0, 0, 200)), [[[128, 0, 100]]])
    np.testing.assert_array_equal(over(painted, None), [[[255, 0, 0, 128]]])


def test_shadows_are_darkest_below_what_is_near():
    vertices, faces, _, camera = board()
    half = vertices * torch.tensor([0.5, 0.5, 1.0])
    both = soft_shadow(half, faces, faces, camera)
    far = soft_shadow(half, faces, faces[:0], camera)
    middle = SIZE // 2
    assert both[middle, middle] < far[middle, middle] < 0.9
    assert both[0, 0] > 0.97


def test_something_to_paint_with_is_needed():
    with pytest.raises(ValueError, match="or colours"):
        Painter(board()[1])
