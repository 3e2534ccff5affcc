"""The light of a capture on a ball whose light and colours are known."""

import numpy as np
import pytest
import torch
import turning_ball
from turning_ball import camera, painted, pictures, psnr, turned

from selfrecon_warp.asset.bake import bake_colours
from selfrecon_warp.asset.lighting import Casters, find_light, harmonics, lit
from selfrecon_warp.asset.photographs import photographs
from selfrecon_warp.asset.shadows import reached
from selfrecon_warp.surface.mesh import vertex_normals


@pytest.fixture(scope="module")
def scene():
    """Photographs of the turning ball in a warm light from the left, its true light and its colours."""
    vertices, faces = turning_ball.ball()
    posed, index = turned(vertices, 16), torch.from_numpy(faces)
    coefficients = torch.zeros(9, 3)
    coefficients[0], coefficients[1], coefficients[3] = 1.0, torch.tensor([-0.35, -0.3, -0.2]), -0.1
    colours = 0.8 * painted(torch.from_numpy(vertices))
    light = lit(coefficients, vertex_normals(posed, index))
    images, masks = pictures(posed, colours * light, index)
    return index, photographs(posed, index, camera(), images, masks), light, colours


def test_light_and_colours_are_told_apart(scene):
    _, seen, light, colours = scene
    found = find_light(seen)
    shown = (found.weights > 0.1 * found.weights.mean()) & (seen.real > 0.9)
    assert shown.float().mean() > 0.45
    scale = (found.colours[shown] / colours[shown]).median(0).values
    torch.testing.assert_close(found.colours[shown] / scale, colours[shown], atol=0.05, rtol=0)
    facing = seen.cosines > 0.4
    torch.testing.assert_close(
        (lit(found.coefficients, seen.normals) * scale)[facing], light[facing], atol=0.08, rtol=0.05
    )


def test_baked_colours_are_without_light(scene):
    faces, seen, light, colours = scene
    _, texels = turning_ball.flattened(*turning_ball.ball())
    expected = texels.interpolate(colours, faces)
    with_light, weights = bake_colours(texels, faces, seen, light)
    plain, _ = bake_colours(texels, faces, seen)
    well = weights > 0.2
    assert psnr(with_light[well], expected[well]) > psnr(plain[well], expected[well]) + 6


def test_the_usual_light_is_what_was_seen(scene):
    _, seen, light, colours = scene
    found = find_light(seen)
    shown = found.weights > 0.1 * found.weights.mean()
    usual = (found.colours * found.usual)[shown]
    mean = (seen.cosines.clamp(min=0)[..., None] * light).sum(0) / seen.cosines.clamp(min=0).sum(0)[:, None] * colours
    wrong = (usual - mean[shown]).abs().amax(-1)
    assert wrong.mean() < 0.02
    assert wrong.quantile(0.99) < 0.06  # grazing views count, so a vertex at the rim may lie further off


def test_who_never_turns_stays_in_even_light():
    vertices, faces = turning_ball.ball()
    posed, index = turned(vertices, 1).repeat(4, 1, 1), torch.from_numpy(faces)
    shade = 0.4 + 0.3 * torch.from_numpy(vertices)
    images, masks = pictures(posed, shade, index)
    found = find_light(photographs(posed, index, camera(), images, masks))
    torch.testing.assert_close(
        lit(found.coefficients, seen := vertex_normals(posed[0], index)), torch.ones_like(seen), atol=0.05, rtol=0
    )


def test_nothing_seen_gives_even_light():
    vertices, faces = turning_ball.ball()
    posed, index = turned(vertices, 2), torch.from_numpy(faces)
    images, masks = pictures(posed, torch.full((len(vertices), 3), 0.5), index)
    found = find_light(photographs(posed, index, camera(), images, masks & False))
    torch.testing.assert_close(found.usual, torch.ones_like(found.usual))
    assert not found.weights.any()
    assert not found.colours.any()


def test_light_needs_nine_harmonics():
    assert harmonics(torch.eye(3)).shape == (3, 9)
    with pytest.raises(ValueError, match=r"coefficients must have shape \[9, 3\]"):
        lit(torch.zeros(4, 3), torch.eye(3))


@pytest.fixture(scope="module")
def shaded():
    """A ball with a smaller one beside it, turning in the light of a lamp; both in one colour but for the shadows."""
    vertices, faces = turning_ball.ball()
    beside = vertices * 0.4 + np.array([0.0, 0.1, -0.85], np.float32)
    both, index = np.concatenate((vertices, beside)), torch.from_numpy(np.concatenate((faces, faces + len(vertices))))
    posed = turned(0.7 * both, 24)
    lamp = torch.stack((torch.nn.functional.normalize(torch.tensor([-0.6, -0.4, -0.7]), dim=0), torch.full((3,), 0.6)))
    even = torch.zeros(9, 3)
    even[0] = 0.6
    shares = reached(lamp[:1].expand(len(posed), 3), posed, index, posed)
    light = lit(even, vertex_normals(posed, index), lamp, shares)
    images, masks = pictures(posed, 0.5 * light, index)
    return photographs(posed, index, camera(), images, masks), Casters(posed, posed, index), lamp, light


def test_a_lamp_is_found_by_its_shadows(shaded):
    seen, casters, lamp, light = shaded
    found = find_light(seen, casters)
    assert float(found.lamp[0] @ lamp[0]) > 0.98
    assert (found.lamp[1] > 0.05).all()
    plain = find_light(seen)
    facing = seen.cosines > 0.4
    spread = [float((each.falling / light)[facing].std()) for each in (found, plain)]
    assert spread[0] < spread[1]


def test_no_lamp_is_made_up_where_light_is_smooth(scene):
    index, seen, _, _ = scene
    posed = turned(turning_ball.ball()[0], 16)
    found = find_light(seen, Casters(posed, posed, index))
    assert not found.lamp.any()
