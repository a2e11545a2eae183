"""`/predict`, `/heatmap` and `/meta` with the weights that come with the node: a real image for each of the six pipelines."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom import dcmread

from node.errors import UploadRefused
from node.imaging.plain import as_dicom, decoded
from tests.rooms.upload_desk import Desk, zipped

PIPELINES = {
    "covid_ct": ["infection"],
    "covid_xray": ["infection"],
    "breast_ultrasound": ["normal", "benign", "malignant"],
    "brain_mri": ["tumor"],
    "chest_xray": ["normal", "pneumonia", "covid", "fracture", "cancer"],
    "xray_anomaly": ["anomaly"],
}
UNTRAINED = {"fracture", "cancer"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A node as it comes, without rules of its own: the example's rules choose."""
    desk = Desk(tmp_path_factory.mktemp("predict"))
    yield desk
    desk.close()


@pytest.fixture(autouse=True)
def nothing_stays(desk: Desk) -> Iterator[None]:
    yield
    assert desk.left() == []


@pytest.fixture(scope="module")
def film(shared: Path) -> bytes:
    """A chest film of a man of 54 years, PA, 8 bit, with names in its header."""
    return (shared / "data" / "dicom" / "wrapped" / "cr_chest" / "cr_00.dcm").read_bytes()


def answered(desk: Desk, *files: bytes, **fields: str) -> dict[str, Any]:
    """The answer, after a look at its shape: the one that others rest on."""
    answer = desk.ask("/predict", *files, **fields)
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    assert {"pipeline", "model", "analysed", "reason", "label", "confidence", "findings", "disclaimer"} <= set(said)
    assert set(said["model"]) == {"name", "version", "digest"}
    assert "Not a medical device" in said["disclaimer"]
    if said["analysed"]:
        assert said["reason"] is None
        assert 0 <= said["confidence"] <= 1
        names = [one["name"] for one in said["findings"]]
        assert set(PIPELINES[said["pipeline"]]) <= set(names)
    for one in said["findings"]:
        assert {"name", "code", "probability", "site", "measurements"} <= set(one)
        assert set(one["code"]) == {"value", "scheme", "meaning"}
        assert (one["probability"] is None) == (one["name"] in UNTRAINED)
        assert bool(one["remark"]) == (one["name"] in UNTRAINED)
        assert all(set(number) == {"name", "value", "unit"} for number in one["measurements"])
    return said


def probabilities(said: dict[str, Any]) -> dict[str, float | None]:
    return {one["name"]: one["probability"] for one in said["findings"]}


def image(shared: Path, name: str) -> bytes:
    return (shared / "data" / "images" / name).read_bytes()


# --- one for each pipeline ------------------------------------------------------------------------------------------------------
def test_an_ill_chest_film_as_jpeg_is_called_infected(desk: Desk, shared: Path) -> None:
    said = answered(
        desk, image(shared, "cxr_adult224/train/covid/1-s2.0-S0140673620303706-fx1_lrg.jpg"), pipeline="covid_xray", clinical='{"age": 61}'
    )
    assert said["label"] == "infection"
    assert said["rule"] is None


def test_a_film_in_dicom_and_as_png_of_8_and_16_bits_says_the_same(desk: Desk, film: bytes) -> None:
    grey = dcmread(io.BytesIO(film)).pixel_array
    told = {"pipeline": "chest_xray", "clinical": '{"age": 54, "sex": "M", "view": "PA"}'}

    of_dicom = answered(desk, film, pipeline="chest_xray")
    of_png = answered(desk, cv2.imencode(".png", grey)[1].tobytes(), **told)
    of_deep_png = answered(desk, cv2.imencode(".png", grey.astype(np.uint16) * 257)[1].tobytes(), **told)

    assert of_dicom["label"] == of_png["label"] == of_deep_png["label"] == "normal"
    assert of_dicom["clinical_used"] == of_png["clinical_used"] == ["age_years", "sex", "view"]
    for name, probability in probabilities(of_dicom).items():
        assert probabilities(of_png)[name] == pytest.approx(probability, abs=1e-6)
        assert probabilities(of_deep_png)[name] == pytest.approx(probability, abs=0.02)
    assert any("was not trained for fracture and cancer" in note for note in of_dicom["notes"])


def test_the_rules_choose_for_a_film_and_name_what_else_they_would_run(desk: Desk, film: bytes) -> None:
    said = answered(desk, film)
    assert (said["pipeline"], said["rule"]) == ("covid_xray", "chest film")
    assert said["other_pipelines"] == ["chest_xray", "xray_anomaly"]
    assert said["label"] == "no infection"


def test_an_ordinary_film_is_no_anomaly(desk: Desk, film: bytes) -> None:
    said = answered(desk, film, pipeline="xray_anomaly")
    assert said["label"] == "no anomaly"
    assert probabilities(said)["anomaly"] < 0.95


def test_a_malignant_lesion_on_ultrasound_is_called_so(desk: Desk, shared: Path) -> None:
    said = answered(desk, image(shared, "busi_breast_us/train/malignant/malignant_103.jpg"), pipeline="breast_ultrasound")
    assert said["label"] == "malignant"
    assert sum(one["probability"] for one in said["findings"]) == pytest.approx(1, abs=0.01)


def test_a_brain_slice_with_a_glioma_is_called_tumor(desk: Desk, shared: Path) -> None:
    assert answered(desk, image(shared, "brain_tumor_mri/train/glioma/g0713_tr_gg_387.jpg"), pipeline="brain_mri")["label"] == "tumor"


def test_a_zip_of_a_chest_ct_is_routed_and_read_as_one_volume(desk: Desk, shared: Path) -> None:
    series = sorted((shared / "data" / "dicom" / "ct_chest_lungpetctdx").rglob("*.dcm"))[24:34]

    said = answered(desk, zipped([path.read_bytes() for path in series]))

    assert (said["pipeline"], said["rule"], said["label"]) == ("covid_ct", "chest CT", "no infection")
    assert said["findings"][0]["measurements"][0]["unit"] == "%"


# --- what is not read -----------------------------------------------------------------------------------------------------------
def test_the_wrong_kind_of_picture_is_not_analysed_and_says_why(desk: Desk, shared: Path) -> None:
    chest = image(shared, "cxr_adult224/train/covid/1-s2.0-S0140673620303706-fx1_lrg.jpg")
    said = answered(desk, chest, pipeline="breast_ultrasound")
    assert said["analysed"] is False
    assert "looks like a frontal chest radiograph" in said["reason"]

    lateral = answered(desk, chest, pipeline="covid_xray", view="lateral")
    assert "another view" in lateral["reason"]

    child = answered(desk, chest, pipeline="covid_xray", clinical='{"age": 4}')
    assert "from 18 years on" in child["reason"]

    assert desk.ask("/heatmap", chest, pipeline="covid_xray", view="lateral").status_code == 422


def test_a_plain_picture_of_a_ct_is_not_analysed(desk: Desk, shared: Path) -> None:
    said = answered(desk, image(shared, "covid_ct_medseg/train/images/0.jpg"), pipeline="covid_ct")
    assert said["analysed"] is False
    assert "Hounsfield" in said["reason"]


def test_a_picture_without_a_pipeline_is_told_which_there_are(desk: Desk, shared: Path) -> None:
    answer = desk.ask("/predict", image(shared, "busi_breast_us/train/malignant/malignant_103.jpg"))
    assert answer.status_code == 422
    assert set(answer.json()["pipelines"]) == set(PIPELINES)


def test_a_damaged_picture_and_a_modality_that_the_model_does_not_read_are_refused(desk: Desk, shared: Path) -> None:
    whole = image(shared, "busi_breast_us/train/malignant/malignant_103.jpg")
    damaged = whole[:20] + bytes(300)
    assert "damaged" in desk.ask("/predict", damaged, pipeline="covid_xray").json()["detail"]
    assert "it reads CR, DX" in desk.ask("/predict", whole, pipeline="covid_xray", modality="us").json()["detail"]


@pytest.mark.parametrize("clinical", ["[1]", "7", '"F"', "null", "true"])
@pytest.mark.parametrize("view", ["", "PA"])
def test_what_is_told_of_the_patient_is_an_object(desk: Desk, film: bytes, clinical: str, view: str) -> None:
    answer = desk.ask("/predict", film, clinical=clinical, view=view)
    assert answer.status_code == 422
    assert "object of JSON" in answer.json()["detail"]


# --- heatmaps and meta ----------------------------------------------------------------------------------------------------------
def test_the_heatmap_of_a_film_is_a_picture_and_its_capture_belongs_to_the_patient(desk: Desk, film: bytes) -> None:
    png = desk.ask("/heatmap", film)
    shown = cv2.imdecode(np.frombuffer(png.content, np.uint8), cv2.IMREAD_COLOR)
    assert min(shown.shape[:2]) > 400
    assert shown.std() > 20

    original = dcmread(io.BytesIO(film))
    capture = dcmread(io.BytesIO(desk.ask("/heatmap", film, accept="application/dicom").content))
    assert capture.PatientName == original.PatientName
    assert capture.PatientID == original.PatientID
    assert capture.StudyInstanceUID == original.StudyInstanceUID
    assert capture.Modality == "OT"
    assert (capture.Rows, capture.Columns) == shown.shape[:2]
    assert (capture.pixel_array[..., ::-1] == shown).all()


def test_meta_tells_everything_that_a_program_must_know_before_it_asks(desk: Desk) -> None:
    answer = desk.get("/meta")
    assert answer.status_code == 200, answer.text
    meta = answer.json()
    by_name = {one["name"]: one for one in meta["pipelines"]}
    assert set(by_name) == set(PIPELINES)
    for name, labels in PIPELINES.items():
        one = by_name[name]
        assert [label["name"] for label in one["labels"]] == labels
        assert all(label["code"]["scheme"] == "SCT" for label in one["labels"])
        assert {label["name"] for label in one["labels"] if not label["trained"]} == UNTRAINED & set(labels)
        older = [("0.9.0", "retired")] if name == "brain_mri" else []
        assert [(version["version"], version["state"]) for version in one["versions"]] == [*older, (one["version"], "active")]
        assert len(one["digest"]) == 64
        assert one["intended_use"]["modality"]
        assert one["licence"]["name"]
        assert one["research_only"] is True
        assert one["model_card"].startswith("#")
        assert one["accepts"] == (["DICOM"] if name == "covid_ct" else ["DICOM", "PNG", "JPEG"])
    assert by_name["chest_xray"]["licence"]["non_commercial"] is True
    assert by_name["brain_mri"]["licence"]["non_commercial"] is False
    assert by_name["chest_xray"]["clinical"] == ["age_years", "sex", "view"]
    assert meta["limits"]["upload_mb"] == 4096
    assert "Research use only" in meta["disclaimer"]


def test_the_routes_are_described_for_openapi(desk: Desk) -> None:
    described = desk.get("/openapi.json").json()
    for path in ("/predict", "/heatmap"):
        form = described["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
        assert set(form) == {"files", "pipeline", "clinical", "view", "modality"}
    assert set(described["paths"]["/heatmap"]["post"]["responses"]["200"]["content"]) == {"image/png", "application/dicom"}
    assert described["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith(
        "/Prediction"
    )
    assert {"Prediction", "Finding", "Meta", "PipelineMeta", "ProblemDocument"} <= set(described["components"]["schemas"])


# --- pictures -------------------------------------------------------------------------------------------------------------------
def test_pictures_of_every_depth_are_decoded_as_they_are() -> None:
    ramp = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    deep = ramp.astype(np.uint16) * 250
    colour = np.dstack([ramp, ramp // 2, 255 - ramp])

    for picture in (ramp, deep):
        assert (decoded(cv2.imencode(".png", picture)[1].tobytes()) == picture).all()
    assert (decoded(cv2.imencode(".png", colour[..., ::-1])[1].tobytes()) == colour).all()
    assert decoded(cv2.imencode(".jpg", ramp)[1].tobytes()).shape == (3, 4)
    assert decoded(cv2.imencode(".png", np.dstack([colour, ramp]))[1].tobytes()).shape == (3, 4, 3)


def test_a_picture_that_declares_more_pixels_than_are_taken_is_not_decoded() -> None:
    huge = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0\x08\0\0\0\0" + bytes(40)
    with pytest.raises(UploadRefused, match="65536 × 65536"):
        decoded(huge)


def test_colour_is_kept_where_it_says_something_and_pictures_of_one_upload_are_one_series() -> None:
    ramp = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    grey_in_colour, colour = np.dstack([ramp] * 3), np.dstack([ramp, ramp // 2, 255 - ramp])

    ultrasound = [dcmread(io.BytesIO(part)) for part in as_dicom([grey_in_colour, colour], modality="US", body_part="BREAST")]
    [film] = [dcmread(io.BytesIO(part)) for part in as_dicom([colour], modality="CR")]

    assert [ds.PhotometricInterpretation for ds in ultrasound] == ["MONOCHROME2", "RGB"]
    assert (ultrasound[0].pixel_array == ramp).all()
    assert len({ds.SeriesInstanceUID for ds in ultrasound}) == 1
    assert len({ds.SOPInstanceUID for ds in ultrasound}) == 2
    assert film.PhotometricInterpretation == "MONOCHROME2"
    assert as_dicom([colour], modality="CR") == as_dicom([colour], modality="CR")
