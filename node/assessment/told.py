"""What we told the readers of a study: our findings by Tracking UID, read back from the very objects that were sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.assessment import content
from node.assessment.masks import Planes, Positions, planes_of, position_key
from node.assessment.outlines import outline_of
from node.codes import Code
from node.domain import Job, Role, WrittenObject
from node.imaging.functional import numbers_of
from node.imaging.study import read_study

TRACKING_ID, TRACKING_UID = ("112039", "DCM"), ("112040", "DCM")
FINDING, MEASUREMENT_GROUP = ("121071", "DCM"), ("125007", "DCM")

SEGMENTATIONS = (Role.SEG, Role.SEG_LABELMAP, Role.SEG_FRACTIONAL)
REPORTS = (Role.SR, Role.SR_ENHANCED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One finding as the reader got it."""

    job: str
    tracking_uid: str
    finding: str  #: its name in the summary; a segment's label when it is of no finding
    code: Code
    present: bool | None = None
    image: str = ""  #: clean SOP Instance UID of the image that the report points to
    frame: int = 1
    outline: NDArray[Any] | None = field(default=None, repr=False)
    segment: int = 0
    label: str = ""  #: of the segment
    tracking_id: str = ""  #: the same finding in our words


@dataclass(frozen=True, kw_only=True)
class Ours:
    """Everything of ours that a reader's object may refer to, of one study."""

    told: Mapping[str, Told]
    objects: Mapping[str, str]  #: SOP Instance UID → job
    segments: Mapping[tuple[str, int], str]  #: (SOP Instance UID of a SEG, segment number) → Tracking UID
    seg_files: Mapping[str, Path]  #: job → its SEG
    jobs: Mapping[str, Job]

    @property
    def uids(self) -> frozenset[str]:
        """Tracking UIDs and SOP Instance UIDs."""
        return frozenset(self.told) | frozenset(self.objects)

    def planes(self, job: str) -> dict[int, Planes]:
        """The masks of our SEG, by segment number."""
        file = self.seg_files.get(job)
        return planes_of(dcmread(file)) if file is not None and file.is_file() else {}

    @cached_property
    def positions(self) -> Positions:
        """Where the images lie that were analysed; one that is met twice is no help."""
        found: dict[tuple[float, float, float], tuple[str, int]] = {}
        for folder in {job.folder for job in self.jobs.values()}:
            wanted = {uid for job in self.jobs.values() for uid in job.inputs}
            drawn_on = {job.route.series for job in self.jobs.values()}  # a model may have read others beside
            for series in (one for one in read_study(folder) if one.series_instance_uid in drawn_on):
                for instance in series.instances:
                    if instance.sop_instance_uid in wanted:
                        found.update(_positions(instance.header))
        return found


def told_of(jobs: Sequence[Job], objects_of: Callable[[Job], Iterable[WrittenObject]], summary_of: Callable[[str], Any]) -> Ours:
    """What the jobs' objects say. Jobs in the shadow told nobody anything. An object that is gone is passed over."""
    told: dict[str, Told] = {}
    objects: dict[str, str] = {}
    segments: dict[tuple[str, int], str] = {}
    seg_files: dict[str, Path] = {}
    spoken = [job for job in jobs if not job.shadow]
    for job in spoken:
        findings = (summary_of(job.id) or {}).get("findings", [])
        for written in objects_of(job):
            objects[written.sop_instance_uid] = job.id
            if written.role not in (*SEGMENTATIONS, *REPORTS) or not written.path.is_file():
                continue
            ds = dcmread(written.path, stop_before_pixels=True)
            if written.role in SEGMENTATIONS:
                seg_files.setdefault(job.id, written.path)
                for one in _of_seg(ds, job, findings):
                    told[one.tracking_uid] = one
                    segments[written.sop_instance_uid, one.segment] = one.tracking_uid
            else:
                for one in _of_report(ds, job, findings):
                    told[one.tracking_uid] = _joined(one, told.get(one.tracking_uid))
    return Ours(told=told, objects=objects, segments=segments, seg_files=seg_files, jobs={job.id: job for job in spoken})


def _joined(report: Told, seg: Told | None) -> Told:
    """The group of a report and the segment that it is about."""
    if seg is None:
        return report
    return Told(**{**{name: getattr(report, name) for name in Told.__slots__}, "segment": seg.segment, "label": seg.label})


def _of_seg(ds: Dataset, job: Job, findings: Sequence[dict[str, Any]]) -> Iterable[Told]:
    for segment in ds.get("SegmentSequence") or ():
        code = segment.SegmentedPropertyTypeCodeSequence[0]
        found = _finding(str(segment.get("TrackingID") or ""), job, findings)
        yield Told(
            job=job.id,
            tracking_uid=str(segment.get("TrackingUID") or ""),
            finding=found["name"] if found else str(segment.SegmentLabel),
            code=Code(str(code.CodeValue), str(code.CodingSchemeDesignator), str(code.CodeMeaning)),
            present=found["present"] if found else True,
            segment=int(segment.SegmentNumber),
            label=str(segment.SegmentLabel),
            tracking_id=str(segment.get("TrackingID") or ""),
        )


def _of_report(ds: Dataset, job: Job, findings: Sequence[dict[str, Any]]) -> Iterable[Told]:
    for group in content.containers(ds):
        items = {_key(content.concept(item)): item for item in content.children(group)}
        if _key(content.concept(group)) != MEASUREMENT_GROUP or TRACKING_UID not in items:
            continue
        tracking_id = str(items[TRACKING_ID].get("TextValue") or "") if TRACKING_ID in items else ""
        found = _finding(tracking_id, job, findings)
        image, frame, outline = place_of(group)
        code = content.coded(items[FINDING]) if FINDING in items else content.NO_CODE
        yield Told(
            job=job.id,
            tracking_uid=str(items[TRACKING_UID].get("UID") or ""),
            finding=found["name"] if found else tracking_id.removeprefix(f"{job.route.pipeline} ") or code.meaning,
            code=code,
            present=found["present"] if found else None,
            image=image,
            frame=frame,
            outline=outline,
            tracking_id=tracking_id,
        )


def place_of(group: Dataset) -> tuple[str, int, NDArray[Any] | None]:
    """Image, frame and outline of the first SCOORD of a group; empty without one."""
    for item in content.within(group):
        if item.get("ValueType") == "SCOORD" and (outline := outline_of(item)) is not None:
            for child in content.children(item):
                for uid, _, frame in content.references(child):
                    return uid, frame, outline
    return "", 1, None


def _finding(tracking_id: str, job: Job, findings: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The summary's finding of that Tracking ID, which is the pipeline's name, the finding's, and a number where there is one."""
    told = tracking_id.removeprefix(f"{job.route.pipeline} ")
    fitting = [one for one in findings if told == one["name"] or told.startswith(f"{one['name']} ")]
    return max(fitting, key=lambda one: len(one["name"]), default=None)


def _positions(header: Dataset) -> Iterable[tuple[tuple[float, float, float], tuple[str, int]]]:
    for frame in range(1, int(header.get("NumberOfFrames") or 1) + 1):
        position = numbers_of(header, frame, "PlanePositionSequence", "ImagePositionPatient", 3)
        if position is not None:
            yield position_key(position), (str(header.SOPInstanceUID), frame)


def _key(code: Code) -> tuple[str, str]:
    return code.value, code.scheme_designator
