"""Broken objects go through the whole node: each ends with a reason, nothing is lost, and the next good study comes home."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, config, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG2MPML, JPEG2000Lossless

from node.testing.studies import a_study, write_study
from tests.stories.conftest import CHEST, Department
from tests.stories.department import NodeProcess, store, wait_for

Break = Callable[[list[Dataset]], None]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node that delivers to a folder, and whose rule lets every CT through."""
    found = Department(tmp_path_factory.mktemp("bad-day")).node
    found.settings["destinations"] = {"archive": {"kind": "folder", "path": str(found.folder / "home")}}
    found.settings["orthancs"] = {}
    found.rules({**CHEST, "when": {"modality": ["CT"], "slice_count": {"min": 1}}})
    try:
        yield found.start()
    finally:
        found.stop()


def chest(number: int, break_it: Break, slices: int = 3) -> list[Dataset]:
    datasets = a_study("CT", slices=slices, rows=128, patient=number, study=number)
    with config.disable_value_validation():
        break_it(datasets)
    return datasets


def every(**changes: object) -> Break:
    """Set these on every slice; None takes the attribute away."""

    def break_it(datasets: list[Dataset]) -> None:
        for ds in datasets:
            for keyword, value in changes.items():
                if value is None:
                    delattr(ds, keyword)
                else:
                    setattr(ds, keyword, value)

    return break_it


def short(datasets: list[Dataset]) -> None:
    datasets[1].PixelData = datasets[1].PixelData[:1000]


def undecodable(datasets: list[Dataset]) -> None:
    hostile(datasets)
    for ds in datasets:
        ds.file_meta.TransferSyntaxUID = MPEG2MPML


def hostile(datasets: list[Dataset]) -> None:
    """Bytes that take a native decoder down, and its process with it."""
    for ds in datasets:
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
        ds.PixelData = encapsulate([b"\xff\x4f\xff\x51 this is no codestream " * 8])
        ds["PixelData"].VR = "OB"


def two_patients(datasets: list[Dataset]) -> None:
    datasets[2].PatientID = "SOMEBODY-ELSE"


def crooked(datasets: list[Dataset]) -> None:
    datasets[1].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def stowed(node: NodeProcess, tmp_path: Path, datasets: list[Dataset]) -> int:
    folder = tmp_path / "study"
    folder.mkdir()
    with config.disable_value_validation():
        for number, ds in enumerate(datasets):
            ds.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return node.stow(sorted(folder.iterdir()), node.token()).status_code


@pytest.mark.parametrize(
    ("number", "kind", "break_it"),
    [
        (61, "InstanceUnreadable", every(Modality=None)),
        (62, "InstanceUnreadable", short),
        (63, "InstanceUnreadable", every(NumberOfFrames=100_000)),
        (64, "IdentityConflict", two_patients),
    ],
    ids=["no modality", "pixels shorter than declared", "100,000 frames that are not there", "two patients"],
)
def test_a_study_that_cannot_be_cleaned_is_kept_with_its_reason(node: NodeProcess, tmp_path: Path, number: int, kind: str, break_it: Break):
    before = len(node.status()["quarantine"])
    datasets = chest(number, break_it)

    assert stowed(node, tmp_path, datasets) == 200

    refused = wait_for("a refusal", lambda: node.status()["quarantine"][before:])[0]
    assert refused["kind"] == kind
    assert refused["reason"]
    assert str(datasets[0].PatientName.family_name) not in str(refused)
    assert str(datasets[0].SOPInstanceUID) not in str(refused)


@pytest.mark.parametrize(
    ("number", "reason", "break_it"),
    [
        (71, "spacing", every(PixelSpacing=["NaN", "NaN"])),
        (72, "can't be decoded|decoding .* failed", undecodable),
        (73, "orientation", crooked),
        (74, "can't be decoded|decoding .* failed|the worker was stopped by", hostile),
    ],
    ids=["NaN spacing", "pixels that can't be decoded", "mixed orientations", "pixels that kill the decoder"],
)
def test_a_series_that_is_no_volume_gets_a_report_that_says_why(
    node: NodeProcess, tmp_path: Path, number: int, reason: str, break_it: Break
):
    datasets = chest(number, break_it)

    assert stowed(node, tmp_path, datasets) == 200

    said = wait_for("a report", lambda: report_of(node, datasets[0]), seconds=120)
    assert "ot analysed" in said
    assert re.search(reason, said, re.IGNORECASE)


def report_of(node: NodeProcess, source: Dataset) -> str:
    """What the report of this study says, or nothing."""
    for path in (node.folder / "home").rglob("*.dcm"):
        report = dcmread(path)
        if report.Modality == "SR" and report.StudyInstanceUID == source.StudyInstanceUID:
            return " ".join(str(e.value) for e in report.iterall() if e.keyword == "TextValue")
    return ""


def test_what_is_not_dicom_is_named_in_the_answer_and_the_rest_is_taken(node: NodeProcess, tmp_path: Path):
    write_study(chest(80, lambda _: None), tmp_path)
    (tmp_path / "0001.dcm").write_bytes(b"this is no DICOM object" * 100)

    answer = node.stow(sorted(tmp_path.glob("*.dcm")), node.token())

    assert answer.status_code == 202
    assert len(answer.json()["00081199"]["Value"]) == 2


def test_a_wrong_hook_secret_and_a_missing_token_open_nothing(node: NodeProcess, tmp_path: Path):
    import httpx

    body = {"orthanc": "archive", "study": "0" * 8}
    wrong = httpx.post(f"{node.url}/orthanc/stable-study", json=body, headers={"Authorization": "Bearer guess"})
    nobody = httpx.post(f"{node.url}/dicom-web/studies", content=b"")

    assert (wrong.status_code, nobody.status_code) == (401, 401)
    assert wrong.headers["content-type"] == "application/problem+json"


def test_after_all_that_a_good_study_comes_home(node: NodeProcess, tmp_path: Path):
    datasets = a_study("CT", slices=12, patient=90, study=90)
    write_study(datasets, tmp_path / "study")

    assert store(tmp_path / "study", node.dicom_port).returncode == 0

    said = wait_for("a report", lambda: report_of(node, datasets[0]), seconds=120)
    assert "ot analysed" not in said
    assert "infection" in said
    log = node.log.read_text()
    assert "Traceback" not in log
    for ds in datasets[:1]:
        assert str(ds.PatientName.family_name) not in log
