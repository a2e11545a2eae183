"""The way onto the canvas and back, and finding lungs on pictures that are not quite a chest."""

from __future__ import annotations

import numpy as np
import pytest

from node.imaging.letterbox import Box, Letterbox, box_of
from node.imaging.lungs import find_lungs, hull_of

MM = (5.0, 0.8, 0.8)


def chest(rows: int = 200, columns: int = 260) -> np.ndarray:
    """One slice: a body of soft tissue in air with two lungs."""
    r, c = np.mgrid[:rows, :columns]
    hu = np.full((rows, columns), -1000.0, np.float32)
    hu[((r - 100) / 80) ** 2 + ((c - 130) / 110) ** 2 < 1] = 40
    for centre in (80, 180):
        hu[((r - 100) / 55) ** 2 + ((c - centre) / 35) ** 2 < 1] = -860
    return hu[None]


@pytest.mark.parametrize("box", [Box(0, 0, 300, 200), Box(17, 31, 203, 190), Box(40, 10, 90, 199)])
@pytest.mark.parametrize("size", [128, 448])
def test_a_mask_comes_back_to_its_own_pixels(box: Box, size: int) -> None:
    """There and back, small canvas or large: a block stays where it was, within one canvas pixel."""
    source = np.zeros((300, 200), np.float32)
    top, left = box.top + box.height // 4, box.left + box.width // 4
    source[top : top + box.height // 2, left : left + box.width // 2] = 1
    letterbox = Letterbox(box, size)

    back = letterbox.backward(letterbox.forward(source), 300, 200) > 0.5

    found = box_of(back)
    assert found is not None
    step = max(1.0, max(box.height, box.width) / size)
    assert (found.top, found.left) == pytest.approx((top, left), abs=step)
    assert (found.bottom, found.right) == pytest.approx((top + box.height // 2, left + box.width // 2), abs=step)
    assert back.sum() == pytest.approx(source.sum(), rel=0.03)


@pytest.mark.parametrize(("rows", "columns", "aspect"), [(100, 200, 2.0), (200, 100, 0.5), (400, 100, 0.25)])
def test_oblong_pixels_are_square_on_the_canvas_and_come_back_as_they_were(rows: int, columns: int, aspect: float) -> None:
    """A square of the patient fills the canvas; half of it fills half."""
    source = np.zeros((rows, columns), np.float32)
    source[rows // 4 : 3 * rows // 4, columns // 4 : 3 * columns // 4] = 1
    letterbox = Letterbox(Box(0, 0, rows, columns), 128, aspect)

    canvas = letterbox.forward(source)

    assert box_of(canvas > 0.5) == Box(32, 32, 96, 96)
    np.testing.assert_array_equal(letterbox.backward(canvas, rows, columns) > 0.5, source > 0.5)


def test_nothing_comes_back_outside_the_box() -> None:
    letterbox = Letterbox(Box(50, 60, 150, 160), 64)
    back = letterbox.backward(np.ones((64, 64), np.float32), 200, 220)
    assert back[50:150, 60:160].min() == 1.0
    assert back.sum() == 100 * 100


def test_an_empty_mask_has_no_box() -> None:
    assert box_of(np.zeros((4, 4), bool)) is None


def test_two_lungs_are_left_and_right_by_the_patient() -> None:
    lungs = find_lungs(chest(), MM)
    assert lungs is not None
    assert np.nonzero(lungs.left)[2].mean() == pytest.approx(180, abs=1)
    assert np.nonzero(lungs.right)[2].mean() == pytest.approx(80, abs=1)
    mirrored = find_lungs(chest(), MM, left_is_high_column=False)
    assert mirrored is not None
    np.testing.assert_array_equal(mirrored.left, lungs.right)


def test_lungs_that_touch_are_taken_apart() -> None:
    hu = chest()
    hu[0, 98:101, 110:150] = -860  # a thin bridge in front of the spine
    lungs = find_lungs(hu, MM)
    assert lungs is not None
    assert lungs.left.sum() == pytest.approx(lungs.right.sum(), rel=0.1)


def test_a_vessel_and_a_consolidation_stay_inside() -> None:
    hu = chest()
    hu[0, 95:105, 170:180] = 40  # a vessel of 8 mm
    lungs = find_lungs(hu, MM)
    assert lungs is not None
    assert lungs.left[0, 100, 175]


def test_a_picture_cut_at_the_lungs_still_shows_them() -> None:
    close = chest()[:, 45:155, 47:213]  # lung reaches the edge on both sides
    lungs = find_lungs(np.ascontiguousarray(close), MM)
    assert lungs is not None
    assert lungs.left.any()
    assert lungs.right.any()


@pytest.mark.parametrize("low", [-1024.0, 0.0, 2000.0])
def test_noise_has_no_lungs(low: float) -> None:
    noise = np.random.default_rng(1).uniform(low, low + 250, (2, 128, 128)).astype(np.float32)
    assert find_lungs(noise, MM) is None


def test_gas_in_the_gut_is_no_lung() -> None:
    hu = chest()
    hu[hu == -860] = 40
    hu[0, 80:140, 60:150] = -995
    assert find_lungs(hu, MM) is None


def test_the_hull_bridges_a_bite() -> None:
    lung = np.zeros((1, 40, 40), bool)
    lung[0, 5:35, 5:35] = True
    lung[0, 15:25, 20:35] = False
    assert hull_of(lung)[0, 20, 33]
    assert not hull_of(lung)[0, 3, 20]
