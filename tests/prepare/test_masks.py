"""Masks of every tool give the same person."""

import cv2
import numpy as np
import pytest
from picture_files import gradient, write_clip

from selfrecon_warp.errors import PrepareError
from selfrecon_warp.prepare.frames import open_frames
from selfrecon_warp.prepare.masks import MaskSource

PERSON = np.zeros((48, 64), bool)
PERSON[8:40, 20:44] = True
GREY = PERSON.astype(np.uint8) * 255


@pytest.fixture
def frames(tmp_path):
    (tmp_path / "imgs").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / "imgs" / f"{index:06d}.png"), gradient(index)[..., ::-1])
    return open_frames(tmp_path / "imgs")


def masks_of(folder, frames, pictures, names=None, suffix=".png", threshold=0.5):
    folder.mkdir(exist_ok=True)
    for index, picture in enumerate(pictures):
        name = f"{index:06d}" if names is None else names[index]
        cv2.imwrite(str(folder / f"{name}{suffix}"), picture)
    return [mask for _, mask in MaskSource(folder, frames, threshold).read(range(3))]


@pytest.mark.parametrize(
    "picture",
    [
        GREY,
        PERSON.astype(np.uint8),
        PERSON.astype(np.uint16) * 65535,
        np.dstack((GREY, GREY, GREY)),
        np.dstack((GREY // 2, 0 * GREY, 0 * GREY)),
        np.dstack((255 - GREY, gradient(0)[..., :2], GREY)),
        np.clip(GREY.astype(int), 30, 220).astype(np.uint8),
    ],
    ids=["white", "labels", "16 bits", "colour", "label colour", "cut out with alpha", "soft"],
)
def test_every_form_gives_the_person(picture, frames, tmp_path):
    for mask in masks_of(tmp_path / "masks", frames, [picture] * 3):
        np.testing.assert_array_equal(mask, PERSON)


def test_jpeg_masks_lose_a_pixel_at_most(frames, tmp_path):
    for mask in masks_of(tmp_path / "masks", frames, [GREY] * 3, suffix=".jpg"):
        assert (mask != PERSON).sum() < 20


def test_threshold_moves_soft_borders(frames, tmp_path):
    soft = cv2.GaussianBlur(GREY, (0, 0), 3)
    few, many = (masks_of(tmp_path / "masks", frames, [soft] * 3, threshold=t)[0].sum() for t in (0.8, 0.2))
    assert few < PERSON.sum() < many
    with pytest.raises(PrepareError, match="--mask-threshold must lie between 0 and 1"):
        MaskSource(tmp_path / "masks", frames, 128)


def test_half_resolution_is_scaled_up_and_other_shapes_are_refused(frames, tmp_path):
    small = cv2.resize(GREY, (32, 24), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(masks_of(tmp_path / "masks", frames, [small] * 3)[0], PERSON)
    with pytest.raises(PrepareError, match=r"the mask of frame 000000 is 48x48, the picture 64x48"):
        masks_of(tmp_path / "square", frames, [GREY[:, :48]] * 3)


@pytest.mark.parametrize("names", [["m1", "m2", "m3"], ["a_000", "a_001", "a_002"], ["000000", "000001", "000002"]])
def test_masks_are_paired_by_name_number_or_order(names, frames, tmp_path):
    pictures = [GREY, GREY.copy(), GREY.copy()]
    pictures[1][:9] = 255
    found = masks_of(tmp_path / "masks", frames, pictures, names)
    assert [mask[0].any() for mask in found] == [False, True, False]


def test_masks_may_be_a_video(frames, tmp_path):
    clip = write_clip(tmp_path / "m.mp4", [np.dstack((GREY,) * 3)] * 3)
    for _, mask in MaskSource(clip, frames).read(range(3)):
        assert (mask != PERSON).sum() < 20


def test_pictures_may_bring_their_own_masks(tmp_path, frames):
    with pytest.raises(PrepareError, match=r"no transparent background.*give --masks DIR"):
        list(MaskSource(None, frames).read([0]))
    (tmp_path / "cut").mkdir()
    cv2.imwrite(str(tmp_path / "cut" / "0.png"), np.dstack((gradient(0), GREY)))
    ((frame, mask),) = MaskSource(None, open_frames(tmp_path / "cut")).read([0])
    np.testing.assert_array_equal(mask, PERSON)
    assert frame.pixels.shape == (48, 64, 3)


def test_nobody_in_the_mask(frames, tmp_path):
    with pytest.raises(PrepareError, match=r"the mask of frame 000001 is empty: nobody in the picture"):
        masks_of(tmp_path / "masks", frames, [GREY, 0 * GREY, GREY])


def test_missing_and_unrelated_masks(frames, tmp_path):
    with pytest.raises(PrepareError, match="holds no mask for frame 000002"):
        masks_of(tmp_path / "two", frames, [GREY, GREY])
    with pytest.raises(PrepareError, match=r"2 masks.*3 frames, and their names do not tell"):
        masks_of(tmp_path / "other", frames, [GREY, GREY], ["7", "8"])
