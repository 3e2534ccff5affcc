"""Drawing a posed mesh: template, extracted mesh and its finest stage, in frames of 512 and 1080 pixels.

The reference and PyTorch3D test every face at every pixel: the first takes part at a small size, the second is measured
with 7k faces and scaled by faces and pixels. Embree traces one ray a pixel through a scene built beforehand; with the
building, which a mesh that moves asks for in every frame, it is a peer of its own. It has no gradient.
"""

import torch

from selfrecon_warp.benchmarks.harness import FORWARD, Benchmark, Bound, Case, Only, Prepared, main, timed
from selfrecon_warp.benchmarks.scenes import figure, to_pytorch3d
from selfrecon_warp.kernels import rasterize as warp_op
from selfrecon_warp.kernels.reference import rasterize as reference

BRUTE = "7k faces, 512 px"
FOCAL = 1.5
"""Focal length that ``figure`` projects with, in sides of the picture."""


def scaled(faces: int, size: int, frames: int) -> dict[str, tuple[str, float]]:
    """PyTorch3D's brute force, from the case that is measured."""
    return {"pytorch3d": (BRUTE, frames * faces / 7_000 * (size / 512) ** 2)}


def image(faces: int, size: int, frames: int = 1, quick: bool = False) -> Case:
    name = f"{faces // 1000}k faces, {size} px" + (f", {frames} frames" if frames > 1 else "")
    return Case(
        name,
        {"step": "image", "B": frames, "F": faces, "size": size},
        quick=quick,
        skip=("torch",),
        once=("pytorch3d",),
        extrapolate={} if name == BRUTE else scaled(faces, size, frames),
    )


def only_ours(step: str, frames: int, skip: tuple[str, ...] = ()) -> Case:
    sizes = {"step": step, "B": frames, "F": 100_000, "size": 512}
    peers = ("pytorch3d", "embree", "embree, scene built", "nvdiffrast")
    return Case(f"{step}, 100k faces, 512 px", sizes, skip=(*peers, *skip))


CASES = (
    Case("400 faces, 96 px", {"step": "image", "B": 1, "F": 400, "size": 96}, quick=True),
    image(7_000, 512),
    image(100_000, 512, quick=True),
    image(100_000, 512, frames=3),
    image(400_000, 512),
    image(7_000, 1080),
    image(100_000, 1080),
    image(400_000, 1080),
    only_ours("face index alone", 1, ("torch",)),
    only_ours("chosen pixels", 8),
    only_ours("interpolation", 1),
)
PIXELS = 3000  # chosen pixels a frame, as the normal term samples


def chosen(module, vertices, faces, size, direction):
    face_index = warp_op.visible_faces(vertices, faces, size, size)
    b, row, column = (face_index >= 0).nonzero(as_tuple=True)
    pick = torch.randperm(len(b), device=b.device)[: PIXELS * len(vertices)]
    b, row, column = b[pick], row[pick], column[pick]
    inputs = faces, b, torch.stack([column, row], -1), face_index[b, row, column]
    return timed(lambda v: module.pixel_barycentrics(v, *inputs), [vertices], direction)


def interpolation(module, vertices, faces, size, direction):
    fragments = warp_op.rasterize(vertices, faces, size, size)
    attributes = torch.rand(vertices.shape[1], 3, device=vertices.device)
    return timed(lambda a: module.interpolate(a, faces, fragments), [attributes], direction)


def build(module):
    """One step with one module's functions."""

    def prepare(case: Case, direction: str, device: torch.device) -> Prepared | None:
        vertices, faces = figure(case["B"], case["F"], case["size"], device)
        faces, size = faces.int(), case["size"]
        if case["step"] == "chosen pixels":
            return chosen(module, vertices, faces, size, direction)
        if case["step"] == "interpolation":
            return interpolation(module, vertices, faces, size, direction)
        if case["step"] == "image":
            return timed(lambda v: module.rasterize(v, faces, size, size), [vertices], direction)
        if direction != FORWARD:
            return None
        return Prepared(lambda: module.visible_faces(vertices, faces, size, size))

    return prepare


def pytorch3d(case: Case, direction: str, device: torch.device) -> Prepared:
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes

    size = case["size"]
    vertices, faces = figure(case["B"], case["F"], size, device)
    bins = {"bin_size": 0} if device.type == "cpu" else {}

    def draw(ndc):
        meshes = Meshes(ndc, faces.expand(case["B"], -1, -1))
        return rasterize_meshes(meshes, size, faces_per_pixel=1, perspective_correct=True, **bins)[:3]

    return timed(draw, [to_pytorch3d(vertices, size, size)], direction)


def embree_rays(case: Case, device: torch.device):
    """The mesh in space and the rays of the pixels, in each frame's order."""
    import numpy as np

    size = case["size"]
    vertices, faces = figure(case["B"], case["F"], size, device)
    middle = size / 2 - 0.5
    points = torch.cat([(vertices[..., :2] - middle) / (FOCAL * size) * vertices[..., 2:], vertices[..., 2:]], -1)
    v, u = torch.meshgrid(*[(torch.arange(size) - middle) / (FOCAL * size)] * 2, indexing="ij")
    directions = torch.stack([u, v, torch.ones_like(u)], -1).view(-1, 3).numpy()
    triangles = [np.ascontiguousarray(frame[faces].numpy(), dtype=np.float32) for frame in points]
    return triangles, np.zeros_like(directions), directions


def embree(build_timed: bool):
    def prepare(case: Case, direction: str, device: torch.device) -> Prepared | None:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        if direction != FORWARD:
            return None
        triangles, origins, directions = embree_rays(case, device)

        def built(corners):
            scene = EmbreeScene()
            return scene, TriangleMesh(scene, corners)

        scenes = [built(corners) for corners in triangles]
        for scene, _ in scenes:
            scene.run(origins[:1], directions[:1])  # commits it
        if build_timed:
            return Prepared(lambda: [built(c)[0].run(origins, directions, output=1) for c in triangles])
        return Prepared(lambda: [scene.run(origins, directions, output=1) for scene, _ in scenes], "scene built before")

    return prepare


def nvdiffrast(case: Case, direction: str, device: torch.device) -> Prepared:
    import nvdiffrast.torch as dr

    size = case["size"]
    vertices, faces = figure(case["B"], case["F"], size, device)
    faces, context = faces.int(), dr.RasterizeCudaContext(device=device)

    def draw(pixel):
        z = pixel[..., 2:]
        clip = torch.cat([((2 * pixel[..., :2] + 1) / size - 1) * z, z - 0.2, z], -1)
        return dr.rasterize(context, clip, faces, (size, size))[0]

    return timed(draw, [vertices], direction)


def items(case: Case) -> tuple[float, str]:
    if case["step"] == "chosen pixels":
        return case["B"] * PIXELS, "pixels"
    return case["B"] * case["size"] ** 2, "pixels"


def bound(case: Case, direction: str, _device: torch.device) -> Bound | None:
    if case["step"] != "image":
        return None
    mesh, pixels = 12 * case["F"] + 6 * case["B"] * case["F"], case["B"] * case["size"] ** 2
    if direction == FORWARD:
        return Bound("reads the mesh, writes 20 bytes a pixel", bytes=mesh + 20 * pixels)
    return Bound("reads mesh and fragments' gradients, writes both", bytes=3 * mesh + 40 * pixels)


BENCHMARK = Benchmark(
    op="rasterize",
    cases=CASES,
    implementations={
        "ours": build(warp_op),
        "torch": build(reference),
        "pytorch3d": pytorch3d,
        "embree": Only("cpu", embree(build_timed=False)),
        "embree, scene built": Only("cpu", embree(build_timed=True)),
        "nvdiffrast": Only("cuda", nvdiffrast),
    },
    items=items,
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
