"""Whose key, since when: one data key a study, wrapped by the master key. Without its key a study can't be read by anybody."""

from __future__ import annotations

import base64
import binascii
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidTag
from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.exc import IntegrityError

from node import log
from node.domain import CleanUid
from node.errors import KeyMissing, MasterKeyUnreadable, MasterKeyWrong
from node.identified.masters import NONCE_BYTES, TAG_BYTES, Masters, seal, unseal
from node.identified.tables import KeyRow
from node.identified.tombstones import Tombstones
from node.ledger.database import forget_pages, reading

KEY_BYTES = 32  #: AES-256
LEASE_S = 1.0  #: how long a process may trust a key it looked up
REMEMBERED = 2048  #: keys kept in memory, the latest used
MOST_TRIES = 20  #: a key is made anew when the master key changes at that very moment

__all__ = ["NONCE_BYTES", "TAG_BYTES", "Keyring", "OfKnownStudies", "read_master_key", "seal", "unseal"]

_log = log.get(__name__)


def read_master_key(file: Path | None, secret: str | None, default_file: Path) -> bytes:
    """The master key: 32 bytes in base64, from the environment, else from `file`, else from `default_file`.

    Only the default file is made when it is absent: with mode 0600, at the first start, with a warning in the log.

    Raises
    ------
    MasterKeyUnreadable
        When what is given is not 32 bytes in base64, or a file that the settings name is not there or can't be read.
    """
    if secret is not None:
        return _decoded(secret.encode(), "vault.master_key")
    path = file or default_file
    try:
        return _decoded(path.read_bytes(), str(path))
    except FileNotFoundError:
        if file is not None:
            raise MasterKeyUnreadable("the file of vault.master_key_file is not there", file=str(file)) from None
    except OSError as why:
        raise MasterKeyUnreadable(f"{why.strerror}", file=str(path)) from None
    return _made(default_file)


def _decoded(text: bytes, where: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise MasterKeyUnreadable(f"{where} must hold 32 bytes in base64")
    return key


def _made(path: Path) -> bytes:
    """A new key in `path`, complete or not there at all: two processes that start together end with the same key."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, base64.b64encode(os.urandom(KEY_BYTES)) + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    try:
        os.link(draft, path)
        _log.warning(
            "a master key was made; keep a copy apart from the data, without it the vault can't be read", extra={"file": str(path)}
        )
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return _decoded(path.read_bytes(), str(path))


class Keyring:
    """The keys of the wing. Safe among threads and among processes on one database.

    A process trusts a key for `lease_s` after it looked: `shred` waits that long, so that once it has returned nobody
    seals or acknowledges anything under a key that is gone.
    """

    def __init__(
        self,
        engine: Engine,
        master_key: bytes,
        *,
        read_again: Callable[[], bytes] | None = None,
        tombstones: Tombstones | None = None,
        lease_s: float = LEASE_S,
        monotonic: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._tombstones = tombstones
        self.masters = Masters(engine, master_key, read_again=read_again)
        self._lease_s = lease_s
        self._monotonic = monotonic
        self._wait = wait
        self._lock = threading.Lock()
        self._trusted: OrderedDict[str, tuple[bytes, float]] = OrderedDict()  # name → key, when it was looked up

    def study_key(self, study: CleanUid) -> bytes:
        """The study's data key; made when it has none."""
        return self._key(f"study:{study}", make=True)

    def existing_key(self, study: CleanUid) -> bytes:
        """The study's data key, or `KeyMissing`."""
        return self._key(f"study:{study}", make=False)

    def confirm(self, study: CleanUid, key: bytes) -> None:
        """`KeyMissing` unless `key` is still the study's: asked after the flush, before the sender is told of success."""
        if self.existing_key(study) != key:
            raise KeyMissing("the study was purged meanwhile")

    def shred(self, *studies: CleanUid) -> None:
        """Forget the studies' keys for good. Returns when no process can use them any more.

        The tombstones come first: a purge that a crash interrupts is carried on at the next start, and one that a restored backup undoes
        is done again.
        """
        if self._tombstones:
            self._tombstones.add(studies)
        names = [f"study:{study}" for study in studies]
        with self._engine.begin() as db:
            for start in range(0, len(names), 500):
                db.execute(delete(KeyRow).where(KeyRow.name.in_(names[start : start + 500])))
        forget_pages(self._engine)
        with self._lock:
            for name in names:
                self._trusted.pop(name, None)
        if names:
            self._wait(self._lease_s * 1.1)

    def site_key(self, purpose: str) -> bytes:
        """A key of this site: "uids", "digests". Made once."""
        return self._key(f"site:{purpose}", make=True)

    def seal(self, study: CleanUid, data: bytes, purpose: str) -> bytes:
        """`data` under the study's key, for this purpose only."""
        return seal(self.study_key(study), data, _for(study, purpose))

    def unseal(self, study: CleanUid, sealed: bytes, purpose: str) -> bytes:
        """What `seal` took. `KeyMissing` when the study's key, or the key it was sealed with, is gone."""
        try:
            return unseal(self.existing_key(study), sealed, _for(study, purpose))
        except InvalidTag:
            raise KeyMissing("sealed with another key, or altered", purpose=purpose) from None

    def _key(self, name: str, *, make: bool) -> bytes:
        now = self._monotonic()
        with self._lock:
            known = self._trusted.get(name)
            if known and (now - known[1] < self._lease_s or name.startswith("site:")):
                self._trusted.move_to_end(name)
                return known[0]
        key = self._stored(name)
        if key is None and make:
            key = self._create(name, os.urandom(KEY_BYTES))
        with self._lock:
            if key is None:
                self._trusted.pop(name, None)
                raise KeyMissing
            self._trusted[name] = (key, now)  # the lease runs from before the look
            while len(self._trusted) > REMEMBERED:
                self._trusted.popitem(last=False)
        return key

    def _stored(self, name: str) -> bytes | None:
        with reading(self._engine) as db:
            row = db.execute(select(KeyRow.wrapped, KeyRow.generation).where(KeyRow.name == name)).first()
        return None if row is None else self._unwrap(name, row.wrapped, row.generation)

    def _create(self, name: str, key: bytes) -> bytes:
        """Durable on return, as every commit of `open_engine` is: what is sealed with a key must not outlive the key in a power cut."""
        try:
            for _ in range(MOST_TRIES):
                with self._engine.begin() as db:
                    generation = self.masters.current(db)
                    master = self.masters.known(generation)
                    if master is not None:
                        wrapped = seal(master, key, name.encode())
                        db.execute(insert(KeyRow).values(name=name, wrapped=wrapped, generation=generation, created_at=datetime.now(UTC)))
                        return key
                if generation:
                    self.masters.of(generation)  # handed over, outside of the transaction
            raise MasterKeyWrong("the master key changes again and again")
        except IntegrityError:  # another process was first
            stored = self._stored(name)
            if stored is None:
                raise KeyMissing("made and shredded at the same moment") from None
            return stored

    def _unwrap(self, name: str, wrapped: bytes, generation: int) -> bytes:
        try:
            return unseal(self.masters.of(generation), wrapped, name.encode())
        except InvalidTag:
            raise MasterKeyWrong from None


class OfKnownStudies:
    """Seals for studies that have their key: one that was purged a moment ago gets no other, under which it would come back."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self.unseal = keyring.unseal

    def seal(self, study: CleanUid, data: bytes, purpose: str) -> bytes:
        """As `Keyring.seal`, or `KeyMissing`."""
        return seal(self._keyring.existing_key(study), data, _for(study, purpose))


def _for(study: CleanUid, purpose: str) -> bytes:
    """Binds what is sealed to its study and purpose."""
    return f"{purpose}\0{study}".encode()
