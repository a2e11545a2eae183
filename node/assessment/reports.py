"""A reader's SR: a coded assessment (IHE AIRA), or a TID 1500 report that a viewer wrote over ours.

Three things tell what a group is about: our Tracking UID, a reference to our segment or object, or for a document as a whole what it lists
as evidence. OHIF gives each outline a Tracking UID of its own: its groups are known by the coded finding on the same image, where they
overlap ours. Three things tell what is said: a coded opinion, a region that differs from ours, a group that we had not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np
from pydicom.dataset import Dataset

from node.assessment import content
from node.assessment.answers import BY_FINDING, KEPT, SAME, Answer
from node.assessment.outlines import dice_of
from node.assessment.told import FINDING, MEASUREMENT_GROUP, TRACKING_ID, TRACKING_UID, Ours, Told, place_of
from node.assessment.vocabulary import is_reason, opinion_of
from node.domain import CleanUid, Opinion, ReaderRegion

MOST_REASON = 1000  #: characters
DRAWN_IN_A_VIEWER = ("Cornerstone3DTools@", "cornerstoneTools@")  #: how OHIF's Tracking Identifiers begin


def answers_of(ds: Dataset, ours: Ours) -> list[Answer]:
    """What the report says of our findings; nothing when it is about something else."""
    found: list[Answer] = []
    drawn = _drawn_anew(ds, ours)
    about_all = sorted({ours.objects[uid] for uid in _evidence(ds) if uid in ours.objects} | _named_jobs(ds, ours))
    for group in content.containers(ds):
        told, jobs = _about(group, ours)
        opinion, reason = _said(group)
        if opinion is not None and opinion is not Opinion.MISSED:
            if told:
                found += [_of_finding(one, opinion, reason, group) for one in told]
            else:
                found += [Answer(job=job, opinion=opinion, reason=reason) for job in jobs or about_all]
        elif opinion is None and told and _outlined(group):
            found += [_compared(one, group) for one in told[:1]]
        elif opinion is None and not told and (uid := _tracking(group)) in drawn:
            answer = _compared(drawn[uid], group)
            found.append(replace(answer, reason=answer.reason or BY_FINDING))
    if found or about_all:
        found += _missed(ds, ours, about_all or [found[0].job], drawn)
    return list({(one.job, one.tracking_uid, one.finding, one.opinion): one for one in found}.values())


# --- what a group is about -----------------------------------------------------------------------------------------------
def _about(group: Dataset, ours: Ours) -> tuple[list[Told], list[str]]:
    """Our findings that the group names, and our jobs whose objects it names as a whole."""
    told: dict[str, Told] = {}
    jobs: dict[str, None] = {}
    for item in content.within(group):
        uid = str(item.get("UID") or "")
        if uid in ours.told:
            told[uid] = ours.told[uid]
        for instance, segments, _ in content.references(item):
            if instance not in ours.objects:
                continue
            tracked = [ours.segments[instance, number] for number in segments if (instance, number) in ours.segments]
            told |= {one: ours.told[one] for one in tracked}
            if not tracked:
                jobs[ours.objects[instance]] = None
    return list(told.values()), list(jobs)


def _drawn_anew(ds: Dataset, ours: Ours) -> dict[str, Told]:
    """The viewer's Tracking UID → our finding, of groups with a UID of their own: each of ours that has none, where it is overlapped most."""
    pairs: list[tuple[float, str, Told]] = []
    tracked = {one.tracking_uid for group in content.containers(ds) for one in _about(group, ours)[0]}
    others = [one for uid, one in ours.told.items() if uid not in tracked]
    for group in content.containers(ds):
        items = {_key(item): item for item in content.children(group)}
        tool = str(items[TRACKING_ID].get("TextValue") or "") if TRACKING_ID in items else ""
        if not tool.startswith(DRAWN_IN_A_VIEWER) or FINDING not in items or not _outlined(group):
            continue
        code, region = content.coded(items[FINDING]), _region(group)
        pairs += [(_dice(one, region) or 0.0, _tracking(group), one) for one in others if one.code[:2] == code[:2]]
    drawn: dict[str, Told] = {}
    for dice, uid, told in sorted(pairs, key=lambda pair: -pair[0]):
        if dice > 0 and uid not in drawn and told.tracking_uid not in {one.tracking_uid for one in drawn.values()}:
            drawn[uid] = told
    return drawn


def _tracking(group: Dataset) -> str:
    return next((str(item.get("UID") or "") for item in content.children(group) if _is(item, TRACKING_UID)), "")


def _evidence(ds: Dataset) -> Iterator[str]:
    """SOP Instance UIDs that the document lists outside its content tree (PS3.3 C.17.2.1)."""
    for keyword in (
        "CurrentRequestedProcedureEvidenceSequence",
        "PertinentOtherEvidenceSequence",
        "PredecessorDocumentsSequence",
        "ReferencedSOPSequence",
        "ReferencedInstanceSequence",
    ):
        for item in ds.get(keyword) or ():
            for element in [*item.iterall()]:
                if element.keyword == "ReferencedSOPInstanceUID":
                    yield str(element.value)


def _named_jobs(ds: Dataset, ours: Ours) -> set[str]:
    """Jobs of which anything in the tree names a finding or an object."""
    jobs: set[str] = set()
    for group in content.containers(ds):
        told, named = _about(group, ours)
        jobs |= {one.job for one in told} | set(named)
    return jobs


# --- what it says ----------------------------------------------------------------------------------------------------------
def _said(group: Dataset) -> tuple[Opinion | None, str]:
    """The coded opinion of a group, and why in words."""
    opinion: Opinion | None = None
    reasons: list[str] = []
    for item in content.within(group):
        match item.get("ValueType"):
            case "CODE":
                value = content.coded(item)
                here = opinion_of(content.concept(item), value)
                if here is not None:
                    opinion = opinion or here
                elif is_reason(content.concept(item)):
                    reasons.append(value.meaning)
            case "TEXT" if is_reason(content.concept(item)):
                reasons.append(str(item.get("TextValue") or ""))
    return opinion, "; ".join(one.strip() for one in reasons if one.strip())[:MOST_REASON]


def _of_finding(told: Told, opinion: Opinion, reason: str, group: Dataset) -> Answer:
    region, dice = None, None
    if opinion is Opinion.MODIFY and _outlined(group):
        region = _region(group)
        dice = _dice(told, region)
    return Answer(
        job=told.job, opinion=opinion, tracking_uid=told.tracking_uid, finding=told.finding, reason=reason, region=region, dice=dice
    )


def _compared(told: Told, group: Dataset) -> Answer:
    """No opinion in codes, but the reader's viewer wrote our group again: with our region, or with another."""
    region = _region(group)
    dice = _dice(told, region)
    same = dice is not None and dice >= SAME
    return Answer(
        job=told.job,
        opinion=Opinion.ACCEPT if same else Opinion.MODIFY,
        tracking_uid=told.tracking_uid,
        finding=told.finding,
        reason=KEPT if same else "",
        region=None if same else region,
        dice=dice,
    )


def _missed(ds: Dataset, ours: Ours, jobs: list[str], drawn: Collection[str]) -> Iterator[Answer]:
    """Measurement groups with a region that are none of ours, in a report that is about ours."""
    for group in content.containers(ds):
        named = content.concept(group)
        if (named.value, named.scheme_designator) != MEASUREMENT_GROUP or not _outlined(group):
            continue
        told, about = _about(group, ours)
        tracked = [item for item in content.within(group) if _is(item, TRACKING_UID)]
        if told or about or not tracked or _tracking(group) in drawn:
            continue
        opinion, reason = _said(group)
        if opinion not in (None, Opinion.MISSED):
            continue
        region = _region(group)
        job = next((job for job in jobs if region.image in ours.jobs[job].inputs), "")
        if job:
            yield Answer(job=job, opinion=Opinion.MISSED, finding=_name(group, ours, job), reason=reason, region=region)


def _name(group: Dataset, ours: Ours, job: str) -> str:
    """Our name for the coded finding where we have one, else its meaning."""
    for item in content.within(group):
        if _is(item, FINDING):
            code = content.coded(item)
            known = [one.finding for one in ours.told.values() if one.job == job and one.code[:2] == code[:2]]
            return known[0] if known else code.meaning[:64]
    return ""


# --- where -----------------------------------------------------------------------------------------------------------------
def _outlined(group: Dataset) -> bool:
    return place_of(group)[2] is not None


def _region(group: Dataset) -> ReaderRegion:
    image, frame, outline = place_of(group)
    points = np.zeros((0, 2)) if outline is None else outline
    return ReaderRegion(image=CleanUid(image), frame=frame, outline=tuple((float(x), float(y)) for x, y in points.tolist()))


def _dice(told: Told, region: ReaderRegion) -> float | None:
    if told.outline is None:
        return None
    if (told.image, told.frame) != (region.image, region.frame):
        return 0.0
    return dice_of(told.outline, np.asarray(region.outline, np.float64))


def _is(item: Dataset, concept: tuple[str, str]) -> bool:
    return _key(item) == concept


def _key(item: Dataset) -> tuple[str, str]:
    named = content.concept(item)
    return named.value, named.scheme_designator
