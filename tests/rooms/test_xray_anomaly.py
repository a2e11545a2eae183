"""Anomaly on chest films: real films of children and adults, drawn ones, and what must be refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
import torch

from node.bundle import Bundle
from node.errors import OutsideIntendedUse
from node.imaging.build import images_of
from node.imaging.letterbox import Box
from node.imaging.lung_canvas import LungCanvas, equalised
from node.imaging.radiograph import LungFields
from node.imaging.study import read_study
from node.imaging.volume import Volume
from node.pipelines.xray_anomaly import CANVAS, Warm, XrayAnomaly, canvas_of, features_of, groups_for, percentile, seen, zones
from node.testing.studies import a_study
from tests.rooms.workbench import clean_study

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def pipeline() -> XrayAnomaly:
    return XrayAnomaly(Bundle.open(MODELS / "xray_anomaly" / "1.1.0"))


@pytest.fixture(scope="module")
def model(pipeline: XrayAnomaly) -> Warm:
    return pipeline.load("cpu")


def image_of(datasets: list[Any], folder: Path) -> Volume:
    [series] = read_study(clean_study(datasets, folder)).series
    return next(images_of(series))


@pytest.fixture(scope="module")
def hazy(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return image_of(a_study("DX", opacity="right upper", PatientAge="050Y"), tmp_path_factory.mktemp("hazy"))


def shown_as(volume: Volume, pixels: Any = None, **header: Any) -> Volume:
    """The same image with other pixels and other words in its header."""
    frame = volume.frames[0]
    ds = pydicom.dcmread(frame.instance.path, stop_before_pixels=True)
    for keyword, value in header.items():
        setattr(ds, keyword, value)
    instance = replace(frame.instance, header=ds)
    series = replace(volume.series, instances=(instance,))
    return replace(volume, series=series, frames=(replace(frame, instance=instance),), pixels=volume.pixels if pixels is None else pixels)


# --- what is found ------------------------------------------------------------------------------------------------------------
def test_a_film_with_haze_is_unlike_normal_ones_and_the_report_says_where(pipeline: XrayAnomaly, model: Warm, hazy: Volume) -> None:
    result = pipeline.run(hazy, model)

    [finding] = result.findings
    assert (finding.name, finding.present, result.label) == ("anomaly", True, "anomaly")
    assert finding.probability is not None
    assert 0.95 <= finding.probability < 1
    report = " ".join(result.notes)
    for words in ("a percentile, not the chance of a disease", "from 95 %", "right lung, upper zone", "Unlike normal is no diagnosis"):
        assert words in report


def test_a_clear_film_is_not_called(pipeline: XrayAnomaly, model: Warm, tmp_path: Path) -> None:
    result = pipeline.run(image_of(a_study("DX", opacity="", PatientAge="050Y"), tmp_path), model)

    assert (result.label, result.findings[0].present) == ("no anomaly", False)
    assert not any("stands out most" in note for note in result.notes)


def test_the_heatmap_lies_over_the_enhanced_film_and_the_film_stays_as_it_was(pipeline: XrayAnomaly, model: Warm, hazy: Volume) -> None:
    before = hazy.pixels.copy()

    heat = pipeline.run(hazy, model).heatmap

    assert heat is not None
    assert heat.over is not None
    assert heat.over.shape == hazy.pixels.shape == heat.values.shape
    assert 0 <= heat.over.min() < heat.over.max() <= 1
    np.testing.assert_array_equal(hazy.pixels, before)


def test_children_and_adults_are_held_beside_their_own(pipeline: XrayAnomaly, model: Warm, hazy: Volume) -> None:
    asked = {age: pipeline.run(shown_as(hazy, PatientAge=age), model) for age in ("003Y", "050Y", "")}

    assert asked["003Y"].facts["compared_with"] == "child"
    assert asked["050Y"].facts["compared_with"] == "adult"
    assert asked[""].confidence is not None
    both = asked[""].facts["percentiles"]
    assert asked[""].findings[0].probability == pytest.approx(min(both.values()), abs=1e-3)
    assert set(both) == {"child", "adult"}
    assert any("age is not known" in note for note in asked[""].notes)
    assert groups_for(12.0) == ("child", "adult")


def test_exposure_range_and_polarity_hardly_move_the_answer(pipeline: XrayAnomaly, model: Warm, hazy: Volume) -> None:
    def oddness(volume: Volume) -> float:
        return float(pipeline.run(volume, model).findings[0].probability or 0)

    plain = oddness(hazy)
    grey = np.asarray(hazy.pixels, np.float32)

    assert oddness(shown_as(hazy, grey * 7 + 1000)) == pytest.approx(plain, abs=0.01)
    inverted = pipeline.run(shown_as(hazy, grey.max() - grey), model)
    assert inverted.findings[0].probability == pytest.approx(plain, abs=0.02)
    assert any("taken for inverted" in note for note in inverted.notes)


def test_a_film_of_few_pixels_gets_a_remark(pipeline: XrayAnomaly, model: Warm, hazy: Volume) -> None:
    small = cv2.resize(np.asarray(hazy.pixels[0], np.float32), (120, 120), interpolation=cv2.INTER_AREA)[None]

    assert any("few pixels" in note for note in pipeline.run(shown_as(hazy, small), model).notes)
    assert not any("few pixels" in note for note in pipeline.run(hazy, model).notes)


def test_a_captioner_adds_its_sentence_and_is_marked_as_one(pipeline: XrayAnomaly, model: Warm, hazy: Volume) -> None:
    class Says:
        def says(self, grey: np.ndarray) -> str:
            return f"a film of {grey.ndim} dimensions"

    notes = pipeline.run(hazy, replace(model, captioner=Says())).notes  # type: ignore[arg-type]

    assert "A captioning network writes (it may be wrong): a film of 2 dimensions" in notes


# --- what is refused ----------------------------------------------------------------------------------------------------------
NOTHING = {
    "black": np.zeros((1, 400, 400), np.float32),
    "one pixel": np.ones((1, 1, 1), np.float32),
    "not a number": np.full((1, 300, 300), np.nan, np.float32),
    "noise": np.random.default_rng(0).random((1, 300, 300)).astype(np.float32),
    "colour": np.random.default_rng(0).integers(0, 255, (1, 300, 300, 3)).astype(np.uint8),
}


@pytest.mark.parametrize("kind", list(NOTHING))
def test_what_shows_no_chest_is_refused_with_the_reason(pipeline: XrayAnomaly, model: Warm, hazy: Volume, kind: str) -> None:
    with pytest.raises(OutsideIntendedUse) as why:
        pipeline.run(shown_as(hazy, NOTHING[kind]), model)
    assert len(str(why.value)) > 10


@pytest.mark.parametrize(
    ("header", "because"),
    [
        ({"ViewPosition": "LL"}, "lateral"),
        ({"PatientOrientation": ["A", "F"]}, "lateral"),
        ({"BodyPartExamined": "KNEE"}, "another body part"),
        ({"Modality": "MG"}, "not for MG"),
    ],
    ids=["view", "orientation", "knee", "mammogram"],
)
def test_what_the_header_calls_no_frontal_chest_film_is_refused(
    pipeline: XrayAnomaly, model: Warm, hazy: Volume, header: dict[str, Any], because: str
) -> None:
    with pytest.raises(OutsideIntendedUse, match=because):
        pipeline.run(shown_as(hazy, **header), model)


def test_several_frames_at_once_are_refused(pipeline: XrayAnomaly, model: Warm, hazy: Volume) -> None:
    with pytest.raises(OutsideIntendedUse, match="single films"):
        pipeline.run(shown_as(hazy, np.repeat(hazy.pixels, 2, axis=0)), model)


# --- parts --------------------------------------------------------------------------------------------------------------------
def test_a_chest_of_any_size_and_shape_lies_on_the_canvas_alike_and_comes_back() -> None:
    rng = np.random.default_rng(0)
    small = cv2.GaussianBlur(rng.random((120, 100)).astype(np.float32), (0, 0), 6)
    large = cv2.resize(small, (400, 240), interpolation=cv2.INTER_CUBIC)

    first = LungCanvas.round(Box(20, 20, 100, 80), CANVAS, 120, 100)
    second = LungCanvas.round(Box(40, 80, 200, 320), CANVAS, 240, 400)

    assert np.abs(equalised(first.forward(small)) - equalised(second.forward(large))).mean() < 0.05
    box = second.box
    back = second.backward(second.forward(large), 240, 400)
    np.testing.assert_allclose(back[box.top + 4 : box.bottom - 4, box.left + 4 : box.right - 4], large[box.top + 4 : box.bottom - 4, box.left + 4 : box.right - 4], atol=0.06)  # fmt: skip
    assert not back[: box.top].any()


def test_zones_are_named_by_the_patients_side_the_hottest_first() -> None:
    right, left, heat = np.zeros((90, 100), bool), np.zeros((90, 100), bool), np.zeros((90, 100), np.float32)
    right[:, 5:45], left[:, 55:95] = True, True
    heat[62:88, 60:90], heat[2:25, 10:30] = 1.0, 0.8

    assert zones(heat, LungFields(right, left, 1.0)) == ["left lung, lower zone", "right lung, upper zone"]
    assert zones(heat * 0, LungFields(right, left, 1.0)) == []


def test_attention_is_shared_out_over_all_patches(model: Warm) -> None:
    with torch.inference_mode():
        read = model.reader(torch.rand(2, 1, CANVAS, CANVAS))

    assert read.attention.shape == read.where.shape == (2, 100)
    np.testing.assert_allclose(read.attention.sum(dim=1), 1, atol=1e-5)
    assert (read.attention >= 0).all()


# --- real films ---------------------------------------------------------------------------------------------------------------
def test_normal_children_are_told_from_children_with_pneumonia(model: Warm, shared: Path) -> None:
    """A sample of the validation films, by the node's own path; the whole table stands in the model card."""
    from training.datasets.cxr_pediatric224 import load
    from training.evaluate import auc

    films = [f for f in load(shared / "data/images/cxr_pediatric224") if f.split == "val"][::6]
    scores = []
    for film in films:
        shown = seen(np.asarray(film.grey, np.float32), model.lungs)
        scores.append(percentile(features_of(canvas_of(shown.film, shown.lungs)[1], model.reader), model.groups["child"]))
    ill = np.array([f.label > 0 for f in films])

    assert auc(np.array(scores), ill) > 0.75
    assert float((np.array(scores)[~ill] >= 0.95).mean()) <= 0.2


def test_a_real_film_stored_as_a_negative_is_read(pipeline: XrayAnomaly, model: Warm, shared: Path, tmp_path: Path) -> None:
    """MONOCHROME1, 12 bits, nearly 2000 pixels, Pixel Spacing 0."""
    ds = pydicom.dcmread(shared / "data/dicom/cr_chest/RG1_JLSN_PA_monochrome1.dcm")

    result = pipeline.run(image_of([ds], tmp_path), model)

    assert result.analysed
    assert not any("inverted" in note for note in result.notes)
    assert result.heatmap is not None
    assert result.heatmap.values.shape[1:] == (ds.Rows, ds.Columns)
