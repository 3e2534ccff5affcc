"""Which pixels of photographs are believed."""

import numpy as np
import pytest
import torch
import trimesh
import turning_ball
from turning_ball import camera, pictures

from selfrecon_warp.asset.bake import bake_colours
from selfrecon_warp.asset.photographs import (
    BACKDROP,
    COLOUR,
    colours_beyond,
    edge_strength,
    photographs,
    pixel_trust,
    relative_sharpness,
    sample_pictures,
)
from selfrecon_warp.asset.unwrap import texel_map, unwrap

FOOTPRINT = 2.5e-3  # 5 mm a pixel at 2 m


def test_trust_ends_before_borders():
    depth = torch.full((60, 60), 2.0)
    depth[:, 30:] = 2.2
    mask = torch.ones(60, 60, dtype=torch.bool)
    mask[:10] = False
    trust = pixel_trust(depth, mask, footprint=2.5e-3)  # 5 mm: 4 px to the mask's border, 16 px to the jump
    assert (trust[:11] == 0).all()
    assert (trust[:, 29:31] == 0).all()
    assert (trust[28:, 3:10] == 1).all()
    assert (trust[30, :30].diff()[11:] <= 0).all()
    assert 0 < trust[30, 25] < 0.5
    assert not pixel_trust(torch.zeros(9, 9), mask[:9, :9], 1e-3).any()
    assert (pixel_trust(torch.ones(9, 9), torch.ones(9, 9, dtype=torch.bool), 1e-3) == 1).all()


def test_trust_is_low_where_mask_and_mesh_disagree():
    """The mask shows an arm that the mesh has elsewhere."""
    depth, mask = torch.full((80, 80), 2.0), torch.ones(80, 80, dtype=torch.bool)
    depth[:, :20] = 0
    mask[:, :20] = False
    agreed = pixel_trust(depth, mask, FOOTPRINT)
    mask[36:44, 5:20] = True
    trust = pixel_trust(depth, mask, FOOTPRINT)
    assert (trust[40, 24:28] < 0.1 * agreed[40, 24:28]).all()
    assert torch.equal(trust[:10, 45:], agreed[:10, 45:])
    mask[36:44, 5:19] = False  # a pixel is no more than the fit's error
    assert torch.equal(pixel_trust(depth, mask, FOOTPRINT), pixel_trust(depth, mask | (depth > 0), FOOTPRINT))


def test_what_lies_beyond_an_outline_is_known():
    """A hand before a hip before a backdrop."""
    depth, image = torch.zeros(80, 80), torch.zeros(80, 80, 3, dtype=torch.uint8)
    image[..., 1] = 255
    depth[:, 10:70], image[:, 10:70] = 2.0, torch.tensor([0, 0, 200], dtype=torch.uint8)
    depth[20:60, 30:50], image[20:60, 30:50] = 1.8, torch.tensor([200, 0, 0], dtype=torch.uint8)
    beyond = colours_beyond(image, depth, depth > 0, FOOTPRINT)
    assert (beyond[22:58, 32:36] == torch.tensor([0, 0, 200, COLOUR])).all()
    assert (beyond[5:70, 11] == torch.tensor([0, 255, 0, COLOUR + BACKDROP])).all()
    assert not beyond[:, :10].any()
    assert not beyond[70:, 38:42].any()
    assert not colours_beyond(image, 0 * depth, depth > 0, FOOTPRINT).any()


def test_a_slope_is_no_outline():
    depth = 1.5 + 0.005 * torch.arange(80.0).expand(80, 80)
    beyond = colours_beyond(torch.zeros(80, 80, 3, dtype=torch.uint8), depth, depth > 0, FOOTPRINT)
    assert not beyond.any()


def test_a_slope_that_is_hardly_seen_is_trusted_up_to_its_outline():
    """The top of a shoulder before a neck: ever steeper, then another surface."""
    steeper = 2 - 0.3 * torch.linspace(1, 0.05, 30).sqrt()
    depth = torch.cat((steeper, torch.full((30,), 2.4)))[:, None].repeat(1, 60)
    trust = pixel_trust(depth, torch.ones(60, 60, dtype=torch.bool), FOOTPRINT)
    assert (trust[29:31, 30] == 0).all()
    assert (trust[:28, 30] > 0).all()
    assert (trust[:14, 30] == 1).all()


def test_samples_of_what_lies_beyond_are_left_out():
    """A red bar before a blue ball stood elsewhere than the fit has it: all its places show the ball."""
    vertices, faces = turning_ball.ball()
    bar = trimesh.creation.box((0.12, 0.4, 0.1))
    moved = np.asarray(bar.vertices, np.float32) - np.float32([0, 0, 0.65])
    every = np.concatenate((vertices, moved))
    index = torch.from_numpy(np.concatenate((faces, bar.faces + len(vertices))).astype(np.int32))
    colours = torch.tensor([[0.1, 0.2, 0.9]]).repeat(len(every), 1)
    colours[len(vertices) :] = torch.tensor([0.9, 0.1, 0.1])
    fitted = torch.from_numpy(every)[None].repeat(4, 1, 1) + torch.tensor([0.0, 0.0, 2.0])
    true = fitted.clone()
    true[:3, len(vertices) :, 0] += 0.25
    images, masks = pictures(true, colours, index)
    texels = texel_map(unwrap(every, index.numpy(), 128), 128, turning_ball.CPU)
    seen = photographs(fitted, index, camera(), images, masks)
    front = (texels.face_index >= len(faces)) & (texels.interpolate(torch.from_numpy(every), index)[:, 2] < -0.69)
    doubted, weights = bake_colours(texels, index, seen, expected=colours)
    believed, before = bake_colours(texels, index, seen)
    shown = front & (before > 0)
    assert shown.sum() > 50
    assert (believed[shown][:, 2] > 0.5).float().mean() > 0.5
    assert (doubted[shown][:, 0] > 0.8).float().mean() > 0.8
    assert (weights[shown] <= before[shown]).all()


def test_what_masks_leave_out_is_not_real():
    vertices, faces = turning_ball.ball()
    posed, index = turning_ball.turned(vertices, 8), torch.from_numpy(faces)
    images, masks = pictures(posed, torch.full((len(vertices), 3), 0.5), index)
    assert photographs(posed, index, camera(), images, masks).real.min() > 0.9
    pixels = camera().project(posed)
    web = torch.from_numpy(vertices)[:, 0] > 0.4
    for n in range(len(posed)):
        seen = web & (posed[n, :, 2] < 2)
        u, v, _ = pixels[n, seen].round().long().unbind(-1)
        for du in range(-3, 4):
            for dv in range(-3, 4):
                masks[n, v + dv, u + du] = False
    real = photographs(posed, index, camera(), images, masks).real
    assert (real[web] == 0).all()
    assert real[torch.from_numpy(vertices)[:, 0] < 0].min() > 0.9


def test_pictures_are_sampled_between_pixels():
    images = torch.zeros(2, 3, 4, 3, dtype=torch.uint8)
    images[1, 1, 2] = 255
    picture, pixel = torch.tensor([[1, 1, 0, -1]]), torch.tensor([[[2.0, 1.0], [1.75, 1.5], [2.0, 1.0], [9.0, -9.0]]])
    torch.testing.assert_close(sample_pictures(images, picture, pixel)[0, :, 0], torch.tensor([1.0, 0.375, 0.0, 0.0]))


def test_blurred_pictures_count_less():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (7, 32, 32, 3), np.uint8)
    images[3] = 127
    masks = np.ones((7, 32, 32), bool)
    masks[5] = False
    sharpness = relative_sharpness(edge_strength(images, masks))
    assert sharpness[3] == pytest.approx(0.1)
    assert (sharpness[[0, 1, 2, 4, 6]] > 0.8).all()
