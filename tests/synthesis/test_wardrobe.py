import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.synthesis.layers import Layer
from selfrecon_warp.synthesis.mesh_tools import border_edges, vertex_normals
from selfrecon_warp.synthesis.person import Motion, held_out_motion
from selfrecon_warp.synthesis.wardrobe import OUTFITS, dressed

FLARED = {"dress", "coat", "skirt"}


def outside(layer: Layer) -> np.ndarray:
    """Vertices of a layer's outer side, folds included."""
    faces = layer.mesh.faces if layer.lining is None else layer.mesh.faces[~layer.lining]
    return (layer.mesh.vertices + sum(layer.folds.still)[:, None] * layer.lift)[np.unique(faces)]


@pytest.mark.parametrize("outfit", OUTFITS)
def test_garments_stand_off_the_body(outfit: str) -> None:
    figure, _ = dressed(np.random.default_rng(7), outfit)
    garments = [layer for layer in figure.layers if layer.part == "clothes"]
    assert garments
    distances = {layer.name: figure.person.nearest(outside(layer))[1] for layer in garments}
    for name, distance in distances.items():
        assert np.percentile(distance, 1) > 0.003, name
        assert 0.010 < np.median(distance) < 0.075, name
    assert max(np.percentile(distance, 95) for distance in distances.values()) > (0.07 if outfit in FLARED else 0.03)
    hair = next(layer for layer in figure.layers if layer.part == "hair")
    assert figure.person.nearest(outside(hair))[1].min() > -0.01
    for layer in garments:
        edges = np.linalg.norm(np.diff(layer.mesh.vertices[layer.mesh.faces[:, :2]], axis=1)[:, 0], axis=1)
        assert np.percentile(edges, 99) < 0.03
        assert len(border_edges(layer.mesh.faces))  # open hems
        assert layer.lining is not None
        outer = ~layer.lining
        outward = vertex_normals(layer.mesh.vertices, layer.mesh.faces[outer])
        index, _ = figure.person.nearest(layer.mesh.vertices)
        facing = (outward * figure.person.dense_normals[index]).sum(1)
        assert (facing[np.unique(layer.mesh.faces[outer])] > 0).mean() > 0.9


def test_folds_move_and_loose_cloth_keeps_off_the_legs() -> None:
    rng = np.random.default_rng(2)
    figure, _ = dressed(rng, "skirt")
    motion = held_out_motion(rng, 2)
    assert motion.poses[1, 1:3, 0].min() < -0.5  # a lifted knee
    timeline = figure.timeline(rng, Motion(motion.poses, motion.trans))
    names = [layer.name for layer in figure.layers]
    part = slice(*figure.starts[names.index("skirt") : names.index("skirt") + 2])
    lifted = figure.pose(timeline, 1)
    skin_normals = vertex_normals(timeline.skin[1], figure.person.rest.faces)
    _, nearest = cKDTree(timeline.skin[1]).query(lifted.vertices[part])
    depth = ((lifted.vertices[part] - timeline.skin[1][nearest]) * skin_normals[nearest]).sum(1)
    assert (depth > -0.005).mean() > 0.97
    assert np.abs(lifted.relief - figure.pose(timeline, 0).relief).max() > 0.002


@pytest.mark.parametrize("outfit", ["hoodie", "coat"])  # a hood and lapels: cloth that folds over to the outside
def test_what_shows_from_around_is_scored(outfit: str) -> None:
    figure, _ = dressed(np.random.default_rng(7), outfit)
    _, exterior = figure.visibility
    vertices = figure.apose_vertices - figure.apose_vertices.mean(0)
    size, scale = 300, 120.0  # pixels a side, a metre
    pixels = []
    for turn in np.arange(8) * np.pi / 4:
        sideways = vertices @ (np.cos(turn), 0.0, -np.sin(turn))
        towards = vertices @ (np.sin(turn), 0.0, np.cos(turn))
        pixels.append(np.stack([size / 2 + scale * sideways, size / 2 - scale * vertices[:, 1], 10 - towards], -1))
    drawn = torch.from_numpy(np.stack(pixels).astype(np.float32))
    face = visible_faces(drawn, torch.from_numpy(figure.faces), size, size).numpy()
    assert (~exterior[face[face >= 0]]).mean() < 0.01
