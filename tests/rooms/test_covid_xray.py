"""Infection on chest films: on phantoms with a known answer, on real films with known labels, and on what must be refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from pydicom import dcmread
from pydicom.dataset import Dataset
from scipy.stats import rankdata

from node import codes
from node.bundle import Bundle
from node.codes import LABEL_MAP
from node.domain import CleanUid, Finding, Instance, Result, Series
from node.errors import OutsideIntendedUse
from node.imaging.volume import Frame, Volume
from node.pipelines.covid_xray import (
    OPAQUE_SHARE,
    SEVERITY,
    SIDE_SEVERITY,
    USUAL_EXTENT,
    ZONE_SCORES,
    CovidXray,
    percent,
    probability,
    zone_scores,
)
from node.testing.phantom_chest_xray import ChestXray, chest_xray
from tests.conformance.cases import dciodvfy_errors
from tests.conformance.iod_tables import iod_errors
from tests.rooms.front_door import radnode

MODELS = Path(__file__).parents[2] / "models"


def film(pixels: np.ndarray, **header: Any) -> Volume:
    """One film as the node hands it to a pipeline."""
    ds = Dataset()
    ds.SOPInstanceUID, ds.Modality, ds.ViewPosition, ds.PatientAge = "2.25.1", "DX", "PA", "055Y"
    for keyword, value in header.items():
        setattr(ds, keyword, value)
    instance = Instance(header=ds, path=Path("nowhere"))
    series = Series(series_instance_uid=CleanUid("2.25.2"), modality="DX", instances=(instance,))
    values = pixels if pixels.ndim == 3 else pixels.astype(np.float32)
    return Volume(series=series, pixels=values[None], unit="1", frames=(Frame(instance=instance),), affine=None, spacing_mm=None)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def of(result: Result, name: str) -> Finding:
    return next(f for f in result.findings if f.name == name)


def numbers(finding: Finding) -> dict[Any, float]:
    return {m.name: m.value for m in finding.measurements}


@pytest.fixture(scope="module")
def pipeline() -> CovidXray:
    return CovidXray(Bundle.open(MODELS / "covid_xray" / "1.1.0"))


@pytest.fixture(scope="module")
def model(pipeline: CovidXray) -> Any:
    return pipeline.load("cpu")


@pytest.fixture(scope="module")
def ill() -> ChestXray:
    return chest_xray(opacity="right lower")


@pytest.fixture(scope="module")
def result(pipeline: CovidXray, model: Any, ill: ChestXray) -> Result:
    return pipeline.run(film(ill.pixels, PatientOrientation=["L", "F"]), model)


def test_no_place_is_outlined_twice(pipeline: CovidXray, model: Any, result: Result) -> None:
    """Viewers write a finding's numbers beside its outline: two outlines in one place are two texts over each other."""
    assert of(result, "infection").region is not None
    assert [of(result, f"infection, {side} lung").region for side in ("right", "left")] == [None, None]

    both = chest_xray(opacity="right lower").pixels
    both = np.where(np.arange(both.shape[1]) < both.shape[1] / 2, both, chest_xray(opacity="left lower").pixels)
    outlines = [f.region.outline for f in pipeline.run(film(both, PatientOrientation=["L", "F"]), model).findings if f.region is not None]

    assert len(outlines) == 2
    assert abs(outlines[0][:, 0].mean() - outlines[1][:, 0].mean()) > both.shape[1] / 4


# --- the answer is known ------------------------------------------------------------------------------------------------------
def test_haze_in_one_lung_is_found_on_its_side_and_in_its_zone(result: Result, ill: ChestXray) -> None:
    right, left = of(result, "infection, right lung"), of(result, "infection, left lung")

    assert result.label == "infection"
    assert of(result, "infection").present
    assert (right.laterality, left.laterality) == (codes.RIGHT, codes.LEFT)
    assert right.present
    assert numbers(right)[OPAQUE_SHARE] > numbers(left)[OPAQUE_SHARE] + 10
    assert numbers(right)[OPAQUE_SHARE] == pytest.approx(ill.shares_percent[0], abs=15)
    assert numbers(right)[ZONE_SCORES["lower"]] > numbers(right)[ZONE_SCORES["upper"]]


def test_a_lung_that_is_called_infected_with_nothing_outlined_is_spoken_of(result: Result) -> None:
    left = of(result, "infection, left lung")

    assert (left.present, numbers(left)[OPAQUE_SHARE]) == (True, 0)
    assert [note for note in result.notes if "outlined" in note] == [
        "The left lung is called infected, but no opacity could be outlined in it."
    ]


def test_the_segments_are_two_lungs_and_the_opacity(result: Result, ill: ChestXray) -> None:
    right, left, opacity = (segment.mask[0] for segment in result.segments)

    assert [s.label for s in result.segments] == ["Right lung", "Left lung", "Infection (opacity)"]
    assert dice(right, ill.right) > 0.85
    assert dice(left, ill.left) > 0.85
    assert dice(opacity, ill.opacity) > 0.5
    assert not (opacity & ~(right | left)).any()
    assert result.heatmap is not None
    assert result.heatmap.values[0][ill.opacity].mean() > 3 * result.heatmap.values[0][ill.left].mean()


def test_a_clear_chest_is_called_clear(pipeline: CovidXray, model: Any) -> None:
    result = pipeline.run(film(chest_xray(opacity="").pixels), model)

    assert result.label == "no infection"
    assert not any(f.present for f in result.findings)
    assert numbers(of(result, "infection"))[OPAQUE_SHARE] < 12


def test_scores_add_up_and_the_words_of_the_report_say_what_they_rest_on(result: Result) -> None:
    sides = [of(result, f"infection, {side} lung") for side in ("right", "left")]
    zones = [sum(numbers(side)[code] for code in ZONE_SCORES.values()) for side in sides]

    assert [numbers(side)[SIDE_SEVERITY] for side in sides] == zones
    assert numbers(of(result, "infection"))[SEVERITY] == sum(zones) == result.facts["severity"]
    assert any("boxes round pneumonia" in note for note in result.notes)
    assert not any("left edge" in note for note in result.notes)


@pytest.mark.parametrize(
    ("filled", "scores"),
    [((0, 0, 0), (0, 0, 0)), ((4, 5, 33), (0, 1, 1)), ((34, 66, 67), (2, 2, 3)), ((100, 100, 100), (3, 3, 3))],
)
def test_each_third_of_a_lungs_height_scores_by_its_opaque_share(filled: tuple[int, ...], scores: tuple[int, ...]) -> None:
    """A lung of 300 rows and 100 columns: a third is 100 rows, a column of it is one percent."""
    lung, spots = np.zeros((400, 200), bool), np.zeros((400, 200), bool)
    lung[50:350, 20:120] = True
    for third, columns in enumerate(filled):
        spots[50 + 100 * third : 150 + 100 * third, 20 : 20 + columns] = True
    spots[:, 150:] = True  # outside the lung: does not count

    assert zone_scores(spots, lung) == scores
    assert percent(spots, lung) == pytest.approx(sum(filled) / 3)


# --- however it comes ----------------------------------------------------------------------------------------------------------
def test_a_film_stored_mirrored_gives_the_same_sides_and_masks_on_its_own_grid(
    pipeline: CovidXray, model: Any, result: Result, ill: ChestXray
) -> None:
    other = pipeline.run(film(ill.pixels[:, ::-1], PatientOrientation=["R", "F"]), model)

    assert other.facts["turned"] == ["flip_columns"]
    assert numbers(of(other, "infection, right lung")) == numbers(of(result, "infection, right lung"))
    assert np.array_equal(other.segments[0].mask[0], result.segments[0].mask[0][:, ::-1])


def test_without_an_orientation_the_report_says_how_it_hung_the_film(pipeline: CovidXray, model: Any, ill: ChestXray) -> None:
    result = pipeline.run(film(ill.pixels), model)

    assert of(result, "infection, right lung").present
    assert any("left edge was taken as the patient's right" in note for note in result.notes)


def test_black_and_white_exchanged_is_noticed(pipeline: CovidXray, model: Any, result: Result, ill: ChestXray) -> None:
    other = pipeline.run(film(4095 - ill.pixels), model)

    assert any("exchanged" in note for note in other.notes)
    assert of(other, "infection").probability == pytest.approx(of(result, "infection").probability, abs=0.1)


@pytest.mark.parametrize("size", [(4000, 4000), (300, 300)])
def test_large_and_small_films_answer_on_their_own_grid(pipeline: CovidXray, model: Any, ill: ChestXray, size: tuple[int, int]) -> None:
    result = pipeline.run(film(cv2.resize(ill.pixels, size)), model)

    assert result.label == "infection"
    assert all(s.mask.shape == (1, *size) for s in result.segments)


def test_a_grey_film_saved_in_colour_is_read(pipeline: CovidXray, model: Any, ill: ChestXray) -> None:
    rgb = np.repeat((ill.pixels >> 4).astype(np.uint8)[..., None], 3, axis=2)

    assert pipeline.run(film(rgb), model).label == "infection"


# --- what is refused -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"ViewPosition": "LL"}, "frontal"),
        ({"PatientOrientation": ["A", "F"]}, "frontal"),
        ({"BodyPartExamined": "HAND"}, "body part"),
        ({"PatientAge": "007Y"}, "18 years"),
        ({"PatientAge": "003M"}, "18 years"),
        ({"Modality": "MG"}, "not for MG"),
    ],
)
def test_other_views_parts_and_patients_are_refused_by_the_header(
    pipeline: CovidXray, model: Any, ill: ChestXray, header: dict[str, Any], why: str
) -> None:
    with pytest.raises(OutsideIntendedUse, match=why):
        pipeline.run(film(ill.pixels, **header), model)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 1), np.float32),
        np.zeros((500, 400), np.float32),
        np.full((500, 400), np.nan, np.float32),
        np.random.default_rng(1).random((500, 400)).astype(np.float32),
        np.rot90(chest_xray().pixels).astype(np.float32),
        np.random.default_rng(2).integers(0, 255, (300, 300, 3), dtype=np.uint8),
    ],
    ids=["one pixel", "black", "not a number", "noise", "on its side", "coloured noise"],
)
def test_pixels_that_are_no_chest_film_are_refused(pipeline: CovidXray, model: Any, pixels: np.ndarray) -> None:
    with pytest.raises(OutsideIntendedUse):
        pipeline.run(film(pixels), model)


def test_several_frames_at_once_are_refused(pipeline: CovidXray, model: Any, ill: ChestXray) -> None:
    one = film(ill.pixels)
    with pytest.raises(OutsideIntendedUse, match="single films"):
        pipeline.run(replace(one, pixels=np.repeat(one.pixels, 2, axis=0)), model)


# --- the bundle ------------------------------------------------------------------------------------------------------------------
def test_one_digest_names_both_networks(pipeline: CovidXray) -> None:
    """The lung stage is the one of `lung_field`, weight for weight."""
    module = pipeline.bundle.module()
    lungs = Bundle.open(MODELS / "lung_field" / "1.0.0").module().state_dict()
    held = {k.removeprefix("lungs."): v for k, v in module.state_dict().items() if k.startswith("lungs.")}

    assert set(module.keys()) == {"lungs", "opacity"}
    assert held.keys() == lungs.keys()
    assert all(torch.equal(held[k], lungs[k]) for k in lungs)
    assert set(pipeline.bundle.stages()) == {"lungs", "opacity"}


def test_the_probability_rises_with_evidence_and_extent() -> None:
    limits = {"extent_weight": 1.0, "temperature": 0.5, "bias": 0.0}

    assert probability(0.0, USUAL_EXTENT - 0.01, limits) == pytest.approx(0.5)
    assert probability(1.0, USUAL_EXTENT - 0.01, limits) == pytest.approx(1 / (1 + np.exp(-2)))
    assert probability(0.0, 0.4, limits) > probability(0.0, 0.2, limits) > 0.5


# --- real films ------------------------------------------------------------------------------------------------------------------
def test_pneumonia_of_patients_never_trained_on_ranks_above_no_pneumonia(pipeline: CovidXray, model: Any, shared: Path) -> None:
    from training.bundles.covid_xray import readings
    from training.recipes.covid_xray import fields

    chests = [c for c in fields(shared / "data", ("val",)) if c.source == "rsna"]
    chosen = [c for c in chests if c.infected][:30] + [c for c in chests if not c.infected][:30]
    scores = rankdata([r.evidence for r in readings(model["opacity"], chosen)])

    assert (scores[:30].sum() - 30 * 31 / 2) / 900 > 0.75  # area under the ROC curve


def test_real_films_come_home_with_valid_objects(shared: Path, tmp_path: Path) -> None:
    """Through `radnode process`: masks, picture and report of a large film and of a MONOCHROME1 one, free of errors."""
    dicom = shared / "data" / "dicom"
    source = tmp_path / "study"
    source.mkdir()
    for number, name in enumerate(("cr_chest/RG1_J2KI_PA_monochrome1.dcm", "wrapped/cr_chest/cr_03.dcm")):
        shutil.copyfile(dicom / name, source / f"{number}.dcm")
    config = tmp_path / "radnode.yaml"
    config.write_text(yaml.safe_dump({"data_dir": str(tmp_path / "data")}))

    done = radnode("process", source, "--out", tmp_path / "out", "--pipeline", "covid_xray", config=config)

    assert done.returncode == 0, done.stderr
    jobs = json.loads((tmp_path / "out" / "summary.json").read_text())["jobs"]
    assert [job["analysed"] for job in jobs] == [True, True], [job["reason"] for job in jobs]
    written = sorted((tmp_path / "out").glob("*.dcm"))
    assert len(written) == 6
    # the patient comes home as he came: Other Patient IDs (retired), an address and a telephone are in no module of PS3.3 C.7.1.1
    came = {f"General: {element.keyword} is unexpected" for film in source.iterdir() for element in dcmread(film).group_dataset(0x0010)}
    for path in written:
        ds = dcmread(path)
        unknown = ["Error - Information Object Not found"] if ds.SOPClassUID == LABEL_MAP else []  # newer than dciodvfy
        assert dciodvfy_errors(ds, tmp_path) == unknown
        assert set(iod_errors(ds)) <= came
