"""Text of ten pixels or more is found, whatever it stands on; a side marker may stay; what was read is never said."""

from __future__ import annotations

import logging
import socket
import sys
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from node.errors import TextDetectorFailed
from node.identified import text_detector
from node.identified.boxes import Box, around, covered, outermost
from node.identified.markers import is_marker
from node.identified.text_detector import find_text, read_text, with_margin
from node.testing.phantom_breast_ultrasound import breast_ultrasound
from node.testing.phantom_chest_ct import chest_ct
from tests.rooms.lettering import Text, all_ink, written

SMALL = Text("OKAFOR NGOZI", 30, 20, 10)
TEXTS = (SMALL, Text("ID 4471-902", 180, 58, 14), Text("1962-03-14", 20, 110, 20), Text("Haddad", 150, 170, 40))


def in_three(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[:, :, None], 3, axis=2)


@cache
def backgrounds() -> dict[str, NDArray[np.uint8]]:
    random = np.random.default_rng(3)
    ct = chest_ct(slices=4, rows=512).hu[2]
    return {
        "black": np.zeros((240, 360), np.uint8),
        "white": np.full((240, 360), 250, np.uint8),
        "noise": np.clip(random.normal(110, 18, (240, 360)), 0, 255).astype(np.uint8),
        "speckle": breast_ultrasound("malignant").pixels[60:300, 100:460].copy(),
        "anatomy": np.clip((ct[120:360, 80:440] + 1000) / 8, 0, 255).astype(np.uint8),
    }


def ink_left(picture: NDArray[np.uint8], *texts: Text) -> float:
    """The part of the ink that no mask covers."""
    rows, columns = picture.shape[:2]
    masked = np.zeros((rows, columns), bool)
    for box in find_text(picture):
        left, top, right, bottom = with_margin(box, rows, columns)
        masked[top:bottom, left:right] = True
    there = all_ink((rows, columns), *texts)
    return float((there & ~masked).sum() / there.sum())


@pytest.mark.parametrize("ground", ["black", "white", "noise", "speckle", "anatomy"])
@pytest.mark.parametrize("contrast", [60, 150])
def test_text_from_ten_pixels_on_is_covered_on_any_ground(ground: str, contrast: int) -> None:
    grey = backgrounds()[ground]
    for text in TEXTS:  # bright on dark, dark on bright: away from what lies behind
        behind = float(grey[all_ink(grey.shape, text)].mean())
        grey = written(grey, behind + contrast if behind + contrast <= 255 else behind - contrast, text)

    assert ink_left(in_three(grey), *TEXTS) < 0.005


@pytest.mark.parametrize("turned", [90, 180, 270])
@pytest.mark.parametrize("ground", ["speckle", "anatomy"])
def test_turned_text_is_covered(ground: str, turned: int) -> None:
    """As on a film that was scanned the wrong way round, or beside an image: lines that run upwards, downwards and upside down."""
    grey = written(backgrounds()[ground], 235, *TEXTS)
    picture, ink = (np.ascontiguousarray(np.rot90(one, turned // 90)) for one in (in_three(grey), all_ink(grey.shape, *TEXTS)))
    masked = np.zeros(ink.shape, bool)
    for box in find_text(picture):
        left, top, right, bottom = with_margin(box, *ink.shape)
        masked[top:bottom, left:right] = True

    assert (ink & ~masked).sum() / ink.sum() < 0.005


@pytest.mark.parametrize("turned", [0, 90, 180, 270])
def test_a_line_is_read_whichever_way_it_runs(turned: int) -> None:
    """The second look must know a name when it lies on its side or stands on its head."""
    picture = written(in_three(backgrounds()["black"]), (230, 230, 230), SMALL, Text("ID 4471-902", 180, 58, 14))

    said = read_text(np.ascontiguousarray(np.rot90(picture, turned // 90)))

    assert {"OKAFOR NGOZI", "ID 4471-902"} <= set(said)


@pytest.mark.parametrize("colour", [(255, 255, 0), (0, 255, 0), (255, 60, 60), (90, 160, 255)])
def test_coloured_text_is_covered(colour: tuple[int, int, int]) -> None:
    picture = written(in_three(backgrounds()["speckle"]), colour, *TEXTS)

    assert ink_left(picture, *TEXTS) < 0.005


def test_small_text_in_the_corner_of_a_large_film_is_covered() -> None:
    film = np.clip(np.random.default_rng(1).normal(90, 6, (1700, 1500)), 0, 255).astype(np.uint8)
    texts = (Text("MUSTERMANN ERIKA", 4, 3, 11), Text("12.08.1964", 1380, 1680, 12), Text("MRN 99120", 600, 800, 90))

    assert ink_left(in_three(written(film, 230, *texts)), *texts) < 0.005


def test_a_phantom_without_text_stays_as_it_is() -> None:
    picture = in_three(breast_ultrasound("benign").pixels)

    assert find_text(picture) == []


def test_a_marker_may_stay_and_a_name_beside_it_may_not() -> None:
    marker, name = Text("SUPINE", 250, 20, 18), Text("LEE", 40, 180, 18)
    picture = in_three(written(backgrounds()["anatomy"], 255, marker, name))

    found = find_text(picture)

    assert ink_left(picture, name) < 0.005
    assert covered([box.shared(Box(240, 10, 350, 50)) for box in found], *picture.shape[:2]) == 0.0


@pytest.mark.parametrize("words", ["L", "R", "PA", "L MLO", "rt. lat", "(ERECT)", "AP SUPINE"])
def test_sides_views_and_positions_are_markers(words: str) -> None:
    assert is_marker(words)


@pytest.mark.parametrize("words", ["", "LEE", "L SMITH", "R 1962", "AP AP AP AP", "PORTABLE MILLER", "12"])
def test_a_marker_with_anything_else_is_none(words: str) -> None:
    assert not is_marker(words)


def test_nothing_is_fetched_and_nothing_read_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(text_detector, "_engines", {})
    with caplog.at_level(logging.DEBUG):
        assert find_text(in_three(written(backgrounds()["black"], 255, SMALL)))

    said = caplog.text + "".join(capfd.readouterr())
    assert "OKAFOR" not in said.upper()
    assert said == ""


def test_a_detector_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_detector, "_engines", {})
    monkeypatch.setitem(sys.modules, "rapidocr", None)

    with pytest.raises(TextDetectorFailed, match=r"install what requirements\.txt names"):
        find_text(in_three(backgrounds()["noise"]))


def test_boxes_around_what_is_kept_cover_the_rest_once() -> None:
    kept = [Box(10, 5, 50, 20), Box(40, 10, 90, 30)]

    boxes = around(kept, 40, 100)

    seen = np.zeros((40, 100), int)
    for box in [*boxes]:
        seen[box.top : box.bottom, box.left : box.right] += 1
    inside = np.zeros((40, 100), bool)
    inside[5:20, 10:50] = inside[10:30, 40:90] = True
    assert np.array_equal(seen, ~inside)
    assert outermost([*boxes, Box(0, 0, 3, 3)]) == outermost(boxes)
