"""What the radiologist sees: our objects opened in the real OHIF viewer, in front of a real Orthanc, in real Chromium."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from node import codes
from node.domain import Result, Study
from node.imaging.volume import Volume
from node.sc_writer import write_sc
from node.seg_writer import write_seg
from node.sr_writer import write_sr
from tests.conformance import cases
from tests.conformance.test_seg import real
from tests.conftest import need

pytestmark = pytest.mark.slow


@pytest.fixture
def viewer(shared, tmp_path):
    """Opens a study and its results, and says what was drawn. Fetches OHIF once with npm."""
    check = shared / "tools" / "viewer" / "ohif_check.py"
    if not check.is_file():
        pytest.skip("the viewer check is not here")
    for program, package in (("Orthanc", "orthanc orthanc-dicomweb"), ("chromium", "chromium"), ("npm", "npm")):
        need(program, package)

    def shows(study: Study, results: dict) -> dict:
        source, made, out = (tmp_path / name for name in ("source", "results", "seen"))
        for folder in (source, made):
            folder.mkdir()
        for instance in study.series[0].instances:
            shutil.copy(instance.path, source)
        for role, ds in results.items():
            ds.save_as(made / f"{role}.dcm", enforce_file_format=True)
        command = [sys.executable, str(check), "--source", str(source), "--results", str(made), "--out", str(out)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=500)
        if keep := os.environ.get("RADNODE_KEEP_SCREENSHOTS"):
            shutil.copytree(out, Path(keep) / tmp_path.name, dirs_exist_ok=True)
        assert run.returncode == 0, run.stdout + run.stderr[-2000:]
        return json.loads((out / "facts.json").read_text())

    return shows


def write_all(study: Study, volume: Volume, result: Result, pipeline: str) -> dict:
    maker = cases.provenance(study, pipeline=pipeline)
    seg, sc = write_seg(study, volume, result, maker), write_sc(study, volume, result, maker)
    report = write_sr(study, volume, result, maker, seg=seg, sc=sc, series=study.series[0])
    return {role: ds for role, ds in (("SEG", seg), ("SC", sc), ("SR", report)) if ds is not None}


def by_modality(facts: dict) -> dict:
    assert facts["problems"] == []
    return {result["modality"]: result for result in facts["results"]}


def test_a_chest_ct_opens_with_segment_outline_numbers_and_heat_map(shared, viewer):
    study = cases.study_of(real(shared, "ct_chest_lungpetctdx/Lung_Dx-A0001_philips_lung_5mm"))
    volume = cases.stack(study)
    result = cases.infection(cases.ball(volume.pixels.shape, (0, 0.1, 0.4), (0.3, 0.2, 0.15)))
    sides = tuple(
        replace(result.findings[0], name=f"infection, {code.meaning.lower()} lung", laterality=code, segment=None)
        for code in (codes.LEFT, codes.RIGHT)
    )

    seen = viewer(study, write_all(study, volume, replace(result, findings=(*result.findings, *sides)), "covid_ct"))

    assert set(by_modality(seen)) == {"SEG", "SR", "OT"}
    assert seen["studies"][0]["opens_with"] == study.series[0].series_instance_uid  # the CT, not a result


def test_an_ultrasound_opens_though_it_has_no_frame_of_reference(shared, viewer):
    study = cases.study_of(real(shared, "wrapped/us_breast/us_02.dcm"))
    volume = cases.still(study)
    result = cases.infection(cases.ball(volume.pixels.shape[:3], (0, 0.1, 0.1), (1, 0.2, 0.15)), site=codes.BREAST)
    benign = replace(result.findings[0], name="benign", probability=0.15, present=False, segment=None, measurements=())

    seen = viewer(study, write_all(study, volume, replace(result, findings=(*result.findings, benign)), "breast_ultrasound"))

    assert set(by_modality(seen)) == {"SEG", "SR", "OT"}


def test_slices_of_an_odd_size_are_not_drawn_shifted(viewer, tmp_path):
    study = cases.study_of(cases.ct_files(tmp_path / "ct", size=250))
    volume = cases.stack(study)
    results = write_all(study, volume, cases.infection(cases.opacity(volume.pixels.shape)), "covid_ct")
    assert results["SEG"].SegmentationType == "LABELMAP"

    seen = viewer(study, {"SEG": results["SEG"]})  # every voxel in its place, the viewer check compares

    assert set(by_modality(seen)) == {"SEG"}


def test_the_reason_of_a_refusal_can_be_read(viewer, tmp_path):
    study = cases.study_of(cases.ct_files(tmp_path / "ct"))
    result = Result(analysed=False, reason="The slices are not axial; the model has only seen axial ones.")
    report = write_sr(study, None, result, cases.provenance(study), seg=None, sc=None, series=study.series[0])

    seen = viewer(study, {"SR": report})

    assert set(by_modality(seen)) == {"SR"}
