"""The outbox and the quarantine as lists, told without a name; what a destination does, and how long a study takes to reach one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from statistics import median
from typing import Any

from sqlalchemy import Engine, Row, case, delete, func, select

from node.destinations.interface import Destination
from node.errors import DeliveryFailed, DeliveryRefused, NotNow, NotThere
from node.identified.delivery import Outbox, State
from node.identified.tables import OutboxRow, QuarantineRow, StudyRow
from node.ledger.database import reading
from node.ledger.paging import Page, by_number, by_time, older, page
from node.ledger.shown import Delivery, DestinationShown, Echo, Refused, Turnaround

outbox, refused, study = OutboxRow.__table__.c, QuarantineRow.__table__.c, StudyRow.__table__.c
TAKEN = (State.SENT.value, State.CONFIRMED.value)


class Deliveries:
    """What is asked of the outbox, and the little that may be done to it by hand."""

    def __init__(self, engine: Engine, box: Outbox, destinations: Mapping[str, Destination]) -> None:
        self._engine = engine
        self._box = box
        self._destinations = destinations

    def find(self, *, limit: int, cursor: str = "", state: str = "", destination: str = "", study: str = "") -> Page[Delivery]:
        """Deliveries, the latest queued first. Raises CursorInvalid."""
        asked = ((outbox.state, state), (outbox.destination, destination), (outbox.study, study))
        where = [column == value for column, value in asked if value]
        if cursor:
            where.append(outbox.id < by_number(cursor))
        with reading(self._engine) as db:
            rows = db.execute(select(OutboxRow.__table__).where(*where).order_by(outbox.id.desc()).limit(limit + 1)).all()
        return page([_delivery(row) for row in rows], limit, lambda one: (one.id,))

    def one(self, id: int) -> Delivery:
        """A delivery. Raises NotThere."""
        with reading(self._engine) as db:
            row = db.execute(select(OutboxRow.__table__).where(outbox.id == id)).first()
        if row is None:
            raise NotThere
        return _delivery(row)

    def replay(self, id: int) -> Delivery:
        """Queue an object once more. Raises NotThere; NotNow while it waits already."""
        if self.one(id).state == State.QUEUED:
            raise NotNow("it waits to be sent already")
        try:
            self._box.retry(id)
        except KeyError:
            raise NotThere from None
        return self.one(id)

    def withdraw(self, job: str) -> int:
        """The job is done again: what it had queued and sent counts no more, so that its next result goes out. Returns how many."""
        with self._engine.begin() as db:
            return db.execute(delete(OutboxRow).where(outbox.job == job)).rowcount

    def counts(self) -> dict[str, dict[str, int]]:
        """Destination → state → how many."""
        found: dict[str, dict[str, int]] = {name: {state.value: 0 for state in State} for name in self._destinations}
        query = select(outbox.destination, outbox.state, func.count()).group_by(outbox.destination, outbox.state)
        with reading(self._engine) as db:
            for name, state, count in db.execute(query):
                found.setdefault(name, {one.value: 0 for one in State})[state] = int(count)
        return found

    def turnaround(self, since: datetime) -> Turnaround:
        """Over the studies that came since and of which nothing waits any more; what was refused for good counts as an end."""
        arrived = StudyRow.__table__.join(OutboxRow.__table__, outbox.study == study.study)
        waiting = func.sum(case((outbox.state == State.QUEUED.value, 1), else_=0))
        query = select(study.first_arrival, func.max(outbox.updated_at)).select_from(arrived).where(study.first_arrival >= since)
        query = query.group_by(study.study, study.first_arrival).having(waiting == 0)
        with reading(self._engine) as db:
            took = sorted((_aware(last) - _aware(first)).total_seconds() for first, last in db.execute(query))
        if not took:
            return Turnaround(studies=0, median_s=None, p95_s=None)
        return Turnaround(studies=len(took), median_s=round(median(took), 1), p95_s=round(took[-(-95 * len(took) // 100) - 1], 1))

    # --- destinations ---------------------------------------------------------------------------------------------------
    def destinations(self) -> list[DestinationShown]:
        """Each destination of the settings, and those that only rows name."""
        return [self._shown(name, counts) for name, counts in sorted(self.counts().items())]

    def echo(self, name: str) -> Echo:
        """Ask a destination whether it is there. Raises NotThere."""
        if name not in self._destinations:
            raise NotThere
        began = time.monotonic()
        try:
            words, answered = self._destinations[name].echo(), True
        except (DeliveryFailed, DeliveryRefused) as why:
            http = why.facts.get("http")
            words, answered = why.detail or (f"HTTP {http}" if http else why.message), False
        return Echo(destination=name, answered=answered, words=words, seconds=round(time.monotonic() - began, 3))

    def _shown(self, name: str, counts: Mapping[str, int]) -> DestinationShown:
        one = self._destinations.get(name)
        here = outbox.destination == name
        failed = outbox.state.in_((State.REFUSED.value, State.QUEUED.value))
        tried = (
            select(outbox.updated_at, outbox.reason).where(here, failed, outbox.reason != "").order_by(outbox.updated_at.desc()).limit(1)
        )
        with reading(self._engine) as db:
            oldest = db.scalar(select(func.min(outbox.queued_at)).where(here, outbox.state == State.QUEUED.value))
            success = [_latest(db, here, state) for state in TAKEN]
            failure = db.execute(tried).first()
        return DestinationShown(
            name=name,
            kind=type(one).__module__.rpartition(".")[2] if one else "",
            configured=one is not None,
            settings=one.described() if one else {},
            counts=counts,
            oldest_queued=_aware(oldest) if oldest else None,
            last_success=max((_aware(at) for at in success if at), default=None),
            last_failure=_aware(failure.updated_at) if failure else None,
            last_reason=failure.reason if failure else "",
        )


class Refusals:
    """The quarantine as a list."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find(self, *, limit: int, cursor: str = "") -> Page[Refused]:
        """Refused studies, the latest first. Raises CursorInvalid."""
        where = [older(refused.refused_at, refused.study, by_time(cursor))] if cursor else []
        order = (refused.refused_at.desc(), refused.study.desc())
        with reading(self._engine) as db:
            rows = db.execute(select(QuarantineRow.__table__).where(*where).order_by(*order).limit(limit + 1)).all()
        return page([_refusal(row) for row in rows], limit, lambda one: (one.refused_at, one.study))

    def one(self, uid: str) -> Refused | None:
        """Why a study was refused; None when it was not."""
        with reading(self._engine) as db:
            row = db.execute(select(QuarantineRow.__table__).where(refused.study == uid)).first()
        return _refusal(row) if row else None


def _latest(db: Any, here: Any, state: str) -> datetime | None:
    found: datetime | None = db.scalar(
        select(outbox.updated_at).where(here, outbox.state == state).order_by(outbox.updated_at.desc()).limit(1)
    )
    return found


def _delivery(row: Row[Any]) -> Delivery:
    facts = {name: row._mapping[name] for name in Delivery.__slots__}
    times = {name: _aware(facts[name]) for name in ("queued_at", "updated_at", "next_at")}
    return Delivery(**{**facts, **times})


def _refusal(row: Row[Any]) -> Refused:
    return Refused(study=row.study, revision=row.revision, kind=row.kind, reason=row.reason, refused_at=_aware(row.refused_at))


def _aware(moment: datetime) -> datetime:
    """SQLite gives moments back without their zone; they went in as UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
