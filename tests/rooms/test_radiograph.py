"""Chest films as a network sees them: which way up, how grey, without borders; and the lungs found in them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom.dataset import Dataset

from node.bundle import Bundle
from node.imaging.facing import Facing
from node.imaging.radiograph import (
    MOST_PIXELS,
    LungFields,
    Radiograph,
    equalised,
    is_lateral,
    lungs_of,
    radiograph_of,
    turned_over,
)
from node.testing.phantom_chest_xray import chest_xray

LUNG_FIELD = Path(__file__).parents[2] / "models" / "lung_field" / "1.0.0"


def film_of(plane: np.ndarray) -> Radiograph:
    film = radiograph_of(plane)
    assert isinstance(film, Radiograph), film
    return film


def header(**values: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


@pytest.fixture(scope="module")
def network() -> Any:
    return Bundle.open(LUNG_FIELD).network()


# --- which way it lies ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("told", [["L", "F"], ["R", "F"], ["L", "H"], ["R", "H"], ["F", "L"], ["H", "L"], ["F", "R"], ["H", "R"]])
def test_however_a_film_is_stored_it_is_turned_upright_and_back(told: list[str]) -> None:
    upright = np.arange(12).reshape(3, 4)  # rows to the feet, columns to the patient's left
    across, down = (told[1], told[0]) if told[0] in "HF" else told
    stored = upright[:, ::-1] if across == "R" else upright
    stored = stored[::-1] if down == "H" else stored
    stored = stored.T if told[0] in "HF" else stored

    facing = Facing.of(header(PatientOrientation=told))

    assert facing is not None
    assert facing.told
    assert np.array_equal(facing.turn(stored), upright)
    assert np.array_equal(facing.back(upright), stored)


@pytest.mark.parametrize("told", [None, "", ["L"], ["", ""], ["X", "Y"], ["L", "R"]])
def test_without_an_orientation_the_left_edge_is_the_patients_right(told: Any) -> None:
    facing = Facing.of(header(PatientOrientation=told) if told is not None else Dataset())

    assert facing == Facing()
    assert not facing.told


@pytest.mark.parametrize(
    ("values", "lateral"),
    [
        ({"ViewPosition": "PA"}, False),
        ({"ViewPosition": "AP", "PatientOrientation": ["L", "F"]}, False),
        ({"ViewPosition": "LL"}, True),
        ({"ViewPosition": "LATERAL"}, True),
        ({"PatientOrientation": ["P", "F"]}, True),
        ({"ViewCodeSequence": [header(CodeMeaning="left lateral")]}, True),
        ({"ViewCodeSequence": [header(CodeMeaning="right anterior oblique")]}, True),
        ({"ViewPosition": "RAO"}, True),
        ({"ViewPosition": "lateral erect"}, True),
        ({"SeriesDescription": "Thorax LAT"}, True),
        ({"SeriesDescription": "Chest PA/LAT"}, False),
        ({"SeriesDescription": "Thorax p.a./lat."}, False),
        ({"SeriesDescription": "Thorax a. p. + lateral"}, False),
        ({"SeriesDescription": "Thorax seitl."}, True),
        ({"SeriesDescription": "Thorax p.a. und seitlich"}, False),
        ({"SeriesDescription": "Chest LAT", "ViewPosition": "PA"}, False),
        ({"SeriesDescription": "bilateral infiltrates"}, False),
        ({}, False),
    ],
)
def test_a_lateral_view_is_known_by_its_header(values: dict[str, Any], lateral: bool) -> None:
    assert is_lateral(header(**values)) is lateral


@pytest.mark.parametrize(
    ("across", "down"),
    [((1, 0, 0), (0, 1, 0)), ((1, 0, 0), (0, 0, -1)), ((0, 1, 0), (0, 0, -1))],
    ids=["axial", "coronal", "sagittal"],
)
@pytest.mark.parametrize("turned", [Facing(flip_rows=f, flip_columns=g, transposed=t) for t in (0, 1) for f in (0, 1) for g in (0, 1)])
def test_a_slice_is_turned_by_its_place_in_the_patient(across: Any, down: Any, turned: Facing) -> None:
    tilt = np.radians(20)
    tilted = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    column, row = (tilted @ np.array(v, float) for v in (across, down))
    column, row = (-column if turned.flip_columns else column), (-row if turned.flip_rows else row)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = (row * 0.5, column * 2) if turned.transposed else (column * 2, row * 0.5)

    found = Facing.in_space(affine)

    assert (found.transposed, found.flip_rows, found.flip_columns) == (turned.transposed, turned.flip_rows, turned.flip_columns)


# --- grey -----------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scale", [1, 257, 1 / 4096])
def test_bits_and_units_leave_no_trace(scale: float) -> None:
    plane = chest_xray(rows=256).pixels.astype(np.float32)

    film, other = film_of(plane), film_of(plane * scale - 300)

    assert film.grey.min() == 0
    assert film.grey.max() == 1
    np.testing.assert_allclose(other.grey, film.grey, atol=2e-3)
    assert film.grey[:, 128].mean() > film.grey[:, 70].mean()  # the spine is brighter than a lung


@pytest.mark.parametrize("value", [0, 4095])
def test_black_and_white_borders_with_letters_in_them_are_cut_off(value: int) -> None:
    film = np.full((420, 400), value, np.uint16)
    film[60:380, 40:360] = chest_xray(rows=320).pixels.clip(200, 3900)
    letters = np.zeros(film.shape, np.uint8)
    cv2.putText(letters, "R", (8, 40), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 255, 2)
    film[letters > 0] = 4095 - value

    box = film_of(film).exposed

    assert (box.top, box.left, box.bottom, box.right) == pytest.approx((60, 40, 380, 360), abs=6)  # air beside the body may go too


def test_a_frame_of_any_grey_leaves_no_trace() -> None:
    """A scanner or a slide put it round the film, on three sides, with a letter in it."""
    film = chest_xray(rows=320).pixels
    framed = np.pad(film, ((40, 0), (30, 20)), constant_values=1800)
    framed[10:30, 45:50] = 4000

    plain, found = film_of(film), film_of(framed)

    np.testing.assert_array_equal(found.grey, plain.grey)
    assert found.exposed == plain.exposed
    np.testing.assert_array_equal(found.on_source(found.grey)[40:, 30:-20], plain.on_source(plain.grey))
    assert turned_over(found).on_source(np.ones(plain.grey.shape)).sum() == film.size


def test_a_film_of_sixteen_million_pixels_is_worked_on_small_and_given_back_large() -> None:
    film = film_of(cv2.resize(chest_xray(rows=256).pixels, (4000, 4000)))

    assert max(film.grey.shape) == MOST_PIXELS
    assert film.on_source(film.grey > 0.5).shape == (4000, 4000)


@pytest.mark.parametrize(
    ("plane", "why"),
    [
        (np.zeros((1, 1), np.float32), "smaller than"),
        (np.zeros((300, 300), np.float32), "one grey"),
        (np.full((300, 300), 3000, np.uint16), "one grey"),
        (np.full((300, 300), np.nan, np.float32), "no numbers"),
        (np.random.default_rng(0).random((60, 4000)).astype(np.float32), "strip"),
        (
            np.dstack([np.full((300, 300), 200), np.zeros((300, 300)), np.arange(300)[None].repeat(300, 0) % 256]).astype(np.uint8),
            "coloured",
        ),
    ],
    ids=["one pixel", "black", "white", "not a number", "strip", "colour"],
)
def test_what_can_not_be_read_is_refused_with_the_reason(plane: np.ndarray, why: str) -> None:
    told = radiograph_of(plane)

    assert isinstance(told, str)
    assert why in told


def test_pixels_that_are_not_square_are_worked_on_square_and_given_back_as_they_were() -> None:
    plane = chest_xray(rows=256).pixels.astype(np.float32)
    upright = film_of(plane)

    flat = radiograph_of(np.repeat(plane, 2, axis=0), 0.5)  # each pixel half as high as it is wide

    assert isinstance(flat, Radiograph)
    assert flat.grey.shape[0] / flat.grey.shape[1] == pytest.approx(plane.shape[0] / plane.shape[1], rel=0.01)
    assert np.abs(cv2.resize(flat.grey, plane.shape[::-1], interpolation=cv2.INTER_AREA) - upright.grey).mean() < 0.02
    assert flat.on_source(flat.grey).shape == (2 * plane.shape[0], plane.shape[1])


def test_a_few_pixels_that_are_no_numbers_do_no_harm() -> None:
    plane = chest_xray(rows=256).pixels.astype(np.float32)
    damaged = plane.copy()
    damaged[:2] = np.nan
    damaged[100, 100] = np.inf

    assert abs(film_of(damaged).grey[10:] - film_of(plane).grey[10:]).mean() < 0.01


def test_a_grey_film_in_colour_is_read() -> None:
    grey = (chest_xray(rows=256).pixels >> 4).astype(np.uint8)

    np.testing.assert_allclose(film_of(np.repeat(grey[..., None], 3, axis=2)).grey, film_of(grey).grey, atol=0.01)


def test_equalised_lungs_do_not_know_their_exposure() -> None:
    phantom = chest_xray(rows=256)
    grey, lungs = film_of(phantom.pixels).grey, phantom.right | phantom.left

    once, again = equalised(grey, lungs), equalised((grey**1.7 * 0.8 + 0.1).astype(np.float32), lungs)

    assert (once[~lungs] == 0).all()
    assert once[lungs].mean() == pytest.approx(0.5, abs=0.02)
    assert abs(once - again).max() < 0.03


# --- lungs ------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("opacity", ["", "right lower", "left upper"])
def test_the_drawn_lungs_are_found_ill_or_well(network: Any, opacity: str) -> None:
    phantom = chest_xray(opacity=opacity)

    lungs = lungs_of(film_of(phantom.pixels), network)

    assert isinstance(lungs, LungFields)
    assert dice(lungs.right, phantom.right) > 0.85
    assert dice(lungs.left, phantom.left) > 0.85


def test_the_box_holds_both_lungs_and_a_margin(network: Any) -> None:
    lungs = lungs_of(film_of(chest_xray().pixels), network)

    assert isinstance(lungs, LungFields)
    box = lungs.box(0.05)
    assert lungs.both[box.top : box.bottom, box.left : box.right].sum() == lungs.both.sum()
    assert box.top < np.flatnonzero(lungs.both.any(axis=1))[0]


@pytest.mark.parametrize("turns", [1, 3])
def test_a_film_on_its_side_has_no_lungs(network: Any, turns: int) -> None:
    assert isinstance(lungs_of(film_of(np.rot90(chest_xray().pixels, turns)), network), str)


def test_a_film_with_black_and_white_exchanged_shows_lungs_only_when_turned_over(network: Any) -> None:
    film = film_of(4095 - chest_xray().pixels)

    assert isinstance(lungs_of(film, network), str)
    assert isinstance(lungs_of(turned_over(film), network), LungFields)


def test_lungs_of_real_patients_are_found_as_people_outlined_them(network: Any, shared: Path) -> None:
    root = shared / "data" / "images" / "cxr_adult224"
    with (root / "index.csv").open() as index:
        rows = [r for r in csv.DictReader(index) if r["split"] == "val" and r["lung_mask"]][:8]
    scores = []
    for row in rows:
        lungs = lungs_of(film_of(cv2.imread(str(root / row["file"]), cv2.IMREAD_GRAYSCALE)), network)
        truth = cv2.imread(str(root / row["lung_mask"]), cv2.IMREAD_GRAYSCALE) > 127
        scores.append(dice(lungs.both, truth) if isinstance(lungs, LungFields) else 0.0)

    assert np.mean(scores) > 0.86
    assert min(scores) > 0.7


def test_a_head_and_a_breast_are_no_chest(network: Any, shared: Path) -> None:
    images = shared / "data" / "images"
    for folder in ("brain_tumor_mri/val", "busi_breast_us/val"):
        for file in sorted((images / folder).rglob("*.jpg"))[:40:10]:
            film = radiograph_of(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE))
            assert isinstance(film, str) or isinstance(lungs_of(film, network), str)
