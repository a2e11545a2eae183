"""Segmentations and reports that real viewers' libraries wrote over ours come by C-STORE, and are verdicts with a region and its Dice."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from node.assessment.masks import Planes, dice_of, planes_of
from node.codes import LABEL_MAP
from node.destinations.dimse import Dimse, DimseSettings
from node.testing.studies import a_study, write_study
from tests.stories.conftest import Department
from tests.stories.department import store, wait_for
from tests.stories.test_a_study_comes_home import complete_results
from tests.viewers import dcmqi, ohif

INFECTION = "infection"
KINDS = ["binary", "labelmap", "deflate"]  #: as dcmqi writes them; Slicer stores the first


@dataclass(frozen=True)
class Desk:
    """A reader's workstation: the study and what was delivered with it."""

    department: Department
    images: Path
    seg: Path
    report: Path

    def verdicts(self) -> list[dict[str, Any]]:
        return json.loads(self.department.node.command("verdicts", "list", "--json"))["verdicts"]

    def answers(self, file: Path) -> list[dict[str, Any]]:
        """C-STORE a file to the node, in its own transfer syntax; what is heard in it."""
        before = {one["id"] for one in self.verdicts()}
        workstation = DimseSettings(host="127.0.0.1", port=self.department.node.dicom_port, ae_title="RADNODE", calling_ae_title="SCANNER")
        assert Dimse("node", workstation).send(file.read_bytes()) == "C-STORE 0x0000"

        def new() -> list[dict[str, Any]]:
            return [one for one in self.verdicts() if one["id"] not in before]

        return wait_for("a verdict", new, seconds=90, every=2)

    def dice(self, edited: Path) -> float:
        """How much of segment 1 is left as it was."""
        found = dice_of(of_segment_1(self.seg), of_segment_1(edited))
        assert found is not None
        return found


def of_segment_1(file: Path) -> Planes:
    return planes_of(dcmread(file))[1]


def sizes(file: Path) -> list[int]:
    """Pixels of segment 1 on each image, whatever the images are called."""
    return sorted(int(mask.sum()) for mask in of_segment_1(file).values())


@pytest.fixture(scope="module")
def desk(department: Department, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    department.node.rules(
        {"name": "chest CT", "when": {"modality": ["CT"], "slice_count": {"min": 3}}, "run": "covid_ct", "send_to": ["archive"]}
    )
    images = a_study("CT", slices=24, patient=71)
    write_study(images, folder / "images")
    assert store(folder / "images", department.node.dicom_port).returncode == 0
    results = {ds.Modality: ds for ds in complete_results(department, images[0].StudyInstanceUID)}
    for modality in ("SEG", "SR"):
        results[modality].save_as(folder / f"{modality}.dcm", enforce_file_format=True)
    return Desk(department, folder / "images", folder / "SEG.dcm", folder / "SR.dcm")


def modified(desk: Desk, edited: Path, **about: Any) -> dict[str, Any]:
    [verdict] = [one for one in desk.answers(edited) if one["finding"] == INFECTION]
    assert (verdict["opinion"], verdict["pipeline"]) == ("modify", "covid_ct")
    assert verdict["tracking_uid"] == str(dcmread(desk.seg).SegmentSequence[0].TrackingUID)
    assert {name: verdict[name] for name in about} == about
    return verdict


@pytest.mark.parametrize("syntax", ["explicit", "rle"])
def test_a_segmentation_that_was_edited_in_ohif(desk: Desk, tmp_path: Path, syntax: str) -> None:
    edited = ohif("edit-seg", desk.images, desk.seg, tmp_path / "edited.dcm", syntax)
    ds = dcmread(edited)
    assert "TrackingUID" not in ds.SegmentSequence[0]
    assert (ds.file_meta.TransferSyntaxUID == RLELossless) is (syntax == "rle")

    verdict = modified(desk, edited, source="SEG", reason="known by its label")

    assert 0.5 < desk.dice(edited) < 0.99
    assert verdict["dice"] == pytest.approx(desk.dice(edited), abs=1e-4)
    assert sizes(Path(verdict["region"]["file"])) == sizes(edited)


@pytest.mark.parametrize("kind", KINDS)
def test_a_segmentation_that_was_edited_in_slicer(desk: Desk, tmp_path: Path, kind: str) -> None:
    dcmqi("segimage2itkimage", "--inputDICOM", desk.seg, "--outputDirectory", tmp_path, "-t", "nii", "-p", "seg")
    [image] = tmp_path.glob("*.nii*")
    read = nib.nifti1.load(image)
    moved = np.roll(np.asarray(read.dataobj).astype(np.int16), KINDS.index(kind) + 1, axis=0)  # by some columns
    nib.save(nib.Nifti1Image(moved, read.affine), tmp_path / "edited.nii")
    edited = tmp_path / "edited.dcm"
    options = ["--compress", "deflate"] if kind == "deflate" else ["--segmentationType", kind]
    dcmqi(
        "itkimage2segimage", "--inputImageList", tmp_path / "edited.nii", "--inputMetadata", tmp_path / "seg-meta.json",
        "--inputDICOMDirectory", desk.images, "--outputDICOM", edited, "--skip", "1", *options,
    )  # fmt: skip
    ds = dcmread(edited)
    assert (ds.SOPClassUID == LABEL_MAP) is (kind == "labelmap")
    assert (ds.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian) is (kind == "deflate")

    verdict = modified(desk, edited, source="SEG", reason="")

    assert 0.5 < desk.dice(edited) < 0.99
    assert verdict["dice"] == pytest.approx(desk.dice(edited), abs=1e-4)
    assert sizes(Path(verdict["region"]["file"])) == sizes(edited)


def test_a_report_that_was_edited_in_ohif(desk: Desk, tmp_path: Path) -> None:
    edited = ohif("edit-sr", desk.images, desk.report, tmp_path / "edited.dcm")
    ours = str(dcmread(desk.seg).SegmentSequence[0].TrackingUID)
    assert ours not in {str(element.value) for element in dcmread(edited).iterall()}

    verdict = modified(desk, edited, source="SR", reason="known by its finding on that image")

    assert 0.5 < verdict["dice"] < 0.99
    assert len(verdict["region"]["outline"]) > 5
