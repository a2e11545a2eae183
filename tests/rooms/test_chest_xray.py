"""Chest film findings: what is said and what is not, how sure, where the network looks, and what must be refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset
from safetensors.torch import load_file, save_file

from node.bundle import Bundle, write_sums
from node.domain import CleanUid, Finding, Instance, Result, Series
from node.errors import OutsideIntendedUse
from node.imaging.facing import Facing
from node.imaging.letterbox import Box, Letterbox
from node.imaging.lung_field import field_of
from node.imaging.radiograph import LungFields, Radiograph
from node.imaging.volume import Frame, Volume
from node.networks.backbones import NAMES
from node.networks.explanation import grad_cam
from node.networks.image_and_clinical import ImageAndClinical
from node.picture import said
from node.pipelines.chest_xray import (
    LAYER,
    OUTSIDE,
    SEVERITY,
    ChestXray,
    Seen,
    Warm,
    answers,
    calibrated,
    entropy,
    headline_of,
    of_patient,
    seen,
    wavering,
)
from node.testing.phantom_chest_xray import chest_xray
from tests.rooms.test_networks import FIELDS

SHIPPED = Path(__file__).parents[2] / "models" / "chest_xray" / "1.1.0"


def film(pixels: np.ndarray, **header: Any) -> Volume:
    """One film as the node hands it to a pipeline."""
    ds = Dataset()
    ds.SOPInstanceUID, ds.Modality, ds.ViewPosition, ds.PatientAge, ds.PatientSex = "2.25.1", "DX", "PA", "055Y", "F"
    for keyword, value in header.items():
        setattr(ds, keyword, value)
    instance = Instance(header=ds, path=Path("nowhere"))
    series = Series(series_instance_uid=CleanUid("2.25.2"), modality="DX", instances=(instance,))
    values = pixels if pixels.ndim == 3 else pixels.astype(np.float32)
    return Volume(series=series, pixels=values[None], unit="1", frames=(Frame(instance=instance),), affine=None, spacing_mm=None)


def of(result: Result, name: str) -> Finding:
    return next(finding for finding in result.findings if finding.name == name)


@pytest.fixture(scope="module")
def pipeline() -> ChestXray:
    return ChestXray(Bundle.open(SHIPPED))


@pytest.fixture(scope="module")
def model(pipeline: ChestXray) -> Warm:
    return pipeline.load("cpu")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return chest_xray(opacity="right lower", rows=512).pixels


@pytest.fixture(scope="module")
def result(pipeline: ChestXray, model: Warm, pixels: np.ndarray) -> Result:
    return pipeline.run(film(pixels), model)


# --- what is said, and what is not ------------------------------------------------------------------------------------------------
def test_every_label_is_listed_and_what_was_not_trained_is_no_negative(result: Result) -> None:
    assert [finding.name for finding in result.findings] == ["normal", "pneumonia", "covid", "fracture", "cancer"]
    for name in ("fracture", "cancer"):
        assert (of(result, name).probability, of(result, name).present) == (None, None)
        assert "not trained" in said(of(result, name))
    assert any("fracture and cancer" in note and "not trained" in note for note in result.notes)
    for name in ("normal", "pneumonia", "covid"):
        assert 0 < of(result, name).probability < 1
        assert of(result, name).present in (True, False)


def test_each_probability_comes_with_how_sure_the_network_is(result: Result) -> None:
    for name in ("normal", "pneumonia", "covid"):
        [spread] = [m for m in of(result, name).measurements if m.name.value == "MC_SPREAD"]
        assert 0 < spread.value < 50
        assert 0 <= result.facts["entropy"][name] <= 1
    assert not of(result, "cancer").measurements


@pytest.mark.parametrize(
    ("chances", "label"),
    [
        ({"normal": 0.9, "pneumonia": 0.1, "covid": 0.1}, "normal"),
        ({"normal": 0.75, "pneumonia": 0.8, "covid": 0.1}, "pneumonia"),
        ({"normal": 0.1, "pneumonia": 0.97, "covid": 0.98}, "covid"),
        ({"normal": 0.0, "pneumonia": 0.0, "covid": 0.0}, "unclear"),
    ],
)
def test_normal_is_called_only_when_nothing_else_is(pipeline: ChestXray, chances: dict[str, float], label: str) -> None:
    called = pipeline.decided(chances)

    assert headline_of(chances, called)[0] == label
    assert called["normal"] == (label == "normal")


@pytest.mark.parametrize("normal", [0.3, 0.5, 0.95])
def test_no_finding_is_called_where_normal_is_likelier(pipeline: ChestXray, normal: float) -> None:
    """However low its own threshold is: nobody should read "COVID-19, 25 %" above "normal, 30 %"."""
    metadata = json.loads(json.dumps(pipeline.bundle.metadata))
    metadata["radnode"]["thresholds"]["covid"] = 0.12
    chances = {"normal": normal, "pneumonia": 0.1, "covid": normal - 0.05}

    called = ChestXray(replace(pipeline.bundle, metadata=metadata)).decided(chances)

    assert not called["covid"]
    assert headline_of(chances, called)[0] != "covid"


def test_a_finding_over_which_the_network_wavers_does_not_head_the_report() -> None:
    chances, called = {"normal": 0.4, "pneumonia": 0.2, "covid": 0.5}, {"normal": False, "pneumonia": False, "covid": True}
    divided = {"normal": np.linspace(0.3, 0.5, 30), "pneumonia": np.full(30, 0.2), "covid": np.full(30, 0.42)}
    agreed = divided | {"covid": np.full(30, 0.6)}

    assert wavering(divided, called) == ["covid"]
    assert headline_of(chances, called, wavering(divided, called)) == ("unclear", pytest.approx(0.5))
    assert wavering(agreed, called) == []
    assert headline_of(chances, called, wavering(agreed, called)) == ("covid", 0.5)


@pytest.mark.parametrize(("called", "reported"), [(True, True), (True, False), (False, True)])
def test_severity_is_told_of_covid_alone_and_only_by_a_bundle_that_stands_for_it(
    pipeline: ChestXray, model: Warm, pixels: np.ndarray, called: bool, reported: bool
) -> None:
    metadata = json.loads(json.dumps(pipeline.bundle.metadata))
    metadata["radnode"]["thresholds"]["offset_covid"] = 20.0 if called else -20.0
    metadata["radnode"]["severity"] = list(SEVERITY) if reported else pipeline.bundle.node["severity"]

    result = ChestXray(replace(pipeline.bundle, metadata=metadata)).run(film(pixels), model)

    names = {m.name.value for m in of(result, "covid").measurements}
    assert ({"P_ICU", "P_INTUBATION", "P_DEATH"} <= names) == (called and reported)
    assert any("Severity" in note and "not told" in note for note in result.notes) == called


def test_a_temperature_and_an_offset_of_its_own_for_each_label() -> None:
    limits = {"temperature_a": 2.0, "offset_a": 1.0}

    chances = calibrated(np.array([2.0, 2.0]), ("a", "b"), limits)

    assert chances == pytest.approx([1 / (1 + np.exp(-2.0)), 1 / (1 + np.exp(-2.0))])
    assert calibrated(np.array([0.0]), ("a",), limits) == pytest.approx([1 / (1 + np.exp(-1.0))])
    assert entropy(0.5) == pytest.approx(1)
    assert entropy(1.0) == pytest.approx(0, abs=1e-6)


# --- what is known of the patient -------------------------------------------------------------------------------------------------
def test_age_from_the_header_reaches_the_network_and_a_missing_one_does_not_stop_it(
    pipeline: ChestXray, model: Warm, pixels: np.ndarray, result: Result
) -> None:
    old = pipeline.run(film(pixels, PatientAge="089Y"), model)
    unknown = pipeline.run(film(pixels, PatientAge="", PatientSex="", ViewPosition=""), model)

    assert old.facts["clinical_used"] == ["age_years", "sex", "view"]
    assert of(old, "covid").probability != of(result, "covid").probability
    assert unknown.facts["clinical_used"] == []
    assert unknown.analysed
    assert any("told: nothing" in note for note in unknown.notes)


def test_what_is_told_beside_the_image_goes_before_the_header(pipeline: ChestXray, model: Warm, pixels: np.ndarray) -> None:
    told = pipeline.run(replace(film(pixels), clinical={"age": 80, "temperature": 39.1}), model)
    header = pipeline.run(film(pixels, PatientAge="080Y"), model)

    assert of(told, "covid").probability == of(header, "covid").probability
    assert any("not used" in note and "temperature" in note for note in told.notes)


# --- any backbone -----------------------------------------------------------------------------------------------------------------
def bundle_with(backbone: str, folder: Path) -> Bundle:
    """The shipped bundle with another findings network of random weights, told all that can be told."""
    shutil.copytree(SHIPPED, folder)
    torch.manual_seed(3)
    inference = json.loads((folder / "configs/inference.json").read_text())
    definition = inference["network_def"]["findings"] | {"backbone": backbone, "clinical": FIELDS}
    inference["network_def"]["findings"] = definition
    (folder / "configs/inference.json").write_text(json.dumps(inference))
    network = ImageAndClinical(**{k: v for k, v in definition.items() if k != "_target_"})
    weights = {k: v for k, v in load_file(SHIPPED / "models/model.safetensors").items() if k.startswith("lungs.")}
    weights |= {f"findings.{k}": v.contiguous() for k, v in network.state_dict().items()}
    save_file(weights, folder / "models/model.safetensors")
    write_sums(folder)
    return Bundle.open(folder)


@pytest.mark.parametrize("backbone", NAMES)
def test_any_backbone_of_the_configuration_works_in_the_node(backbone: str, pixels: np.ndarray, tmp_path: Path) -> None:
    pipeline = ChestXray(bundle_with(backbone, tmp_path / "bundle"))
    told = {"temperature": 38.5, "spo2": 91}

    result = pipeline.run(replace(film(pixels, PatientWeight="82", PatientSize="1.7"), clinical=told), pipeline.load("cpu"))

    assert result.analysed
    assert len(result.facts["clinical_used"]) == len(FIELDS)
    assert result.heatmap is not None
    assert result.heatmap.values.shape == (1, *pixels.shape)
    assert all(finding.probability is None or 0 <= finding.probability <= 1 for finding in result.findings)


# --- where it looks ---------------------------------------------------------------------------------------------------------------
def test_a_map_of_the_canvas_comes_back_on_the_film_as_it_was_sent(model: Warm) -> None:
    """Standing, and lying on its side in its file: what the network saw is where the lungs were drawn."""
    phantom = chest_xray(opacity="", rows=512)
    lungs = phantom.right | phantom.left
    for facing, turn in ((Facing(), np.asarray), (Facing(transposed=True), np.transpose)):
        at = seen(np.ascontiguousarray(turn(phantom.pixels)).astype(np.float32), facing, model.lungs, 160)
        assert isinstance(at, Seen)
        back = at.on_film((at.canvas > 0).astype(np.float32)) > 0.5
        inside = turn(lungs)
        assert (back & inside).sum() > 0.85 * back.sum()
        assert (back & inside).sum() > 0.5 * inside.sum()


def test_grad_cam_of_a_label_moves_with_what_the_label_answers_to(model: Warm) -> None:
    """A network that answers to brightness alone is looking where it is bright."""
    network = ImageAndClinical(backbone="small", clinical=[], labels=["bright"], dropout=0.0, width=16, heads=1).eval()
    canvas = np.zeros((96, 96), np.float32)
    canvas[16:40, 16:40] = 1

    class Bright(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.avg_pool2d(image, 16)

    network.backbone = Bright()
    network._pooled = lambda image, _: network.backbone(image).mean(dim=(2, 3)).expand(-1, 16)  # type: ignore[method-assign]
    network.hidden, network.out = torch.nn.Identity(), torch.nn.Linear(16, 1)  # type: ignore[assignment]
    torch.nn.init.ones_(network.out.weight)

    cam = grad_cam(of_patient(network, []), LAYER, canvas[None], 0)

    assert cam[16:40, 16:40].mean() > 5 * cam[60:].mean()


def test_a_heatmap_outside_the_lungs_is_measured_and_said(pipeline: ChestXray) -> None:
    lungs = np.zeros((160, 160), bool)
    lungs[40:120, 20:60] = True
    frame = Letterbox(Box(0, 0, 160, 160), 160)
    grey = np.zeros((160, 160), np.float32)
    both = LungFields(lungs, np.zeros_like(lungs), 1.0)
    at = Seen(Facing(), Radiograph(grey, Box(0, 0, 160, 160), (160, 160)), both, frame, grey, False)
    inside, outside = np.zeros((2, 160, 160), np.float32)
    inside[60:100, 30:50], outside[60:100, 110:140] = 1, 1

    assert pipeline.outside(inside, at) == 0
    assert pipeline.outside(outside, at) == 1
    assert pipeline.outside(inside + outside, at) > OUTSIDE


# --- the lungs --------------------------------------------------------------------------------------------------------------------
def test_the_network_sees_the_lungs_and_nothing_else(model: Warm, pixels: np.ndarray) -> None:
    """Letters, borders and exposure leave no trace on the canvas."""
    plain = seen(pixels.astype(np.float32), Facing(), model.lungs, 160)
    lettered = pixels.copy()
    lettered[6:60, 20:120] = 4095
    marked = seen(lettered.astype(np.float32) * 7 + 300, Facing(), model.lungs, 160)

    assert isinstance(plain, Seen)
    assert isinstance(marked, Seen)
    assert (plain.canvas == 0).mean() > 0.3
    both = (plain.canvas > 0) & (marked.canvas > 0)
    assert both.sum() > 0.9 * (plain.canvas > 0).sum()
    assert np.abs(plain.canvas - marked.canvas)[both].mean() < 0.05


def test_a_film_stored_with_black_and_white_exchanged_is_read_turned_over_and_said_to_be(
    pipeline: ChestXray, model: Warm, pixels: np.ndarray, result: Result
) -> None:
    exchanged = pipeline.run(film(4095 - pixels), model)

    assert any("exchanged" in note for note in exchanged.notes)
    assert of(exchanged, "covid").probability == pytest.approx(of(result, "covid").probability, abs=0.03)


def test_the_network_sees_the_whole_lungs_behind_the_heart_and_where_they_are_dense(model: Warm) -> None:
    """What is dense may be the disease."""
    phantom = chest_xray(opacity="right lower", rows=512)

    at = seen(phantom.pixels.astype(np.float32), Facing(), model.lungs, 160)

    assert isinstance(at, Seen)
    lit = at.on_film((at.canvas > 0).astype(np.float32)) > 0.5
    assert (lit & at.lungs.both).sum() > 0.9 * at.lungs.both.sum()
    assert lit[phantom.opacity].mean() > 0.8


def test_equal_lungs_of_any_exposure_look_the_same_to_the_network() -> None:
    rng = np.random.default_rng(1)
    lungs = np.zeros((80, 60), bool)
    lungs[10:70, 10:50] = True
    grey = rng.random((80, 60)).astype(np.float32)

    _, one = field_of(grey, lungs, 64)
    _, other = field_of(np.asarray(0.2 + 0.5 * grey, np.float32), lungs, 64)

    assert one.max() > 0.95
    assert np.abs(one - other).max() < 0.02


# --- what must be refused ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("header", "because"),
    [
        ({"ViewPosition": "LL"}, "lateral"),
        ({"PatientOrientation": ["A", "F"]}, "lateral"),
        ({"PatientAge": "006Y"}, "18 years"),
        ({"PatientAge": "009M"}, "18 years"),
        ({"BodyPartExamined": "KNEE"}, "another body part"),
        ({"Modality": "MR"}, "not for MR"),
    ],
)
def test_what_the_header_tells_against_is_refused(
    pipeline: ChestXray, model: Warm, pixels: np.ndarray, header: dict[str, Any], because: str
) -> None:
    with pytest.raises(OutsideIntendedUse, match=because):
        pipeline.run(film(pixels, **header), model)


def test_a_child_by_what_was_told_is_refused(pipeline: ChestXray, model: Warm, pixels: np.ndarray) -> None:
    with pytest.raises(OutsideIntendedUse, match="18 years"):
        pipeline.run(replace(film(pixels, PatientAge=""), clinical={"age": 4}), model)


@pytest.mark.parametrize(
    "what", ["noise", "strip", "not a number", "one pixel", "upside down lungs missing", "CT values", "a run of images"]
)
def test_what_is_no_chest_film_is_refused_with_a_reason(pipeline: ChestXray, model: Warm, pixels: np.ndarray, what: str) -> None:
    noise = np.random.default_rng(2).random((300, 300)).astype(np.float32)
    given = {
        "noise": lambda: film(noise),
        "strip": lambda: film(noise[:20]),
        "not a number": lambda: film(np.full((300, 300), np.nan, np.float32)),
        "one pixel": lambda: film(noise[:1, :1]),
        "upside down lungs missing": lambda: film(np.tile(np.linspace(0, 1, 300, dtype=np.float32), (300, 1))),
        "CT values": lambda: replace(film(pixels), unit="HU"),
        "a run of images": lambda: replace(film(pixels), pixels=np.stack([pixels, pixels]).astype(np.float32)),
    }[what]()

    with pytest.raises(OutsideIntendedUse) as refused:
        pipeline.run(given, model)

    assert len(str(refused.value)) > 10


# --- real films -------------------------------------------------------------------------------------------------------------------
def test_real_films_in_dicom_are_read(pipeline: ChestXray, model: Warm, shared: Path, tmp_path: Path) -> None:
    """Wrapped films (one MONOCHROME1, one with letters), and a CR of 1955 x 1841 in JPEG 2000."""
    import pydicom

    from node.imaging.build import images_of
    from node.imaging.study import read_study
    from tests.rooms.workbench import clean_study

    files = sorted((shared / "data/dicom/wrapped/cr_chest").glob("*.dcm")) + sorted((shared / "data/dicom/cr_chest").glob("*.dcm"))[:1]
    assert len(files) == 5
    for number, file in enumerate(files):
        study = read_study(clean_study([pydicom.dcmread(file)], tmp_path / str(number)))
        result = pipeline.run(next(images_of(study.series[0])), model)
        assert result.analysed, file.name
        assert of(result, "fracture").probability is None


def test_validation_films_are_told_apart(pipeline: ChestXray, model: Warm, shared: Path) -> None:
    """A sample of the validation films through the shipped weights; the whole table stands in the model card."""
    from training.datasets import chest_rows
    from training.recipes.chest_xray import aucs, logits_of

    rows = [row for row in chest_rows.lung_fields(shared / "data/images/cxr_lungfield256") if row.split == "val"][::4]

    found = aucs(logits_of(model.findings, rows), rows)

    assert found["normal"] > 0.85
    assert found["pneumonia"] > 0.8


def test_a_network_told_nothing_still_answers_as_the_recipe_does(pipeline: ChestXray, model: Warm, pixels: np.ndarray) -> None:
    """Node and training share one path: the same canvas, the same logits."""
    from training.datasets.chest_rows import NORMAL, Row
    from training.recipes.chest_xray import SIZE, logits_of

    at = seen(pixels.astype(np.float32), Facing(), model.lungs, SIZE)
    assert isinstance(at, Seen)
    row = Row(
        name="phantom",
        source="phantom",
        split="val",
        group="phantom",
        label="normal",
        grey=at.film.grey,
        lungs=at.lungs.both,
        targets=NORMAL,
        told={},
    )
    logits, _ = answers(model.findings, at.canvas, [np.nan] * 3)

    assert np.allclose(logits_of(model.findings, [row])[0], logits, atol=1e-4)
