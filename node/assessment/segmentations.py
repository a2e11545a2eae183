"""A reader's SEG that was made from ours: each of its segments beside the one it came from.

Slicer and other editors keep Tracking UIDs; OHIF drops them, so an edited segment is also known by its label on the same images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from node.assessment.answers import BY_LABEL, EMPTIED, KEPT, REMOVED, Answer
from node.assessment.masks import Planes, dice_of, planes_of
from node.assessment.told import Ours, Told
from node.domain import Opinion, ReaderRegion

AUTOMATIC = "AUTOMATIC"
EDITORS = ("ohif", "dcmjs", "slicer", "qiicr", "dcmqi", "weasis", "mitk", "itk-snap")  #: in Manufacturer, Model Name, Software Versions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    number: int
    label: str
    told: Told | None
    tracked: bool  #: by its Tracking UID, not by its label


def answers_of(ds: Dataset, file: Path, ours: Ours) -> list[Answer]:
    """What the SEG says of our segments; nothing when it was not made from one of ours. Raises ValueError when it can't be read.

    Parameters
    ----------
    file
        Where the clean copy lies: a verdict's region names it.
    """
    segments = list(_segments(ds, ours))
    jobs = list(dict.fromkeys(one.told.job for one in segments if one.told))
    if not jobs:
        return []
    theirs = planes_of(ds, ours.positions)
    mine = {job: ours.planes(job) for job in jobs}
    found = [_compared(one, theirs.get(one.number, {}), mine[one.told.job], file) for one in segments if one.told]
    if any(one.tracked for one in segments):
        found += _removed(segments, ours, mine)
    for one in segments:
        planes = theirs.get(one.number, {})
        job = next((job for job in jobs if any(place[0] in ours.jobs[job].inputs for place in planes)), "")
        if one.told is None and planes and job:
            region = ReaderRegion(file=file, segment=one.number)
            found.append(Answer(job=job, opinion=Opinion.MISSED, finding=one.label, region=region))
    return found


def _segments(ds: Dataset, ours: Ours) -> Iterator[_Segment]:
    edited = _is_an_editors(ds)
    referenced = {str(e.value) for e in ds.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
    taken: set[str] = set()
    for segment in ds.get("SegmentSequence") or ():
        uid, label = str(segment.get("TrackingUID") or ""), str(segment.get("SegmentLabel") or "")
        told = ours.told.get(uid)
        tracked = told is not None
        if told is None and (edited or segment.get("SegmentAlgorithmType") != AUTOMATIC):
            told = _by_label(label, referenced, ours, taken)
        if told is not None:
            taken.add(told.tracking_uid)
        yield _Segment(number=int(segment.SegmentNumber), label=label[:64], told=told, tracked=tracked)


def _by_label(label: str, referenced: set[str], ours: Ours, taken: set[str]) -> Told | None:
    """The latest segment of ours of that label that was drawn on images which this SEG refers to."""
    words = " ".join(label.lower().split())
    fitting = [
        one
        for one in ours.told.values()
        if one.segment and one.tracking_uid not in taken and words and words == " ".join(one.label.lower().split())
        if referenced & set(ours.jobs[one.job].inputs)
    ]
    return fitting[-1] if fitting else None


def _is_an_editors(ds: Dataset) -> bool:
    versions = ds.get("SoftwareVersions")
    said = [ds.get("Manufacturer"), ds.get("ManufacturerModelName"), *([versions] if isinstance(versions, str) else versions or [])]
    words = " ".join(str(one) for one in said if one).lower()
    return any(editor in words for editor in EDITORS)


def _compared(one: _Segment, theirs: Planes, mine: dict[int, Planes], file: Path) -> Answer:
    told = one.told
    assert told is not None
    before = mine.get(told.segment, {})
    dice = dice_of(before, theirs)
    if not theirs:
        opinion, reason = (Opinion.REJECT, EMPTIED) if before else (Opinion.ACCEPT, KEPT)
    elif dice == 1.0:
        opinion, reason = Opinion.ACCEPT, KEPT
    else:
        opinion, reason = Opinion.MODIFY, "" if one.tracked else BY_LABEL
    region = ReaderRegion(file=file, segment=one.number) if opinion is Opinion.MODIFY else None
    return Answer(
        job=told.job, opinion=opinion, tracking_uid=told.tracking_uid, finding=told.finding, reason=reason, region=region, dice=dice
    )


def _removed(segments: list[_Segment], ours: Ours, mine: dict[str, dict[int, Planes]]) -> Iterator[Answer]:
    """Segments of ours that are gone from an object that keeps the others' Tracking UIDs."""
    jobs = {one.told.job for one in segments if one.told and one.tracked}
    kept = {one.told.tracking_uid for one in segments if one.told}
    for told in ours.told.values():
        if told.job in jobs and told.segment and told.tracking_uid not in kept and mine[told.job].get(told.segment):
            yield Answer(job=told.job, opinion=Opinion.REJECT, tracking_uid=told.tracking_uid, finding=told.finding, reason=REMOVED)
