"""What was decided about the versions of a pipeline: promoted, put in the shadow, retired, rolled back; by whom, when and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, text

from node.domain import VersionState
from node.ledger.database import reading
from node.ledger.tables import VersionRow

DECIDING = 7_236_002  #: advisory lock in PostgreSQL: two decisions come one after the other

decision = VersionRow.__table__.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One version gets a state."""

    version: str
    digest: str
    state: VersionState
    step: str  #: promote, shadow, retire, rollback; or "found": what was active when somebody first decided
    who: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionDecision(Entry):
    """The same as it stands in the ledger."""

    pipeline: str
    at: datetime


History = Sequence[VersionDecision]  #: of one pipeline, the oldest first


class VersionDecisions:
    """Decisions about versions. They are added, never changed: who wants another state decides again."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def all(self) -> dict[str, list[VersionDecision]]:
        """Every decision by pipeline, the oldest first."""
        with reading(self._engine) as connection:
            rows = _rows(connection)
        found: dict[str, list[VersionDecision]] = {}
        for row in rows:
            found.setdefault(row.pipeline, []).append(row)
        return found

    def decide(self, pipeline: str, choose: Callable[[History], Sequence[Entry]]) -> None:
        """Add what `choose` makes of the decisions so far. One transaction: nobody decides in between."""
        with self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": DECIDING})
            for entry in choose(_rows(connection, decision.pipeline == pipeline)):
                connection.execute(
                    insert(VersionRow).values(
                        pipeline=pipeline,
                        version=entry.version,
                        digest=entry.digest,
                        state=entry.state.value,
                        step=entry.step,
                        who=entry.who,
                        reason=entry.reason,
                        at=self._clock(),
                    )
                )


def _rows(connection: Connection, *where: Any) -> list[VersionDecision]:
    rows = connection.execute(select(VersionRow.__table__).where(*where).order_by(decision.id)).all()
    return [
        VersionDecision(
            pipeline=row.pipeline,
            version=row.version,
            digest=row.digest,
            state=VersionState(row.state),
            step=row.step,
            who=row.who,
            reason=row.reason,
            at=row.at,
        )
        for row in rows
    ]
