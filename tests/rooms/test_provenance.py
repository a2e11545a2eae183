"""The maker's mark: the same work has the same name, and every object says who made it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from node import __version__, codes
from node.domain import Algorithm, CleanUid, Finding, Job, Pseudonym, Result, Role, Route, StudyRef
from node.provenance import Provenance

DIGEST = "ab" * 32


def a_job(**changes) -> Job:
    route = Route(rule="r", series=CleanUid("2.25.2"), pipeline=changes.pop("pipeline", "covid_ct"), destinations=("pacs",))
    made_by = Algorithm(
        name="U-Net", version=changes.pop("version", "1.0.0"), digest=changes.pop("digest", DIGEST), family=codes.ARTIFICIAL_INTELLIGENCE
    )
    study = StudyRef(study=CleanUid("2.25.1"), revision=1)
    job = Job(
        id="j",
        study=study,
        pseudonym=Pseudonym("P1"),
        folder=Path("x"),
        route=route,
        algorithm=made_by,
        inputs=(CleanUid("2.25.3"), CleanUid("2.25.4")),
    )
    return replace(job, **changes)


def a_mark(job: Job | None = None, **changes) -> Provenance:
    values = {"node_uid": "2.25.9", "written_at": datetime(2026, 3, 1, 10, 30), "used_series_numbers": [1, 2]} | changes
    return Provenance(job=job or a_job(), **values)


def a_finding(name: str = "infection", segment: int | None = None) -> Finding:
    return Finding(name=name, code=codes.LESION, probability=0.5, present=True, segment=segment)


# --- names ---------------------------------------------------------------------------------------------------------------------
def test_the_same_work_has_the_same_name_whenever_and_however_often_it_is_done():
    first = a_mark()
    later = a_mark(a_job(attempts=3, id="other"), written_at=datetime(2027, 1, 1), used_series_numbers=[7])
    shuffled = a_mark(a_job(inputs=tuple(reversed(a_job().inputs))))

    assert first.uid(Role.SEG) == later.uid(Role.SEG) == shuffled.uid(Role.SEG)


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "cd" * 32},
        {"version": "1.0.1"},
        {"pipeline": "brain_mri"},
        {"inputs": (CleanUid("2.25.3"),)},
        {"study": StudyRef(study=CleanUid("2.25.99"), revision=1)},
    ],
)
def test_other_work_has_another_name(changes):
    assert a_mark(a_job(**changes)).uid(Role.SEG) != a_mark().uid(Role.SEG)


def test_every_object_part_and_series_has_its_own_valid_name():
    mark = a_mark()
    names = [mark.uid(role, part) for role in Role for part in ("", "dimensions")]
    names += [mark.series_uid(mark.uid(role)) for role in Role]
    names += [a_mark(part="2.25.3").uid(Role.SEG), mark.tracking_uid(a_finding()), mark.tracking_uid(a_finding("benign"))]

    assert len(set(names)) == len(names)
    assert all(name.is_valid and name.startswith("2.25.") and len(name) <= 64 for name in names)


def test_a_segment_and_its_finding_are_tracked_as_one():
    mark = a_mark()
    result = Result(analysed=True, findings=(a_finding(segment=2),))

    assert mark.segment_tracking(result, 2) == (mark.tracking_id(result.findings[0]), mark.tracking_uid(result.findings[0]))
    assert mark.segment_tracking(result, 1)[1] != mark.segment_tracking(result, 2)[1]


# --- series --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("used", [[], [1, 2], [9001, 9500], [20000], [2**31 - 1, 5]])
def test_series_numbers_stand_above_every_original(used):
    marks = [
        a_mark(a_job(pipeline=name), used_series_numbers=used) for name in ("covid_ct", "breast_ultrasound", "brain_mri", "chest_xray")
    ]
    numbers = [mark.series_number(role) for mark in marks for role in Role]

    assert len(set(numbers)) == len(numbers)
    assert min(numbers) > max([n for n in used if n < 2**31 - 1], default=0)
    assert min(numbers) >= 9001
    assert max(numbers) < 2**31  # VR IS


def test_the_reader_s_list_says_what_a_series_is():
    for role in Role:
        text = a_mark().series_description(role)
        assert "covid_ct" in text
        assert "RESEARCH" in text
        assert len(text) <= 64


# --- maker ---------------------------------------------------------------------------------------------------------------------
def test_the_maker_is_the_node_and_the_model_to_the_byte():
    maker = a_mark().equipment()
    [model] = maker["contributing_equipment"]

    assert (maker["manufacturer"], maker["software_versions"]) == ("Radnode", __version__)
    assert model.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert (model.ManufacturerModelName, model.SoftwareVersions[0]) == ("U-Net", "1.0.0")
    assert DIGEST in model.ContributionDescription
    assert maker["device_serial_number"] != a_mark(node_uid="2.25.10").equipment()["device_serial_number"]


def test_the_algorithm_is_named_in_segments_and_reports_alike():
    mark = a_mark()
    [in_seg] = mark.algorithm()
    in_sr = {item.name.meaning: item.value for item in mark.algorithm_items()}

    assert (in_seg.AlgorithmName, in_seg.AlgorithmVersion) == (in_sr["Algorithm Name"], in_sr["Algorithm Version"]) == ("U-Net", "1.0.0")
    assert DIGEST in in_seg.AlgorithmParameters
    assert in_seg.AlgorithmFamilyCodeSequence[0].CodeValue == codes.ARTIFICIAL_INTELLIGENCE.value


# --- a new object ------------------------------------------------------------------------------------------------------------------
def a_header(**values) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName, ds.PatientID, ds.StudyInstanceUID, ds.StudyDate = "RN^0001", "RN1", "2.25.1", "20200102"
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def reread(ds: Dataset) -> Dataset:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return dcmread(BytesIO(buffer.getvalue()))


def new(header: Dataset) -> Dataset:
    return a_mark().new_object(Role.SR, sop_class_uid="1.2.840.10008.5.1.4.1.1.88.33", modality="SR", source=header)


def test_a_name_in_another_character_set_is_written_in_utf_8():
    header = Dataset.from_json(a_header(PatientName="RÖ^ÄÜ", StudyDescription="Thorax größer").to_json())
    header.SpecificCharacterSet = "ISO_IR 100"
    buffer = BytesIO()
    header.save_as(buffer, implicit_vr=False, little_endian=True)
    source = dcmread(BytesIO(buffer.getvalue()), force=True)

    ds = reread(new(source))

    assert (ds.PatientName, ds.StudyDescription) == ("RÖ^ÄÜ", "Thorax größer")
    assert ds.SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.filterwarnings("ignore:Invalid value")
def test_what_breaks_the_standard_stays_behind():
    header = a_header()
    header.add_new("PatientAge", "AS", "0Y")
    item = Dataset()
    item.ReferencedSOPClassUID = ""
    header.ReferencedStudySequence = [item]
    header.ProcedureCodeSequence = [Dataset()]

    ds = new(header)

    assert not {"PatientAge", "ReferencedStudySequence", "ProcedureCodeSequence"} & set(ds.dir())
    assert ds.AccessionNumber is None  # Type 2: there, and empty
    assert ds.PatientID == "RN1"


def test_a_result_never_claims_that_identity_was_removed():
    ds = new(a_header(PatientIdentityRemoved="YES", DeidentificationMethod="x"))

    assert "PatientIdentityRemoved" not in ds
    assert "DeidentificationMethod" not in ds


def test_a_zone_does_not_leak_into_values_that_have_none():
    mark = a_mark(written_at=datetime(2026, 3, 1, 10, 30, tzinfo=UTC))
    ds = mark.new_object(Role.SR, sop_class_uid="1.2.3", modality="SR", source=a_header())

    assert (ds.SeriesDate, ds.SeriesTime) == ("20260301", "103000")
    assert str(ds.ContributingEquipmentSequence[0].ContributionDateTime) == "20260301103000"
