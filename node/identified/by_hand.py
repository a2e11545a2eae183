"""What a person decided who looked at a refused study: boxes to mask, and that it may go on. Used by the next de-identification."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from node.domain import CleanUid
from node.identified.boxes import Box
from node.identified.looking import ByHand
from node.identified.tables import ByHandRow


class DecisionsByHand:
    """The decisions, one row an instance. They speak of instances that were there to be looked at: one that comes later has none."""

    def __init__(self, engine: Engine, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._engine = engine
        self._now = now

    def mask(self, study: CleanUid, instance: CleanUid, boxes: Iterable[Box], *, who: str, why: str) -> None:
        """These boxes beside earlier ones. It does not release: other images of the study may not have been looked at."""
        with Session(self._engine) as db, db.begin():
            row = self._row(db, study, instance)
            row.boxes = [*row.boxes, *(list(box) for box in boxes)]
            row.who, row.why, row.decided_at = who, why, self._now()

    def release(self, study: CleanUid, instances: Iterable[CleanUid], *, who: str, why: str) -> None:
        """Each of these may go on: with what can be masked without doubt, and the boxes of this person."""
        with Session(self._engine) as db, db.begin():
            for instance in instances:
                row = self._row(db, study, instance)
                row.released, row.who, row.why, row.decided_at = True, who, why, self._now()

    def of(self, study: CleanUid) -> dict[CleanUid, ByHand]:
        """By instance."""
        with Session(self._engine) as db:
            rows = db.scalars(select(ByHandRow).where(ByHandRow.study == study))
            return {CleanUid(row.instance): ByHand(tuple(Box(*box) for box in row.boxes), row.released) for row in rows}

    def last(self, study: CleanUid) -> tuple[str, str]:
        """(who decided last, why); empty where nobody did."""
        latest = select(ByHandRow).where(ByHandRow.study == study).order_by(ByHandRow.decided_at.desc()).limit(1)
        with Session(self._engine) as db:
            row = db.scalar(latest)
            return (row.who, row.why) if row else ("", "")

    def _row(self, db: Session, study: CleanUid, instance: CleanUid) -> ByHandRow:
        row = db.get(ByHandRow, instance)
        if row is None:
            row = ByHandRow(instance=instance, study=study, boxes=[], released=False)
            db.add(row)
        return row
