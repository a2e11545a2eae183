"""Who is signed in: sessions that end by themselves, when nobody was there for a while and at the latest after a working day."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256

from sqlalchemy import Engine, delete, insert, or_, select, update

from node.ledger.database import reading
from node.ledger.tables import PersonRow, SessionRow
from node.ledger.tokens import Role, Roles, roles_named

SEEN_EVERY = timedelta(seconds=30)  #: how exactly it is written down that somebody is there

_table = SessionRow.__table__
_session = _table.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """Who came with a session that is good."""

    name: str
    own: Roles  #: the person's
    roles: Roles  #: and one that was taken for a while
    must_change: bool  #: the password was given by somebody else
    more_until: datetime | None = None  #: how long the role that was taken lasts
    key: str = field(repr=False)  #: digest of the id: the same session, without opening anything


class Sessions:
    """Sessions in the ledger: they outlast a restart."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime], *, idle_s: float = 1800, longest_s: float = 12 * 3600) -> None:
        self._engine, self._clock = engine, clock
        self._idle, self._longest = timedelta(seconds=idle_s), timedelta(seconds=longest_s)

    def open(self, name: str) -> str:
        """Somebody signed in; returns the session's id of 256 random bits, this one time."""
        id, now = secrets.token_urlsafe(32), self._clock()
        with self._engine.begin() as connection:
            old = or_(_session.opened_at <= now - self._longest, _session.seen_at <= now - self._idle)
            connection.execute(delete(SessionRow).where(old))
            connection.execute(insert(SessionRow).values(sha256=digest(id), person=name, opened_at=now, seen_at=now))
        return id

    def signed(self, id: str, *, active: bool = True) -> Signed | None:
        """Who has that session; None when there is none, it ended, or the person was disabled. `active`: somebody is there."""
        return self.by_key(digest(id), active=active)

    def by_key(self, key: str, *, active: bool = False) -> Signed | None:
        """The same by the digest of the id."""
        now, person = self._clock(), PersonRow.__table__.c
        query = select(_table, person.name, person.roles, person.one_time).join(PersonRow, person.name == _session.person)
        with reading(self._engine) as connection:
            row = connection.execute(query.where(_session.sha256 == key, person.disabled.is_(False))).first()
        if row is None or row.opened_at <= now - self._longest or row.seen_at <= now - self._idle:
            return None
        if active and now - row.seen_at >= min(SEEN_EVERY, self._idle / 4):
            with self._engine.begin() as connection:
                connection.execute(update(SessionRow).where(_session.sha256 == key).values(seen_at=now))
        own = roles_named(row.roles.split())
        more = bool(row.more_role and row.more_until and row.more_until > now)
        return Signed(
            name=row.name,
            own=own,
            roles=own | {Role(row.more_role)} if more else own,
            must_change=row.one_time,
            more_until=row.more_until if more else None,
            key=key,
        )

    def close(self, id: str) -> None:
        """Somebody signed out."""
        with self._engine.begin() as connection:
            connection.execute(delete(SessionRow).where(_session.sha256 == digest(id)))

    def close_all(self, name: str) -> None:
        """Every session of somebody ends."""
        with self._engine.begin() as connection:
            connection.execute(delete(SessionRow).where(_session.person == name))

    def take_role(self, key: str, role: Role, *, minutes: float) -> datetime:
        """This session has one more role for a while; returns until when."""
        until = self._clock() + timedelta(minutes=minutes)
        with self._engine.begin() as connection:
            connection.execute(update(SessionRow).where(_session.sha256 == key).values(more_role=role.value, more_until=until))
        return until


def digest(id: str) -> str:
    """What is kept of a session's id."""
    return sha256(id.encode()).hexdigest()
