"""Readers' answers come home: understood in the wing, kept in the ledger, written down. Every step is handed in by `assembly.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from node.assessment.answers import Answer
from node.assessment.told import Ours
from node.audit import Action, AuditEvent, Event, Outcome, Record
from node.domain import CleanUid, Opinion, Origin, StudyRef, Verdict, VerdictSource
from node.errors import VerdictRefused
from node.ledger.reading_links import Linked
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
            if self.keep(*verdicts) or one.refused:
                self._remember(ref, one, verdicts, ours)
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


def of_page(linked: Linked, opinion: str, reason: str, reader: str, at: datetime, *, told: Ours | None) -> Verdict:
    """The verdict of somebody who pressed a button on the page that a link opens.

    Raises
    ------
    VerdictRefused
        When it is no answer that can be given there, or what it is about is gone.
    """
    allowed = [one.value for one in Opinion if one is not Opinion.MISSED]
    if opinion not in allowed:
        raise VerdictRefused(f"choose one of {', '.join(allowed)}")
    if told is None or linked.job not in told.jobs:
        raise VerdictRefused("the result that it is about is not known here any more")
    finding = told.told.get(linked.tracking_uid)
    if linked.tracking_uid and finding is None:
        raise VerdictRefused("the finding that it is about is not known here any more")
    return Verdict(
        id=verdict_id(linked.job, linked.tracking_uid, f"page {reader} {at.isoformat()}"),
        job=linked.job,
        opinion=Opinion(opinion),
        source=VerdictSource.PAGE,
        at=at,
        tracking_uid=linked.tracking_uid,
        finding=finding.finding if finding else "",
        reader=reader,
        reason=reason,
    )
