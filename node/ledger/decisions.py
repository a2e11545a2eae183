"""What the router decided about a study, and why: the story of a study for whoever asks later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Engine, delete, insert, select

from node.domain import StudyRef
from node.ledger.database import reading
from node.ledger.tables import DecisionRow

decision = DecisionRow.__table__.c


class Decision(Protocol):
    """One rule met one series, or did not."""

    @property
    def series(self) -> str: ...
    @property
    def rule(self) -> str: ...
    @property
    def pipeline(self) -> str: ...
    @property
    def met(self) -> bool: ...
    @property
    def reasons(self) -> Sequence[str]: ...


class Decisions:
    """The router's decisions, kept per study and revision."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def record(self, ref: StudyRef, decisions: Iterable[Decision], *, rules_revision: int | None = None) -> None:
        """Keep what was decided for this revision, and by which revision of the rules; deciding again replaces it."""
        rows = [
            {
                "study": ref.study,
                "revision": ref.revision,
                "series": one.series,
                "rule": one.rule,
                "pipeline": one.pipeline,
                "rules_revision": rules_revision,
                "met": one.met,
                "reasons": list(one.reasons),
                "decided_at": self._clock(),
            }
            for one in decisions
        ]
        with self._engine.begin() as connection:
            connection.execute(delete(DecisionRow).where(decision.study == ref.study, decision.revision == ref.revision))
            if rows:
                connection.execute(insert(DecisionRow), rows)

    def forget_study(self, study: str) -> None:
        """The study is purged."""
        with self._engine.begin() as connection:
            connection.execute(delete(DecisionRow).where(decision.study == study))

    def studies(self) -> set[str]:
        """Those that something was decided about."""
        with reading(self._engine) as connection:
            return set(connection.scalars(select(decision.study).distinct()))

    def of_study(self, study: str) -> list[dict[str, Any]]:
        """Every decision about a study, in the order they were made."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(DecisionRow.__table__).where(decision.study == study).order_by(decision.id)).all()
        return [{name: value for name, value in row._mapping.items() if name != "id"} for row in rows]
