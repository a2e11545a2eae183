"""Jobs as a list and one by one: how they stand, how long they took, what they found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Row, delete, select, update

from node.domain import JobState
from node.errors import NotNow, NotThere
from node.ledger.database import reading
from node.ledger.paging import Page, by_time, older, page
from node.ledger.tables import JobRow, ObjectRow, SummaryRow

job, obj = JobRow.__table__.c, ObjectRow.__table__.c
_ORDER = ("SEG", "SC", "SR")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobShown:
    """A job as a list shows it."""

    id: str
    study: str
    pseudonym: str
    series: str
    pipeline: str
    version: str
    rule: str
    state: str
    reason: str
    priority: str
    shadow: bool
    attempts: int
    scheduled_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    seconds: float | None  #: from its start to its end; None before
    analysed: bool | None  #: None before its end
    label: str
    confidence: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectShown:
    """One object that a job wrote."""

    role: str
    sop_class_uid: str
    sop_instance_uid: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeJob(JobShown):
    """A job with its reasons, its result and what it wrote."""

    revision: int
    destinations: Sequence[str]
    reasons: Sequence[str]
    predecessor: str
    images: int
    result: Mapping[str, Any] = field(default_factory=dict)  #: label, confidence, findings, notes, seconds by step
    objects: Sequence[ObjectShown] = ()


class JobList:
    """What is asked of the jobs in the ledger."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find(self, *, limit: int, cursor: str = "", state: str = "", pipeline: str = "", study: str = "") -> Page[JobShown]:
        """Jobs, newest first. Raises CursorInvalid."""
        where = [column == value for column, value in ((job.state, state), (job.pipeline, pipeline), (job.study, study)) if value]
        if cursor:
            where.append(older(job.scheduled_at, job.id, by_time(cursor)))
        query = _with_result().where(*where).order_by(job.scheduled_at.desc(), job.id.desc()).limit(limit + 1)
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return page([JobShown(**_facts(row)) for row in rows], limit, lambda one: (one.scheduled_at, one.id))

    def one(self, id: str) -> WholeJob:
        """A job with all that is known of it. Raises NotThere."""
        found = self._whole(job.id == id)
        if not found:
            raise NotThere
        return found[0]

    def of_study(self, study: str) -> list[WholeJob]:
        """Every job of a study, oldest first."""
        return self._whole(job.study == study)

    def again(self, id: str) -> None:
        """A job that was given up waits once more, as if nobody had tried. Raises NotThere, NotNow."""
        waiting = {"state": JobState.SCHEDULED.value, "failures": 0, "attempts": 0, "reason": "", "handed_over": False, "ended_at": None}
        with self._engine.begin() as connection:
            state = connection.scalar(select(job.state).where(job.id == id))
            if state is None:
                raise NotThere
            if state != JobState.CANCELED.value:
                raise NotNow(f"only a job that was given up is tried again; this one is {state}")
            connection.execute(update(JobRow).where(job.id == id).values(**waiting, worker="", lease_until=None))
            connection.execute(delete(SummaryRow).where(SummaryRow.job == id))

    def given_up(self, study: str) -> list[str]:
        """Ids of a study's jobs that were given up."""
        with reading(self._engine) as connection:
            return list(connection.scalars(select(job.id).where(job.study == study, job.state == JobState.CANCELED.value)))

    # --- below ----------------------------------------------------------------------------------------------------------
    def _whole(self, where: Any) -> list[WholeJob]:
        with reading(self._engine) as connection:
            rows = connection.execute(_with_result().where(where).order_by(job.scheduled_at, job.id)).all()
            written = connection.execute(select(ObjectRow.__table__).where(obj.job.in_([row.id for row in rows]))).all()
        return [
            WholeJob(
                **_facts(row),
                revision=row.revision,
                destinations=row.destinations,
                reasons=row.reasons,
                predecessor=row.predecessor,
                images=len(row.inputs),
                result=row.summary or {},
                objects=_objects([one for one in written if one.job == row.id]),
            )
            for row in rows
        ]


def _with_result() -> Any:
    return select(JobRow.__table__, SummaryRow.summary).outerjoin(SummaryRow, SummaryRow.job == job.id)


def _facts(row: Row[Any]) -> dict[str, Any]:
    same = ("id", "study", "pseudonym", "series", "pipeline", "rule", "state", "reason", "priority", "shadow", "attempts")
    times = {name: getattr(row, name) for name in ("scheduled_at", "started_at", "ended_at")}
    took = (row.ended_at - row.started_at).total_seconds() if row.ended_at and row.started_at else None
    said = row.summary or {}
    return {
        **{name: getattr(row, name) for name in same},
        **times,
        "version": row.algorithm["version"],
        "seconds": took,
        "analysed": said.get("analysed"),
        "label": said.get("label") or "",
        "confidence": said.get("confidence"),
    }


def _objects(rows: Sequence[Row[Any]]) -> list[ObjectShown]:
    shown = [
        ObjectShown(role=row.role, sop_class_uid=row.sop_class_uid, sop_instance_uid=row.sop_instance_uid, sha256=row.sha256)
        for row in rows
    ]
    return sorted(shown, key=lambda one: _ORDER.index(one.role) if one.role in _ORDER else len(_ORDER))
