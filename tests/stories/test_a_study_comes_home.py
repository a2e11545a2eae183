"""The main job on real parts: studies go in by every door, and results come back into the patient's own study."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from highdicom.seg import segread
from highdicom.sr import srread
from pydicom import Dataset, dcmread

from node.testing.studies import a_study, write_study
from tests import readers
from tests.conftest import need
from tests.stories.conftest import Department
from tests.stories.department import store, wait_for

PATIENT_AND_STUDY = (  # PS3.3 C.7.1.1, C.7.2.1
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
)


def results_of(department: Department, study: str, *, without: set[str] = frozenset()) -> list[Dataset]:
    """Every SEG, OT and SR that the archive holds in the study."""
    found = []
    for instance in department.archive.instances_of(study):
        part10 = httpx.get(f"{department.archive.url}/instances/{instance}/file", timeout=60).content
        dataset = dcmread(BytesIO(part10))
        if dataset.Modality in ("SEG", "OT", "SR") and dataset.SOPInstanceUID not in without:
            found.append(dataset)
    return found


def complete_results(department: Department, study: str, modalities: set[str] = frozenset({"SEG", "OT", "SR"})) -> list[Dataset]:
    def complete() -> list[Dataset] | None:
        found = results_of(department, study)
        return found if {ds.Modality for ds in found} >= modalities else None

    return wait_for(f"{modalities} in the archive", complete, seconds=240, every=1)


def check_home(results: list[Dataset], sources: list[Dataset], folder: Path) -> None:
    """Valid, readable, of the same patient and study, and every reference resolves."""
    folder.mkdir(exist_ok=True)
    known = {ds.SOPInstanceUID for ds in sources} | {ds.SOPInstanceUID for ds in results}
    for ds in results:
        for keyword in PATIENT_AND_STUDY:
            assert ds.get(keyword) == sources[0].get(keyword), keyword
        references = {element.value for element in ds.iterall() if element.keyword == "ReferencedSOPInstanceUID"}
        assert references, ds.Modality
        assert references <= known, ds.Modality
        path = folder / f"{ds.Modality}.dcm"
        ds.save_as(path)
        errors = [line for line in _validated(path) if line.startswith("Error")]
        assert errors == []
        if ds.Modality == "SEG":
            assert segread(path).pixel_array.any()
        if ds.Modality == "SR":
            srread(path)
            subprocess.run([need("dsrdump", "dcmtk"), str(path)], check=True, capture_output=True)


def _validated(path: Path) -> list[str]:
    done = subprocess.run([need("dciodvfy", "dicom3tools"), "-new", str(path)], capture_output=True, text=True, errors="replace")
    return (done.stdout + done.stderr).splitlines()


def a_chest(tmp_path: Path, patient: int, **options) -> tuple[list[Dataset], Path]:
    datasets = a_study("CT", slices=24, patient=patient, **options)
    write_study(datasets, tmp_path / "study")
    return datasets, tmp_path / "study"


def test_a_study_sent_to_orthanc_comes_back_into_the_same_study(department: Department, tmp_path: Path):
    sources, folder = a_chest(tmp_path, patient=1)

    assert store(folder, department.archive.dicom_port, called="ORTHANC").returncode == 0

    check_home(complete_results(department, sources[0].StudyInstanceUID), sources, tmp_path / "results")


def test_a_study_sent_straight_to_the_node_lands_in_the_archive(department: Department, tmp_path: Path):
    sources, folder = a_chest(tmp_path, patient=2)

    assert store(folder, department.node.dicom_port).returncode == 0

    check_home(complete_results(department, sources[0].StudyInstanceUID), sources, tmp_path / "results")


def test_a_study_that_comes_by_stow_lands_in_the_archive(department: Department, tmp_path: Path):
    sources, folder = a_chest(tmp_path, patient=3)

    answer = department.node.stow(sorted(folder.iterdir()), department.node.token())

    assert answer.status_code == 200
    check_home(complete_results(department, sources[0].StudyInstanceUID), sources, tmp_path / "results")


def test_the_same_study_again_brings_nothing_new(department: Department, tmp_path: Path):
    sources, folder = a_chest(tmp_path, patient=4)
    study = sources[0].StudyInstanceUID
    store(folder, department.node.dicom_port)
    first = {ds.SOPInstanceUID for ds in complete_results(department, study)}
    before = department.node.status()["jobs"]

    assert store(folder, department.node.dicom_port).returncode == 0
    department.node.stow(sorted(folder.iterdir()), department.node.token())
    wait_for("the node to be at rest", lambda: department.node.at_rest(for_s=6), seconds=60)

    assert {ds.SOPInstanceUID for ds in results_of(department, study)} == first
    assert department.node.status()["jobs"] == before


def test_two_associations_are_one_study(department: Department, tmp_path: Path):
    sources, folder = a_chest(tmp_path, patient=5)
    files = sorted(folder.iterdir())

    store(files[:10], department.node.dicom_port)
    store(files[10:], department.node.dicom_port)

    results = complete_results(department, sources[0].StudyInstanceUID)
    [report] = [ds for ds in results if ds.Modality == "SR"]
    images = {ds.SOPInstanceUID for ds in sources}
    assert images <= {element.value for element in report.iterall() if element.keyword == "ReferencedSOPInstanceUID"}


def test_late_images_make_a_new_result_that_names_its_predecessor(department: Department, tmp_path: Path):
    sources, folder = a_chest(tmp_path, patient=6)
    files = sorted(folder.iterdir())
    study = sources[0].StudyInstanceUID
    store(files[:20], department.node.dicom_port)
    early = complete_results(department, study)
    [first] = [ds for ds in early if ds.Modality == "SR"]

    store(files[20:], department.node.dicom_port)

    known = {ds.SOPInstanceUID for ds in early}
    late = wait_for(
        "a second report",
        lambda: [ds for ds in results_of(department, study, without=known) if ds.Modality == "SR"],
        seconds=240,
        every=1,
    )
    predecessors = {
        e.value for item in late[0].PredecessorDocumentsSequence for e in item.iterall() if e.keyword == "ReferencedSOPInstanceUID"
    }
    assert predecessors == {first.SOPInstanceUID}


def test_a_burned_in_name_is_refused_and_the_reason_is_kept(department: Department, tmp_path: Path):
    [image] = a_study("US", patient=7, kind="benign", BurnedInAnnotation="YES")
    write_study([image], tmp_path / "study")

    assert store(tmp_path / "study", department.node.dicom_port).returncode == 0

    [refused] = wait_for(
        "a quarantined study", lambda: [q for q in department.node.status()["quarantine"] if q["kind"] == "BurnedInAnnotation"]
    )
    assert "radnode quarantine show" in refused["reason"]
    assert str(image.PatientID) not in str(refused)
    assert results_of(department, image.StudyInstanceUID) == []


def test_a_breast_ultrasound_without_a_frame_of_reference_comes_home(department: Department, tmp_path: Path):
    [image] = a_study("US", patient=8, kind="malignant")
    write_study([image], tmp_path / "study")

    store(tmp_path / "study", department.node.dicom_port)

    results = complete_results(department, image.StudyInstanceUID, {"SR", "OT"})
    check_home(results, [image], tmp_path / "results")


def test_a_readers_answer_that_is_stored_in_the_archive_is_heard(department: Department, tmp_path: Path):
    [image] = a_study("US", patient=8, kind="malignant", study=2)
    write_study([image], tmp_path / "study")
    store(tmp_path / "study", department.archive.dicom_port, called="ORTHANC")
    [report] = [ds for ds in complete_results(department, image.StudyInstanceUID, {"SR", "OT"}) if ds.Modality == "SR"]
    write_study([readers.aira_report(report, "accept")], tmp_path / "answer")

    assert store(tmp_path / "answer", department.archive.dicom_port, called="ORTHANC").returncode == 0

    listed = wait_for("a verdict", lambda: json.loads(department.node.command("verdicts", "list", "--json"))["verdicts"], every=2)
    assert [(one["opinion"], one["source"], one["pipeline"]) for one in listed] == [("accept", "SR", "breast_ultrasound")]


def test_an_unknown_caller_is_refused_and_remembered(department: Department, tmp_path: Path):
    _, folder = a_chest(tmp_path, patient=9)

    assert store(folder, department.node.dicom_port, calling="STRANGER").returncode != 0

    alerts = department.node.command("audit", "tail", "--json", "--count", "200")
    assert "association refused" in alerts


def test_the_audit_trail_of_all_this_is_intact(department: Department):
    assert "intact" in department.node.command("audit", "verify")
    messages = department.node.command("audit", "export", "--format", "xml")
    assert messages.count("<AuditMessage") > 10
    assert "PHANTOM-" not in messages


@pytest.mark.slow
def test_studies_that_became_stable_while_the_node_was_down_are_processed_once(a_department: Callable[..., Department], tmp_path: Path):
    department = a_department().start()
    department.node.stop()
    sources, folder = a_chest(tmp_path, patient=10)
    study = sources[0].StudyInstanceUID
    store(folder, department.archive.dicom_port, called="ORTHANC")
    wait_for("Orthanc to call the study stable", lambda: department.archive.is_stable(study), seconds=60)

    department.node.start()

    results = complete_results(department, study)
    wait_for("the node to be at rest", lambda: department.node.at_rest(for_s=6), seconds=60)
    assert len(results_of(department, study)) == len(results) == 3
    assert sum(department.node.status()["jobs"].values()) == 1
