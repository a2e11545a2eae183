"""Readers' answers come home: understood in the wing, kept in the ledger, written down. Every step is handed in by `assembly.py`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np

from node.assessment import masks, outlines
from node.assessment.answers import Answer
from node.assessment.told import Ours, Told
from node.audit import Action, AuditEvent, Event, Outcome, Record
from node.domain import CleanUid, Opinion, Origin, ReaderRegion, StudyRef, Verdict, VerdictSource
from node.errors import VerdictRefused
from node.ledger.verdicts import verdict_id


class Assessment(Protocol):
    """One object of a reader, without a name."""

    @property
    def object(self) -> CleanUid: ...
    @property
    def kind(self) -> str: ...
    @property
    def origin(self) -> Origin: ...
    @property
    def reader(self) -> str: ...
    @property
    def answers(self) -> Sequence[Answer]: ...
    @property
    def refused(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingRoom:
    """Hears what a revision of a study brings of readers. May run twice: the same answer has the same name."""

    told: Callable[[CleanUid], Ours]  #: what we told about the study
    brought: Callable[[StudyRef, Ours], tuple[Sequence[Assessment], int]]  #: readers' objects of the revision, and how many others came
    known: Callable[[Collection[str]], Collection[str]]  #: which answers are kept already, by their ids
    keep: Callable[..., int]
    record: Record
    clock: Callable[[], datetime]

    def hear(self, ref: StudyRef) -> bool:
        """Keep the answers that a revision brings. True: it brought nothing else, so there is no new work in it."""
        ours = self.told(ref.study)
        if not ours.objects:
            return False
        assessments, others = self.brought(ref, ours)
        for one in assessments:
            verdicts = [self._verdict(one, answer) for answer in one.answers]
            if len(self.known([verdict.id for verdict in verdicts])) < len({verdict.id for verdict in verdicts}) or one.refused:
                self._remember(ref, one, verdicts, ours)
            self.keep(*verdicts)
        return bool(assessments) and not others

    def _verdict(self, assessment: Assessment, answer: Answer) -> Verdict:
        spoken = assessment.object if answer.region is None else f"{assessment.object} {answer.region.segment} {answer.region.outline[:2]}"
        return Verdict(
            id=verdict_id(answer.job, answer.tracking_uid, spoken, answer.finding),
            job=answer.job,
            opinion=answer.opinion,
            source=VerdictSource(assessment.kind),
            at=self.clock(),
            tracking_uid=answer.tracking_uid,
            finding=answer.finding,
            reader=assessment.reader,
            reason=answer.reason,
            object=assessment.object,
            region=answer.region,
            dice=answer.dice,
        )

    def _remember(self, ref: StudyRef, one: Assessment, verdicts: Sequence[Verdict], ours: Ours) -> None:
        said = ", ".join(f"{verdict.opinion} of {verdict.finding or 'the result'}" for verdict in verdicts)
        self.record(
            AuditEvent(
                event=Event.INSTANCES_ACCESSED,
                action=Action.CREATE if not one.refused else Action.READ,
                outcome=Outcome.SUCCESS if not one.refused else Outcome.MAJOR_FAILURE,
                who=one.reader or "reader",
                peer=one.origin.calling_ae or one.origin.peer,
                study=ref.study,
                patient=next((job.pseudonym for job in ours.jobs.values()), ""),
                what=f"a reader's {one.kind}: {said}" if not one.refused else f"a reader's {one.kind} is not kept: {one.refused}",
                facts={"verdicts": str(len(verdicts)), "object": one.object},
            )
        )


def opinion_named(word: str, *, about_one: bool) -> Opinion:
    """What somebody pressed. Of one finding nobody can say that it was missed. Raises VerdictRefused."""
    allowed = [one.value for one in Opinion if not (about_one and one is Opinion.MISSED)]
    if word not in allowed:
        raise VerdictRefused(f"choose one of {', '.join(allowed)}")
    return Opinion(word)


def of_page(said: Answer, reader: str, at: datetime, *, told: Ours | None) -> Verdict:
    """The verdict of somebody who answers on a page: about one finding, about the result as a whole, or about what it missed.

    `said.finding` is read of what was missed only, and is then a finding that the result names, or empty: something else.

    Raises
    ------
    VerdictRefused
        When what it is about is gone.
    """
    if told is None or said.job not in told.jobs:
        raise VerdictRefused("the result that it is about is not known here any more")
    finding = told.told.get(said.tracking_uid)
    if said.tracking_uid and (finding is None or finding.job != said.job):
        raise VerdictRefused("the finding that it is about is not known here any more")
    missed = said.finding if said.opinion is Opinion.MISSED else ""
    if missed and missed not in {one.finding for one in told.told.values() if one.job == said.job}:
        raise VerdictRefused("choose one of the findings that the result names")
    region = said.region
    if region is not None and region.image not in told.jobs[said.job].inputs:
        raise VerdictRefused("the image that it is drawn on is none that was analysed")
    outline = list(region.outline[:2]) if region else ""
    given = f"{said.form} {said.reason}" if said.form and said.opinion is Opinion.MISSED else at.isoformat()
    return Verdict(
        id=verdict_id(said.job, said.tracking_uid, f"page {reader} {given} {outline}".rstrip(), missed),
        job=said.job,
        opinion=said.opinion,
        source=VerdictSource.PAGE,
        at=at,
        tracking_uid=said.tracking_uid,
        finding=finding.finding if finding else missed,
        reader=reader,
        reason=said.reason,
        region=region,
        dice=_dice(told, finding, region) if finding and region else None,
    )


def _dice(told: Ours, finding: Told, region: ReaderRegion) -> float | None:
    """How far the reader's region and ours cover each other; None where ours has no place."""
    drawn = np.asarray(region.outline, np.float64)
    ours = told.planes(finding.job).get(finding.segment, {}) if finding.segment else {}
    mask = ours.get((str(region.image), region.frame))
    if mask is not None:
        return masks.dice_of(ours, {(str(region.image), region.frame): outlines.mask_of(drawn, (mask.shape[0], mask.shape[1]))})
    if finding.outline is None or (finding.image, finding.frame) != (region.image, region.frame):
        return None
    return outlines.dice_of(finding.outline, drawn)
