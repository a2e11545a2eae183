"""Replay: kept headers answer every rule as the study itself did, and a draft says what it would have done."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from node.conditions.interface import Condition
from node.domain import CleanUid, Study, StudyRef
from node.ledger.headers import Headers, Past
from node.registry import Registry
from node.router import Needs, RuleSet, decide, explained, parse_rules, read_rules
from node.rules.kept import given_back, kept
from node.rules.replay import AT_ONCE, WORTH_PROCESSES, replay
from node.testing import a_study, canary_study, clean_study
from node.testing.mr_weightings import mr_weightings
from tests.rooms.databases import sqlite

ROOT = Path(__file__).parents[2]
NEEDS = {
    "covid_ct": Needs(takes="volume", modalities=("CT",), min_slices=5),
    "breast_ultrasound": Needs(takes="image", modalities=("US",)),
    "brain_mri": Needs(takes="volume", modalities=("MR",)),
    "covid_xray": Needs(takes="image", modalities=("CR", "DX")),
    "chest_xray": Needs(takes="image", modalities=("CR", "DX")),
    "xray_anomaly": Needs(takes="image", modalities=("CR", "DX")),
}
DESTINATIONS = ("pacs", "ward")
SMALL = {"rows": 32, "patches": 0}

#: values that some of the studies below meet and others do not
ASKED: dict[str, list[Any]] = {
    "age_years": [{"min": 60}, {"max": 50}],
    "body_part": ["CHEST", ["BR*"], "HEAD"],
    "called_ae": ["RADNODE", "OTHER"],
    "calling_ae": ["CT*", "SCANNER"],
    "columns": [{"max": 32}, {"min": 33}],
    "contrast": [True, False],
    "image_type": ["LOCALIZER", "axial", ["0001", "DERIVED"]],
    "laterality": [["L", "R"], "U"],
    "manufacturer": ["rad*", "?adnode", "GE*"],
    "modality": ["CT", ["MR", "US"]],
    "model_name": ["Phantom", "Brilliance*"],
    "orientation": ["axial", "coronal"],
    "photometric": ["MONOCHROME1", "MONOCHROME2"],
    "rows": [32, {"min": 33}],
    "series_description": ["lunge", "*nativ*", "t1 tra"],
    "sex": ["M", ["F", "O"]],
    "slice_count": [1, {"min": 8, "max": 8}, {"min": 30}],
    "slice_thickness_mm": [{"max": 2}, {"min": 3}],
    "sop_class": ["CTImageStorage", ["MRImageStorage", "DigitalXRayImageStorageForPresentation"]],
    "study_description": ["thorax", "mamma*"],
    "view_position": ["PA"],
    "weighting": ["T1", ["FLAIR", "T2*"]],
}


def scouts() -> list[Dataset]:
    found = a_study("CT", slices=2, study=9, **SMALL)
    for ds in found:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    return found


def mixed() -> list[Dataset]:
    """A scout and the slices in one series, of different thickness."""
    found = a_study("CT", slices=8, study=5, **SMALL)
    found[0].ImageType = ["DERIVED", "SECONDARY", "SCOUT"]
    found[1].SliceThickness = "1.25"
    return found


def multiframe() -> list[Dataset]:
    """Thirty frames in one object, with what holds for them in functional groups (PS3.3 C.7.6.16)."""
    [ds] = a_study("CT", slices=1, study=6, **SMALL)
    shared, plane, measures = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient, measures.SliceThickness = [1, 0, 0, 0, 0, -1], "1.5"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], [Dataset(), Dataset()]
    ds.NumberOfFrames = 30
    del ds.ImageOrientationPatient, ds.SliceThickness
    return [ds]


def told_contrast() -> list[Dataset]:
    agent = Dataset()
    agent.CodeValue, agent.CodingSchemeDesignator, agent.CodeMeaning = "C-B0317", "SRT", "Iohexol"
    return a_study("CT", slices=3, study=7, ContrastBolusAgentSequence=[agent], **SMALL)


def bare() -> list[Dataset]:
    [ds] = a_study("CT", slices=1, study=8, **SMALL)
    for keyword in ("Rows", "PixelData", "Modality", "PatientAge", "PatientSex", "ImageType", "SliceThickness", "BodyPartExamined"):
        delattr(ds, keyword)
    return [ds]


def odd() -> list[Dataset]:
    """What real scanners write at times: empty, doubled and unreadable values."""
    found = a_study("CT", slices=4, study=10, **SMALL)
    found[0].SliceThickness, found[0].PatientAge, found[0].Manufacturer = None, "42", ["Radnode", "Other"]
    found[1].NumberOfFrames, found[2].BodyPartExamined = 0, ""
    return found


STUDIES: dict[str, Callable[[], list[Dataset]]] = {
    "chest": lambda: a_study("CT", slices=8, **SMALL),
    "thin": lambda: a_study("CT", slices=9, slice_mm=1.25, study=2, **SMALL),
    "head": lambda: a_study("MR", slices=6),
    "breast": lambda: a_study("US", patient=2),
    "film": lambda: a_study("DX", patient=3),
    "projection": lambda: a_study("CR", slices=4, patient=4, rows=32),
    "scouts": scouts,
    "mixed": mixed,
    "multiframe": multiframe,
    "contrast": told_contrast,
    "bare": bare,
    "odd": odd,
    "weightings": lambda: mr_weightings(rows=32, slices=6),
    "timed": lambda: mr_weightings(patient=2, rows=32, slices=6, SeriesDescription="Schädel", ProtocolName="Schädel"),
    "canary": lambda: canary_study(slices=2, rows=32).datasets,
}


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Study]:
    """Each by itself, and several series in one study."""
    folder = tmp_path_factory.mktemp("studies")
    found = {name: clean_study(make(), folder / name, calling_ae=f"CT{number}") for number, (name, make) in enumerate(STUDIES.items())}
    together = [ds for name in ("chest", "thin", "scouts", "mixed", "multiframe") for ds in STUDIES[name]()]
    for ds in together:
        ds.StudyInstanceUID = together[0].StudyInstanceUID
    return {**found, "together": clean_study(together, folder / "together")}


def rules(text: str) -> RuleSet:
    return parse_rules(text, pipelines=NEEDS, destinations=DESTINATIONS)


def every_condition() -> RuleSet:
    """A rule for each condition and value, for each pipeline, choosing each way."""
    lines = []
    for name, values in ASKED.items():
        for number, value in enumerate(values):
            for choice in ("all", "thinnest", "largest"):
                when = json.dumps({name: value})
                lines.append(
                    f"  - {{name: {name} {number} {choice}, when: {when}, run: [covid_ct, covid_xray, brain_mri], series: {choice}}}"
                )
    return rules("rules:\n" + "\n".join(lines))


# --- kept headers -------------------------------------------------------------------------------------------------------
def test_every_condition_is_asked_below() -> None:
    assert set(ASKED) == set(Registry("node.conditions", Condition))  # type: ignore[type-abstract]


@pytest.mark.parametrize("name", [*STUDIES, "together"])
@pytest.mark.filterwarnings("ignore")
def test_kept_headers_answer_every_rule_as_the_study_did(studies: dict[str, Study], name: str) -> None:
    """The same `decide`, the same answers, word for word: conditions, what pipelines need, and which series is chosen."""
    study = studies[name]
    again = given_back(kept(study))
    example = read_rules(ROOT / "rules.example.yaml", pipelines=NEEDS, destinations=DESTINATIONS)

    for ruleset in (every_condition(), example):
        assert explained(decide(again, ruleset, NEEDS)) == explained(decide(study, ruleset, NEEDS))


@pytest.mark.filterwarnings("ignore")
def test_the_answers_differ_between_the_studies(studies: dict[str, Study]) -> None:
    """So that the test above compares something: every condition is met by some series and not by others."""
    conditions = Registry("node.conditions", Condition)  # type: ignore[type-abstract]
    for name, values in ASKED.items():
        asked = [conditions[name].parse(value) for value in values]
        answers = {condition.ask(study, series)[0] for condition in asked for study in studies.values() for series in study}
        assert answers == ({True, False}), name


def test_what_is_kept_is_small_and_holds_nothing_that_no_rule_asks(studies: dict[str, Study]) -> None:
    text = kept(studies["chest"])

    assert len(text) < 1200
    assert "PatientName" not in text
    assert "InstanceNumber" not in text
    assert sum(len(series.instances) for series in given_back(text)) == 1


# --- replay -------------------------------------------------------------------------------------------------------------
ACTIVE = """
rules:
  - {name: chest, when: {modality: CT}, run: covid_ct, send_to: pacs}
  - {name: film, when: {modality: [CR, DX]}, run: covid_xray, send_to: pacs}
  - {name: breast, when: {modality: US}, run: breast_ultrasound, send_to: pacs}
"""
DRAFT = """
rules:
  - {name: film, when: {modality: [CR, DX]}, run: [covid_xray, chest_xray], send_to: pacs}
  - {name: chest, when: {modality: CT, slice_thickness_mm: {max: 2}}, run: covid_ct, send_to: pacs}
  - {name: breast, when: {modality: US}, run: breast_ultrasound, send_to: [pacs, ward], priority: stat, between: "20:00-06:00"}
"""


def past(studies: dict[str, Study], *names: str, times: int = 1) -> Past:
    texts = [kept(studies[name]) for name in names] * times
    return Past(count=len(texts), read=lambda: iter(texts))


def test_a_draft_says_what_it_would_have_done_more_fewer_and_otherwise(studies: dict[str, Study]) -> None:
    found = replay(past(studies, "chest", "thin", "film", "breast"), rules(DRAFT), rules(ACTIVE), NEEDS)

    assert (found.studies, found.series) == (4, 4)
    assert {group.in_words for group in found.groups.values()} == {
        "chest → covid_ct: 1 CT series fewer",
        "film → chest_xray: 1 DX series more",
        "breast → breast_ultrasound: 1 US series otherwise",
    }
    [fewer] = found.groups["chest", "covid_ct", "CT"].examples
    assert (fewer.study, fewer.because) == (studies["chest"].ref.study, "slice_thickness_mm 5 is not at most 2")
    [otherwise] = found.groups["breast", "breast_ultrasound", "US"].examples
    assert (
        otherwise.because
        == "sent to pacs, ward in place of pacs; priority STAT in place of ROUTINE; between 20:00-06:00 in place of nothing"
    )
    assert json.loads(json.dumps(found.as_json()))["groups"][0]["in_words"]


def test_the_same_rules_in_other_words_change_nothing(studies: dict[str, Study]) -> None:
    other = "# the same\n" + ACTIVE.replace("send_to: pacs", "send_to: [pacs]")

    found = replay(past(studies, *STUDIES), rules(other), rules(ACTIVE), NEEDS)

    assert (found.studies, found.groups) == (len(STUDIES), {})


def test_many_studies_are_shared_by_processes_and_counted_alike(studies: dict[str, Study]) -> None:
    many = past(studies, "chest", "film", times=WORTH_PROCESSES // 2)
    seen: list[int] = []

    found = replay(many, rules(DRAFT), rules(ACTIVE), NEEDS, lambda done, of: seen.append(done), workers=2)

    group = found.groups["chest", "covid_ct", "CT"]
    assert (found.studies, group.fewer, len(group.examples)) == (WORTH_PROCESSES, WORTH_PROCESSES // 2, 20)
    assert seen == sorted(seen)
    assert (seen[-1], len(seen)) == (WORTH_PROCESSES, WORTH_PROCESSES // AT_ONCE)


# --- in the ledger ------------------------------------------------------------------------------------------------------
def test_headers_are_kept_for_their_time_and_each_study_counts_once(studies: dict[str, Study], tmp_path: Path) -> None:
    now = datetime(2026, 3, 10, tzinfo=UTC)
    clock = [now - timedelta(days=40)]
    headers = Headers(sqlite(tmp_path), lambda: clock[0])
    headers.keep(StudyRef(study=CleanUid("2.25.1"), revision=1), kept(studies["film"]))
    clock[0] = now
    for revision in (1, 2):  # late images
        headers.keep(StudyRef(study=CleanUid("2.25.2"), revision=revision), kept(studies["chest"]))
        headers.keep(StudyRef(study=CleanUid("2.25.2"), revision=revision), kept(studies["thin"]))

    month, ever = headers.since(now - timedelta(days=30)), headers.since(now - timedelta(days=99))

    assert (month.count, list(month.read())) == (1, [kept(studies["thin"])])
    assert (ever.count, len(list(ever.read()))) == (2, 2)
    assert headers.of_study("2.25.2") == kept(studies["thin"])
    assert headers.forget(now - timedelta(days=30)) == 1
    headers.forget_study("2.25.2")
    assert headers.since(now - timedelta(days=99)).count == 0
