"""The parts of texturing on meshes whose every answer is known."""

import numpy as np
import pytest
import torch
import trimesh
import turning_ball
from turning_ball import CPU, SIZE, camera, painted, pictures, psnr, turned

from selfrecon_warp.asset.back_projection import sharpened
from selfrecon_warp.asset.bake import bake_colours, robust_mean
from selfrecon_warp.asset.fill import fill_unseen, spread
from selfrecon_warp.asset.normal_map import encode_normals, tangents
from selfrecon_warp.asset.photographs import photographs
from selfrecon_warp.asset.simplify import simplified
from selfrecon_warp.asset.unwrap import Atlas, TexelMap, texel_map, unwrap
from selfrecon_warp.kernels.rasterize_layers import rasterize_layers
from selfrecon_warp.surface.mesh import vertex_normals
from selfrecon_warp.view.painter import Painter


@pytest.fixture(scope="module")
def ball() -> tuple[np.ndarray, np.ndarray]:
    return turning_ball.ball()


@pytest.fixture(scope="module")
def atlas(ball) -> Atlas:
    return unwrap(*ball, SIZE)


@pytest.fixture(scope="module")
def texels(atlas) -> TexelMap:
    return texel_map(atlas, SIZE, CPU)


# ---- simplify -------------------------------------------------------------------------------------------------------


def test_decimation_keeps_the_surface(ball):
    vertices, faces = simplified(*ball, face_count=400)
    assert 380 <= len(faces) <= 400
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(trimesh.Trimesh(*ball).volume, rel=0.03)
    assert (np.linalg.norm(vertices, axis=1) - 0.5 < 0.01).all()


def test_clean_up_welds_and_drops(ball):
    vertices, faces = ball
    soup, index = vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3)
    speck = np.float32([[2, 2, 2], [2.1, 2, 2], [2, 2.1, 2], [9, 9, 9]])
    flat = [[0, 0, 1], [0, 1, 1]]
    index = np.concatenate((index, flat, [[len(soup), len(soup) + 1, len(soup) + 2]]))
    cleaned, left = simplified(np.concatenate((soup, speck)), index, face_count=10_000, min_fraction=0.1)
    assert len(cleaned) == len(vertices)
    assert len(left) == len(faces)
    np.testing.assert_allclose(cleaned[left], vertices[faces])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"face_count": 3}, "face_count must be at least 4, got 3"),
        ({"faces": np.zeros((2, 3), int)}, "at least one face with an area"),
        ({"faces": np.zeros((2, 4), int)}, r"faces must have shape \[F, 3\]"),
        ({"vertices": np.full((642, 3), np.nan)}, "vertices must be finite"),
    ],
)
def test_simplify_names_what_is_wrong(ball, change, message):
    with pytest.raises(ValueError, match=message):
        simplified(**{"vertices": ball[0], "faces": ball[1], "face_count": 100, **change})


# ---- unwrap ---------------------------------------------------------------------------------------------------------


def test_every_face_has_a_place_of_its_own(ball, atlas):
    assert atlas.faces.shape == ball[1].shape
    np.testing.assert_array_equal(atlas.vertices[atlas.faces], ball[1])
    assert atlas.texcoords.min() >= 0
    assert atlas.texcoords.max() <= 1
    corners = atlas.texcoords[atlas.faces].astype(np.float64)
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / 2
    assert (area > 0).all()
    flat = torch.from_numpy(atlas.texcoords).double() * 1024 - 0.5
    flat = torch.cat((flat, torch.ones_like(flat[:, :1])), -1)[None]
    layers = rasterize_layers(flat, torch.from_numpy(atlas.faces), 1024, 1024, 2)
    overlapping = (layers.face_index[..., 1] >= 0).sum()
    on_edges = 1e-3 * (layers.face_index[..., 0] >= 0).sum()  # centres exactly between two faces belong to both
    assert overlapping <= on_edges
    assert area.sum() == pytest.approx(float((layers.face_index[..., 0] >= 0).double().mean()), rel=0.02)


def test_texels_lie_on_the_surface(ball, atlas, texels):
    flat = texels.interpolate(torch.from_numpy(atlas.texcoords), torch.from_numpy(atlas.faces))
    centres = torch.stack((texels.texel % SIZE, texels.texel // SIZE), -1).float()
    torch.testing.assert_close(flat * SIZE - 0.5, centres, atol=1e-3, rtol=0)
    points = texels.interpolate(*map(torch.from_numpy, ball))
    assert ((points.norm(dim=1) - 0.5).abs() < 0.01).all()
    assert len(np.unique(texels.face_index.numpy())) == len(ball[1])


def test_gutters_continue_the_charts(texels):
    colour = torch.arange(len(texels.texel)).float()[:, None]
    image = texels.image(colour)
    assert image.shape == (SIZE, SIZE, 1)
    torch.testing.assert_close(image.view(-1, 1)[texels.texel], colour)
    inside = np.zeros(SIZE * SIZE, bool)
    inside[texels.texel.numpy()] = True
    inside = inside.reshape(SIZE, SIZE)
    right = inside[:, :-1] & ~inside[:, 1:]  # a blank texel beside a covered one takes a value from its surroundings
    row, column = np.argwhere(right)[0]
    source = texels.texel[int(image[row, column + 1, 0])]
    assert abs(int(source) // SIZE - row) <= 1
    assert abs(int(source) % SIZE - (column + 1)) <= 1


def test_unwrapping_is_repeatable(ball, atlas):
    again = unwrap(*ball, SIZE)
    np.testing.assert_array_equal(again.texcoords, atlas.texcoords)
    np.testing.assert_array_equal(again.faces, atlas.faces)


def test_unwrap_names_what_is_wrong(ball):
    with pytest.raises(ValueError, match="at least one face"):
        unwrap(ball[0], ball[1][:0], SIZE)
    with pytest.raises(ValueError, match=r"faces must have shape \[F, 3\]"):
        unwrap(ball[0], ball[1][:, :2], SIZE)


# ---- bake -----------------------------------------------------------------------------------------------------------


def test_a_known_texture_comes_back(ball, texels):
    vertices, faces = ball[0], torch.from_numpy(ball[1])
    posed = turned(vertices, 12)
    colours = painted(torch.from_numpy(vertices))
    images, masks = pictures(posed, colours, faces)
    seen = photographs(posed, faces, camera(), images, masks)
    baked, weights = bake_colours(texels, faces, seen)
    expected = texels.interpolate(colours, faces)
    well = weights > 0.2
    assert well.float().mean() > 0.5
    assert psnr(baked[well], expected[well]) > 38
    filled = fill_unseen(baked, weights, texels, torch.from_numpy(vertices), faces)
    assert psnr(filled, expected) > 15  # the caps, which no picture shows, are guessed
    green = torch.tensor([0.0, 1.0, 0.0])
    assert ((filled - green).abs().amax(1) > 0.08).all()  # the surface itself keeps 0.1 away
    again = fill_unseen(*bake_colours(texels, faces, seen), texels, torch.from_numpy(vertices), faces)
    assert torch.equal(again, filled)


def test_an_arm_does_not_paint_what_is_behind(texels, ball):
    """A red bar moves before a blue ball; its fitted place is off by two pixels."""
    bar = trimesh.creation.box((0.12, 1.6, 0.1))
    vertices = np.concatenate((ball[0], np.asarray(bar.vertices, np.float32)))
    faces = torch.from_numpy(np.concatenate((ball[1], bar.faces + len(ball[0]))).astype(np.int32))
    colours = torch.tensor([[0.1, 0.2, 0.9]]).repeat(len(vertices), 1)
    colours[len(ball[0]) :] = torch.tensor([0.9, 0.1, 0.1])
    posed = torch.from_numpy(vertices)[None].repeat(6, 1, 1) + torch.tensor([0.0, 0.0, 2.0])
    posed[:, len(ball[0]) :] += torch.stack((torch.linspace(-0.4, 0.4, 6), torch.zeros(6), -torch.full((6,), 0.7)), -1)[
        :, None
    ]
    fitted = posed.clone()
    fitted[:, len(ball[0]) :, 0] += 0.013  # 2 px at 1.3 m
    images, masks = pictures(posed, colours, faces)
    seen = photographs(fitted, faces, camera(), images, masks)
    baked, weights = bake_colours(texels, faces, seen)
    front = (weights > 1e-3) & (texels.interpolate(*map(torch.from_numpy, ball))[:, 2] < 0)
    assert front.float().mean() > 0.15
    assert float(baked[front][:, 0].max()) < 0.3
    assert (weights[texels.interpolate(*map(torch.from_numpy, ball))[:, 2] > 0.1] == 0).all()


def test_outliers_leave_the_mean():
    samples = torch.tensor([[[0.5] * 3, [0.52] * 3, [0.48] * 3, [0.0, 1.0, 0.0]], [[0.3] * 3] * 4])
    weight = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    mean = robust_mean(samples, weight)
    torch.testing.assert_close(mean[0], torch.full((3,), 0.5), atol=0.01, rtol=0)
    assert (mean[1] == 0).all()


def test_the_unseen_takes_colours_from_around(ball, texels):
    vertices, faces = map(torch.from_numpy, ball)
    points = texels.interpolate(vertices, faces)
    colours = torch.where(points[:, :1] > 0, torch.tensor([0.8, 0.2, 0.2]), torch.tensor([0.2, 0.2, 0.8]))
    weights = (points[:, 1].abs() < 0.3).float()
    filled = fill_unseen(colours * weights[:, None], weights, texels, vertices, faces)
    top = (points[:, 1] > 0.35) & (points[:, 0] > 0.2)
    assert (filled[top][:, 0] > 0.5).all()
    assert filled.min() > 0.15
    nothing = fill_unseen(colours * 0, weights * 0, texels, vertices, faces)
    assert ((nothing - 0.5).abs() < 1e-4).all()


def test_the_unseen_is_no_mixture(ball):
    """Around an unseen cap one colour is nearly everywhere; the other must not run into it."""
    vertices, faces = map(torch.from_numpy, ball)
    many, few = torch.tensor([0.2, 0.2, 0.8]), torch.tensor([0.8, 0.2, 0.2])
    seen = vertices[:, 1] < 0.2
    other = (vertices[:, 0] > 0.35) & (vertices[:, 1] > 0)
    found = spread(torch.where(other[:, None], few, many), seen.float(), vertices, faces)
    assert (seen & other).any()
    cap = vertices[:, 1] > 0.25
    assert ((found[cap] - many).abs().amax(1) < 0.15).float().mean() > 0.9
    known = torch.where(other[:, None], few, many)[vertices[:, 1] < 0.1]
    assert (found[vertices[:, 1] < 0.1] - known).abs().max() < 0.1


def test_the_unseen_belongs_to_what_it_bends_into_not_to_what_it_meets():
    """A blue cloth folded over an edge, and a red wall in the hollow at its end; nobody sees what is between."""
    length, steps = 0.3, 31
    along = np.linspace(0, length, steps)
    down = np.stack((np.zeros(steps), -along), 1)
    inward = np.stack((-along[1:], np.full(steps - 1, -length)), 1)
    wall = np.stack((np.full(steps - 1, -length), -length - along[1:]), 1)
    profile = np.concatenate((down, inward, wall))
    count, across = len(profile), np.linspace(0, length, 11)
    vertices = np.stack([np.column_stack((profile[:, 0], profile[:, 1], np.full(count, z))) for z in across])
    at = np.arange(len(across) * count).reshape(len(across), count)
    a, b, c, d = at[:-1, :-1].ravel(), at[1:, :-1].ravel(), at[1:, 1:].ravel(), at[:-1, 1:].ravel()
    faces = torch.from_numpy(np.concatenate((np.stack((a, c, b), 1), np.stack((a, d, c), 1))))
    points = torch.from_numpy(vertices.reshape(-1, 3)).float()
    if float(vertex_normals(points, faces)[0, 0]) < 0:
        faces = faces.flip(1)
    place = torch.arange(count).repeat(len(across))
    seen = ((place < 25) | (place > 65)).float()
    blue, red = torch.tensor([0.2, 0.2, 0.8]), torch.tensor([0.8, 0.2, 0.2])
    found = spread(torch.where((place < 25)[:, None], blue, red), seen, points, faces)
    hidden = (place > steps) & (place < 2 * steps - 8)
    assert ((found - blue).norm(dim=1) < (found - red).norm(dim=1))[hidden].all()


# ---- sharper --------------------------------------------------------------------------------------------------------


def test_what_the_mean_blurs_is_sharpened(ball, atlas, texels):
    """Stripes of a few pixels on a ball that turns."""
    vertices, faces = ball[0], torch.from_numpy(ball[1])
    posed = turned(vertices, 24)
    texcoords, face_texcoords = torch.from_numpy(atlas.texcoords), torch.from_numpy(atlas.faces)
    points = texels.interpolate(torch.from_numpy(vertices), faces)
    expected = (0.5 + 0.25 * torch.sin(2 * torch.pi * 25 * points[:, 1:2])).repeat(1, 3)
    light = torch.ones(len(posed), len(vertices), 3)

    def draw(colours):
        texture = (texels.image(colours) * 255 + 0.5).byte()
        painter = Painter(faces, texture=texture, texcoords=texcoords, face_texcoords=face_texcoords)
        return lambda n: painter.paint(posed[n], camera())

    true = draw(expected)
    painted_pictures = [torch.from_numpy(true(n)) for n in range(len(posed))]
    images = torch.stack([(255 * picture[..., :3] + 0.5).byte() for picture in painted_pictures])
    masks = torch.stack([picture[..., 3] > 0.5 for picture in painted_pictures])
    seen = photographs(posed, faces, camera(), images, masks)
    baked, weights = bake_colours(texels, faces, seen)
    told = []
    sharp = sharpened(baked, weights, texels, faces, seen, light, draw(baked), progress=told.append)
    well = weights > 0.2
    assert psnr(sharp[well], expected[well]) > psnr(baked[well], expected[well]) + 1
    assert float(sharp[well].std()) > 1.05 * float(baked[well].std())
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    assert torch.equal(sharp[weights == 0], baked[weights == 0])


# ---- normal map -----------------------------------------------------------------------------------------------------


def test_the_surface_itself_is_flat(ball, atlas, texels):
    vertices, faces = map(torch.from_numpy, ball)
    normals = vertex_normals(vertices, faces)
    own = torch.nn.functional.normalize(texels.interpolate(normals, faces), dim=-1)
    encoded = encode_normals(own, texels, vertices, normals, faces, atlas)
    torch.testing.assert_close(encoded, torch.tensor([[0.5, 0.5, 1.0]]).expand_as(encoded), atol=2e-3, rtol=0)


def test_x_runs_along_u_and_y_against_v():
    """A square whose u runs along x and whose v runs down along y, and one that is mirrored."""
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    faces, normals = torch.tensor([[0, 1, 2], [0, 2, 3]]), torch.tensor([[0.0, 0, 1]]).repeat(4, 1)
    upright = np.float32([[0, 1], [1, 1], [1, 0], [0, 0]])
    tilted = torch.nn.functional.normalize(torch.tensor([[0.3, 0.2, 1.0]]), dim=1)
    for texcoords, sign, expected in (
        (upright, 1.0, tilted),
        (np.float32([[1, 1], [0, 1], [0, 0], [1, 0]]), -1.0, tilted * torch.tensor([-1.0, 1, 1])),
    ):
        flat = Atlas(texcoords, faces.int().numpy(), np.arange(4, dtype=np.int32), 1)
        frames = tangents(vertices, normals, faces, flat)
        torch.testing.assert_close(frames, torch.tensor([[sign, 0, 0, sign]]).repeat(4, 1))
        texels = texel_map(flat, 4, CPU)
        encoded = encode_normals(tilted.repeat(16, 1), texels, vertices, normals, faces, flat)
        torch.testing.assert_close(encoded * 2 - 1, expected.repeat(16, 1))


def test_the_reader_gets_the_fine_normals_back(ball, atlas, texels):
    vertices, faces = map(torch.from_numpy, ball)
    normals = vertex_normals(vertices, faces)
    own = torch.nn.functional.normalize(texels.interpolate(normals, faces), dim=-1)
    fine = torch.nn.functional.normalize(own + 0.3 * torch.sin(20 * texels.interpolate(vertices, faces)), dim=-1)
    local = encode_normals(fine, texels, vertices, normals, faces, atlas) * 2 - 1
    frames = tangents(vertices, normals, faces, atlas)
    upright = normals[torch.from_numpy(atlas.vertices).long()]
    axes = (frames[:, :3], frames[:, 3:] * torch.linalg.cross(upright, frames[:, :3]), upright)
    index = torch.from_numpy(atlas.faces)
    read = sum(local[:, k : k + 1] * texels.interpolate(axis.contiguous(), index) for k, axis in enumerate(axes))
    torch.testing.assert_close(torch.nn.functional.normalize(read, dim=-1), fine, atol=1e-4, rtol=1e-4)
