"""The master key's generations: which one was given, which one wraps new keys, and the hand-over from one to the next."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, Engine, insert, select
from sqlalchemy.exc import IntegrityError

from node.errors import MasterKeyWrong
from node.identified.tables import MasterRow
from node.ledger.database import reading

NONCE_BYTES = 12  #: 96 random bits, NIST SP 800-38D 8.2.2
TAG_BYTES = 16
CHECK, CHECK_TEXT = "check", b"radnode master key"
CURRENT, RETIRING, RETIRED = "current", "retiring", "retired"


def seal(key: bytes, data: bytes, aad: bytes) -> bytes:
    """Nonce, ciphertext and tag (AES-256-GCM)."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, data, aad)


def unseal(key: bytes, sealed: bytes, aad: bytes) -> bytes:
    """What `seal` took. Raises `cryptography.exceptions.InvalidTag` when key, bytes or `aad` are not the same."""
    if len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise InvalidTag
    return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], aad)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One generation, as it stands in the database."""

    number: int
    state: str
    sealed_check: bytes
    handover: bytes | None
    since: datetime


class Masters:
    """The master keys that this process can reach: the one it was given, and those that are handed over by it.

    Parameters
    ----------
    given
        The key of the settings.
    read_again
        Reads the settings' key once more: a file may hold the next generation by now. None: it can't change while the process runs.
    """

    def __init__(self, engine: Engine, given: bytes, *, read_again: Callable[[], bytes] | None = None) -> None:
        self._engine = engine
        self._read_again = read_again
        self._known: dict[int, bytes] = {}
        if not generations(engine):
            self._begin(given)
        self.given = self._recognised(given)

    def of(self, generation: int) -> bytes:
        """The master key of a generation.

        Raises
        ------
        MasterKeyWrong
            When it can't be reached with what was given.
        """
        if generation not in self._known:
            self._follow()
        if generation not in self._known and self._read_again is not None:
            self._recognised(self._read_again())
            self._follow()
        if generation not in self._known:
            raise MasterKeyWrong("the master key was changed; give this process the new one and start it again", generation=generation)
        return self._known[generation]

    def known(self, generation: int) -> bytes | None:
        """The same, of those that this process has reached already."""
        return self._known.get(generation)

    def current(self, db: Connection) -> int:
        """The generation that wraps new keys. It stays that until the transaction ends; 0 when it changes this very moment."""
        query = select(MasterRow.generation).where(MasterRow.state == CURRENT).with_for_update(read=True)
        return db.scalar(query) or 0

    def add(self, generation: int, key: bytes) -> None:
        """A key that this process has made."""
        self._known[generation] = key

    def _begin(self, given: bytes) -> None:
        row = {"generation": 1, "state": CURRENT, "sealed_check": sealed_check(given), "since": datetime.now(UTC)}
        try:
            with self._engine.begin() as db:
                db.execute(insert(MasterRow).values(row))
        except IntegrityError:
            return  # another process was first

    def _recognised(self, key: bytes) -> int:
        for one in generations(self._engine):
            if opens(key, one):
                self._known[one.number] = key
                return one.number
        raise MasterKeyWrong

    def _follow(self) -> None:
        """Take what the database hands over from a generation we know to the next."""
        for one in generations(self._engine):
            before = self._known.get(one.number - 1)
            if one.handover is not None and before is not None and one.number not in self._known:
                try:
                    self._known[one.number] = unseal(before, one.handover, _aad(one.number))
                except InvalidTag:
                    raise MasterKeyWrong from None


def generations(engine: Engine) -> list[Generation]:
    """All of them, the first one first."""
    with reading(engine) as db:
        rows = db.execute(select(MasterRow.__table__).order_by(MasterRow.generation)).all()
    return [
        Generation(number=row.generation, state=row.state, sealed_check=row.sealed_check, handover=row.handover, since=row.since)
        for row in rows
    ]


def sealed_check(key: bytes) -> bytes:
    """A value that only this master key opens."""
    return seal(key, CHECK_TEXT, CHECK.encode())


def opens(key: bytes, generation: Generation) -> bool:
    """It is the generation's master key."""
    try:
        unseal(key, generation.sealed_check, CHECK.encode())
    except InvalidTag:
        return False
    return True


def handed_over(old: bytes, new: bytes, generation: int) -> bytes:
    """The new master key, for who has the old one."""
    return seal(old, new, _aad(generation))


def _aad(generation: int) -> bytes:
    return f"handover\0{generation}".encode()
