"""Frames whose sides a detector exchanged are told from the rest by how people turn."""

from dataclasses import replace

import numpy as np
import pytest
from people_seen import person_seen

from selfrecon_warp.prepare.body_fit_flips import AS_SEEN, EXCHANGED, TURNED, read_as, unflip
from selfrecon_warp.prepare.observations import BODY_33, PersonObservations


@pytest.fixture(scope="module")
def seen() -> PersonObservations:
    return person_seen(frames=60, size=40).observations


def misread(observations: PersonObservations, kinds: np.ndarray) -> PersonObservations:
    for kind in (TURNED, EXCHANGED):
        other, rows = read_as(observations, kind), (kinds == kind)[:, None, None]
        observations = replace(
            observations,
            keypoints=np.where(rows, other.keypoints, observations.keypoints),
            keypoints3d=np.where(rows, other.keypoints3d, observations.keypoints3d),
        )
    return observations


def test_a_clean_sequence_stays_as_it_is(seen):
    assert (unflip(seen).kinds == AS_SEEN).all()


@pytest.mark.parametrize("kind", [TURNED, EXCHANGED])
@pytest.mark.parametrize("rows", [slice(3, 8), slice(25, 36), slice(55, 60)])
def test_stretches_are_found_and_put_right(seen, kind, rows):
    kinds = np.zeros(len(seen), int)
    kinds[rows] = kind
    found = unflip(misread(seen, kinds))
    np.testing.assert_array_equal(found.kinds, kinds)
    np.testing.assert_array_equal(found.observations.keypoints, seen.keypoints)


def test_single_frames_are_found_among_noise(seen):
    rng = np.random.default_rng(1)
    noisy = replace(seen, keypoints3d=seen.keypoints3d + rng.normal(0, 0.02, seen.keypoints3d.shape).astype(np.float32))
    kinds = np.where(rng.random(len(seen)) < 0.1, EXCHANGED, AS_SEEN)
    kinds[0] = AS_SEEN
    assert (unflip(misread(noisy, kinds)).kinds != kinds).mean() < 0.04


def test_works_on_pixels_alone(seen):
    kinds = np.zeros(len(seen), int)
    kinds[24:36] = TURNED
    found = unflip(replace(misread(seen, kinds), keypoints3d=None))
    np.testing.assert_array_equal(found.kinds != AS_SEEN, kinds != AS_SEEN)


def test_a_hidden_face_tells_the_back(seen):
    nose = BODY_33.index("nose")
    middle = len(seen) // 2
    away = np.abs(np.arange(len(seen)) - middle) < len(seen) / 4
    confidence = seen.confidence.copy()
    confidence[away, nose] = 0.0
    assert (unflip(replace(seen, confidence=confidence)).kinds == AS_SEEN).all()
    front = misread(seen, np.where(away, TURNED, AS_SEEN))
    assert (unflip(replace(front, confidence=confidence)).kinds[away] == TURNED).mean() > 0.8


def test_reading_twice_gives_the_first(seen):
    for kind in (TURNED, EXCHANGED):
        np.testing.assert_array_equal(read_as(read_as(seen, kind), kind).keypoints3d, seen.keypoints3d)
