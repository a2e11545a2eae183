"""What the radiologist sees: our objects opened in the real OHIF viewer, in front of a real Orthanc, in real Chromium."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from node import codes
from node.domain import Result, Role, Study
from node.editable_sr_writer import write_editable_sr
from node.imaging.volume import Volume
from node.provenance import role_said
from node.sc_writer import write_sc
from node.seg_writer import write_seg
from node.sr_writer import write_sr
from tests.conformance import cases
from tests.conformance.test_seg import real
from tests.conftest import need

pytestmark = pytest.mark.slow


def write_all(study: Study, volume: Volume, result: Result, pipeline: str) -> dict[str, Dataset]:
    maker = cases.provenance(study, pipeline=pipeline)
    seg, sc = write_seg(study, volume, result, maker), write_sc(study, volume, result, maker)
    report = write_sr(study, volume, result, maker, seg=seg, sc=sc, series=study.series[0])
    made = {"SEG": seg, "SC": sc, "SR": report, "SR-EDITABLE": write_editable_sr(study, volume, result, maker)}
    return {role: ds for role, ds in made.items() if ds is not None}


def a_chest_ct(shared: Path) -> tuple[Study, dict[str, Dataset]]:
    """One finding with an outline, two without a place."""
    study = cases.study_of(real(shared, "ct_chest_lungpetctdx/Lung_Dx-A0001_philips_lung_5mm"))
    volume = cases.stack(study)
    result = cases.infection(cases.ball(volume.pixels.shape, (0, 0.1, 0.4), (0.3, 0.2, 0.15)))
    sides = tuple(
        replace(result.findings[0], name=f"infection, {code.meaning.lower()} lung", laterality=code, segment=None)
        for code in (codes.LEFT, codes.RIGHT)
    )
    return study, write_all(study, volume, replace(result, findings=(*result.findings, *sides)), "covid_ct")


def a_breast_ultrasound(shared: Path) -> tuple[Study, dict[str, Dataset]]:
    study = cases.study_of(real(shared, "wrapped/us_breast/us_02.dcm"))
    volume = cases.still(study)
    result = cases.infection(cases.ball(volume.pixels.shape[:3], (0, 0.1, 0.1), (1, 0.2, 0.15)), site=codes.BREAST)
    benign = replace(result.findings[0], name="benign", probability=0.15, present=False, segment=None, measurements=())
    results = write_all(study, volume, replace(result, findings=(*result.findings, benign)), "breast_ultrasound")
    return study, {role: results[role] for role in ("SEG", "SR", "SR-EDITABLE")}


def a_brain_mr(shared: Path) -> tuple[Study, dict[str, Dataset]]:
    study = cases.study_of(real(shared, "mr_brain_tumor_btp/PGBM_01*"))
    volume = cases.stack(study)
    result = cases.infection(cases.ball(volume.pixels.shape, (0, 0.1, 0.2), (0.3, 0.2, 0.15)), site=codes.BRAIN)
    results = write_all(study, volume, result, "brain_mri")
    return study, {role: results[role] for role in ("SEG", "SR", "SR-EDITABLE")}


def a_chest_film(shared: Path) -> tuple[Study, dict[str, Dataset]]:
    study = cases.study_of(real(shared, "wrapped/cr_chest/cr_01.dcm"))
    volume = cases.still(study)
    result = cases.infection(cases.ball(volume.pixels.shape[:3], (0, 0.1, 0.3), (1, 0.2, 0.15)))
    results = write_all(study, volume, result, "covid_xray")
    return study, {role: results[role] for role in ("SEG", "SR", "SR-EDITABLE")}


def an_odd_sized_ct(folder: Path) -> tuple[Study, dict[str, Dataset]]:
    study = cases.study_of(cases.ct_files(folder / "odd", size=250))
    volume = cases.stack(study)
    results = write_all(study, volume, cases.infection(cases.opacity(volume.pixels.shape)), "covid_ct")
    assert results["SEG"].SegmentationType == "LABELMAP"
    return study, {"SEG": results["SEG"]}


def a_refused_clip(folder: Path) -> tuple[Study, dict[str, Dataset]]:
    study = cases.study_of([cases.cine_file(folder / "clip.dcm")])
    result = Result(analysed=False, reason="The picture shows nothing: too small or of one grey.")
    maker = cases.provenance(study, pipeline="breast_ultrasound")
    return study, {"SR": write_sr(study, None, result, maker, seg=None, sc=None, series=study.series[0])}


@pytest.fixture(scope="module")
def seen(shared, tmp_path_factory) -> dict[str, dict]:
    """Six studies with their results, opened one after the other: what was drawn, by story. Fetches OHIF once with npm."""
    check = shared / "tools" / "viewer" / "ohif_check.py"
    if not check.is_file():
        pytest.skip("the viewer check is not here")
    for program, package in (("Orthanc", "orthanc orthanc-dicomweb"), ("chromium", "chromium"), ("npm", "npm")):
        need(program, package)
    folder = tmp_path_factory.mktemp("viewer")
    stories = {
        "ct": a_chest_ct(shared),
        "us": a_breast_ultrasound(shared),
        "mr": a_brain_mr(shared),
        "film": a_chest_film(shared),
        "odd": an_odd_sized_ct(folder),
        "refused": a_refused_clip(folder),
    }
    source, made, out = (folder / name for name in ("source", "results", "seen"))
    for name, (study, results) in stories.items():
        for part in (source / name, made / name):
            part.mkdir(parents=True)
        for instance in study.series[0].instances:
            shutil.copy(instance.path, source / name)
        for role, ds in results.items():
            ds.save_as(made / name / f"{role}.dcm", enforce_file_format=True)
    command = [sys.executable, str(check), "--source", str(source), "--results", str(made), "--out", str(out)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=550)
    if keep := os.environ.get("RADNODE_KEEP_SCREENSHOTS"):  # to look with one's own eyes
        shutil.copytree(out, keep, dirs_exist_ok=True)
    assert run.returncode in (0, 1), run.stdout + run.stderr[-2000:]
    facts = json.loads((out / "facts.json").read_text())
    print(run.stdout)
    return {name: _seen(study, results, facts) for name, (study, results) in stories.items()}


def _seen(study: Study, results: dict[str, Dataset], facts: dict[str, Any]) -> dict[str, Any]:
    mine = [result for result in facts["results"] if result["study"] == study.ref.study]
    return {
        "opens_with": next(s["opens_with"] for s in facts["studies"] if s["study"] == study.ref.study),
        "problems": [p for result in mine for p in result.get("problems", ["not looked at"])],
        "drawn": {result["modality"] for result in mine},
        "taken_over": {role_said(result["description"]): result["hydrated"] for result in mine if result["modality"] == "SR"},
        "images": study.series[0].series_instance_uid,
        "image_uids": {instance.sop_instance_uid for instance in study.series[0].instances},
        "area": [_area(ds) for ds in results.values() if role_said(ds.SeriesDescription) is Role.SR_EDITABLE],
    }


def _area(report: Dataset) -> tuple[float, str]:
    """What the report says, in the viewer's words."""
    [value] = [element.value[0] for element in report.iterall() if element.keyword == "MeasuredValueSequence"]
    unit = value.MeasurementUnitsCodeSequence[0].CodeValue
    return float(value.NumericValue), {"mm2": "mm²", "{pixels}": "px²"}[unit]


def test_a_chest_ct_opens_with_segment_outline_numbers_and_heat_map(seen):
    assert seen["ct"]["problems"] == []
    assert seen["ct"]["drawn"] == {"SEG", "SR", "OT"}


def test_an_ultrasound_opens_though_it_has_no_frame_of_reference(seen):
    assert seen["us"]["problems"] == []
    assert seen["us"]["drawn"] == {"SEG", "SR"}


@pytest.mark.parametrize("story", ["mr", "film"])
def test_a_brain_and_a_chest_film_open_with_segment_and_outline(seen, story):
    assert seen[story]["problems"] == []
    assert seen[story]["drawn"] == {"SEG", "SR"}


@pytest.mark.parametrize("story", ["ct", "us", "mr", "film"])
def test_outlines_to_edit_are_taken_over_as_measurements_and_the_reports_numbers_are_left_alone(seen, story):
    taken = seen[story]["taken_over"]
    assert taken[Role.SR] == []

    [measurement] = taken[Role.SR_EDITABLE]

    assert measurement["tool"] == "PlanarFreehandROI"
    assert measurement["sop"] in seen[story]["image_uids"]
    area, unit = measurement["text"]["primary"][0].split()[:2]
    assert [(pytest.approx(float(area), rel=0.005), unit)] == seen[story]["area"]


def test_slices_of_an_odd_size_are_not_drawn_shifted(seen):
    assert seen["odd"]["problems"] == []
    assert seen["odd"]["drawn"] == {"SEG"}  # every voxel in its place: the check compares


def test_the_reason_of_a_refusal_can_be_read(seen):
    assert seen["refused"]["problems"] == []
    assert seen["refused"]["drawn"] == {"SR"}


def test_a_study_opens_with_its_images_and_not_with_a_result(seen):
    for story in seen.values():
        assert story["opens_with"] == story["images"]
