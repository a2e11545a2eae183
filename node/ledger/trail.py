"""The audit trail: a chain of hashes in the ledger, and its signed head beside it.

Each record's hash covers its number, time, event and the hash before it, so a record that was altered, taken out or moved
breaks the chain at its place. A chain alone does not show that its end was cut off, nor that all of it was written anew; the
head does: number and hash of the last record, under an HMAC.

What it can't show: records lost between the last commit and the head's next write (the head follows the commit), and the work
of somebody who holds the head's key *and* may write both the database and the head. Keep the key where the database's
administrator has no access, or send the exported trail to an audit record repository (PS3.15 A.5).
"""

from __future__ import annotations

import fcntl
import hmac
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Engine, Row, insert, select, text

from node.audit import Action, AuditEvent, Event, Outcome, from_dict, to_dict, to_json, to_xml
from node.errors import TrailClosed
from node.ledger.database import reading
from node.ledger.tables import AuditRow
from node.ledger.trail_search import EVERYTHING, Wanted

FIRST = "0" * 64  #: what stands before the first record
APPENDING = 7_236_002  #: advisory lock in PostgreSQL: one process appends at a time
AT_ONCE = 5000
ALARM = "audit trail does not fit its head"

table = AuditRow.__table__
audit = table.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What `verify` found. `seq` is the first record that is wrong, None when the trail is intact."""

    intact: bool
    records: int
    seq: int | None = None
    reason: str = ""
    head: str = ""  #: what the head says: "signed", or why it says nothing


class Head:
    """Number and hash of the last record, signed: a small file, written over in place after each commit."""

    SIZE = 256

    def __init__(self, path: Path, key: bytes) -> None:
        self.path = path
        self._key = key

    @classmethod
    def beside(cls, engine: Engine) -> Head | None:
        """`audit.head` and its key `audit.key` in the folder of a SQLite database; None for another one."""
        database = engine.url.database
        if engine.dialect.name != "sqlite" or not database or database == ":memory:":
            return None
        folder = Path(database).absolute().parent
        return cls(folder / "audit.head", key_of(folder / "audit.key"))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process of this machine appends while the block runs, so that the head never goes back."""
        try:
            lock = self.path.with_suffix(".lock").open("a")
        except PermissionError:
            raise TrailClosed from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def write(self, seq: int, hash: str) -> None:
        facts = f"{seq} {hash}"
        line = f"{facts} {self._sign(facts)}\n".encode().ljust(self.SIZE, b" ")
        new = not self.path.exists()
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(handle, line, 0)  # less than a sector: after a power cut it is the old one or the new one
            if new:
                os.fsync(handle)
        finally:
            os.close(handle)

    def read(self) -> tuple[int, str] | None:
        """(number, hash); None when there is no head.

        Raises
        ------
        ValueError
            When the signature does not fit.
        """
        try:
            words = self.path.read_text().split()
        except FileNotFoundError:
            return None
        if len(words) != 3 or not hmac.compare_digest(self._sign(" ".join(words[:2])), words[2]):
            raise ValueError("the signature of the head does not fit")
        return int(words[0]), words[1]

    def _sign(self, facts: str) -> str:
        return hmac.new(self._key, facts.encode(), sha256).hexdigest()


def key_of(path: Path) -> bytes:
    """The head's key, made at the first use; readable by the owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return bytes.fromhex(path.read_text())
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        os.fsync(file.fileno())
    return bytes.fromhex(path.read_text())


class Trail:
    """Appends audit events, and tells whether anybody touched them since."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime], *, head: Head | None = None) -> None:
        self._engine = engine
        self._clock = clock
        self._head = head or Head.beside(engine)

    def record(self, event: AuditEvent) -> None:
        """Durable on return."""
        self.record_all([event])

    def record_all(self, events: Iterable[AuditEvent]) -> None:
        """Several events in one commit, durable on return. Whoever appends does so alone, whatever the process."""
        waiting = list(events)
        if not waiting:
            return
        if self._head is None:
            self._append(waiting, head=None)
            return
        with self._head.alone():
            try:
                head = self._head.read()
            except ValueError:
                head = (-1, "")
            self._head.write(*self._append(waiting, head=head))

    def verify(self) -> Verdict:
        """Follow the chain from its first record to its head; names the first record that is wrong."""
        head_says, head = self._read_head()
        records, previous, hash, alarm = 0, 0, FIRST, 0
        at_head = FIRST if head == (0, FIRST) else ""
        with reading(self._engine) as connection:
            for row in self._rows(connection):
                if wrong := _wrong(row, previous, hash):
                    return Verdict(intact=False, records=records, seq=wrong[0], reason=wrong[1], head=head_says)
                if _is_alarm(row) and not alarm:
                    alarm = row.seq
                records, previous, hash = records + 1, row.seq, row.hash
                if head and row.seq == head[0]:
                    at_head = row.hash
        if head and previous < head[0]:
            reason = f"removed: the trail ends at {previous}, its head says {head[0]}"
            return Verdict(intact=False, records=records, seq=previous + 1, reason=reason, head=head_says)
        if head and at_head != head[1]:
            reason = "the record is not the one its head was signed for: the trail was written anew"
            return Verdict(intact=False, records=records, seq=head[0], reason=reason, head=head_says)
        if self._head is not None and head is None and (records or head_says != "missing"):
            return Verdict(intact=False, records=records, seq=previous, reason=f"the head is {head_says}", head=head_says)
        if alarm:
            reason = "here the node found the trail's end or its head gone, and wrote on"
            return Verdict(intact=False, records=records, seq=alarm, reason=reason, head=head_says)
        return Verdict(intact=True, records=records, head=head_says)

    def export(self, format: Literal["xml", "json"] = "xml", wanted: Wanted = EVERYTHING) -> Iterator[str]:
        """Every wanted record in order: an `AuditMessage` of PS3.15 A.5, or one line of JSON."""
        with reading(self._engine) as connection:
            for row in self._rows(connection, wanted):
                event, at = from_dict(json.loads(row.event)), datetime.fromisoformat(row.at)
                if format == "xml":
                    yield to_xml(event, at)
                else:
                    yield to_json(event, at, seq=row.seq, previous=row.previous, hash=row.hash)

    def find(self, wanted: Wanted = EVERYTHING, *, before: int | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """The newest wanted records below the number `before`, newest first: as `tail` shows them."""
        found: list[dict[str, Any]] = []
        with reading(self._engine) as connection:
            while len(found) < limit:
                query = select(table).where(*wanted.conditions()).order_by(audit.seq.desc()).limit(limit)
                rows = connection.execute(query if before is None else query.where(audit.seq < before)).all()
                found += [_shown(row) for row in rows if wanted.fits(json.loads(row.event))]
                if len(rows) < limit:
                    break
                before = rows[-1].seq
        return found[:limit]

    def tail(self, n: int) -> list[dict[str, Any]]:
        """The last n records, oldest first: number, time and the event's facts."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(table).order_by(audit.seq.desc()).limit(n)).all()
        return [_shown(row) for row in reversed(rows)]

    def of_study(self, study: str) -> list[dict[str, Any]]:
        """What happened to a study, oldest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(table).where(audit.study == study).order_by(audit.seq)).all()
        return [_shown(row) for row in rows]

    # --- below ----------------------------------------------------------------------------------------------------------
    def _append(self, events: list[AuditEvent], *, head: tuple[int, str] | None) -> tuple[int, str]:
        with self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": APPENDING})
            last = connection.execute(select(audit.seq, audit.hash).order_by(audit.seq.desc()).limit(1)).first()
            seq, hash = (last.seq, last.hash) if last else (0, FIRST)
            if self._head is not None and (alarm := _alarm(seq, head)):
                # the number goes on after the head, so that what is missing stays missing for every later `verify`
                seq = max(seq, head[0] if head else 0)
                events = [alarm, *events]
            rows = []
            for event in events:
                seq, at = seq + 1, self._clock().astimezone(UTC).isoformat(timespec="microseconds")
                canonical = json.dumps(to_dict(event), sort_keys=True, separators=(",", ":"))
                previous, hash = hash, _hash(seq, at, canonical, hash)
                rows.append({"seq": seq, "at": at, "event": canonical, "study": event.study, "previous": previous, "hash": hash})
            connection.execute(insert(AuditRow), rows)
        return seq, hash

    def _rows(self, connection: Connection, wanted: Wanted = EVERYTHING) -> Iterator[Row[Any]]:
        """Every wanted record by number, a few thousand at a time."""
        last, query = -(2**31), select(table).where(*wanted.conditions()).order_by(audit.seq).limit(AT_ONCE)
        while rows := connection.execute(query.where(audit.seq > last)).all():
            yield from (row for row in rows if wanted is EVERYTHING or wanted.fits(json.loads(row.event)))
            last = rows[-1].seq

    def _read_head(self) -> tuple[str, tuple[int, str] | None]:
        if self._head is None:
            return "not kept on this machine", None
        try:
            head = self._head.read()
        except ValueError:
            return "not signed with this key", None
        return ("signed", head) if head else ("missing", None)


def _hash(seq: int, at: str, event: str, previous: str) -> str:
    return sha256(f"{seq}\n{at}\n{event}\n{previous}".encode()).hexdigest()


def _wrong(row: Row[Any], last: int, hash: str) -> tuple[int, str] | None:
    """(number, reason) when this record does not follow the one before."""
    if row.hash != _hash(row.seq, row.at, row.event, row.previous):
        return row.seq, "altered: the record does not have its own hash"
    if row.seq != last + 1:
        return last + 1, f"removed: after record {last} comes {row.seq}"
    if row.previous != hash:
        return row.seq, "reordered or replaced: the record does not name the hash before it"
    if row.study != json.loads(row.event).get("study", ""):
        return row.seq, "altered: the record is filed under another study"
    return None


def _shown(row: Row[Any]) -> dict[str, Any]:
    """Number, time, facts, and the event's code in words."""
    facts = json.loads(row.event)
    return {"seq": row.seq, "at": row.at, **facts, "event_meaning": from_dict(facts).event.value[1]}


def _is_alarm(row: Row[Any]) -> bool:
    return ALARM in row.event and json.loads(row.event).get("what") == ALARM


def _alarm(last: int, head: tuple[int, str] | None) -> AuditEvent | None:
    """The trail is shorter than its head says, or the head is gone: said in the trail itself, before anything else."""
    if head is not None and 0 <= head[0] <= last:
        return None
    if head is None and last == 0:
        return None
    return AuditEvent(
        event=Event.SECURITY_ALERT,
        action=Action.EXECUTE,
        outcome=Outcome.SERIOUS_FAILURE,
        what=ALARM,
        facts={"last": str(last), "head": "missing" if head is None else "not signed" if head[0] < 0 else str(head[0])},
    )
