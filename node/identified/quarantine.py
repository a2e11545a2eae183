"""Studies refused, and the reason. They stay in the vault until somebody corrects, releases or purges them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session

from node.domain import CleanUid, StudyRef
from node.errors import StudyRefused
from node.identified.tables import QuarantineRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One study set aside."""

    study: CleanUid
    revision: int
    kind: str  #: the error's class, e.g. BurnedInAnnotation
    reason: str
    refused_at: datetime


class Quarantine:
    """The list of refused studies, in the identified database."""

    def __init__(self, engine: Engine, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._engine = engine
        self._now = now

    def set_aside(self, ref: StudyRef, why: StudyRefused) -> None:
        """Remember why. A second refusal of the study replaces the first."""
        row = QuarantineRow(study=ref.study, revision=ref.revision, kind=type(why).__name__, reason=str(why), refused_at=self._now())
        with Session(self._engine) as db, db.begin():
            db.merge(row)

    def list(self) -> list[Refusal]:
        """All of them, the oldest first."""
        with Session(self._engine) as db:
            return [_refusal(row) for row in db.scalars(select(QuarantineRow).order_by(QuarantineRow.refused_at))]

    def reason(self, study: CleanUid) -> Refusal | None:
        """Why this study was refused; None when it was not."""
        with Session(self._engine) as db:
            row = db.get(QuarantineRow, study)
            return _refusal(row) if row else None

    def release(self, study: CleanUid) -> bool:
        """Take it off the list; False when it was not on it. Whoever releases sends the study on its way again."""
        with self._engine.begin() as db:
            return db.execute(delete(QuarantineRow).where(QuarantineRow.study == study)).rowcount > 0


def _refusal(row: QuarantineRow) -> Refusal:
    at = row.refused_at if row.refused_at.tzinfo else row.refused_at.replace(tzinfo=UTC)
    return Refusal(study=CleanUid(row.study), revision=row.revision, kind=row.kind, reason=row.reason, refused_at=at)
