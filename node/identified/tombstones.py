"""Which studies were purged, outside the database: so that a restored backup does not bring one back unnoticed.

A line a study, written and flushed before its key is deleted, never changed. Whoever opens the keyring first deletes keys that are older
than their tombstone. What this can't do: know of a purge when the file itself is lost or restored with the rest; keep it, or a copy, on
storage that is not restored together with the database (`vault.tombstones_file`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine, select

from node.domain import CleanUid
from node.identified.tables import KeyRow, StudyRow
from node.ledger.database import reading

AT_ONCE = 500


class Tombstones:
    """The append-only list. Any process may add to it."""

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.path = path
        self._now = now

    def add(self, studies: Iterable[CleanUid]) -> None:
        """Durable on return. OSError when there is no room for all of it: then no key may go."""
        at = self._now().astimezone(UTC).isoformat()
        lines = "".join(json.dumps({"study": study, "purged_at": at}) + "\n" for study in studies)
        if not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = not self.path.exists()
        with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b", buffering=0) as file:
            rest = memoryview((b"\n" if _torn(file.fileno()) else b"") + lines.encode())
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        if new:
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def all(self) -> dict[CleanUid, datetime]:
        """Each purged study, and when it was purged last. A line that a power cut tore is passed over: its key was not deleted yet."""
        found: dict[CleanUid, datetime] = {}
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return found
        for line in text.splitlines():
            try:
                facts = json.loads(line)
                found[CleanUid(facts["study"])] = datetime.fromisoformat(facts["purged_at"])
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def keys_back(self, engine: Engine) -> list[CleanUid]:
        """Purged studies whose key is there all the same, and older than the purge. One that was sent again has a younger key."""
        purged = self.all()
        names = [f"study:{study}" for study in purged]
        back = []
        with reading(engine) as db:
            for start in range(0, len(names), AT_ONCE):
                query = select(KeyRow.name, KeyRow.created_at).where(KeyRow.name.in_(names[start : start + AT_ONCE]))
                for name, made in db.execute(query):
                    study = CleanUid(name.removeprefix("study:"))
                    if _aware(made) <= purged[study]:
                        back.append(study)
        return back

    def studies_back(self, engine: Engine) -> list[CleanUid]:
        """Purged studies of which the ledger knows from before the purge."""
        purged = self.all()
        names = list(purged)
        back = []
        with reading(engine) as db:
            for start in range(0, len(names), AT_ONCE):
                query = select(StudyRow.study, StudyRow.first_arrival).where(StudyRow.study.in_(names[start : start + AT_ONCE]))
                back += [CleanUid(study) for study, first in db.execute(query) if _aware(first) <= purged[CleanUid(study)]]
        return back


def _torn(handle: int) -> bool:
    """The last line has no end: what is written next must not become a part of it."""
    size = os.fstat(handle).st_size
    return size > 0 and os.pread(handle, 1, size - 1) != b"\n"


def _aware(moment: datetime) -> datetime:
    """SQLite gives moments back without their zone; they went in as UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
