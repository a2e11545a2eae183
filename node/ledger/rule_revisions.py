"""Revisions of the rules: added, never changed. The published one with the highest number is active."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, text, true, update

from node.errors import RevisionRefused
from node.ledger.database import reading
from node.ledger.tables import RuleRevisionRow, RulesFileRow

REVISING = 7_236_003  #: advisory lock in PostgreSQL: two changes of the rules come one after the other
SETTINGS_FILE = "settings file"  #: who published what came in by the file

row_of = RuleRevisionRow.__table__.c


class RevisionState(StrEnum):
    """How far a revision came."""

    DRAFT = "draft"  #: written down to be gone on with, or to be watched
    PROPOSED = "proposed"  #: waits for a second person
    PUBLISHED = "published"


class Step(StrEnum):
    """How a revision came about."""

    FILE = "file"
    PUBLISH = "publish"
    ROLLBACK = "rollback"
    WATCH = "watch"
    KEEP = "keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One text of the rules, and how it came about."""

    number: int  #: 1, 2, 3 …
    text: str = field(repr=False)
    sha256: str
    state: RevisionState
    step: Step
    base: int  #: the revision it was made from; 0: none
    who: str
    reason: str
    at: datetime
    approved_by: str = ""
    approved_at: datetime | None = None
    watched: bool = False


def digest_of(rules: str) -> str:
    """SHA-256 of a text, hexadecimal."""
    return hashlib.sha256(rules.encode()).hexdigest()


class RuleRevisions:
    """The rules' history in the ledger. Every change is one transaction, made from the revision that was active when it was begun."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    # --- questions ------------------------------------------------------------------------------------------------------
    def history(self) -> list[Revision]:
        """Every revision, the oldest first."""
        with reading(self._engine) as connection:
            return [_revision(row) for row in connection.execute(select(RuleRevisionRow.__table__).order_by(row_of.number))]

    def get(self, number: int) -> Revision:
        """That revision. Raises RevisionRefused."""
        with reading(self._engine) as connection:
            return _get(connection, number)

    def active(self) -> Revision | None:
        """The one that routes studies; None before the first."""
        with reading(self._engine) as connection:
            return _active(connection)

    def active_number(self) -> int:
        """Its number alone, asked before every study; 0 before the first."""
        with reading(self._engine) as connection:
            return _active_number(connection)

    def watched(self) -> Revision | None:
        """The draft that is evaluated beside the active one."""
        with reading(self._engine) as connection:
            row = connection.execute(select(RuleRevisionRow.__table__).where(row_of.watched == true())).first()
        return _revision(row) if row else None

    def watched_number(self) -> int:
        """Its number alone; 0 when there is none."""
        with reading(self._engine) as connection:
            return int(connection.scalar(select(func.max(row_of.number)).where(row_of.watched == true())) or 0)

    # --- what a change would be: asked first, so that it is written down before it is made ----------------------------------
    def next_number(self) -> int:
        """Of the revision that comes next. Each change that makes one says it: whoever was slower than somebody else is refused."""
        with reading(self._engine) as connection:
            return _next_number(connection)

    def may_publish(self, rules: str, base: int | None) -> None:
        """Raises RevisionRefused when `base` (None: whatever is active) is not the active one any more, or nothing would change."""
        with reading(self._engine) as connection:
            _free_to_follow(connection, base, digest_of(rules))

    def may_approve(self, number: int, who: str) -> Revision:
        """The proposal. Raises RevisionRefused when it is none, or may not be approved by that person, or not any more."""
        with reading(self._engine) as connection:
            return _proposal(connection, number, who)

    def file_is_new(self, rules: str) -> bool:
        """Whether the rules file would become a revision. Raises RevisionRefused as `take_file` does."""
        with reading(self._engine) as connection:
            return _file_is_new(connection, digest_of(rules))

    # --- changes --------------------------------------------------------------------------------------------------------
    def publish(
        self, rules: str, *, number: int, base: int | None, who: str, reason: str, step: Step = Step.PUBLISH, propose: bool = False
    ) -> Revision:
        """A new revision, active from now on; or with `propose` one that waits for a second person. Raises RevisionRefused."""
        with self._changing() as connection:
            _free_to_follow(connection, base, digest_of(rules))
            state = RevisionState.PROPOSED if propose else RevisionState.PUBLISHED
            return self._add(connection, rules, number, state, step, who, reason)

    def approve(self, number: int, *, who: str) -> Revision:
        """A proposal becomes active, by the word of another person than who made it. Raises RevisionRefused."""
        with self._changing() as connection:
            _proposal(connection, number, who)
            approved = {"state": RevisionState.PUBLISHED.value, "approved_by": who, "approved_at": self._clock()}
            connection.execute(update(RuleRevisionRow).where(row_of.number == number).values(approved))
            return _get(connection, number)

    def watch(self, rules: str, *, number: int, who: str, reason: str) -> Revision:
        """A draft that is watched from now on, in place of any other."""
        with self._changing() as connection:
            connection.execute(update(RuleRevisionRow).where(row_of.watched == true()).values(watched=False))
            return self._add(connection, rules, number, RevisionState.DRAFT, Step.WATCH, who, reason, watched=True)

    def keep(self, rules: str, *, number: int, base: int, who: str, reason: str) -> Revision:
        """A draft that somebody goes on with later; it does nothing."""
        with self._changing() as connection:
            return self._add(connection, rules, number, RevisionState.DRAFT, Step.KEEP, who, reason, base=base)

    def stop_watching(self) -> int:
        """No draft is watched any more; which one it was, 0: none."""
        with self._changing() as connection:
            number = int(connection.scalar(select(func.max(row_of.number)).where(row_of.watched == true())) or 0)
            connection.execute(update(RuleRevisionRow).where(row_of.watched == true()).values(watched=False))
            return number

    # --- the file of the settings -------------------------------------------------------------------------------------------
    def take_file(self, rules: str, *, number: int, reason: str, propose: bool) -> Revision | None:
        """The rules file as it stands at a start: the revision that it became, or None when nothing changes.

        Raises RevisionRefused when the file changed, but somebody has published since it was last read: then the ledger wins.
        """
        sha = digest_of(rules)
        with self._changing() as connection:
            active = _active(connection)
            made = None
            if _file_is_new(connection, sha):
                state = RevisionState.PROPOSED if propose and active is not None else RevisionState.PUBLISHED
                made = self._add(connection, rules, number, state, Step.FILE, SETTINGS_FILE, reason)
            if made is not None or (active is not None and active.sha256 == sha):
                self._file_was_read(connection, sha)
            return made

    def _file_was_read(self, connection: Connection, sha: str) -> None:
        connection.execute(delete(RulesFileRow))
        connection.execute(insert(RulesFileRow).values(id=1, sha256=sha, active=_active_number(connection), at=self._clock()))

    # --- below ----------------------------------------------------------------------------------------------------------
    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        """A transaction during which nobody else changes the rules."""
        with self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": REVISING})
            yield connection

    def _add(
        self,
        connection: Connection,
        rules: str,
        number: int,
        state: RevisionState,
        step: Step,
        who: str,
        reason: str,
        *,
        base: int | None = None,
        watched: bool = False,
    ) -> Revision:
        if number != _next_number(connection):
            raise RevisionRefused("somebody else changed the rules at this moment; look at them, then try again")
        connection.execute(
            insert(RuleRevisionRow).values(
                number=number,
                text=rules,
                sha256=digest_of(rules),
                state=state.value,
                step=step.value,
                base=_active_number(connection) if base is None else base,
                who=who,
                reason=reason,
                at=self._clock(),
                approved_by="",
                watched=watched,
            )
        )
        return _get(connection, number)


def _free_to_follow(connection: Connection, base: int | None, sha: str) -> None:
    """Two admins editing at once: the second one is told."""
    active = _active(connection)
    number = active.number if active else 0
    if base is not None and base != number:
        now = f"revision {number} by {active.who} is active now" if active else "nothing is published"
        raise RevisionRefused(f"these rules were made from revision {base}, and {now}; look at `radnode rules diff`, then publish again")
    if active is not None and active.sha256 == sha:
        raise RevisionRefused(f"nothing would change: these are the rules of revision {number}, which is active")


def _proposal(connection: Connection, number: int, who: str) -> Revision:
    """One that this person may approve."""
    proposal = _get(connection, number)
    if proposal.state is not RevisionState.PROPOSED:
        raise RevisionRefused(f"revision {number} is no proposal, it is {proposal.state}")
    if proposal.who == who:
        raise RevisionRefused("another person must approve it than the one who proposed it")
    _free_to_follow(connection, proposal.base, proposal.sha256)
    return proposal


def _file_is_new(connection: Connection, sha: str) -> bool:
    """The rules file changed, and nobody has published since it was last read."""
    seen = connection.execute(select(RulesFileRow.__table__)).first()
    active = _active(connection)
    if active is None or active.sha256 == sha:
        return active is None
    if seen is not None and seen.sha256 == sha:
        return False
    if seen is None or (active.number > seen.active and active.step is not Step.FILE):
        who = f"revision {active.number} was published by {active.who}"
        raise RevisionRefused(f"the rules file changed, but {who} since it was last read, and stays; publish the file to use it")
    return True


def _next_number(connection: Connection) -> int:
    return int(connection.scalar(select(func.max(row_of.number))) or 0) + 1


def _active_number(connection: Connection) -> int:
    return int(connection.scalar(select(func.max(row_of.number)).where(row_of.state == RevisionState.PUBLISHED.value)) or 0)


def _active(connection: Connection) -> Revision | None:
    number = _active_number(connection)
    return _get(connection, number) if number else None


def _get(connection: Connection, number: int) -> Revision:
    row = connection.execute(select(RuleRevisionRow.__table__).where(row_of.number == number)).first()
    if row is None:
        raise RevisionRefused(f"there is no revision {number}")
    return _revision(row)


def _revision(row: Row[Any]) -> Revision:
    facts = dict(row._mapping)
    return Revision(**{**facts, "state": RevisionState(facts["state"]), "step": Step(facts["step"])})
