"""From a clean series to objects on disk: what a worker does with one job."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.domain import Job, Role
from node.errors import BundleDamaged, BundleInvalid, JobFailed, PluginBroken
from node.inference import MOST_IMAGES, carry_out, node_uid, write_refusal
from node.ledger.payload import Made
from node.testing.studies import a_study
from node.warm_models import WarmModels
from tests.rooms.workbench import FAULTY, a_job, bundle, clean_study

WHEN = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


class Desk:
    """One study, and what carrying out jobs on it needs."""

    def __init__(self, root: Path, datasets: list[Dataset]) -> None:
        self.root, self.datasets = root, datasets
        self.folder = clean_study(datasets, root / "studies")
        self.loaded = WarmModels()

    def job(self, pipeline: str) -> Job:
        return a_job(self.folder, self.datasets, bundle(self.root / "models", pipeline))

    def carry(self, job: Job, results: str = "results", **more: Any) -> tuple[list[Made], dict[str, Any]]:
        arguments: dict[str, Any] = {
            "clean_folder": self.root,
            "results_folder": self.root / results,
            "bundles_dir": self.root / "models",
            "device": "cpu",
            "loaded": self.loaded,
            "written_at": WHEN,
            "room": FAULTY,
        }
        return carry_out(job, **{**arguments, **more})

    def path_of(self, ds: Dataset) -> Path:
        return self.folder / ds.SeriesInstanceUID / f"{ds.SOPInstanceUID}.dcm"


@pytest.fixture
def ct(tmp_path: Path) -> Desk:
    return Desk(tmp_path, a_study("CT", slices=6, rows=64))


@pytest.fixture
def stills(tmp_path: Path) -> Desk:
    """Four ultrasound stills in one series, each brighter in more places than the one before."""
    datasets = []
    for number in range(1, 5):
        [ds] = a_study("US", patient=1)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.900{number}"
        ds.InstanceNumber = number
        pixels = ds.pixel_array.copy()
        pixels[:] = 0
        pixels[: pixels.shape[0] // 10 * (number if number < 4 else 1)] = 200
        ds.PixelData = pixels.tobytes()
        datasets.append(ds)
    return Desk(tmp_path, datasets)


def roles(made: list[Made]) -> list[Role]:
    return [one.object.role for one in made]


def text_of(item: Dataset) -> str:
    """Every text value of a report."""
    own = str(item.get("TextValue", ""))
    return "\n".join([own, *(text_of(child) for child in item.get("ContentSequence", ()))])


# --- a volume -------------------------------------------------------------------------------------------------------------
def test_a_series_becomes_a_seg_a_capture_and_a_report_that_refers_to_them(ct: Desk) -> None:
    job = ct.job("works")

    made, summary = ct.carry(job)

    assert roles(made) == [Role.SEG, Role.SC, Role.SR]
    seg, sc, sr = (dcmread(one.object.path) for one in made)
    assert {ds.StudyInstanceUID for ds in (seg, sc, sr)} == {ct.datasets[0].StudyInstanceUID}
    mentioned = sr.to_json()
    assert seg.SOPInstanceUID in mentioned
    assert sc.SOPInstanceUID in mentioned
    assert seg.SeriesDate == "20260301"
    for one in made:
        assert one.object.path == ct.root / "results" / job.id / f"{one.object.role}.dcm"
        assert one.sha256 == hashlib.sha256(one.object.path.read_bytes()).hexdigest()
        assert one.object.sop_instance_uid == dcmread(one.object.path).SOPInstanceUID
    assert json.loads(json.dumps(summary)) == summary
    [finding] = summary["findings"]
    assert finding["code"] == {"value": "52988006", "scheme": "SCT", "meaning": "Lesion"}
    assert finding["measurements"] == [{"name": "Area", "value": round(100 * finding["probability"], 3), "unit": "%"}]


def test_a_retry_writes_the_same_bytes_over_the_old_ones(ct: Desk) -> None:
    job = ct.job("works")
    first, _ = ct.carry(job)
    again, _ = ct.carry(job)

    assert [(one.object, one.sha256) for one in again] == [(one.object, one.sha256) for one in first]
    assert sorted(path.name for path in (ct.root / "results" / job.id).iterdir()) == ["SC.dcm", "SEG.dcm", "SR.dcm"]


def test_the_model_is_loaded_once_and_another_version_beside_it(ct: Desk) -> None:
    for _ in range(2):
        ct.carry(ct.job("works"))
    newer = bundle(ct.root / "models", "works", "1.1.0", weight=2)
    ct.carry(a_job(ct.folder, ct.datasets, newer))

    used = {key.version: warm.model for key in list(ct.loaded) if (warm := ct.loaded.get(key))}
    assert used == {"1.0.0": ["used", "used"], "1.1.0": ["used"]}


def test_a_model_that_left_the_memory_is_loaded_anew(ct: Desk) -> None:
    bundle(ct.root / "models", "works", numbers=100_000)
    ct.loaded = WarmModels(0.1)
    for pipeline in ("works", "loads_slowly", "works"):
        ct.carry(ct.job(pipeline))

    [key] = ct.loaded
    warm = ct.loaded.get(key)
    assert key.pipeline == "works"
    assert warm is not None
    assert warm.model == ["used"]


def test_each_step_is_announced_and_timed(ct: Desk) -> None:
    steps: list[str] = []

    _, summary = ct.carry(ct.job("works"), progress=steps.append)

    assert steps == ["read", "load", "build", "run", "write"]
    assert list(summary["seconds"]) == steps


def test_a_series_outside_the_intended_use_gets_a_report_with_the_reason_and_nothing_else(ct: Desk) -> None:
    made, summary = ct.carry(ct.job("refuses"))

    assert roles(made) == [Role.SR]
    assert (summary["analysed"], summary["label"], summary["findings"]) == (False, None, [])
    assert "made for other images" in summary["reason"]
    assert "made for other images" in text_of(dcmread(made[0].object.path))


def test_slices_that_form_no_volume_are_refused_with_the_reason_in_the_report(tmp_path: Path) -> None:
    datasets = a_study("CT", slices=6, rows=64)
    datasets[2].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    desk = Desk(tmp_path, datasets)

    made, summary = desk.carry(desk.job("works"))

    assert roles(made) == [Role.SR]
    assert not summary["analysed"]
    assert summary["reason"].startswith("The slices do not form one regular volume")


@pytest.mark.parametrize("numbered", [True, False])
def test_a_reason_names_images_as_a_viewer_does(tmp_path: Path, numbered: bool) -> None:
    """A clean UID in a sentence would come home as it is, and the reader's archive knows no such image."""
    datasets = a_study("CT", slices=6, rows=64)
    for at, ds in enumerate(datasets):
        ds.ImagePositionPatient = [0, 0, 5.0 * (at + (at > 2))]
        ds.InstanceNumber = at + 1 if numbered else None
    desk = Desk(tmp_path, datasets)

    made, summary = desk.carry(desk.job("works"))

    pair = "image 3 and image 4" if numbered else "an image and an image"
    said = text_of(dcmread(made[0].object.path))
    assert f"1 slice is missing between {pair}: 10.00 mm apart" in summary["reason"]
    assert summary["reason"] in said
    assert not any(ds.SOPInstanceUID in said for ds in datasets)


def test_a_note_names_images_as_a_viewer_does(tmp_path: Path) -> None:
    datasets = a_study("CT", slices=6, rows=64)
    [double] = [ds for ds in a_study("CT", slices=6, rows=64) if ds.InstanceNumber == 4]
    double.SOPInstanceUID = double.file_meta.MediaStorageSOPInstanceUID = "2.25.9"
    double.InstanceNumber = 7
    desk = Desk(tmp_path, [*datasets, double])

    _, summary = desk.carry(desk.job("works"))

    assert "1 images came twice and were left out: image 7" in summary["notes"]


def test_a_series_number_that_is_none_does_not_keep_a_result_from_its_reader(tmp_path: Path) -> None:
    """Scanners write two values where one belongs."""
    datasets = a_study("CT", slices=6, rows=64)
    for ds in datasets:
        ds.SeriesNumber = [3, 4]
    desk = Desk(tmp_path, datasets)

    made, _ = desk.carry(desk.job("works"))

    assert roles(made) == [Role.SEG, Role.SC, Role.SR]
    assert dcmread(made[0].object.path).SeriesNumber > 9000


@pytest.mark.parametrize(("zone", "clock"), [("+0900", "183000"), ("-0330", "060000"), ("here", None)])
def test_a_result_tells_the_time_as_its_images_do(tmp_path: Path, zone: str, clock: str | None) -> None:
    """Beside a Study Time of Tokyo, a result made at the same moment in UTC would seem nine hours older than its images."""
    datasets = a_study("CT", slices=6, rows=64)
    for ds in datasets:
        ds.add_new("TimezoneOffsetFromUTC", "SH", zone)
    desk = Desk(tmp_path, datasets)

    made, _ = desk.carry(desk.job("works"))

    for one in made:
        ds = dcmread(one.object.path)
        assert ds.InstanceCreationTime == (clock or WHEN.astimezone().strftime("%H%M%S"))
        assert ds.get("TimezoneOffsetFromUTC") == (zone if clock else None)


@pytest.mark.parametrize(("age", "analysed"), [("017Y", False), ("018Y", True), ("215M", False), ("216M", True), ("", True), ("0Y", True)])
def test_a_patient_too_young_for_the_model_is_not_analysed(tmp_path: Path, age: str, analysed: bool) -> None:
    datasets = a_study("CT", slices=6, rows=64)
    for ds in datasets:
        ds.add_new("PatientAge", "LO", age)
    desk = Desk(tmp_path, datasets)

    _, summary = desk.carry(desk.job("works"))

    assert summary["analysed"] is analysed
    assert analysed or "patients from 18 years on" in summary["reason"]


def test_a_refusal_after_a_success_leaves_only_the_report(ct: Desk) -> None:
    """The same job id, tried with an older pipeline first: what it left is not taken for a result."""
    job = ct.job("works")
    ct.carry(job)

    made, _ = write_refusal(job, "stopped", clean_folder=ct.root, results_folder=ct.root / "results", written_at=WHEN)

    assert roles(made) == [Role.SR]
    assert [path.name for path in (ct.root / "results" / job.id).iterdir()] == ["SR.dcm"]


def test_a_job_that_was_set_aside_still_tells_the_reader_why(ct: Desk) -> None:
    job = ct.job("crashes")

    made, summary = write_refusal(
        job,
        "the worker was stopped by SIGSEGV",
        clean_folder=ct.root,
        results_folder=ct.root / "results",
        written_at=WHEN,
        predecessor=("1.2.840.10008.5.1.4.1.1.88.34", "2.25.77"),
    )

    report = dcmread(made[0].object.path)
    assert "the worker was stopped by SIGSEGV" in text_of(report)
    assert report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.25.77"
    assert (summary["analysed"], summary["reason"]) == (False, "the worker was stopped by SIGSEGV")


@pytest.mark.parametrize("number", [float("nan"), 1.2, -0.1])
def test_a_probability_that_is_none_is_no_result(ct: Desk, number: float) -> None:
    job = ct.job("says_a_number")
    (ct.root / "models" / "says_a_number" / "1.0.0" / "number").write_text(str(number))

    with pytest.raises(JobFailed, match="not between 0 and 1"):
        ct.carry(job)

    assert not (ct.root / "results" / job.id).exists()


# --- what the job was made for ----------------------------------------------------------------------------------------------
def test_images_that_came_after_the_job_was_made_are_left_to_the_next_job(ct: Desk) -> None:
    early = replace(ct.job("works"), inputs=tuple(sorted(ds.SOPInstanceUID for ds in ct.datasets[:4])))

    made, _ = ct.carry(early)

    seg = dcmread(made[0].object.path)
    sources = {i.ReferencedSOPInstanceUID for i in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert sources == {ds.SOPInstanceUID for ds in ct.datasets[:4]}


def test_a_job_whose_images_are_gone_fails_and_says_so(ct: Desk) -> None:
    job = ct.job("works")
    ct.path_of(ct.datasets[0]).unlink()

    with pytest.raises(JobFailed, match="missing=1"):
        ct.carry(job)


def test_other_weights_than_the_jobs_are_not_used(ct: Desk) -> None:
    job = ct.job("works")

    with pytest.raises(JobFailed, match="not those the job was scheduled with"):
        ct.carry(replace(job, algorithm=replace(job.algorithm, digest="0" * 64)))


def test_a_damaged_or_missing_bundle_is_not_run(ct: Desk) -> None:
    job = ct.job("works")
    weights = ct.root / "models" / "works" / "1.0.0" / "models" / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(BundleDamaged):
        ct.carry(job)

    with pytest.raises(BundleInvalid):
        ct.carry(replace(job, algorithm=replace(job.algorithm, version="9.9.9")))


def test_a_pipeline_that_is_not_installed_is_named(ct: Desk) -> None:
    with pytest.raises(PluginBroken, match="plugin=unheard_of"):
        ct.carry(ct.job("unheard_of"))


# --- images one by one ------------------------------------------------------------------------------------------------------
def test_of_several_images_the_most_suspicious_one_leads_and_every_one_is_listed(stills: Desk) -> None:
    made, summary = stills.carry(stills.job("looks_at_images"))

    assert (summary["facts"]["images"], summary["facts"]["images_analysed"]) == (4, 4)
    assert "4 of 4 images of the series were analysed; this report shows image 3." in summary["notes"]
    assert len([note for note in summary["notes"] if note.startswith("Image ")]) == 4
    seg = dcmread(made[0].object.path)
    sources = [i.ReferencedSOPInstanceUID for i in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence]
    assert sources == ["2.25.9003"]


def test_an_image_with_a_segment_leads_those_without_though_nothing_has_a_probability(stills: Desk) -> None:
    made, summary = stills.carry(stills.job("outlines_the_bright"))

    assert "4 of 4 images of the series were analysed; this report shows image 3." in summary["notes"]
    assert summary["label"] == "bright"
    assert Role.SEG in roles(made)


def test_a_damaged_image_does_not_stop_the_others_and_is_named(stills: Desk) -> None:
    broken = dcmread(stills.path_of(stills.datasets[1]))
    broken.PixelData = broken.PixelData[: len(broken.PixelData) // 2]
    broken.save_as(stills.path_of(stills.datasets[1]), enforce_file_format=True)

    _, summary = stills.carry(stills.job("looks_at_images"))

    assert summary["facts"]["images_analysed"] == 3
    [line] = [note for note in summary["notes"] if note.startswith("Image 2")]
    assert "not analysed: The pixel data can't be decoded" in line


def test_a_series_of_too_many_images_says_which_were_left_out(tmp_path: Path) -> None:
    datasets = []
    for number in range(MOST_IMAGES + 2):
        [ds] = a_study("US")
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.80{number:03d}"
        ds.InstanceNumber = number + 1
        ds.Rows, ds.Columns = 16, 16
        ds.PixelData = bytes(range(256))
        datasets.append(ds)
    desk = Desk(tmp_path, datasets)

    _, summary = desk.carry(desk.job("looks_at_images"))

    assert f"Only the first {MOST_IMAGES} images were analysed: that is the limit for one series." in summary["notes"]


def test_a_single_image_needs_no_list(tmp_path: Path) -> None:
    desk = Desk(tmp_path, a_study("US"))

    _, summary = desk.carry(desk.job("looks_at_images"))

    assert not [note for note in summary["notes"] if "image" in note.lower()]


def test_the_installation_keeps_its_uid(tmp_path: Path) -> None:
    uid = node_uid(tmp_path / "results")

    assert uid == node_uid(tmp_path / "results")
    assert uid != node_uid(tmp_path / "other")
    assert uid.startswith("2.25.")
