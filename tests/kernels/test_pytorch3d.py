"""The suite beside PyTorch3D, values and gradients; ``docs/kernels.md`` tells the conventions that are mapped here.

Runs where PyTorch3D can be imported. The file is long because it holds every comparison and the mapping of conventions
that they share.
"""

from types import SimpleNamespace

import pytest
import torch
import trimesh
from torch import Tensor

from selfrecon_warp.kernels.compositing import composite_alpha, composite_weighted
from selfrecon_warp.kernels.internal.triangle import NEAR
from selfrecon_warp.kernels.laplacian import loss_laplacian
from selfrecon_warp.kernels.marching_cubes import marching_cubes
from selfrecon_warp.kernels.mesh import face_areas, face_normals, vertex_normals
from selfrecon_warp.kernels.mesh_losses import loss_edge_length, loss_normal_consistency
from selfrecon_warp.kernels.neighbours import chamfer_distance, nearest_neighbours
from selfrecon_warp.kernels.point_mesh import (
    loss_point_edges,
    loss_point_mesh,
    mesh_point_distance,
    point_mesh_distance,
)
from selfrecon_warp.kernels.rasterize import rasterize
from selfrecon_warp.kernels.rasterize_layers import rasterize_layers
from selfrecon_warp.kernels.silhouette import blended_silhouette, splatted_silhouette
from selfrecon_warp.kernels.splat import splat_points

pytest.importorskip("pytorch3d")

from pytorch3d.loss import chamfer_distance as pytorch3d_chamfer_distance
from pytorch3d.loss import (
    mesh_edge_loss,
    mesh_laplacian_smoothing,
    mesh_normal_consistency,
    point_mesh_edge_distance,
    point_mesh_face_distance,
)
from pytorch3d.loss.point_mesh_distance import face_point_distance, point_face_distance
from pytorch3d.ops import knn_points, mesh_face_areas_normals
from pytorch3d.ops.marching_cubes import marching_cubes as pytorch3d_marching_cubes
from pytorch3d.renderer.blending import BlendParams, sigmoid_alpha_blend
from pytorch3d.renderer.compositing import alpha_composite, weighted_sum
from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
from pytorch3d.renderer.points.rasterize_points import rasterize_points
from pytorch3d.structures import Meshes, Pointclouds

HEIGHT, WIDTH = 24, 33
HORIZON = 1e6
"""Depths that PyTorch3D gives only to planes that a pixel's ray does not meet in front of the camera."""
CLOSE = {"rtol": 2e-4, "atol": 2e-5}
"""PyTorch3D computes in float32 and adds 1e-8 to areas in NDC; both show in the fifth digit of small faces."""


def to_ndc(pixel: Tensor, height: int, width: int) -> Tensor:
    """``(u right, v down, z)`` in pixels as PyTorch3D's ``(x left, y up, z)``, the shorter side spanning -1 to 1."""
    side = min(height, width)
    u, v, z = pixel.unbind(-1)
    return torch.stack([(width - 1 - 2 * u) / side, (height - 1 - 2 * v) / side, z], -1)


def in_front(vertices_pixel: Tensor, faces: Tensor) -> list[Tensor]:
    """Indices of the faces of each frame that lie beyond the near plane, where PyTorch3D has none."""
    return [(frame[faces][..., 2] > NEAR).all(-1).nonzero()[:, 0] for frame in vertices_pixel]


def pytorch3d_layers(
    vertices_pixel: Tensor, faces: Tensor, height: int, width: int, **options
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """PyTorch3D's face index, barycentrics, depth and distance in our conventions, ``[B, H, W, K]``.

    Distances become signed squared pixels, empty places become face -1 and zeros, frames number their own faces. Faces
    beyond their plane's horizon, which PyTorch3D holds to be some 1e8 away, come last and are left out.
    """
    kept = in_front(vertices_pixel.detach(), faces)
    meshes = Meshes(list(to_ndc(vertices_pixel, height, width)), [faces[each] for each in kept])
    face, depth, barycentrics, distance = rasterize_meshes(
        meshes, image_size=(height, width), bin_size=0, **{"perspective_correct": True, **options}
    )
    seen = (face >= 0) & (depth < HORIZON)
    first, numbers = meshes.mesh_to_faces_packed_first_idx(), torch.cat(kept)
    assert all(first[b] == sum(len(each) for each in kept[:b]) for b in range(len(kept)))
    face = torch.where(seen, numbers[face.clamp(min=0)], -1)
    distance = torch.where(seen, distance * (min(height, width) / 2) ** 2, 0)
    return face, torch.where(seen[..., None], barycentrics, 0), torch.where(seen, depth, 0), distance


def soup(faces: int, low: float, high: float, size: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two frames of separate triangles: vertices [2, 3 F, 3] around places in the picture and past its border.

    Slivers are left out: PyTorch3D adds 1e-8 to twice the area in NDC, which shows in the third digit of theirs.
    """
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(2, 9 * faces, 1, 2, generator=generator) * torch.tensor([WIDTH + 16, HEIGHT + 16]) - 8
    corner = centre + size * (torch.rand(2, 9 * faces, 3, 2, generator=generator) - 0.5)
    (ax, ay), (bx, by) = ((corner[..., k, :] - corner[..., 0, :]).unbind(-1) for k in (1, 2))
    corner = corner[:, ((ax * by - ay * bx).abs() > 0.5).all(0)][:, :faces]
    z = low + (high - low) * torch.rand(2, faces, 3, 1, generator=generator)
    return torch.cat([corner, z], -1).flatten(1, 2), torch.arange(3 * faces).view(faces, 3)


def behind() -> tuple[Tensor, Tensor]:
    """Faces before the camera, behind it, and reaching from one side to the other."""
    return soup(60, -2.0, 4.0, 14.0)


def flat() -> tuple[Tensor, Tensor]:
    """Ordinary faces among some without area: a point, a line along a row of pixels, an index named twice."""
    vertices, faces = soup(30, 1.0, 3.0, 14.0, seed=1)
    vertices[:, 0:3] = vertices[:, :1]
    vertices[:, 3:6, 1] = 7.0
    faces[2, 1] = faces[2, 0]
    return vertices, faces


def outside() -> tuple[Tensor, Tensor]:
    """Faces around the picture, and half inside it."""
    vertices, faces = soup(40, 1.0, 3.0, 6.0, seed=2)
    vertices[:, 60:, 0] += WIDTH - 4
    vertices[:, :60, 1] -= HEIGHT - 4
    return vertices, faces


SCENES = {
    "random": lambda: soup(50, 1.0, 4.0, 16.0),
    "one pixel": lambda: soup(400, 1.0, 4.0, 1.8),
    "larger than the picture": lambda: soup(12, 1.0, 4.0, 200.0),
    "behind the camera": behind,
    "without area": flat,
    "outside the picture": outside,
}


def weighted(outputs: list[Tensor], counted: Tensor | None = None) -> Tensor:
    """A fixed random combination, the same for outputs of the same shapes, of what is ``counted``."""
    generator = torch.Generator().manual_seed(7)
    total = torch.zeros(())
    for each in outputs:
        weights = torch.rand(each.shape, generator=generator)
        if counted is not None:
            weights = weights * (counted if counted.dim() == each.dim() else counted[..., None])
        total = total + (each * weights).sum()
    return total


def before_the_horizon(vertices_pixel: Tensor, faces: Tensor, face_index: Tensor) -> Tensor:
    """Whether the ray of a pixel meets the plane of the face less than 100 m away, ``[B, H, W, K]``."""
    frames, height, width, _ = face_index.shape
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    corners = vertices_pixel[torch.arange(frames)[:, None, None, None, None], faces[face_index.long().clamp(min=0)]]
    ray = torch.stack([u, v], -1)[None, :, :, None, None] - corners[..., :2]
    after, last = ray.roll(-1, -2), ray.roll(-2, -2)
    area = after[..., 0] * last[..., 1] - after[..., 1] * last[..., 0]
    return (area / corners[..., 2]).sum(-1) / area.sum(-1) > 0.01


def assert_gradients_close(found: Tensor, expected: Tensor) -> None:
    """Compare gradients in units of the largest one."""
    scale = expected.abs().max()
    assert scale > 0
    torch.testing.assert_close(found / scale, expected / scale, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("cull_backfaces", [False, True])
@pytest.mark.parametrize("scene", SCENES)
def test_rasterize(scene, cull_backfaces):
    vertices, faces = SCENES[scene]()
    vertices.requires_grad_()
    ours = rasterize(vertices, faces, HEIGHT, WIDTH, cull_backfaces)
    face, barycentrics, depth, _ = (
        each[..., 0, :] if each.dim() == 5 else each[..., 0]
        for each in pytorch3d_layers(vertices, faces, HEIGHT, WIDTH, faces_per_pixel=1, cull_backfaces=cull_backfaces)
    )
    assert (face >= 0).sum() > 10
    assert torch.equal(ours.face_index.long(), face)
    torch.testing.assert_close(ours.barycentrics, barycentrics, **CLOSE)
    torch.testing.assert_close(ours.depth, depth, **CLOSE)
    (found,) = torch.autograd.grad(weighted([ours.barycentrics, ours.depth]), vertices)
    (expected,) = torch.autograd.grad(weighted([barycentrics, depth]), vertices)
    assert_gradients_close(found, expected)


LAYERS = {
    "hard": {},
    "blurred": {"blur_radius": 2.5},
    "blurred and clipped": {"blur_radius": 2.5, "clip_barycentrics": True},
    "flat": {"perspective_correct": False},
    "flat, blurred and clipped": {"perspective_correct": False, "blur_radius": 4.0, "clip_barycentrics": True},
    "culled": {"cull_backfaces": True, "blur_radius": 1.5, "clip_barycentrics": True},
}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("name", LAYERS)
def test_rasterize_layers(name, scene):
    vertices, faces = SCENES[scene]()
    vertices.requires_grad_()
    options = {"perspective_correct": True, **LAYERS[name]}
    ours = rasterize_layers(vertices, faces, HEIGHT, WIDTH, 5, **options)
    options["blur_radius"] = (options.get("blur_radius", 0.0) * 2 / min(HEIGHT, WIDTH)) ** 2
    options["clip_barycentric_coords"] = options.pop("clip_barycentrics", False)
    theirs = pytorch3d_layers(vertices, faces, HEIGHT, WIDTH, faces_per_pixel=5, **options)
    assert torch.equal(ours.face_index.long(), theirs[0])
    for found, expected in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    counted = None
    if options["perspective_correct"]:  # beyond the horizon PyTorch3D's gradient is that of a division by 1e-8
        counted = before_the_horizon(vertices.detach(), faces, ours.face_index)
    for found, expected in zip(ours[1:], theirs[1:], strict=True):
        assert_gradients_close(
            torch.autograd.grad(weighted([found], counted), vertices, retain_graph=True)[0],
            torch.autograd.grad(weighted([expected], counted), vertices, retain_graph=True)[0],
        )


def test_pixel_centres_on_an_edge_belong_to_us_and_not_to_pytorch3d():
    """In a picture whose sides are powers of two, where NDC are exact."""
    height, width = 16, 32
    square = torch.tensor([[[2.0, 2.0, 1.0], [12.0, 2.0, 1.0], [12.0, 12.0, 1.0], [2.0, 12.0, 1.0]]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    ours = rasterize(square, faces, height, width)
    theirs = pytorch3d_layers(square, faces, height, width, faces_per_pixel=1)[0][..., 0]
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    inside = (u >= 2) & (u <= 12) & (v >= 2) & (v <= 12)
    on_edge = inside & ((u == 2) | (u == 12) | (v == 2) | (v == 12) | (u == v))
    assert torch.equal(ours.face_index[0] >= 0, inside)
    assert torch.equal(theirs[0], torch.where(on_edge, -1, ours.face_index[0].long()))


def surface(vertices: Tensor, faces: Tensor) -> tuple[set, set]:
    """Vertices, and the directed edges of the triangles that lie in a face of a lattice cell, by position."""
    places = [tuple(round(float(x), 4) for x in vertex) for vertex in vertices]
    edges = set()
    for triangle in faces.tolist():
        for i in range(3):
            start, end = places[triangle[i]], places[triangle[(i + 1) % 3]]
            if any(a == b == round(a) for a, b in zip(start, end, strict=True)):
                edges.add((start, end))
    return set(places), edges


def test_marching_cubes_on_the_256_signs_of_a_cell():
    """The same surface, faces of a cell with inside corners across from each other included.

    The cell stands among outside nodes, because ours caps the surface at the border of the lattice. How a loop of more
    than three vertices is cut into triangles is left open.
    """
    generator = torch.Generator().manual_seed(0)
    for case in range(1, 256):
        inside = torch.tensor(
            [[[bool(case >> (x + 2 * y + 4 * z) & 1) for z in (0, 1)] for y in (0, 1)] for x in (0, 1)]
        )
        values = torch.ones(4, 4, 4)
        values[1:3, 1:3, 1:3] = torch.where(inside, -1.0, 1.0) * (0.5 + torch.rand(2, 2, 2, generator=generator))
        ours = marching_cubes(values, torch.zeros(3), torch.full((3,), 3.0))
        theirs = pytorch3d_marching_cubes(values.permute(2, 1, 0)[None].contiguous(), 0.0, return_local_coords=False)
        (places, edges), (their_places, their_edges) = surface(*ours), surface(theirs[0][0], theirs[1][0])
        assert places == their_places, case
        assert edges == their_edges, case


def pytorch3d_splats(
    points_pixel: Tensor, radius: float | Tensor, height: int, width: int, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """PyTorch3D's point index, depth and squared distance in our conventions, ``[B, H, W, K]``."""
    half = min(height, width) / 2
    cloud = Pointclouds(list(to_ndc(points_pixel, height, width)))
    radius = radius / half if isinstance(radius, float) else (radius / half).repeat(len(points_pixel), 1)
    index, depth, distance = rasterize_points(cloud, (height, width), radius, count, bin_size=0)
    seen, index = index >= 0, index.long()
    first = torch.arange(len(points_pixel))[:, None, None, None] * points_pixel.shape[1]
    return torch.where(seen, index - first, -1), torch.where(seen, depth, 0), torch.where(seen, distance * half**2, 0)


def cloud(points: int) -> Tensor:
    """Two frames of points in the picture, past its border, and behind the camera."""
    place = torch.rand(2, points, 3, generator=torch.Generator().manual_seed(5))
    return place * torch.tensor([WIDTH + 16, HEIGHT + 16, 4.0]) - torch.tensor([8.0, 8.0, 0.5])


@pytest.mark.parametrize("count", [1, 4, 30])
@pytest.mark.parametrize("radius", [3.3, "each"])
def test_splat_points(radius, count):
    points = cloud(150).requires_grad_()
    if radius == "each":
        radius = 0.5 + 4 * torch.rand(150, generator=torch.Generator().manual_seed(6))
    ours = splat_points(points, radius, HEIGHT, WIDTH, count)
    index, depth, distance = pytorch3d_splats(points, radius, HEIGHT, WIDTH, count)
    assert (index[..., 0] >= 0).sum() > 500
    assert torch.equal(ours.point_index.long(), index)
    torch.testing.assert_close(ours.depth, depth, **CLOSE)
    torch.testing.assert_close(ours.distance, distance, rtol=1e-4, atol=1e-4)
    (found,) = torch.autograd.grad(weighted([ours.depth, ours.distance]), points)
    (expected,) = torch.autograd.grad(weighted([depth, distance]), points)
    assert_gradients_close(found, expected)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(composite_alpha, alpha_composite), (composite_weighted, weighted_sum)], ids=["alpha", "sum"]
)
def test_composite(ours, theirs):
    index = splat_points(cloud(150), 4.0, HEIGHT, WIDTH, 6).point_index
    generator = torch.Generator().manual_seed(8)
    alphas = (0.9 * torch.rand(index.shape, generator=generator)).requires_grad_()
    features = torch.rand(150, 3, generator=generator).requires_grad_()
    blend = ours(alphas, index, features)
    expected = theirs(index.permute(0, 3, 1, 2).long().contiguous(), alphas.permute(0, 3, 1, 2), features.T)
    expected = expected.permute(0, 2, 3, 1)
    torch.testing.assert_close(blend, expected, rtol=1e-4, atol=1e-5)
    for found, right in zip(
        torch.autograd.grad(weighted([blend]), (alphas, features)),
        torch.autograd.grad(weighted([expected]), (alphas, features)),
        strict=True,
    ):
        assert_gradients_close(found, right)


def test_the_gradient_of_an_alpha_of_one_counts_what_lies_behind_here_alone():
    """``d/da [a f0 + (1 - a) b f1] = f0 - b f1``, whatever ``a``."""
    index, features = torch.tensor([0, 1]).view(1, 1, 1, 2), torch.tensor([[1.0], [3.0]])
    for first, their_slope in ((0.5, -0.5), (1.0, 1.0)):
        alphas = torch.tensor([first, 0.5]).view(1, 1, 1, 2).requires_grad_()
        ours = composite_alpha(alphas, index, features).sum()
        theirs = alpha_composite(index.permute(0, 3, 1, 2).contiguous(), alphas.permute(0, 3, 1, 2), features.T).sum()
        torch.testing.assert_close(ours, theirs)
        slopes = [torch.autograd.grad(each, alphas)[0][0, 0, 0, 0].item() for each in (ours, theirs)]
        assert slopes == pytest.approx([-0.5, their_slope], abs=1e-5)


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("faces_per_pixel", [1, 6, None])
def test_blended_silhouette(faces_per_pixel, scene):
    vertices, faces = SCENES[scene]()
    vertices.requires_grad_()
    sigma, radius = 0.8, 2.5
    ours = blended_silhouette(
        vertices, faces, HEIGHT, WIDTH, sigma=sigma, blur_radius=radius, faces_per_pixel=faces_per_pixel
    )
    pixel = 2 / min(HEIGHT, WIDTH)
    face, _, _, distance = pytorch3d_layers(
        vertices,
        faces,
        HEIGHT,
        WIDTH,
        faces_per_pixel=faces_per_pixel or len(faces),
        blur_radius=(radius * pixel) ** 2,
        clip_barycentric_coords=True,
    )
    colours = torch.zeros(*face.shape, 3)
    fragments = SimpleNamespace(pix_to_face=face, dists=distance * pixel**2)
    theirs = sigmoid_alpha_blend(colours, fragments, BlendParams(sigma=sigma * pixel**2))[..., 3]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    (found,) = torch.autograd.grad(weighted([ours]), vertices)
    (expected,) = torch.autograd.grad(weighted([theirs]), vertices)
    assert_gradients_close(found, expected)


def test_splatted_silhouette():
    points = cloud(150).requires_grad_()
    radius, count = 3.0, 10
    ours = splatted_silhouette(points, torch.tensor([[0, 1, 2]]), HEIGHT, WIDTH, radius=radius, points_per_pixel=count)
    index, _, distance = pytorch3d_splats(points, radius, HEIGHT, WIDTH, count)
    alphas = torch.where(index >= 0, 1 - distance / radius**2, 0)
    order = (0, 3, 1, 2)
    theirs = alpha_composite(index.permute(order).contiguous(), alphas.permute(order), torch.ones(1, 150))[:, 0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    (found,) = torch.autograd.grad(weighted([ours]), points)
    (expected,) = torch.autograd.grad(weighted([theirs]), points)
    assert_gradients_close(found, expected)


def bumpy() -> tuple[Tensor, Tensor]:
    """Two frames of a closed mesh, its vertices shaken."""
    mesh = trimesh.creation.icosphere(subdivisions=2)
    shape = torch.tensor(mesh.vertices, dtype=torch.float32)
    shaken = shape + 0.1 * torch.randn(2, *shape.shape, generator=torch.Generator().manual_seed(9))
    return shaken, torch.tensor(mesh.faces)


def torn() -> tuple[Tensor, Tensor]:
    """A mesh with borders, three and four faces at an edge, and faces that run against their neighbours."""
    vertices, faces = bumpy()
    faces = faces[::2].clone()
    faces[5] = faces[5].flip(0)
    fins = torch.stack([faces[:6, 0], faces[:6, 1], faces[:6, 2].roll(1)], 1)
    fins = fins[(fins[:, 0] != fins[:, 2]) & (fins[:, 1] != fins[:, 2])]
    return vertices, torch.cat([faces, fins, fins[:2].flip(1)])


def folded() -> tuple[Tensor, Tensor]:
    """A mesh with one face whose corners lie on a line, at places where float32 makes no error."""
    vertices, faces = bumpy()
    vertices[:, faces[FOLDED]] = torch.tensor([[0.5, 0.5, 0.75], [1.0, 0.5, 0.75], [0.75, 0.5, 0.75]])
    return vertices, faces


FOLDED = 3
MESHES = {"closed": bumpy, "torn": torn, "folded": folded}


def used(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """The mesh without vertices of no face: PyTorch3D adds their distance from the origin to Laplacian losses."""
    names, index = faces.unique(return_inverse=True)
    return vertices[:, names].clone().requires_grad_(), index


LOSSES = {
    "laplacian uniform": (loss_laplacian, mesh_laplacian_smoothing, {"method": "uniform"}),
    "laplacian cot": (loss_laplacian, mesh_laplacian_smoothing, {"method": "cot"}),
    "laplacian cotcurv": (loss_laplacian, mesh_laplacian_smoothing, {"method": "cotcurv"}),
    "edge length": (loss_edge_length, mesh_edge_loss, {"target_length": 0.2}),
    "normal consistency": (loss_normal_consistency, mesh_normal_consistency, {}),
}


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", LOSSES)
def test_mesh_losses(name, mesh):
    ours, theirs, options = LOSSES[name]
    vertices, faces = used(*MESHES[mesh]())
    loss = ours(vertices, faces, **options)
    expected = theirs(Meshes(list(vertices), [faces] * len(vertices)), **options)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    (found,), (right,) = torch.autograd.grad(loss, vertices), torch.autograd.grad(expected, vertices)
    if mesh == "folded" and name != "edge length":
        # At the corners of a face without area PyTorch3D's normals turn by up to 1e8 per metre, and its cotangents,
        # some 1e5 of either sign, are added to a matrix before they cancel: float32 leaves two digits.
        assert name != "normal consistency" or found.abs().max() < 10
        found[:, faces[FOLDED]] = right[:, faces[FOLDED]] = 0
    assert_gradients_close(found, right)


@pytest.mark.parametrize("mesh", ["closed", "torn"])
def test_vertex_normals(mesh):
    vertices, faces = used(*MESHES[mesh]())
    found = vertex_normals(vertices, faces)
    expected = Meshes(list(vertices), [faces] * len(vertices)).verts_normals_packed().view_as(found)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert_gradients_close(
        torch.autograd.grad(weighted([found]), vertices)[0], torch.autograd.grad(weighted([expected]), vertices)[0]
    )


@pytest.mark.parametrize("mesh", ["closed", "torn"])
def test_face_normals_and_areas(mesh):
    vertices, faces = used(*MESHES[mesh]())
    meshes = Meshes(list(vertices), [faces] * len(vertices))
    expected = [
        each.unflatten(0, (2, -1)) for each in mesh_face_areas_normals(meshes.verts_packed(), meshes.faces_packed())
    ]
    found = [face_areas(vertices, faces), face_normals(vertices, faces)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    right = torch.tensor([1.0, 0.0, 1.0])  # their gradient of a normal's y is wrong along z
    (ours, theirs), (our_y, their_y) = (
        [torch.autograd.grad(weighted([area, normal * mask]), vertices, retain_graph=True)[0] for area, normal in both]
        for both, mask in (((found, expected), right), ((found, expected), 1 - right))
    )
    assert_gradients_close(ours, theirs)
    assert_gradients_close(our_y[..., :2], their_y[..., :2])
    edges = vertices[:, faces[:, 1:]] - vertices[:, faces[:, :1]]
    area_vector = torch.linalg.cross(edges[:, :, 0], edges[:, :, 1])
    area = area_vector.norm(dim=-1, keepdim=True)
    formula = weighted([area[..., 0] / 2, area_vector / area * (1 - right)])
    assert_gradients_close(our_y, torch.autograd.grad(formula, vertices)[0])


def clouds() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two batches of clouds, and how many points of each count."""
    generator = torch.Generator().manual_seed(11)
    first, second = (torch.rand(2, size, 3, generator=generator).requires_grad_() for size in (90, 70))
    return first, second, torch.tensor([90, 40]), torch.tensor([25, 70])


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("lengths", [False, True])
def test_nearest_neighbours(lengths, count):
    queries, points, query_lengths, point_lengths = clouds()
    given = (query_lengths, point_lengths) if lengths else (None, None)
    squared, index = nearest_neighbours(queries, points, count, *given)
    expected = knn_points(queries, points, *given, K=count)
    counted = squared.isfinite()
    assert int(counted.sum()) == count * (130 if lengths else 180)
    assert torch.equal(index[counted], expected.idx[counted])
    torch.testing.assert_close(squared[counted], expected.dists[counted], rtol=1e-4, atol=1e-7)
    for found, right in zip(
        torch.autograd.grad(weighted([torch.where(counted, squared, 0)]), (queries, points)),
        torch.autograd.grad(weighted([torch.where(counted, expected.dists, 0)]), (queries, points)),
        strict=True,
    ):
        assert_gradients_close(found, right)


CHAMFERS = {
    "mean": ({}, {}),
    "sum": ({"point_reduction": "sum", "batch_reduction": "sum"}, {"point_reduction": "sum", "batch_reduction": "sum"}),
    "each": ({"batch_reduction": None}, {"batch_reduction": None}),
    "one way": ({"one_way": True}, {"single_directional": True}),
}


@pytest.mark.parametrize("name", CHAMFERS)
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("oriented", [False, True])
def test_chamfer_distance(oriented, lengths, name):
    options, theirs = CHAMFERS[name]
    first, second, first_lengths, second_lengths = clouds()
    generator = torch.Generator().manual_seed(12)
    first_normals, second_normals = (torch.randn(each.shape, generator=generator) for each in (first, second))
    given = (first_lengths, second_lengths) if lengths else (None, None)
    found = chamfer_distance(first, second, *given, first_normals, second_normals, oriented=oriented, **options)
    expected = pytorch3d_chamfer_distance(
        first, second, *given, first_normals, second_normals, abs_cosine=not oriented, **theirs
    )
    for ours, right in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-6)
    for ours, right in zip(
        torch.autograd.grad(weighted([found[0]]), (first, second)),
        torch.autograd.grad(weighted([expected[0]]), (first, second)),
        strict=True,
    ):
        assert_gradients_close(ours, right)


def cloud_and_mesh(mesh: str) -> tuple[Tensor, Tensor, Tensor]:
    """Points in and around two frames of a mesh."""
    vertices, faces = used(*MESHES[mesh]())
    points = 1.5 * torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(13))
    return points.requires_grad_(), vertices, faces


@pytest.mark.parametrize("mesh", MESHES)
def test_point_mesh_distances(mesh):
    points, vertices, faces = cloud_and_mesh(mesh)
    corners = vertices[:, faces].flatten(0, 1)
    starts = torch.tensor([0, 40]), torch.tensor([0, len(faces)])
    theirs = (
        point_face_distance(points.flatten(0, 1), starts[0], corners, starts[1], 40, NO_AREA),
        face_point_distance(points.flatten(0, 1), starts[0], corners, starts[1], len(faces), NO_AREA),
    )
    ours = point_mesh_distance(points, vertices, faces)[0], mesh_point_distance(points, vertices, faces)[0]
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found.flatten(), expected, rtol=1e-4, atol=1e-6)
        for one, other in zip(
            torch.autograd.grad(weighted([found.flatten()]), (points, vertices)),
            torch.autograd.grad(weighted([expected]), (points, vertices), retain_graph=True),
            strict=True,
        ):
            assert_gradients_close(one, other)


NO_AREA = 1e-12
"""Area below which PyTorch3D takes a face for its edges, 5e-3 unless given; ours does so at 0."""


@pytest.mark.parametrize("mesh", MESHES)
def test_point_mesh_losses(mesh):
    points, vertices, faces = cloud_and_mesh(mesh)
    meshes, cloud_batch = Meshes(list(vertices), [faces] * 2), Pointclouds(list(points))
    edges = meshes.edges_packed()[: meshes.num_edges_per_mesh()[0]]
    pairs = (
        (loss_point_mesh(points, vertices, faces), point_mesh_face_distance(meshes, cloud_batch, NO_AREA)),
        (loss_point_edges(points, vertices, edges), point_mesh_edge_distance(meshes, cloud_batch)),
    )
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        for one, other in zip(
            torch.autograd.grad(found, (points, vertices)),
            torch.autograd.grad(expected, (points, vertices), retain_graph=True),
            strict=True,
        ):
            assert_gradients_close(one, other)
