import dataclasses

import numpy as np
from rigged_meshes import make_rigged

from selfrecon_warp.asset.seams import split_at_seams


def test_only_vertices_on_seams_are_doubled():
    rigged = make_rigged(textured=True)
    split = split_at_seams(rigged)
    assert np.array_equal(split.source[split.faces], rigged.faces)
    assert np.array_equal(split.texcoords[split.faces], rigged.texcoords[rigged.face_texcoords])
    doubled = np.bincount(split.source) - 1
    both = [set(rigged.face_texcoords[rigged.faces == v]) for v in range(len(rigged.vertices))]
    assert doubled.tolist() == [len(found) - 1 for found in both]
    assert 0 < doubled.sum() < len(rigged.vertices)


def test_without_texture_nothing_is_doubled():
    rigged = make_rigged()
    assert np.array_equal(split_at_seams(rigged).source, np.arange(len(rigged.vertices)))
    whole = dataclasses.replace(rigged, texcoords=np.zeros((1, 2), np.float32), face_texcoords=0 * rigged.faces)
    assert len(split_at_seams(whole).source) == len(rigged.vertices)
