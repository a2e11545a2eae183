"""What 3D Slicer's libraries read: dcmqi makes of our SEG the volume that we meant, voxel by voxel, and lists the groups of our SR."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset

from node.domain import Result, Role, Study
from node.imaging.volume import Volume
from node.sc_writer import write_sc
from node.seg_writer import write_seg
from node.sr_writer import write_sr
from tests.conformance import cases
from tests.conformance.test_seg import STACKS, real
from tests.viewers import dcmqi


def saved(ds: Dataset, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def indices_of(image: Path, volume: Volume) -> np.ndarray:
    """Voxels that dcmqi set, as (frame, row, column) of our volume; they must lie on its grid."""
    read = nib.nifti1.load(image)
    set_ = np.argwhere(np.asarray(read.dataobj) > 0)
    ras = nib.affines.apply_affine(read.affine, set_)
    lps = ras * (-1, -1, 1)
    at = nib.affines.apply_affine(np.linalg.inv(volume.affine), lps)
    np.testing.assert_allclose(at, np.rint(at), atol=0.02)
    return np.rint(at).astype(int)[:, ::-1]


def as_set(indices: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, indices.tolist()))


@pytest.fixture(params=STACKS, ids=["ct", "mr", "mr-t1"])
def case(request: pytest.FixtureRequest, shared: Path) -> tuple[Study, Volume, Result, np.ndarray]:
    study = cases.study_of(real(shared, request.param))
    volume = cases.stack(study)
    mask = cases.ball(volume.pixels.shape[:3], (0.4, 0.1, 0.3), (0.3, 0.2, 0.15))
    return study, volume, cases.infection(mask), mask


@pytest.mark.parametrize("role", [Role.SEG, Role.SEG_LABELMAP])
def test_dcmqi_reads_the_segmentation_voxel_by_voxel(case, tmp_path, role):
    study, volume, result, mask = case
    path = saved(write_seg(study, volume, result, cases.provenance(study), role=role), tmp_path / "seg.dcm")
    out = tmp_path / "out"
    out.mkdir()

    dcmqi("segimage2itkimage", "--inputDICOM", path, "--outputDirectory", out, "-t", "nii", "-p", "seg")

    [image] = out.glob("*.nii*")
    assert as_set(indices_of(image, volume)) == as_set(np.argwhere(mask))
    [[described]] = json.loads((out / "seg-meta.json").read_text())["segmentAttributes"]
    assert described["SegmentLabel"] == "Infection"
    assert described["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == "52988006"
    assert described["SegmentAlgorithmName"]


@pytest.mark.parametrize("marked", [cases.provenance, lambda study: cases.linked(cases.provenance(study))], ids=["plain", "with a link"])
def test_dcmqi_lists_the_groups_of_the_report(case, tmp_path, marked):
    study, volume, result, _ = case
    provenance = marked(study)
    seg, sc = write_seg(study, volume, result, provenance), write_sc(study, volume, result, provenance)
    report = write_sr(study, volume, result, provenance, seg=seg, sc=sc, series=study.series[0])
    path = saved(report, tmp_path / "sr" / "sr.dcm")

    dcmqi("tid1500reader", "--inputDICOM", path, "--outputMetadata", tmp_path / "sr.json")

    [group] = json.loads((tmp_path / "sr.json").read_text())["Measurements"]
    assert group["TrackingUniqueIdentifier"]
    assert group["Finding"]["CodeValue"] == result.findings[0].code.value
    values = {item["quantity"]["CodeMeaning"]: float(item["value"]) for item in group["measurementItems"]}
    assert values["Volume"] == pytest.approx(12.345)
    assert values["Probability of infection"] == pytest.approx(93)
