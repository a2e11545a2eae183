"""The audit trail as a list: the newest first, a page at a time. Reading it here proves nothing; `Trail.verify` does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Engine, Row, func, select

from node.audit import Event, from_dict
from node.ledger.database import reading
from node.ledger.paging import Page, by_number, page
from node.ledger.tables import AuditRow
from node.ledger.trail_search import as_kept

audit = AuditRow.__table__.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of the trail, its codes in words."""

    seq: int
    at: str  #: ISO 8601, as it was hashed
    event: str  #: code value, CID 400
    meaning: str
    type: str
    action: str
    outcome: int
    who: str
    peer: str
    study: str
    patient: str  #: pseudonym
    what: str
    facts: Mapping[str, str] = field(default_factory=dict)


class TrailList:
    """What is asked of the trail in the ledger."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find(
        self,
        *,
        limit: int,
        cursor: str = "",
        study: str = "",
        event: str = "",
        who: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Page[Record]:
        """Records, newest first. `event` is a code of CID 400; `who` is whole. Raises CursorInvalid."""
        where = [audit.study == study] if study else []
        where += _as_written(event, who)
        if since:
            where.append(audit.at >= as_kept(since))
        if until:
            where.append(audit.at < as_kept(until))
        if cursor:
            where.append(audit.seq < by_number(cursor))
        with reading(self._engine) as connection:
            rows = connection.execute(select(AuditRow.__table__).where(*where).order_by(audit.seq.desc()).limit(limit + 1)).all()
        return page([_record(row) for row in rows], limit, lambda one: (one.seq,))

    def of_study(self, study: str, limit: int) -> list[Record]:
        """The latest records of a study, the oldest of them first."""
        return list(reversed(self.find(limit=limit, study=study).items))

    def after(self, seq: int, limit: int) -> list[Record]:
        """The records that follow one, oldest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(AuditRow.__table__).where(audit.seq > seq).order_by(audit.seq).limit(limit)).all()
        return [_record(row) for row in rows]

    def last(self) -> int:
        """The number of the last record; 0 when there is none."""
        with reading(self._engine) as connection:
            return connection.scalar(select(func.max(audit.seq))) or 0


EVENTS = {event.value[0]: event.value[1] for event in Event}  #: CID 400: code → meaning


def _as_written(event: str, who: str) -> list[ColumnElement[bool]]:
    """In canonical JSON the keys are sorted: the event comes second, who did it comes last."""
    where: list[ColumnElement[bool]] = []
    if event:
        where.append(audit.event.like(f'{{"action":"_","event":"{event}",%'))
    if who:
        where.append(audit.event.endswith(f',"who":{json.dumps(who)}}}', autoescape=True))
    return where


def _record(row: Row[Any]) -> Record:
    event = from_dict(json.loads(row.event))
    return Record(
        seq=row.seq,
        at=row.at,
        event=event.event.value[0],
        meaning=event.event.value[1],
        type=event.type.value[1] if event.type else "",
        action=event.action.value,
        outcome=event.outcome.value,
        who=event.who,
        peer=event.peer,
        study=event.study,
        patient=event.patient,
        what=event.what,
        facts=event.facts,
    )
