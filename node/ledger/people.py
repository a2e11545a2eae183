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
from node.ledger.tokens import Role, Roles, in_words, roles_named

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
    roles: Roles
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
            self._add(FIRST, frozenset({Role.ADMIN}), self._hash(password))
        except PersonInvalid:  # another process was quicker
            return None
        return FIRST, password

    def may_add(self, name: str, *roles: str) -> Roles:
        """The roles, where somebody may be let in by that name. Raises PersonInvalid as `add` does."""
        if not _NAME.fullmatch(name):
            raise PersonInvalid("a name has 1 to 100 letters, digits, dots, dashes, underscores or @")
        if self.find(name):
            raise PersonInvalid("the name is taken", name=name)
        return _roles(roles)

    def add(self, name: str, *roles: str) -> str:
        """Let somebody in; returns a one-time password, this one time.

        Raises
        ------
        PersonInvalid
            When the name is taken or has odd characters, or a role is not known, or there is none.
        """
        password = _one_time()
        self._add(name, self.may_add(name, *roles), self._hash(password))
        return password

    def by_subject(self, subject: str) -> Person | None:
        """Somebody whom another place vouches for, by a subject that never changes."""
        with reading(self._engine) as connection:
            row = connection.execute(select(_table).where(_person.subject == subject)).first()
        return self._shown(row) if row else None

    def vouched(self, name: str, roles: Roles, subject: str) -> None:
        """Somebody came by another place's word, with these roles; no password opens here. Raises PersonInvalid when the name is taken."""
        known = self.by_subject(subject)
        if known is None:
            self._add(name, roles, "", subject)
        self._update(known.name if known else name, roles=in_words(roles, " "), signed_in_at=self._clock())

    def may_give(self, name: str, *roles: str) -> Roles:
        """The roles, where they may be given to that person. Raises PersonInvalid as `give` does."""
        with reading(self._engine) as connection:
            return self._may_give(connection, name, _roles(roles))

    def give(self, name: str, *roles: str) -> None:
        """These roles in place of those until now.

        Raises
        ------
        PersonInvalid
            When there is nobody of that name, a role is not known or there is none, the roles come from another place, or it is the
            last administrator.
        """
        with self._engine.begin() as connection:
            kept = in_words(self._may_give(connection, name, _roles(roles)), " ")
            connection.execute(update(PersonRow).where(_person.name == name).values(roles=kept))

    def _may_give(self, connection: Connection, name: str, roles: Roles) -> Roles:
        self._must_be(connection, name)
        if connection.scalar(select(_person.subject).where(_person.name == name)):
            raise PersonInvalid("this person's roles come with each sign-in from the identity provider: change the groups there")
        if Role.ADMIN not in roles:
            self._must_not_be_the_last(connection, name)
        return roles

    def _add(self, name: str, roles: Roles, hashed: str, subject: str = "") -> None:
        try:
            with self._engine.begin() as connection:
                facts = {"name": name, "roles": in_words(roles, " "), "password": hashed, "subject": subject, "one_time": bool(hashed)}
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

    def may_disable(self, name: str) -> None:
        """Raises PersonInvalid when there is nobody of that name, or it is the last administrator."""
        with reading(self._engine) as connection:
            self._must_be(connection, name)
            self._must_not_be_the_last(connection, name)

    def disable(self, name: str) -> None:
        """From now on nothing opens for this person. The last administrator stays. Raises PersonInvalid."""
        with self._engine.begin() as connection:
            self._must_be(connection, name)
            self._must_not_be_the_last(connection, name)
            connection.execute(update(PersonRow).where(_person.name == name).values(disabled=True))

    def chosen(self, name: str, old: str, new: str) -> str:
        """The hash of a person's own choice in place of the password until now, for `keep_password`.

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
        return self._hash(new)

    def keep_password(self, name: str, hashed: str) -> None:
        """From now on the password is the one that hashes to this, and the person's own."""
        self._update(name, password=hashed, one_time=False)

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

    def _must_not_be_the_last(self, connection: Connection, name: str) -> None:
        """Somebody else who is not disabled is an administrator, or this person is none. Two at once wait for each other."""
        active = connection.execute(select(_person.name, _person.roles).where(_person.disabled.is_(False)).with_for_update())
        if {row.name for row in active if Role.ADMIN in row.roles.split()} == {name}:
            raise PersonInvalid("this is the last administrator; make somebody else one first")

    def _shown(self, row: Row[Any]) -> Person:
        locked = row.locked_until if row.locked_until and row.locked_until > self._clock() else None
        return Person(
            name=row.name,
            roles=roles_named(row.roles.split()),
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


def _roles(words: tuple[str, ...]) -> Roles:
    try:
        return roles_named(words)
    except ValueError as why:
        raise PersonInvalid(str(why)) from None


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
