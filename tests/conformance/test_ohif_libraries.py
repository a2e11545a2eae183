"""What dcmjs and the Cornerstone adapters, with which OHIF reads, make of our SEG and SR: the same voxels, outlines and numbers."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from node import codes
from node.assessment.masks import planes_of
from node.domain import Result, Role, Study
from node.imaging.volume import Volume
from node.seg_writer import write_seg
from node.sr_writer import write_sr
from tests.conformance import cases
from tests.conformance.test_seg import real
from tests.viewers import ohif

Case = tuple[Study, Volume, Result, Path]


@pytest.fixture(scope="module", params=["phantom", "mr_brain_tumor_btp/PGBM_01*"], ids=["phantom", "brain MR"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Two segments, each with its finding, on a whole series; and the folder of its images."""
    folder = tmp_path_factory.mktemp("case")
    if request.param == "phantom":
        study = cases.study_of(cases.ct_files(folder / "ct"))
    else:
        study = cases.study_of(real(request.getfixturevalue("shared"), request.param))
    (folder / "images").mkdir()
    for instance in study.series[0].instances:
        shutil.copy(instance.path, folder / "images" / f"{instance.sop_instance_uid}.dcm")
    volume = cases.stack(study)
    shape = volume.pixels.shape[:3]
    first, second = cases.ball(shape, (0.4, 0.1, 0.3), (0.5, 0.2, 0.15)), cases.ball(shape, (-0.3, -0.2, -0.4), (0.6, 0.1, 0.2))
    found = cases.infection(first)
    other = replace(found.findings[0], name="node", code=codes.LESION, segment=2, probability=0.4)
    result = replace(found, findings=(*found.findings, other), segments=(*found.segments, cases.lesion(second, 2, "Node")))
    return study, volume, result, folder


@pytest.mark.parametrize("role", [Role.SEG, Role.SEG_LABELMAP])
def test_the_adapters_put_every_voxel_where_we_meant_it(case: Case, tmp_path: Path, role: Role):
    study, volume, result, folder = case
    ds = write_seg(study, volume, result, cases.provenance(study), role=role)
    ds.save_as(tmp_path / "seg.dcm", enforce_file_format=True)

    read = json.loads(ohif("read-seg", folder / "images", tmp_path / "seg.dcm", tmp_path / "read.json").read_text())

    assert read["segments"] == [{"number": 1, "label": "Infection"}, {"number": 2, "label": "Node"}]
    assert read["overlapping"] is False
    for segment in result.segments:
        expected = {
            frame.instance.sop_instance_uid: np.flatnonzero(mask).tolist()
            for frame, mask in zip(volume.frames, segment.mask, strict=True)
            if mask.any()
        }
        assert read["voxels"][str(segment.number)] == expected


def test_the_adapters_read_outlines_and_numbers_of_the_report(case: Case, tmp_path: Path):
    study, volume, result, folder = case
    provenance = cases.provenance(study)
    seg = write_seg(study, volume, result, provenance)
    report = write_sr(study, volume, result, provenance, seg=seg, sc=None, series=study.series[0])
    report.save_as(tmp_path / "sr.dcm", enforce_file_format=True)

    read = json.loads(ohif("read-sr", folder / "images", tmp_path / "sr.dcm", tmp_path / "read.json").read_text())

    said = defaultdict(dict)
    for finding in result.findings:
        said[str(provenance.tracking_uid(finding))] = {
            f"Probability of {finding.name}": 100 * finding.probability,
            **{one.name.meaning: one.value for one in finding.measurements},
        }
    assert {one["tracking"]: one["numbers"] for one in read} == {uid: pytest.approx(numbers) for uid, numbers in said.items()}
    assert [one["finding"] for one in read] == [finding.code.value for finding in result.findings]
    for one, segment in zip(read, result.segments, strict=True):
        at = int(segment.mask.sum(axis=(1, 2)).argmax())
        assert one["image"] == volume.frames[at].instance.sop_instance_uid
        assert one["closed"]
        points = np.array(one["outline"])
        rows, columns = np.nonzero(segment.mask[at])
        assert points.min(0) == pytest.approx([columns.min() + 0.5, rows.min() + 0.5], abs=1.01)  # from pixel centre to pixel centre
        assert points.max(0) == pytest.approx([columns.max() + 0.5, rows.max() + 0.5], abs=1.01)


@pytest.mark.parametrize("role", [Role.SEG, Role.SEG_LABELMAP])
def test_what_the_adapters_write_is_read_here(case: Case, tmp_path: Path, role: Role):
    study, volume, result, folder = case
    write_seg(study, volume, result, cases.provenance(study), role=role).save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    plain, packed = (
        dcmread(ohif("edit-seg", folder / "images", tmp_path / "seg.dcm", tmp_path / f"{syntax}.dcm", syntax))
        for syntax in ("explicit", "rle")
    )
    assert (plain.file_meta.TransferSyntaxUID, packed.file_meta.TransferSyntaxUID) == (ExplicitVRLittleEndian, RLELossless)
    assert plain.BitsAllocated == packed.BitsAllocated == (1 if role is Role.SEG else 8)

    read, unpacked = planes_of(plain), planes_of(packed)

    assert read.keys() == unpacked.keys() == {1, 2}
    for number, segment in enumerate(result.segments, 1):
        assert read[number].keys() == unpacked[number].keys()
        assert all((mask == unpacked[number][place]).all() for place, mask in read[number].items())
        drawn = sum(int(mask.sum()) for mask in read[number].values())
        assert drawn > segment.mask.sum() if number == 1 else drawn == segment.mask.sum()  # the first was grown
