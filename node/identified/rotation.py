"""A new master key: every key is wrapped anew while the node runs. Begun again after any interruption, it carries on where it was.

1. One transaction makes the new generation the current one, and hands it over: the new key wrapped by the old one. From here on new keys
   are wrapped by the new one, in every process.
2. Keys of the old generation are wrapped anew, some hundred in a transaction.
3. Once the settings give the new key, the hand-over is deleted and the old generation is retired: the old key opens nothing here any more.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine, func, insert, select, update

from node import log
from node.errors import SettingsInvalid
from node.identified.keys import KEY_BYTES
from node.identified.masters import CURRENT, RETIRED, RETIRING, Masters, generations, handed_over, opens, seal, sealed_check, unseal
from node.identified.tables import KeyRow, MasterRow
from node.ledger.database import forget_pages, reading

AT_ONCE = 200  #: keys in one transaction: others wait for it no longer than that takes

Progress = Callable[[int, int], None]  #: keys wrapped anew, keys in all
_log = log.get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """How far a rotation is."""

    old: int
    new: int
    rewrapped: int  #: by this call
    finished: bool  #: the old key opens nothing any more; else: the settings still give the old one


class Rotation:
    """Gives the identified database another master key.

    Parameters
    ----------
    masters
        What this process was given and can reach.
    """

    def __init__(self, engine: Engine, masters: Masters) -> None:
        self._engine = engine
        self._masters = masters

    @property
    def under_way(self) -> bool:
        """A rotation began and has not finished."""
        return any(one.state == RETIRING for one in generations(self._engine))

    def begin(self, new: bytes) -> None:
        """Make `new` the current generation. Nothing happens when a rotation is under way.

        Raises
        ------
        SettingsInvalid
            `new` is the key of a generation already. Two that the same key opens can't be told apart by it.
        """
        known = {one.number: one for one in generations(self._engine)}
        if not self.under_way and any(opens(new, one) for one in known.values()):
            raise SettingsInvalid("the new master key is or was a master key of this vault: make another with `openssl rand -base64 32`")
        number = next(one.number for one in known.values() if one.state == CURRENT)
        old = self._masters.of(number)
        with self._engine.begin() as db:
            retiring = update(MasterRow).where(MasterRow.generation == number, MasterRow.state == CURRENT).values(state=RETIRING)
            if db.scalar(select(func.count()).where(MasterRow.state == RETIRING)) or not db.execute(retiring).rowcount:
                return
            row = {"generation": number + 1, "state": CURRENT, "sealed_check": sealed_check(new), "since": datetime.now(UTC)}
            db.execute(insert(MasterRow).values(row | {"handover": handed_over(old, new, number + 1)}))
        self._masters.add(number + 1, new)

    def carry_on(self, progress: Progress = lambda done, of: None) -> Rotated | None:
        """Wrap anew what still is of the old generation; None when no rotation is under way."""
        known = generations(self._engine)
        old = next((one.number for one in known if one.state == RETIRING), None)
        if old is None:
            return None
        new = next(one.number for one in known if one.state == CURRENT)
        with reading(self._engine) as db:
            everything = db.scalar(select(func.count()).select_from(KeyRow)) or 0
            left = db.scalar(select(func.count()).select_from(KeyRow).where(KeyRow.generation == old)) or 0
        done = 0
        while count := self._some(old, new):
            done += count
            progress(everything - left + min(done, left), everything)
        progress(everything, everything)
        return Rotated(old=old, new=new, rewrapped=done, finished=False)

    def finish(self) -> bool:
        """Retire the old generation; False when a key was made under it meanwhile, so that `carry_on` must be called once more."""
        with self._engine.begin() as db:
            # whoever makes a key holds the current generation until it is there (`Masters.current`): wait for them, and let none begin
            db.execute(select(MasterRow.generation).order_by(MasterRow.generation).with_for_update())
            old = db.scalar(select(MasterRow.generation).where(MasterRow.state == RETIRING))
            if old is None:
                return True
            if db.scalar(select(func.count()).select_from(KeyRow).where(KeyRow.generation == old)):
                return False
            db.execute(update(MasterRow).values(handover=None))
            db.execute(update(MasterRow).where(MasterRow.generation == old).values(state=RETIRED))
        forget_pages(self._engine)
        _log.info("the master key was changed", extra={"old": old})
        return True

    def new_key(self) -> bytes:
        """The key of the current generation."""
        return self._masters.of(next(one.number for one in generations(self._engine) if one.state == CURRENT))

    def _some(self, old: int, new: int) -> int:
        """Wrap some keys anew; how many. A key that was shredded meanwhile stays gone."""
        with reading(self._engine) as db:
            if not db.scalar(select(func.count()).select_from(KeyRow).where(KeyRow.generation == old)):
                return 0  # and nobody needs the old key any more
        before, after = self._masters.of(old), self._masters.of(new)
        with self._engine.begin() as db:
            rows = db.execute(
                select(KeyRow.name, KeyRow.wrapped).where(KeyRow.generation == old).order_by(KeyRow.name).limit(AT_ONCE)
            ).all()
            for name, wrapped in rows:
                again = seal(after, unseal(before, wrapped, name.encode()), name.encode())
                db.execute(update(KeyRow).where(KeyRow.name == name, KeyRow.generation == old).values(wrapped=again, generation=new))
        return len(rows)


def counted(engine: Engine) -> list[dict[str, object]]:
    """Generations with their state, since when, and how many keys each wraps. Never a key."""
    with reading(engine) as db:
        counts = {row[0]: row[1] for row in db.execute(select(KeyRow.generation, func.count()).group_by(KeyRow.generation))}
    return [
        {"generation": one.number, "state": one.state, "since": f"{one.since:%Y-%m-%d}", "keys": counts.get(one.number, 0)}
        for one in generations(engine)
    ]


def write_key(path: Path, key: bytes) -> None:
    """The key in a file, complete or not at all, for the owner only. What the file held before is kept beside it as `.old`."""
    draft, kept = path.with_name(f"{path.name}.new"), path.with_name(f"{path.name}.old")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(base64.b64encode(key) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    kept.unlink(missing_ok=True)
    if path.exists():
        os.link(path, kept)
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def made() -> bytes:
    """A new master key."""
    return os.urandom(KEY_BYTES)
