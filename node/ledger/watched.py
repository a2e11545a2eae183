"""What a watched draft would have done otherwise on the studies that came since."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, delete, func, insert, select

from node.domain import StudyRef
from node.ledger.database import reading
from node.ledger.tables import WatchedRow

row_of = WatchedRow.__table__.c


class Watched:
    """Differences between a draft and the active rules. A study that both treat alike is counted too."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def record(self, ref: StudyRef, *, draft: int, active: int, differences: Iterable[Mapping[str, Any]]) -> None:
        """The draft was evaluated on a study; again replaces it."""
        fixed = {"draft": draft, "active": active, "study": ref.study, "revision": ref.revision, "at": self._clock()}
        rows = [{**fixed, "series": str(one["series"]), "difference": dict(one)} for one in differences]
        with self._engine.begin() as connection:
            mine = (row_of.draft == draft, row_of.study == ref.study, row_of.revision == ref.revision)
            connection.execute(delete(WatchedRow).where(*mine))
            connection.execute(insert(WatchedRow), rows or [{**fixed, "series": "", "difference": {}}])

    def studies(self, draft: int) -> int:
        """How many studies were evaluated."""
        with reading(self._engine) as connection:
            return connection.scalar(select(func.count(func.distinct(row_of.study))).where(row_of.draft == draft)) or 0

    def of_draft(self, draft: int, *, limit: int = 1000) -> list[dict[str, Any]]:
        """Its differences, the newest first."""
        query = select(WatchedRow.__table__).where(row_of.draft == draft, row_of.series != "").order_by(row_of.id.desc()).limit(limit)
        with reading(self._engine) as connection:
            return [{"at": row.at, "active": row.active, **row.difference} for row in connection.execute(query)]

    def forget(self, before: datetime) -> int:
        """Drop what was evaluated before that moment."""
        with self._engine.begin() as connection:
            return connection.execute(delete(WatchedRow).where(row_of.at < before)).rowcount

    def forget_study(self, study: str) -> None:
        """Drop what is kept of a study that a person had purged."""
        with self._engine.begin() as connection:
            connection.execute(delete(WatchedRow).where(row_of.study == study))
