"""The outbox: objects wait without a name, get it in memory at the moment of sending, and their state says the truth."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from io import BytesIO
from itertools import groupby
from pathlib import Path

from pydicom import dcmread
from sqlalchemy import Engine, and_, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from node import log
from node.audit import Action, AuditEvent, Event, Outcome, Record
from node.destinations.interface import Destination
from node.domain import CleanUid, Role, WrittenObject
from node.errors import DeliveryFailed, DeliveryRefused, KeyMissing, NodeError, VaultError
from node.identified.tables import OutboxRow

_log = log.get(__name__)

_BATCH = 200  #: rows a round and destination
_RESTS_AFTER = 3  #: failures in a row, then the destination is left alone for a while
_ASKS = 8  #: how often a destination is asked whether it holds what it took
_LAST = (Role.PDF, Role.TEXT, Role.KO, Role.SR_ENHANCED, Role.SR)  # they refer to the others
_ORDER = {role: n for n, role in enumerate((*(role for role in Role if role not in _LAST), *_LAST))}


class State(StrEnum):
    """How far one object came on its way to one destination."""

    QUEUED = "QUEUED"
    SENT = "SENT"  #: the destination said it took it
    CONFIRMED = "CONFIRMED"  #: asked afterwards, it holds it
    REFUSED = "REFUSED"  #: for good; the reason says why


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One object for one destination, as it stands."""

    id: int
    study: str
    job: str
    role: str
    sop_instance_uid: str
    destination: str
    state: State
    attempts: int
    reason: str
    queued_at: datetime
    updated_at: datetime
    next_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationStatus:
    """What waits for a destination and what became of the rest."""

    name: str
    configured: bool  #: false: rows name it, the settings do not
    counts: Mapping[State, int]
    oldest_queued: datetime | None
    rests_until: datetime | None  #: it failed several times in a row and is left alone until then
    reason: str  #: of the latest failure among what waits


@dataclass(slots=True)
class _Line:
    """One destination's thread of work: never twice at once, and at rest after failures in a row."""

    busy: threading.Lock = field(default_factory=threading.Lock)
    failed_rounds: int = 0
    rests_until: datetime | None = None
    tried: deque[datetime] = field(default_factory=deque)  #: objects of the last minute, where a rate is set


class Outbox:
    """Rows in the identified database; nameless files on the clean volume; names only in memory.

    Sending is safe to repeat, because the same work has the same SOP Instance UID: after a crash between "sent" and "noted"
    the object is sent again and replaces itself. One process sends; each destination has a thread of its own, so that a
    slow or broken one holds up nobody else.

    Parameters
    ----------
    reidentify
        Gives a copy of the object its names back, from bytes to bytes.
    give_up_after
        An object that waited so long is REFUSED with the last reason; `retry` starts again.
    pack
        The object in the transfer syntax that a destination likes, by its name and the SOP Class UID; the bytes as they are where it has no wish.
    rate_per_minute
        How many objects a destination is sent in a minute at most; the others wait for the next one. Without an entry: as many as it takes.
    """

    def __init__(
        self,
        engine: Engine,
        destinations: Mapping[str, Destination],
        reidentify: Callable[[bytes, CleanUid], bytes],
        clean_folder: Path,
        record: Record,
        *,
        pack: Callable[[str, str, bytes], bytes] = lambda destination, sop_class_uid, part10: part10,
        first_retry_s: float = 2,
        longest_retry_s: float = 900,
        give_up_after: timedelta = timedelta(hours=72),
        rate_per_minute: Mapping[str, int] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),  # noqa: S311 - spreads retries, protects nothing
    ) -> None:
        self._engine = engine
        self._reading = engine.execution_options(reading=True)
        self._destinations = dict(destinations)
        self._reidentify = reidentify
        self._clean_folder = clean_folder
        self._record = record
        self._pack = pack
        self._first_retry_s = first_retry_s
        self._longest_retry_s = longest_retry_s
        self._give_up_after = give_up_after
        self._rate_per_minute = dict(rate_per_minute or {})
        self._clock = clock
        self._jitter = jitter
        self._lines = {name: _Line() for name in self._destinations}
        self._threads = ThreadPoolExecutor(max_workers=max(1, len(self._lines)), thread_name_prefix="delivery")

    # --- in -----------------------------------------------------------------------------------------------------------------
    def put(self, obj: WrittenObject, destinations: Iterable[str]) -> None:
        """Queue an object for each destination. An object that is there already stays as it is."""
        now = self._clock()
        path = obj.path
        if path.is_absolute():
            path = path.resolve().relative_to(self._clean_folder.resolve())
        for destination in dict.fromkeys(destinations):
            row = OutboxRow(
                study=obj.study,
                job=obj.job,
                role=obj.role,
                sop_class_uid=obj.sop_class_uid,
                sop_instance_uid=obj.sop_instance_uid,
                path=str(path),
                destination=destination,
                state=State.QUEUED,
                attempts=0,
                next_at=now,
                reason="",
                queued_at=now,
                updated_at=now,
            )
            try:
                with Session(self._engine) as session, session.begin():
                    session.add(row)
            except IntegrityError:  # (SOP Instance UID, destination) is there: the same work, put twice
                continue

    # --- out ----------------------------------------------------------------------------------------------------------------
    def send_due(self, wait_s: float | None = None) -> int:
        """Send what is due, each destination in its own thread; returns how many objects were taken.

        With `wait_s` it returns after that time although a slow destination is still at work; the next call passes it by
        until it is done, and what it sends then is counted by nobody.
        """
        self._name_the_missing()
        running: list[Future[int]] = []
        for name, line in self._lines.items():
            if line.busy.acquire(blocking=False):
                running.append(self._threads.submit(self._work, name, line))
        done, _ = wait(running, timeout=wait_s)
        return sum(future.result() for future in done)

    def retry(self, id: int) -> None:
        """Queue an object again, now, whatever became of it. Raises KeyError when there is no such row."""
        now = self._clock()
        fresh = {"state": State.QUEUED, "attempts": 0, "asked": 0, "next_at": now, "queued_at": now, "updated_at": now, "reason": ""}
        with Session(self._engine) as session, session.begin():
            name = session.scalar(update(OutboxRow).where(OutboxRow.id == id).values(**fresh).returning(OutboxRow.destination))
        if name is None:
            raise KeyError(id)
        if name in self._lines:
            self._lines[name].rests_until = None

    def close(self) -> None:
        """Wait for objects that are on the wire, and send no more."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    # --- what is known ------------------------------------------------------------------------------------------------------
    def status(self) -> list[DestinationStatus]:
        """Each destination, those that only rows name too."""
        with Session(self._reading) as session:
            counted = session.execute(
                select(OutboxRow.destination, OutboxRow.state, func.count()).group_by(OutboxRow.destination, OutboxRow.state)
            ).all()
            waiting = session.execute(
                select(OutboxRow.destination, OutboxRow.queued_at, OutboxRow.reason, OutboxRow.updated_at)
                .where(OutboxRow.state == State.QUEUED)
                .order_by(OutboxRow.updated_at)
            ).all()
        found: list[DestinationStatus] = []
        for name in sorted({*self._lines, *(row[0] for row in counted)}):
            queued = [row for row in waiting if row.destination == name]
            found.append(
                DestinationStatus(
                    name=name,
                    configured=name in self._lines,
                    counts={state: sum(n for where, what, n in counted if where == name and what == state) for state in State},
                    oldest_queued=min((_utc(row.queued_at) for row in queued), default=None),
                    rests_until=self._lines[name].rests_until if name in self._lines else None,
                    reason=next((row.reason for row in reversed(queued) if row.reason), ""),
                )
            )
        return found

    def entries(self, study: CleanUid | None = None, *, state: State | None = None, limit: int = 1000) -> list[Entry]:
        """The rows of a study, or of all, newest first."""
        query = select(OutboxRow).order_by(OutboxRow.id.desc()).limit(limit)
        if study is not None:
            query = query.where(OutboxRow.study == study)
        if state is not None:
            query = query.where(OutboxRow.state == state)
        with Session(self._reading) as session:
            return [
                Entry(
                    id=row.id,
                    study=row.study,
                    job=row.job,
                    role=row.role,
                    sop_instance_uid=row.sop_instance_uid,
                    destination=row.destination,
                    state=State(row.state),
                    attempts=row.attempts,
                    reason=row.reason,
                    queued_at=_utc(row.queued_at),
                    updated_at=_utc(row.updated_at),
                    next_at=_utc(row.next_at),
                )
                for row in session.scalars(query)
            ]

    def dead_letters(self) -> dict[str, list[int]]:
        """Ids of what was refused for good, by destination, the latest first."""
        query = select(OutboxRow.destination, OutboxRow.id).where(OutboxRow.state == State.REFUSED).order_by(OutboxRow.id.desc())
        found: dict[str, list[int]] = {}
        with Session(self._reading) as session:
            for name, id in session.execute(query):
                found.setdefault(name, []).append(id)
        return found

    # --- one destination's round --------------------------------------------------------------------------------------------
    def _work(self, name: str, line: _Line) -> int:
        try:
            if line.rests_until is not None and self._clock() < line.rests_until:
                return 0
            return self._round(name, line)
        except Exception as why:  # nobody may be waiting for this thread any more
            _log.error("delivery failed", extra={"destination": name, "where": log.where_it_failed(why)})
            raise
        finally:
            line.busy.release()

    def _round(self, name: str, line: _Line) -> int:
        due = self._within_rate(name, line, self._due(name))
        taken = failures = 0
        for _, rows in groupby(due, key=lambda row: row.study):
            more, failures = self._deliver_study(name, list(rows), failures)
            taken += more
            if failures >= _RESTS_AFTER:
                line.failed_rounds += 1
                line.rests_until = self._clock() + self._backoff(line.failed_rounds)
                _log.warning("destination rests", extra={"destination": name, "rounds": line.failed_rounds})
                return taken
        if due:
            line.failed_rounds, line.rests_until = 0, None
        return taken

    def _due(self, name: str) -> list[OutboxRow]:
        """Study by study and job by job in the order they were queued; in a job SEG, SC, SR."""
        now = self._clock()
        waits = or_(
            OutboxRow.state == State.QUEUED,
            and_(OutboxRow.state == State.SENT, OutboxRow.asked.between(1, _ASKS - 1)),
        )
        query = select(OutboxRow).where(OutboxRow.destination == name, waits, OutboxRow.next_at <= now).order_by(OutboxRow.id).limit(_BATCH)
        with Session(self._reading) as session:
            rows = list(session.scalars(query))
            session.expunge_all()
        first: dict[str, int] = {}
        for row in rows:
            first.setdefault(row.study, row.id)
            first.setdefault(row.job, row.id)
        return sorted(rows, key=lambda row: (first[row.study], first[row.job], _ORDER.get(Role(row.role), 9), row.id))

    def _within_rate(self, name: str, line: _Line, due: list[OutboxRow]) -> list[OutboxRow]:
        """As many of the objects as may still be sent in this minute; asking about those that were sent costs nothing."""
        if (rate := self._rate_per_minute.get(name)) is None:
            return due
        now = self._clock()
        while line.tried and line.tried[0] <= now - timedelta(minutes=1):
            line.tried.popleft()
        left = rate - len(line.tried)
        waiting = [row for row in due if row.state == State.QUEUED]
        line.tried.extend([now] * len(waiting[:left]) if left > 0 else [])
        later = {row.id for row in waiting[max(0, left) :]}
        return [row for row in due if row.id not in later]

    def _deliver_study(self, name: str, rows: Sequence[OutboxRow], failures: int) -> tuple[int, int]:
        """Send a study's rows until too many fail in a row; returns (taken, failures in a row).

        One audit event before the first attempt and one an outcome afterwards, written before the rows are: a crash in
        between sends again and tells again, it does not forget.
        """
        told: list[tuple[OutboxRow, Outcome, str]] = []
        taken = 0
        if any(row.state == State.QUEUED and row.attempts == 0 for row in rows):
            self._tell(Event.BEGIN_TRANSFERRING, Action.EXECUTE, name, rows[0].study, Outcome.SUCCESS, "", len(rows))
        for row in rows:
            if row.state == State.SENT:
                self._ask_again(name, row)
                continue
            outcome, reason = self._deliver(name, row)
            taken += outcome is Outcome.SUCCESS
            failures = failures + 1 if outcome is Outcome.MINOR_FAILURE else 0
            if outcome is not Outcome.MINOR_FAILURE or row.attempts == 1:
                told.append((row, outcome, reason))
            if failures >= _RESTS_AFTER:
                break
        for outcome in (Outcome.SUCCESS, Outcome.MINOR_FAILURE, Outcome.MAJOR_FAILURE):
            if reasons := [reason for _, what, reason in told if what is outcome]:
                words = "; ".join(dict.fromkeys(reasons))
                self._tell(Event.INSTANCES_TRANSFERRED, Action.CREATE, name, rows[0].study, outcome, words, len(reasons))
        self._note([row for row, _, _ in told])
        return taken, failures

    def _deliver(self, name: str, row: OutboxRow) -> tuple[Outcome, str]:
        """Name it again, send it, ask about it. Changes the row; a failure for now is noted at once."""
        row.attempts += 1
        row.updated_at = self._clock()
        try:
            named, answer = self._send(name, row)
        except DeliveryRefused as why:
            return self._refuse(row, _sentence(why))
        except DeliveryFailed as why:
            return self._later(row, _sentence(why))
        except KeyMissing:
            return self._refuse(row, "the study's key is gone, so its names can't be given back")
        except FileNotFoundError:
            return self._refuse(row, "the object is gone from the clean volume")
        except VaultError as why:
            return self._refuse(row, why.message)
        except NodeError as why:
            return self._later(row, why.message)
        except Exception as why:  # a foreign library's: it may pass, and its text may quote the object
            _log.error("delivery failed unexpectedly", extra={"destination": name, "object": row.sop_instance_uid}, exc_info=why)
            return self._later(row, log.where_it_failed(why))
        row.state, row.reason = State.SENT, answer
        self._confirm(name, row, named)
        return Outcome.SUCCESS, answer

    def _send(self, name: str, row: OutboxRow) -> tuple[bytes, str]:
        """Packed before it has a name; once more uncompressed where the destination refuses that, and the answer says so."""
        plain = self._plain(row)
        packed = self._pack(name, row.sop_class_uid, plain)
        named = self._reidentify(packed, CleanUid(row.study))
        try:
            return named, self._destinations[name].send(named)
        except DeliveryRefused as why:
            if packed == plain:
                raise
            named = self._reidentify(plain, CleanUid(row.study))
            return named, f"{self._destinations[name].send(named)}, uncompressed: compressed it said {_sentence(why)}"

    def _confirm(self, name: str, row: OutboxRow, named: bytes) -> None:
        header = dcmread(BytesIO(named), stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
        try:
            holds = self._destinations[name].confirm(row.sop_class_uid, row.sop_instance_uid, str(header.StudyInstanceUID))
        except Exception as why:  # being asked must not turn a success into a failure
            _log.warning("confirmation failed", extra={"destination": name, "where": log.where_it_failed(why)})
            holds = None
        if holds:
            row.state = State.CONFIRMED
        elif holds is False or row.asked:
            row.asked += 1
            row.next_at = row.updated_at + self._backoff(row.asked)
            if row.asked == _ASKS:
                row.reason += "; asked afterwards, the destination does not list it"

    def _ask_again(self, name: str, row: OutboxRow) -> None:
        """It was taken, but not listed yet: some archives index late."""
        row.updated_at = self._clock()
        try:
            self._confirm(name, row, self._reidentify(self._plain(row), CleanUid(row.study)))
        except Exception as why:
            row.asked = _ASKS
            _log.warning("can't be confirmed", extra={"destination": name, "where": log.where_it_failed(why)})
        self._note([row])

    # --- small steps --------------------------------------------------------------------------------------------------------
    def _plain(self, row: OutboxRow) -> bytes:
        return (self._clean_folder / row.path).read_bytes()

    def _refuse(self, row: OutboxRow, reason: str) -> tuple[Outcome, str]:
        row.state, row.reason = State.REFUSED, reason
        return Outcome.MAJOR_FAILURE, reason

    def _later(self, row: OutboxRow, reason: str) -> tuple[Outcome, str]:
        if row.updated_at - _utc(row.queued_at) >= self._give_up_after:
            hours = self._give_up_after.total_seconds() / 3600
            return self._refuse(row, f"given up after {hours:g} hours: {reason}")
        row.reason = reason
        row.next_at = row.updated_at + self._backoff(row.attempts)
        self._note([row])
        return Outcome.MINOR_FAILURE, reason

    def _backoff(self, attempts: int) -> timedelta:
        exact = min(self._first_retry_s * 2.0 ** min(attempts - 1, 40), self._longest_retry_s)
        return timedelta(seconds=exact * self._jitter())

    def _note(self, rows: Sequence[OutboxRow]) -> None:
        """Write the rows as they are now. A row that was queued again by hand meanwhile is overwritten: it was just tried."""
        if not rows:
            return
        columns = ("state", "attempts", "asked", "next_at", "reason", "updated_at")
        with Session(self._engine) as session, session.begin():
            for row in rows:
                session.execute(update(OutboxRow).where(OutboxRow.id == row.id).values({c: getattr(row, c) for c in columns}))

    def _name_the_missing(self) -> None:
        """Rows whose destination left the settings wait, and say why."""
        reason = "the settings name no such destination"
        lost = (OutboxRow.state == State.QUEUED, OutboxRow.destination.not_in(list(self._lines)), OutboxRow.reason != reason)
        with Session(self._reading) as session:
            if session.scalar(select(func.count()).select_from(OutboxRow).where(*lost)) == 0:
                return
        with Session(self._engine) as session, session.begin():
            session.execute(update(OutboxRow).where(*lost).values(reason=reason, updated_at=self._clock()))

    def _tell(self, event: Event, action: Action, name: str, study: str, outcome: Outcome, reason: str, count: int) -> None:
        facts = {"instances": str(count), "direction": "out"}
        self._record(AuditEvent(event=event, action=action, outcome=outcome, peer=name, study=study, what=reason, facts=facts))


def _sentence(why: DeliveryFailed | DeliveryRefused) -> str:
    http = why.facts.get("http")
    return why.detail or (f"HTTP {http}" if http else why.message)


def _utc(moment: datetime) -> datetime:
    """SQLite forgets the time zone; what is stored is UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
