"""The picture: words beside the image and never on it, colours that can be told apart, and the same from run to run."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from xml.sax.saxutils import escape

import cv2
import numpy as np
import pytest
from pydicom import dcmread

from node import codes
from node.domain import Finding, Measurement, Result
from node.imaging.build import images_of
from node.inference import _finding
from node.page import _findings, number
from node.picture import (
    LUNG_WINDOW,
    PANEL,
    frame_round,
    headline,
    key_frames,
    left_edge,
    outline_of,
    place,
    said,
    shown_as,
    summary_picture,
    window_of,
)
from node.pr_writer import write_pr
from node.web.ui.told import found_words
from tests.conformance import cases


@pytest.fixture
def ct(tmp_path):
    study = cases.study_of(cases.ct_files(tmp_path / "ct"))
    volume = cases.stack(study)
    return volume, cases.opacity(volume.pixels.shape), cases.provenance(study).maker


def test_the_original_is_shown_untouched_beside_the_overlay(ct):
    volume, mask, maker = ct
    result = cases.infection(mask)
    at = key_frames(volume, result)[0]
    _, plain = shown_as(volume, at, window_of(volume, result))

    picture = summary_picture(volume, result, maker, pipeline="covid_ct")

    found = cv2.matchTemplate(picture, plain, cv2.TM_SQDIFF)
    _, _, (left, top), _ = cv2.minMaxLoc(found)
    np.testing.assert_array_equal(picture[top : top + PANEL, left : left + PANEL], plain)  # no word, no line on it
    overlay = picture[top : top + PANEL, left + PANEL + 20 : left + 2 * PANEL + 20]
    changed = (overlay != plain).any(axis=2)
    reach = cv2.dilate(cv2.resize(mask[at].astype(np.uint8), (PANEL, PANEL)), np.ones((141, 141), np.uint8)) > 0
    assert changed.any()
    assert not changed[~reach].any()  # only the heat and the outline


def test_the_words_say_what_where_by_whom_and_research(ct, monkeypatch):
    volume, mask, maker = ct
    written = []
    real = cv2.putText
    monkeypatch.setattr(cv2, "putText", lambda image, text, *more: written.append(text) or real(image, text, *more))

    summary_picture(volume, cases.infection(mask), maker, pipeline="covid_ct")

    said_in_all = "\n".join(written)
    for words in (
        "RESEARCH USE ONLY",
        "covid_ct: infection, 93 %",
        "Slice 4 of 8",
        "-600 / 1500 HU",
        "3f3f3f3f",
        "1.0.0",
        "Volume 12.35 mL",
        "0.50",
    ):
        assert words in said_in_all


def test_it_is_the_same_from_run_to_run_and_one_size_for_all_frames(ct):
    volume, mask, maker = ct
    result = cases.infection(mask)
    shapes = {summary_picture(volume, result, maker, frame=i).shape for i in range(len(mask))}

    np.testing.assert_array_equal(summary_picture(volume, result, maker), summary_picture(volume, result, maker))
    assert len(shapes) == 1


def test_long_names_and_many_findings_stay_inside(ct):
    volume, mask, maker = ct
    result = cases.infection(mask)
    many = tuple(replace(result.findings[0], name=f"finding number {i} with a very long name " * 4) for i in range(20))

    picture = summary_picture(volume, replace(result, findings=many, notes=("word " * 80,)), maker, pipeline="p" * 60)

    assert (picture[:, -4:] == picture[0, 0]).all()  # the right margin stays empty


def test_a_chest_ct_has_a_lung_window_and_others_their_own(ct):
    volume, mask, _ = ct
    result = cases.infection(mask, site=codes.BREAST)
    assert window_of(volume, result) == LUNG_WINDOW
    for frame in volume.frames:
        frame.instance.header.BodyPartExamined = "ABDOMEN"

    assert window_of(volume, result) == (40.0, 400.0)
    nowhere = replace(result, findings=tuple(replace(finding, site=None) for finding in result.findings))
    assert window_of(volume, nowhere) == (40.0, 400.0)


def test_the_key_frames_are_the_heat_map_s_then_the_largest_then_the_middle(ct):
    volume, mask, _ = ct
    result = cases.infection(mask)

    assert key_frames(volume, result) == result.heatmap.frames == (3, 4, 2)
    assert key_frames(volume, replace(result, heatmap=None)) == (3, 4, 2)
    assert key_frames(volume, Result(analysed=True)) == (3,)


def test_pixels_that_are_not_square_are_shown_in_proportion(ct):
    volume, _, _ = ct
    wide = replace(volume, spacing_mm=(5.0, 1.0, 2.0))

    _, shown = shown_as(wide, 0, None)

    assert shown.shape[:2] == (PANEL // 2, PANEL)


def test_pixels_of_an_unknown_size_are_shown_in_the_ratio_that_the_image_tells(tmp_path):
    """Screens of old ultrasound machines have no square pixels: a round cyst would be an egg, in the capture and through the presentation state."""
    path = cases.cine_file(tmp_path / "still.dcm", frames=1, rows=96, columns=128)
    ds = dcmread(path)
    ds.PixelAspectRatio = [4, 3]
    ds.save_as(path)
    study = cases.study_of([path])
    volume = cases.still(study)

    _, shown = shown_as(volume, 0, None)
    state = write_pr(study, volume, Result(analysed=True), cases.provenance(study))

    assert shown.shape[:2] == (PANEL, PANEL)  # 96 rows of 4, 128 columns of 3
    [area] = state.DisplayedAreaSelectionSequence
    assert area.PresentationPixelAspectRatio == [4, 3]


@pytest.mark.parametrize(
    ("told", "side"), [(["L", "F"], "R"), (["R", "F"], "L"), (["F", "L"], "H"), (["LPH", "F"], "R"), (["", ""], ""), (None, "")]
)
def test_a_film_that_is_shown_as_it_lies_in_its_file_says_which_side_is_which(tmp_path, told, side):
    study = cases.study_of([cases.cine_file(tmp_path / "still.dcm", frames=1)])
    volume = cases.still(study)
    header = volume.frames[0].instance.header
    header.pop("PatientOrientation", None)
    plain = summary_picture(volume, Result(analysed=True), cases.provenance(study).maker)
    if told is not None:
        header.PatientOrientation = told

    assert left_edge(volume) == side
    assert (summary_picture(volume, Result(analysed=True), cases.provenance(study).maker) != plain).any() == bool(side)


def test_a_frame_of_a_clip_that_is_read_frame_by_frame_says_which_it_is(tmp_path):
    study = cases.study_of([cases.cine_file(tmp_path / "clip.dcm", frames=5)])
    third = list(images_of(study.series[0]))[2]

    assert place(third, 0) == "Frame 3 of 5"
    assert place(cases.cine(study), 2) == "Frame 3 of 5"


# --- outlines ----------------------------------------------------------------------------------------------------------------------
def test_an_outline_goes_round_the_largest_part_through_pixel_centres():
    mask = np.zeros((40, 50), bool)
    mask[10:20, 5:30] = True
    mask[30, 40] = True

    outline = outline_of(mask)

    np.testing.assert_array_equal(outline[0], outline[-1])
    assert (outline.min(axis=0).tolist(), outline.max(axis=0).tolist()) == ([5.5, 10.5], [29.5, 19.5])


@pytest.mark.parametrize("pixels", [[(3, 4)], [(3, 4), (3, 5), (3, 6)], [(r, 7) for r in range(30)]])
def test_a_dot_and_a_line_have_an_outline_with_an_area(pixels):
    mask = np.zeros((40, 50), bool)
    for row, column in pixels:
        mask[row, column] = True

    outline = outline_of(mask)

    assert len(outline) > 6
    assert cv2.contourArea(outline) == pytest.approx(len(pixels))


def test_a_large_outline_has_few_points_and_none_has_none():
    rows, columns = np.mgrid[:1000, :1000]
    assert 50 < len(outline_of((rows - 500) ** 2 + (columns - 500) ** 2 < 400**2)) <= 201
    assert len(frame_round(0, 0, 10, 10)) == 7
    with pytest.raises(ValueError, match="empty"):
        outline_of(np.zeros((4, 4), bool))


# --- words ---------------------------------------------------------------------------------------------------------------------------
def test_a_finding_in_words():
    seen = Finding(name="infection", code=codes.LESION, probability=0.934, present=True, site=codes.LUNG, laterality=codes.LEFT)
    silent = Finding(name="fracture", code=codes.LESION, probability=None, present=None)

    assert said(seen) == "infection (left lung): 93 %, present"
    assert said(replace(seen, name="infection, left lung", present=False)) == "infection, left lung: 93 %, not present"
    assert said(silent) == "fracture: not trained, nothing is said about it"
    score = Measurement(name=codes.Code("score", "99RADNODE", "Score of six zones"), value=3, unit=codes.Code("{score}", "UCUM", "score"))
    assert said(replace(seen, measurements=(score,))) == "infection (left lung): 93 %, present; Score of six zones 3"
    area = Measurement(name=codes.AREA, value=116.26, unit=codes.SQUARE_MILLIMETER)
    assert said(replace(seen, measurements=(area,))) == "infection (left lung): 93 %, present; Area 116.3 mm²"
    assert headline(Result(analysed=False, reason="too few slices.")) == "Not analysed: too few slices."


def test_what_is_not_quite_sure_is_not_rounded_to_certainty():
    sure = Finding(name="tumor", code=codes.LESION, probability=0.9987, present=True)

    assert said(sure) == "tumor: >99 %, present"
    assert said(replace(sure, probability=0.0012, present=False)) == "tumor: <1 %, not present"
    assert headline(Result(analysed=True, label="tumor", confidence=0.9987)) == "tumor, >99 %"
    assert [codes.chance_said(one, decimals=1) for one in (0.9987, 0.99999, 0.0001, 1.0)] == ["99.9 %", ">99.9 %", "<0.1 %", ">99.9 %"]


def test_large_numbers_are_written_out():
    """The lungs of a chest film have more than 10 000 mm²."""
    area = Measurement(name=codes.AREA, value=60123.4, unit=codes.SQUARE_MILLIMETER)
    lungs = Finding(name="lungs", code=codes.LESION, probability=None, present=True, measurements=(area,))
    shown = found_words(SimpleNamespace(analysed=True, pipeline="any", result={"findings": [_finding(lungs)]}))

    assert said(lungs) == "lungs: present; Area 60120 mm²"
    assert _findings([lungs])._cellvalues[1][3][0].text == "Area: 60123.4 mm²"
    assert "Area 60120" in str(shown)
    assert [codes.number_said(one) for one in (1234567.0, 9999.5, 0.001234, 0.0, -54321.0)] == [
        "1235000",
        "10000",
        "0.001234",
        "0",
        "-54320",
    ]
    assert number(1234567.8) == "1234570"


def test_an_outline_or_a_number_without_a_probability_is_not_called_untrained():
    """A segmentation says where, a regression how much: neither how likely."""
    spleen = Finding(name="spleen", code=codes.LESION, probability=None, present=True)
    age = Measurement(name=codes.Code("AGE", "99RADNODE", "bone age"), value=114, unit=codes.Code("mo", "UCUM", "month"))
    bone_age = Finding(name="bone age", code=codes.LESION, probability=None, present=None, measurements=(age,))
    fracture = Finding(name="fracture", code=codes.LESION, probability=None, present=None)
    result = {"findings": [_finding(one) for one in (spleen, bone_age, fracture)]}

    shown = found_words(SimpleNamespace(analysed=True, pipeline="any", result=result))
    page = [row[1][0].text for row in _findings([spleen, bone_age, fracture])._cellvalues[1:]]

    assert str(shown).count("not trained") == 1
    assert page == ["–", "–", "not trained"]


@pytest.mark.parametrize(
    ("probability", "printed"), [(0.999999, ">99.99 %"), (0.9999, "99.99 %"), (1e-9, "<0.01 %"), (0.0001, "0.01 %"), (0.5, "50 %")]
)
def test_no_chance_is_printed_as_certainty(probability, printed):
    finding = Finding(name="tumor", code=codes.LESION, probability=probability, present=True)

    [_, row] = _findings([finding])._cellvalues

    assert row[1][0].text in (printed, escape(printed))
