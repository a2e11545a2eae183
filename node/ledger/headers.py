"""What rules could ask about past studies, one row a study and revision: the text that `rules/kept.py` makes and reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, Select, delete, func, insert, select

from node.domain import StudyRef
from node.ledger.database import reading
from node.ledger.tables import HeaderRow

header = HeaderRow.__table__.c
AT_ONCE = 500  #: rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """Studies since some moment, each at its latest revision; read again each time one goes through them."""

    count: int
    read: Callable[[], Iterator[str]]


class Headers:
    """Kept headers. No pixels, no names, and of the attributes only those that a condition reads."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def keep(self, ref: StudyRef, facts: str) -> None:
        """The study was routed now; routing it again replaces what was kept."""
        with self._engine.begin() as connection:
            connection.execute(delete(HeaderRow).where(header.study == ref.study, header.revision == ref.revision))
            connection.execute(insert(HeaderRow).values(study=ref.study, revision=ref.revision, routed_at=self._clock(), facts=facts))

    def of_study(self, study: str) -> str | None:
        """What is kept of a study at its latest revision; None when nothing is."""
        query = select(header.facts).where(header.study == study).order_by(header.revision.desc()).limit(1)
        with reading(self._engine) as connection:
            return connection.scalar(query)

    def since(self, moment: datetime) -> Past:
        """Studies routed since then, the oldest first."""
        other = HeaderRow.__table__.alias("other")
        later = select(other.c.study).where(other.c.study == header.study, other.c.revision > header.revision).exists()
        query = select(header.facts).where(header.routed_at >= moment, ~later)
        with reading(self._engine) as connection:
            count = connection.scalar(select(func.count()).select_from(HeaderRow).where(header.routed_at >= moment, ~later)) or 0
        return Past(count=count, read=lambda: self._rows(query.order_by(header.routed_at, header.study)))

    def forget(self, before: datetime) -> int:
        """Drop what was routed before that moment; how many studies."""
        with self._engine.begin() as connection:
            return connection.execute(delete(HeaderRow).where(header.routed_at < before)).rowcount

    def forget_study(self, study: str) -> None:
        """Drop what is kept of a study that a person had purged."""
        with self._engine.begin() as connection:
            connection.execute(delete(HeaderRow).where(header.study == study))

    def _rows(self, query: Select[str]) -> Iterator[str]:
        with reading(self._engine) as connection:
            for rows in connection.execution_options(yield_per=AT_ONCE).execute(query).partitions():
                yield from (row[0] for row in rows)
