"""People who may sign in: argon2id hashes of their passwords, and a lock that closes after wrong ones."""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from threading import BoundedSemaphore
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, Engine, Row, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from node.errors import PasswordRefused, PersonInvalid
from node.ledger.database import reading
from node.ledger.tables import PersonRow
from node.ledger.tokens import Role

FIRST = "admin"  #: who is made at the first start
SHORTEST, LONGEST = 12, 200  #: characters of a password
AT_ONCE = 2  #: hashes computed at the same time: each takes 64 MiB and most of a tenth of a second

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
_table = PersonRow.__table__
_person = _table.c


class Check(StrEnum):
    """What came of a name and a password."""

    GOOD = "good"
    WRONG = "wrong"
    LOCKED = "locked"  #: too many wrong ones: not even the right one is looked at
    UNKNOWN = "unknown"  #: nobody of that name, or somebody who was disabled


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What is known of somebody: never the password."""

    name: str
    role: Role
    disabled: bool
    one_time: bool  #: the password was given by somebody else and must be changed
    local: bool  #: has a password here
    locked_until: datetime | None  #: None: not locked
    created_at: datetime
    signed_in_at: datetime | None


class People:
    """Users in the ledger. A name is used once; somebody who was disabled stays in the list."""

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], datetime],
        *,
        max_failures: int = 5,
        lock_s: float = 900,
        hasher: PasswordHasher | None = None,
    ) -> None:
        self._engine, self._clock = engine, clock
        self._max_failures, self._lock = max_failures, timedelta(seconds=lock_s)
        self._hasher = hasher or PasswordHasher()
        self._few = BoundedSemaphore(AT_ONCE)
        self._nobodys = ""

    def first(self) -> tuple[str, str] | None:
        """At the first start: one administrator and a one-time password. None when there is anybody already."""
        if self.list():
            return None
        password = _one_time()
        try:
            self._add(FIRST, Role.ADMIN, self._hash(password))
        except PersonInvalid:  # another process was quicker
            return None
        return FIRST, password

    def add(self, name: str, role: str) -> str:
        """Let somebody in; returns a one-time password, this one time.

        Raises
        ------
        PersonInvalid
            When the name is taken or has odd characters, or the role is not known.
        """
        password = _one_time()
        self._add(name, role, self._hash(password))
        return password

    def vouched(self, name: str, role: str, subject: str) -> tuple[Person, bool]:
        """Somebody whom another place vouches for, by a subject that never changes; no password opens here. Also whether anything is new.

        Raises
        ------
        PersonInvalid
            When the person was disabled here, or somebody else has the name.
        """
        with reading(self._engine) as connection:
            row = connection.execute(select(_table).where(_person.subject == subject)).first()
        if row is None:
            self._add(name, role, "", subject)
        elif row.disabled:
            raise PersonInvalid("this person was disabled here")
        name = row.name if row else name
        self._update(name, role=Role(role).value, signed_in_at=self._clock())
        found = self.find(name)
        assert found
        return found, row is None or row.role != role

    def _add(self, name: str, role: str, hashed: str, subject: str = "") -> None:
        if not _NAME.fullmatch(name):
            raise PersonInvalid("a name has 1 to 100 letters, digits, dots, dashes, underscores or @")
        if role not in set(Role):
            raise PersonInvalid(f"known roles: {', '.join(Role)}")
        try:
            with self._engine.begin() as connection:
                facts = {"name": name, "role": Role(role).value, "password": hashed, "subject": subject, "one_time": bool(hashed)}
                connection.execute(insert(PersonRow).values(**facts, created_at=self._clock()))
        except IntegrityError:
            raise PersonInvalid("the name is taken", name=name) from None

    def reset(self, name: str) -> str:
        """A new one-time password; lets in again who was locked out or disabled. Empty for somebody who signs in elsewhere."""
        person = self.find(name)
        if person is None:
            raise PersonInvalid("there is nobody of that name")
        password = _one_time() if person.local else ""
        hashed = self._hash(password) if password else ""
        self._update(name, password=hashed, one_time=person.local, disabled=False, failures=0, locked_until=None)
        return password

    def disable(self, name: str) -> None:
        """From now on nothing opens for this person. The last administrator stays."""
        with self._engine.begin() as connection:
            admins = set(connection.scalars(select(_person.name).where(_person.role == Role.ADMIN, _person.disabled.is_(False))))
            if admins == {name}:
                raise PersonInvalid("the last administrator can't be disabled; add another one first")
            self._must_be(connection, name)
            connection.execute(update(PersonRow).where(_person.name == name).values(disabled=True))

    def change(self, name: str, old: str, new: str) -> None:
        """A person's own choice in place of the password until now.

        Raises
        ------
        PasswordRefused
            When the old one is wrong, or the new one is too easy.
        """
        if self.check(name, old) is not Check.GOOD:
            raise PasswordRefused("the present password is not right")
        _must_be_hard(name, new)
        if _normal(old) == _normal(new):
            raise PasswordRefused("choose another one than before")
        self._update(name, password=self._hash(new), one_time=False)

    def check(self, name: str, password: str) -> Check:
        """Whether the password is right. A try is counted before it is looked at, so that many at once are no more than many in a row."""
        hashed = self._try(name)
        if isinstance(hashed, Check):
            if hashed is Check.UNKNOWN:
                self._verify(self._hash_of_nobody(), password)  # takes as long as for somebody
            return hashed
        if not self._verify(hashed, password):
            return Check.WRONG
        values: dict[str, Any] = {"failures": 0, "locked_until": None, "signed_in_at": self._clock()}
        if self._hasher.check_needs_rehash(hashed):
            values["password"] = self._hash(password)
        self._update(name, **values)
        return Check.GOOD

    def find(self, name: str) -> Person | None:
        """Somebody by name."""
        with reading(self._engine) as connection:
            row = connection.execute(select(_table).where(_person.name == name)).first()
        return self._shown(row) if row else None

    def list(self) -> list[Person]:
        """Everybody, by name."""
        with reading(self._engine) as connection:
            return [self._shown(row) for row in connection.execute(select(_table).order_by(_person.name))]

    # --- below ----------------------------------------------------------------------------------------------------------------
    def _try(self, name: str) -> str | Check:
        """The hash to compare with, once this try is counted as a failure; or why there is none."""
        now = self._clock()
        with self._engine.begin() as connection:
            row = connection.execute(select(_table).where(_person.name == name).with_for_update()).first()
            if row is None or row.disabled or not row.password:
                return Check.UNKNOWN
            if row.locked_until and row.locked_until > now:
                return Check.LOCKED
            failures = (0 if row.locked_until else row.failures) + 1
            locked_until = now + self._lock if failures >= self._max_failures else None
            values = {"failures": failures, "locked_until": locked_until}
            connection.execute(update(PersonRow).where(_person.name == name).values(**values))
            return str(row.password)

    def _update(self, name: str, **values: object) -> None:
        with self._engine.begin() as connection:
            self._must_be(connection, name)
            connection.execute(update(PersonRow).where(_person.name == name).values(**values))

    def _must_be(self, connection: Connection, name: str) -> None:
        if connection.scalar(select(func.count()).select_from(_table).where(_person.name == name)) == 0:
            raise PersonInvalid("there is nobody of that name")

    def _shown(self, row: Row[Any]) -> Person:
        locked = row.locked_until if row.locked_until and row.locked_until > self._clock() else None
        return Person(
            name=row.name,
            role=Role(row.role),
            disabled=row.disabled,
            one_time=row.one_time,
            local=bool(row.password),
            locked_until=locked,
            created_at=row.created_at,
            signed_in_at=row.signed_in_at,
        )

    def _hash(self, password: str) -> str:
        with self._few:
            return self._hasher.hash(_normal(password))

    def _hash_of_nobody(self) -> str:
        self._nobodys = self._nobodys or self._hash(secrets.token_urlsafe(16))
        return self._nobodys

    def _verify(self, hashed: str, password: str) -> bool:
        try:
            with self._few:
                return self._hasher.verify(hashed, _normal(password[:LONGEST]))
        except (VerificationError, InvalidHashError):
            return False


def _one_time() -> str:
    """Some 95 random bits in groups that a person can type; no letter that looks like a digit."""
    return "-".join("".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(5)) for _ in range(4))


def _normal(password: str) -> str:
    """The same characters whatever the keyboard composed them from (NIST SP 800-63B 5.1.1.2)."""
    return unicodedata.normalize("NFKC", password)


def _must_be_hard(name: str, password: str) -> None:
    """Length, not kinds of characters, makes a password hard (NIST SP 800-63B 5.1.1.2)."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise PasswordRefused(f"a password has {SHORTEST} to {LONGEST} characters")
    if len(set(password)) < 6 or name.lower() in password.lower():
        raise PasswordRefused("take one without your name and with at least six different characters; a few words in a row do well")
