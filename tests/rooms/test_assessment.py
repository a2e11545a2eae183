"""What a reader's object says of our results: by Tracking UID, by reference, by label; in codes, in words, in pixels."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes as standard
from pydicom.uid import generate_uid

from node import codes
from node.annotations.examples import Example, gather
from node.annotations.pictures import rendered
from node.assessment import outlines, reports, segmentations
from node.assessment.masks import planes_of
from node.assessment.told import Ours, told_of
from node.assessment.vocabulary import opinion_of
from node.codes import Code
from node.domain import CleanUid, Finding, Job, Opinion, ReaderRegion, Region, Result, Role, Verdict, VerdictSource, WrittenObject
from node.imaging.build import build_volume
from node.imaging.study import read_study
from node.ledger.verdicts import Heard
from node.seg_writer import write_seg
from node.sr_writer import write_sr
from node.testing.mr_weightings import mr_weightings
from tests import readers
from tests.conformance.cases import ball, cine_file, ct_files, lesion, provenance, study_of
from tests.rooms.workbench import PSEUDONYM, a_job, bundle, clean_study

WHEN = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass
class Delivered:
    """A chest CT of eight slices with two lesions of ours, one finding on a slice, and one without a place."""

    ours: Ours
    job: Job
    images: list[Dataset]
    seg: Dataset
    report: Dataset
    masks: list[NDArray[np.bool_]]
    written: list[WrittenObject]

    @property
    def uids(self) -> dict[str, str]:
        return {one.finding: uid for uid, one in self.ours.told.items()}


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Delivered:
    folder = tmp_path_factory.mktemp("ct")
    images = [dcmread(path) for path in ct_files(folder / "scanner")]
    home = clean_study(images, folder / "studies")
    study = read_study(home)
    volume = build_volume(study.series[0])
    masks = [ball(volume.pixels.shape, (-0.1, 0.1, side), (0.5, 0.2, 0.15)) for side in (-0.42, 0.42)]
    square = np.array([[10, 10], [20, 10], [20, 20], [10, 20]], np.float32)
    findings = tuple(
        Finding(name=name, code=code, probability=0.9, present=True, segment=number)
        for number, (name, code) in enumerate((("infection", codes.LESION), ("mass", standard.SCT.Mass)), 1)
    )
    boxed = Finding(name="nodule", code=standard.SCT.Nodule, probability=0.7, present=True, region=Region(frame=2, outline=square))
    nowhere = Finding(name="effusion", code=Code("60046008", "SCT", "Pleural effusion"), probability=0.1, present=False)
    result = Result(
        analysed=True,
        label="infection",
        confidence=0.9,
        findings=(*findings, boxed, nowhere),
        segments=(lesion(masks[0], 1, "Infection"), lesion(masks[1], 2, "Mass")),
    )
    maker = provenance(study)
    job = replace(maker.job, folder=home, pseudonym=PSEUDONYM)
    seg = write_seg(study, volume, result, maker)
    report = write_sr(study, volume, result, maker, seg=seg, sc=None, series=study.series[0])
    written = []
    for role, ds in ((Role.SEG, seg), (Role.SR, report)):
        path = folder / f"{role}.dcm"
        ds.save_as(path, enforce_file_format=True)
        about = {"job": job.id, "study": job.study.study, "role": role, "path": path}
        written.append(WrittenObject(**about, sop_class_uid=str(ds.SOPClassUID), sop_instance_uid=str(ds.SOPInstanceUID)))
    summary = {"findings": [{"name": one.name, "present": one.present} for one in result.findings]}
    ours = told_of([job], lambda _: written, lambda _: summary)
    return Delivered(ours, job, images, seg, report, masks, written)


def a_seg(ct: Delivered, masks: dict[str, Any], *, tracked: bool = True, kind: str = "BINARY") -> Dataset:
    """A SEG of these masks on all slices, segments named as given; those with a name of ours carry our Tracking UID."""
    by_place = sorted(ct.images, key=lambda ds: float(ds.ImagePositionPatient[2]))
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name.capitalize(),
            segmented_property_category=standard.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=standard.SCT.Lesion,
            algorithm_type="MANUAL",
            tracking_uid=ct.uids.get(name) if tracked else None,
            tracking_id=name if tracked and name in ct.uids else None,
        )
        for number, name in enumerate(masks, 1)
    ]
    return hd.seg.Segmentation(
        source_images=by_place,
        pixel_array=np.stack([*masks.values()], axis=-1).astype(np.uint8),
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="QIICR",
        manufacturer_model_name="Slicer",
        software_versions="5",
        device_serial_number="1",
    )


def in_seg(ct: Delivered, seg: Dataset) -> dict[str, Any]:
    return {one.finding: one for one in segmentations.answers_of(seg, Path("seg.dcm"), ct.ours)}


# --- what we told -----------------------------------------------------------------------------------------------------------
def test_what_we_told_is_read_back_from_what_was_sent(ct: Delivered) -> None:
    told = {one.finding: one for one in ct.ours.told.values()}

    assert {name: (one.present, one.segment) for name, one in told.items()} == {
        "infection": (True, 1),
        "mass": (True, 2),
        "nodule": (True, 0),
        "effusion": (False, 0),
    }
    assert told["nodule"].outline.min(axis=0).tolist() == [10, 10]
    assert ct.ours.segments[str(ct.seg.SOPInstanceUID), 2] == told["mass"].tracking_uid
    assert {place[0] for place in ct.ours.planes(ct.job.id)[1]} <= set(ct.job.inputs)


def test_a_destination_that_gets_other_kinds_was_told_the_same(ct: Delivered) -> None:
    kinds = {Role.SEG: Role.SEG_FRACTIONAL, Role.SR: Role.SR_ENHANCED}
    others = [replace(one, role=kinds[one.role]) for one in ct.written]

    ours = told_of([ct.job], lambda _: others, lambda _: {"findings": []})

    assert ours.segments == ct.ours.segments
    assert ours.told.keys() == ct.ours.told.keys()
    assert ours.planes(ct.job.id).keys() == {1, 2}


def test_our_own_objects_are_no_answer_of_anybody(ct: Delivered) -> None:
    """A viewer may copy our report under another name; it says nothing that we did not."""
    copied = deepcopy(ct.report)
    copied.SOPInstanceUID = generate_uid()

    found = reports.answers_of(copied, ct.ours)

    assert {one.opinion for one in found} == {Opinion.ACCEPT}  # kept as they were


# --- a SEG ------------------------------------------------------------------------------------------------------------------
def test_each_segment_is_compared_with_its_own(ct: Delivered) -> None:
    moved = np.roll(ct.masks[1], 3, axis=2)

    found = in_seg(ct, a_seg(ct, {"infection": ct.masks[0], "mass": moved}))

    assert (found["infection"].opinion, found["infection"].dice) == (Opinion.ACCEPT, 1.0)
    assert found["mass"].opinion is Opinion.MODIFY
    assert found["mass"].dice == pytest.approx(2 * (moved & ct.masks[1]).sum() / (moved.sum() + ct.masks[1].sum()))
    assert found["mass"].region.segment == 2


def test_a_segment_that_is_gone_was_rejected_and_a_new_one_was_missed(ct: Delivered) -> None:
    found = in_seg(ct, a_seg(ct, {"infection": ct.masks[0], "metastasis": np.roll(ct.masks[0], 12, axis=1)}))

    assert {name: one.opinion for name, one in found.items()} == {
        "infection": Opinion.ACCEPT,
        "mass": Opinion.REJECT,
        "Metastasis": Opinion.MISSED,
    }


def test_without_tracking_uids_a_segment_is_known_by_its_label_and_none_is_missing(ct: Delivered) -> None:
    found = in_seg(ct, a_seg(ct, {"mass": np.roll(ct.masks[1], 2, axis=1)}, tracked=False))

    assert {name: (one.opinion, one.reason) for name, one in found.items()} == {"mass": (Opinion.MODIFY, "known by its label")}


def test_another_programs_seg_on_the_same_images_is_not_about_ours(ct: Delivered) -> None:
    theirs = a_seg(ct, {"infection": ct.masks[0]}, tracked=False)
    theirs.Manufacturer, theirs.ManufacturerModelName = "Some Company", "Detector"
    theirs.SegmentSequence[0].SegmentAlgorithmType = "AUTOMATIC"

    assert in_seg(ct, theirs) == {}


def test_frames_that_name_no_image_are_placed_by_their_position(ct: Delivered) -> None:
    seg = a_seg(ct, {"infection": ct.masks[0]})
    named = planes_of(seg)
    for group in seg.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence

    placed = planes_of(seg, ct.ours.positions)

    assert placed.keys() == named.keys() == {1}
    assert placed[1].keys() == named[1].keys()
    assert all((placed[1][place] == named[1][place]).all() for place in named[1])


def test_a_place_is_an_image_that_the_result_lies_on_and_none_that_was_read_beside(tmp_path: Path) -> None:
    """T1 before and after contrast have every slice at the same place."""
    datasets = sorted(mr_weightings(rows=32, slices=6), key=lambda ds: ds.SeriesDescription != "T1 tra KM")
    job = a_job(clean_study(datasets, tmp_path), datasets, bundle(tmp_path / "models", "tumour"))
    ours = Ours(told={}, objects={}, segments={}, seg_files={}, jobs={job.id: job})

    assert sorted(image for image, _ in ours.positions.values()) == sorted(str(ds.SOPInstanceUID) for ds in datasets[:6])


def test_a_label_map_says_the_same(ct: Delivered) -> None:
    found = in_seg(ct, a_seg(ct, {"infection": ct.masks[0], "mass": ct.masks[1]}, kind="LABELMAP"))

    assert {name: one.opinion for name, one in found.items()} == {"infection": Opinion.ACCEPT, "mass": Opinion.ACCEPT}


# --- an SR ------------------------------------------------------------------------------------------------------------------
def test_a_reference_to_our_segment_is_as_good_as_a_tracking_uid(ct: Delivered) -> None:
    report = readers.aira_report(ct.report, "reject")
    [item] = [i for i in report.ContentSequence[1].ContentSequence if i.ValueType == "COMPOSITE"]
    item.ValueType = "IMAGE"
    [reference] = item.ReferencedSOPSequence
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = ct.seg.SOPClassUID, ct.seg.SOPInstanceUID
    reference.ReferencedSegmentNumber = 2

    [one] = reports.answers_of(report, ct.ours)

    assert (one.opinion, one.finding) == (Opinion.REJECT, "mass")


def test_a_decision_at_the_root_speaks_of_what_is_listed_as_evidence(ct: Delivered) -> None:
    report = readers.aira_report(ct.report, "modify", reason="Margins")
    group = report.ContentSequence.pop()
    report.ContentSequence.extend(item for item in group.ContentSequence if item.ValueType != "COMPOSITE")

    [one] = reports.answers_of(report, ct.ours)

    assert (one.opinion, one.job, one.tracking_uid, one.reason) == (Opinion.MODIFY, ct.job.id, "", "Margins")


@pytest.mark.parametrize(("right_by", "opinion"), [(0, Opinion.ACCEPT), (2, Opinion.MODIFY), (40, None)])
def test_an_outline_with_a_tracking_uid_of_its_own_is_known_by_finding_and_image(
    ct: Delivered, right_by: float, opinion: Opinion | None
) -> None:
    report = readers.ohif_report(ct.report, lambda points: points + np.array([right_by, 0]), most=1)
    [group] = readers.groups_of(report)
    for item in group.ContentSequence:
        if item.ValueType == "UIDREF":
            item.UID = generate_uid()

    found = reports.answers_of(report, ct.ours)

    assert [(one.opinion, one.finding) for one in found] == ([(opinion, "infection")] if opinion else [])
    if opinion is Opinion.MODIFY:
        assert found[0].reason == "known by its finding on that image"
        assert 0 < found[0].dice < 1


def test_a_report_about_other_things_says_nothing_of_ours(ct: Delivered) -> None:
    report = readers.aira_report(ct.report, "accept", tracking_uid=generate_uid())
    del report.CurrentRequestedProcedureEvidenceSequence

    assert reports.answers_of(report, ct.ours) == []


def test_a_radiologists_report_that_only_lists_ours_is_no_answer(ct: Delivered) -> None:
    report = readers.aira_report(ct.report, "accept")
    report.ContentSequence = []

    assert reports.answers_of(report, ct.ours) == []


@pytest.mark.parametrize(
    ("concept", "value", "opinion"),
    [
        (("1", "99X", "Assessment"), ("2", "99X", "Not accepted"), Opinion.REJECT),
        (("1", "99X", "Reviewer decision"), ("2", "99X", "Accepted with modifications, edited"), Opinion.MODIFY),
        (("1", "99X", "AI result disposition"), ("2", "99X", "Confirmed"), Opinion.ACCEPT),
        (("1", "99X", "Agreement"), ("2", "99X", "Disagree"), Opinion.REJECT),
        (("1", "99X", "Review"), ("2", "99X", "Missed by the algorithm"), Opinion.MISSED),
        (("1", "99X", "Whatever"), ("122776", "DCM", "Disagreement with prior findings"), Opinion.REJECT),
        (("1", "99X", "Reason for rejection"), ("2", "99X", "Rejected"), None),
        (("RID39476", "RADLEX", "Presence"), ("2667000", "SCT", "Absent"), None),
        (("1", "99X", "Transplant"), ("2", "99X", "Rejected"), None),
    ],
)
def test_codes_and_words_of_agreement(concept: tuple[str, str, str], value: tuple[str, str, str], opinion: Opinion | None) -> None:
    assert opinion_of(Code(*concept), Code(*value)) is opinion


# --- outlines ---------------------------------------------------------------------------------------------------------------
def _scoord(kind: str, *data: float) -> Dataset:
    ds = Dataset()
    ds.ValueType, ds.GraphicType, ds.GraphicData = "SCOORD", kind, list(data)
    return ds


def test_every_closed_shape_has_its_area() -> None:
    square = outlines.outline_of(_scoord("POLYLINE", 10, 10, 30, 10, 30, 30, 10, 30))
    circle = outlines.outline_of(_scoord("CIRCLE", 50, 50, 60, 50))
    ellipse = outlines.outline_of(_scoord("ELLIPSE", 40, 50, 60, 50, 50, 45, 50, 55))

    assert outlines.mask_of(square, (100, 100)).sum() == 400
    assert outlines.mask_of(circle, (100, 100)).sum() == pytest.approx(np.pi * 100, rel=0.05)
    assert outlines.mask_of(ellipse, (100, 100)).sum() == pytest.approx(np.pi * 50, rel=0.08)
    assert outlines.mask_of(square, (25, 25)).sum() == 15 * 15  # cut at the image's edge
    assert outlines.dice_of(square, square) == 1.0
    assert outlines.dice_of(square, np.add(square, (10, 0))) == pytest.approx(0.5, abs=0.03)
    assert outlines.dice_of(square, circle) == 0


@pytest.mark.parametrize("data", [(), (1,), (float("nan"), 1, 2, 3, 4, 5), (1e9, 0, 1, 1, 2, 2)])
def test_what_is_no_outline_is_passed_over(data: tuple[float, ...]) -> None:
    assert outlines.outline_of(_scoord("POLYLINE", *data)) is None


# --- examples from them -----------------------------------------------------------------------------------------------------
def heard(ct: Delivered, finding: str, opinion: Opinion, at: datetime = WHEN, **more: Any) -> Heard:
    uid = ct.uids.get(finding, "") if opinion is not Opinion.MISSED else ""
    verdict = Verdict(
        id=f"{finding} {opinion} {at}",
        job=ct.job.id,
        opinion=opinion,
        source=VerdictSource.PAGE,
        at=at,
        tracking_uid=uid,
        finding=finding,
        **more,
    )
    about = {"study": ct.job.study.study, "series": ct.job.route.series, "pseudonym": PSEUDONYM}
    return Heard(verdict=verdict, **about, pipeline="covid_ct", version="1.0.0", digest="0" * 64)


def examples(ct: Delivered, *said: Heard) -> dict[str, Any]:
    return {one.name: one for one in gather(said, lambda study: ct.ours).examples}


def test_an_accepted_segment_labels_each_slice_it_is_on(ct: Delivered) -> None:
    found = examples(ct, heard(ct, "infection", Opinion.ACCEPT))

    ours = ct.ours.planes(ct.job.id)[1]
    for (image, _), mask in ours.items():
        assert (found[image].labels["infection"].mask == mask).all()
    assert {one.unknown for one in found.values()} == {frozenset({"mass", "nodule", "effusion"})}
    assert all(set(one.labels) == {"infection"} for one in found.values())


def test_a_rejected_segment_leaves_its_slices_as_images_without_it(ct: Delivered) -> None:
    found = examples(ct, heard(ct, "mass", Opinion.REJECT))

    for image, _ in ct.ours.planes(ct.job.id)[2]:
        label = found[image].labels["mass"]
        assert not label.present
        assert not label.mask.any()


def test_what_was_wrongly_absent_is_there_and_nobody_knows_where(ct: Delivered) -> None:
    found = examples(ct, heard(ct, "effusion", Opinion.REJECT))

    labels = [one.labels["effusion"] for one in found.values()]
    assert labels
    assert {(label.present, label.mask is None) for label in labels} == {(True, True)}


def test_one_word_about_the_whole_result_speaks_of_every_finding(ct: Delivered) -> None:
    found = examples(ct, heard(ct, "", Opinion.ACCEPT))

    assert all(set(one.labels) == {"infection", "mass", "nodule", "effusion"} and not one.unknown for one in found.values())
    assert not any(one.labels["effusion"].present for one in found.values())


def test_the_last_word_of_a_reader_counts(ct: Delivered) -> None:
    later = datetime(2026, 3, 2, tzinfo=UTC)
    said = [heard(ct, "infection", Opinion.ACCEPT, later), heard(ct, "infection", Opinion.REJECT, WHEN)]

    assert any(one.labels["infection"].present for one in examples(ct, *said).values())


def test_a_region_that_was_drawn_before_the_word_modified_is_where_it_is(ct: Delivered) -> None:
    later = datetime(2026, 3, 2, tzinfo=UTC)
    image = next(iter(ct.ours.planes(ct.job.id)[2]))[0]
    square = ReaderRegion(image=CleanUid(image), outline=((5, 5), (15, 5), (15, 15), (5, 15), (5, 5)))
    said = [heard(ct, "mass", Opinion.MODIFY, region=square), heard(ct, "mass", Opinion.MODIFY, later)]

    found = examples(ct, *said)

    assert found[image].labels["mass"].mask.sum() == 100
    assert sum(one.labels["mass"].present for one in found.values()) == 1


def test_a_picture_shows_the_frame_that_is_meant(tmp_path: Path) -> None:
    study = study_of([cine_file(tmp_path / "cine.dcm")])
    [instance] = study.series[0].instances
    about = {"pseudonym": PSEUDONYM, "pipeline": "p", "version": "1", "study": "2.25.1", "verdicts": (), "opinions": (), "at": ""}
    one = Example(series=study.series[0], instance=instance, frame=3, frames=5, labels={}, unknown=frozenset(), **about)

    shown = rendered(one)

    assert one.name == f"{instance.sop_instance_uid}_3"
    assert (shown == dcmread(instance.path).pixel_array[2]).all()


def test_a_purged_study_is_counted_and_not_exported(ct: Delivered, tmp_path: Path) -> None:
    gone = replace(ct.job, folder=tmp_path / "gone")
    without = Ours(told=ct.ours.told, objects={}, segments={}, seg_files={}, jobs={gone.id: gone})

    found = gather([heard(ct, "infection", Opinion.ACCEPT)], lambda study: without)

    assert (found.examples, found.left_out) == ([], {"the study is gone": 1})


def test_a_clean_uid_is_all_that_an_examples_name_holds(ct: Delivered) -> None:
    assert set(examples(ct, heard(ct, "mass", Opinion.ACCEPT))) <= {CleanUid(uid) for uid in ct.job.inputs}
