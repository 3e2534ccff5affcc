"""Masks follow the picture's edges and hold one person."""

import cv2
import numpy as np

from selfrecon_warp.prepare.mask_edges import person_mask, sharpened


def overlap(first, second):
    return (first & second).sum() / (first | second).sum()


def test_a_coarse_mask_snaps_to_the_edge():
    v, u = np.mgrid[0:240, 0:160]
    truth = ((u - 80) / 40) ** 2 + ((v - 120) / 100) ** 2 < 1 + 0.08 * np.sin(v / 4)
    rng = np.random.default_rng(0)
    picture = np.where(truth[..., None], (40, 70, 120), (150, 140, 120)) + rng.normal(0, 3, (240, 160, 3))
    picture = picture.clip(0, 255).astype(np.uint8)
    coarse = cv2.GaussianBlur(truth.astype(np.float32), (0, 0), 6)
    found = person_mask(sharpened(coarse, picture, 200))
    assert 1 - overlap(found, truth) < 0.5 * (1 - overlap(coarse > 0.5, truth))


def test_nobody_stays_nobody():
    nothing = np.zeros((20, 30), np.float32)
    assert not person_mask(sharpened(nothing, np.zeros((20, 30, 3), np.uint8), 10)).any()


def test_crumbs_go_and_a_hand_apart_stays():
    probability = np.zeros((100, 100), np.float32)
    probability[10:90, 40:60] = 1
    probability[40:50, 70:76] = 1
    probability[5, 5] = 1
    mask = person_mask(probability)
    assert mask[45, 72]
    assert not mask[5, 5]
