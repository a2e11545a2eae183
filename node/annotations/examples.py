"""Verdicts and corrections as examples: one image, which findings are on it, and where.

A finding that nobody spoke about is no label: unknown is not absent. Of several readers the last one is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread

from node.assessment.masks import Place, Planes, planes_of
from node.assessment.outlines import mask_of
from node.assessment.told import Ours, Told
from node.codes import LESION, Code
from node.domain import CleanUid, Instance, Opinion, ReaderRegion, Series
from node.imaging.study import read_study
from node.ledger.verdicts import Heard, last_words

SPLITS = (("train", 70), ("val", 15), ("test", 15))  #: percent of the patients
MARK = 0.021  #: of the columns: our reports put a bar at the left edge where a finding has no place

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One finding on one image. Without a mask it is known that it is there, or not, and not where."""

    finding: str
    code: Code
    present: bool
    mask: Mask | None = field(default=None, repr=False)  #: (rows, columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One image, or one frame of one, with what readers said of it."""

    pseudonym: str
    pipeline: str
    version: str
    study: str
    series: Series = field(repr=False)
    instance: Instance = field(repr=False)
    frame: int  #: from 1
    frames: int  #: that the instance has
    labels: Mapping[str, Label]
    unknown: frozenset[str]  #: findings of the result that nobody spoke about
    verdicts: tuple[str, ...]  #: their ids
    opinions: tuple[str, ...]
    at: str  #: of the last one, ISO 8601

    @property
    def name(self) -> str:
        """A file name without its ending: of clean UIDs only."""
        return f"{self.instance.sop_instance_uid}" + (f"_{self.frame}" if self.frames > 1 else "")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.instance.header.Rows), int(self.instance.header.Columns)

    @property
    def split(self) -> str:
        """Where all images of this patient go, in every version of a set."""
        return split_of(self.pseudonym)


def split_of(pseudonym: str) -> str:
    """`train`, `val` or `test`: by the pseudonym alone, so that a patient never changes sides."""
    place, end = int.from_bytes(sha256(pseudonym.encode()).digest()[:4]) % 100, 0
    for name, percent in SPLITS:
        end += percent
        if place < end:
            return name
    return SPLITS[-1][0]


class Gathered(NamedTuple):
    """Examples, and how many results could not become any, by reason."""

    examples: list[Example]
    left_out: dict[str, int]


def gather(heard: Iterable[Heard], ours_of: Callable[[CleanUid], Ours]) -> Gathered:
    """Examples of all results that somebody answered."""
    by_job: dict[str, list[Heard]] = {}
    for one in _with_regions(list(heard)):
        by_job.setdefault(one.verdict.job, []).append(one)
    found: dict[tuple[str, str], Example] = {}
    left_out: dict[str, int] = {}
    told: dict[CleanUid, Ours] = {}
    for job, said in by_job.items():
        study = said[0].study
        ours = told[study] if study in told else told.setdefault(study, ours_of(study))
        examples = _of_job(job, said, ours) if job in ours.jobs and ours.jobs[job].folder.is_dir() else None
        if not examples:
            reason = "the study is gone" if examples is None else "nothing is known of any image"
            left_out[reason] = left_out.get(reason, 0) + 1
        found |= {(one.pipeline, one.name): one for one in examples or ()}  # a later version's answers replace those to an earlier one
    return Gathered([found[key] for key in sorted(found)], left_out)


def _with_regions(heard: Sequence[Heard]) -> list[Heard]:
    """Last words. Who says "modified" in a report may have drawn it before, in a SEG of its own: then that is where."""
    drawn: dict[tuple[str, str], ReaderRegion] = {}
    for one in sorted(heard, key=lambda one: one.verdict.at):
        if one.verdict.opinion is Opinion.MODIFY and one.verdict.region is not None:
            drawn[one.verdict.job, one.verdict.tracking_uid] = one.verdict.region
    found = []
    for one in last_words(heard):
        said = one.verdict
        if said.opinion is Opinion.MODIFY and said.region is None and (region := drawn.get((said.job, said.tracking_uid))):
            one = replace(one, verdict=replace(said, region=region))
        found.append(one)
    return found


# --- one result -------------------------------------------------------------------------------------------------------------
class _Known(NamedTuple):
    """What is known of one finding of a result."""

    code: Code
    present: bool | None
    planes: Planes | None  #: where; None: not known
    before: Planes  #: where we had said


def _of_job(job: str, said: Sequence[Heard], ours: Ours) -> list[Example]:
    instances, series = _images(ours, job)
    known, unknown = _known(job, said, ours, instances)
    places = {place for one in known.values() for place in (*(one.planes or {}), *one.before)}
    places |= {(one.image, one.frame) for one in ours.told.values() if one.job == job and one.image}
    first = said[0]
    made = []
    for image, frame in sorted(place for place in places if place[0] in instances):
        instance = instances[image]
        labels = {name: label for name, one in known.items() if (label := _label(name, one, (image, frame), instance)) is not None}
        if not labels:
            continue
        made.append(
            Example(
                pseudonym=first.pseudonym,
                pipeline=first.pipeline,
                version=first.version,
                study=first.study,
                series=replace(series, instances=(instance,)),
                instance=instance,
                frame=frame,
                frames=int(instance.header.get("NumberOfFrames") or 1),
                labels=labels,
                unknown=unknown,
                verdicts=tuple(one.verdict.id for one in said),
                opinions=tuple(sorted({one.verdict.opinion.value for one in said})),
                at=max(one.verdict.at for one in said).isoformat(),
            )
        )
    return made


def _images(ours: Ours, job: str) -> tuple[dict[str, Instance], Series]:
    """The images that the job read, by clean SOP Instance UID."""
    wanted = ours.jobs[job]
    [series] = [one for one in read_study(wanted.folder) if one.series_instance_uid == wanted.route.series]
    return {str(one.sop_instance_uid): one for one in series.instances if one.sop_instance_uid in wanted.inputs}, series


def _known(job: str, said: Sequence[Heard], ours: Ours, images: Mapping[str, Instance]) -> tuple[dict[str, _Known], frozenset[str]]:
    """By finding: the reader's last word about it, else about the whole result."""
    by_uid = {one.verdict.tracking_uid: one for one in said if one.verdict.opinion is not Opinion.MISSED}
    masks = ours.planes(job)
    known: dict[str, _Known] = {}
    unknown: set[str] = set()
    for told in (one for one in ours.told.values() if one.job == job):
        before = masks.get(told.segment, {}) if told.segment else _planes_of_outline(told, images)
        heard = by_uid.get(told.tracking_uid) or by_uid.get("")
        one = _judged(told, heard, before, images) if heard else None
        if one is None:
            unknown.add(told.finding)
        else:
            known[told.finding] = _both(known.get(told.finding), one)
    for heard in (one for one in said if one.verdict.opinion is Opinion.MISSED):
        name = heard.verdict.finding or "unnamed"
        code = next((one.code for one in ours.told.values() if one.finding == name), LESION)
        known[name] = _both(known.get(name), _Known(code, True, _planes_of_region(heard.verdict.region, images) or None, {}))
    return known, frozenset(unknown - known.keys())


def _judged(told: Told, heard: Heard, before: Planes, images: Mapping[str, Instance]) -> _Known | None:
    """What the reader's answer makes of what we had said."""
    said = heard.verdict
    match said.opinion:
        case Opinion.ACCEPT if told.present is not None:
            return _Known(told.code, told.present, (before or None) if told.present else {}, before)
        case Opinion.REJECT if told.present is not None:
            return _Known(told.code, not told.present, {} if told.present else None, before)
        case Opinion.MODIFY if said.tracking_uid:
            return _Known(told.code, True, _planes_of_region(said.region, images) or None, before)
    return None


def _both(one: _Known | None, other: _Known) -> _Known:
    """Two lesions of one name on the same images."""
    if one is None:
        return other
    planes: Planes | None = None
    if one.planes is not None and other.planes is not None:
        planes = dict(one.planes)
        for place, mask in other.planes.items():
            planes[place] = planes[place] | mask if place in planes else mask
    return _Known(other.code, bool(one.present or other.present), planes, {**one.before, **other.before})


def _label(name: str, one: _Known, place: Place, instance: Instance) -> Label | None:
    """On one image: with a mask where places are known, and then it is there if the mask is not empty."""
    shape = (int(instance.header.Rows), int(instance.header.Columns))
    if one.planes is None:
        return Label(finding=name, code=one.code, present=bool(one.present))
    mask = one.planes.get(place, np.zeros(shape, bool))
    if mask.shape != shape:
        return None
    return Label(finding=name, code=one.code, present=bool(mask.any()), mask=mask)


# --- where ------------------------------------------------------------------------------------------------------------------
def _planes_of_outline(told: Told, images: Mapping[str, Instance]) -> Planes:
    """Our outline as a mask; a bar at the edge stands for a finding without a place."""
    if told.outline is None or told.image not in images:
        return {}
    header = images[told.image].header
    if float(told.outline[:, 0].max()) <= MARK * int(header.Columns):
        return {}
    return {(told.image, told.frame): mask_of(told.outline, (int(header.Rows), int(header.Columns)))}


def _planes_of_region(region: ReaderRegion | None, images: Mapping[str, Instance]) -> Planes:
    if region is None:
        return {}
    if region.file is not None:
        return planes_of(dcmread(region.file)).get(region.segment, {}) if region.file.is_file() else {}
    if region.image not in images:
        return {}
    header = images[region.image].header
    outline = np.asarray(region.outline, np.float64)
    return {(str(region.image), region.frame): mask_of(outline, (int(header.Rows), int(header.Columns)))}
