"""What each channel was told about what is wrong, kept over restarts: nobody is told twice because the node began anew."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict

from sqlalchemy import Engine, delete, insert, select

from node.ledger.database import reading
from node.ledger.tables import NoticeRow
from node.notices import Told

row = NoticeRow.__table__.c


class Notices:
    """One row for a channel and a trouble."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def of(self, channel: str) -> dict[str, Told]:
        """By the trouble's key."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(NoticeRow.__table__).where(row.channel == channel)).all()
        return {one.key: Told(**{name: value for name, value in one._mapping.items() if name != "channel"}) for one in rows}

    def keep(self, channel: str, told: Collection[Told]) -> None:
        """In place of what was kept for the channel."""
        with self._engine.begin() as connection:
            connection.execute(delete(NoticeRow).where(row.channel == channel))
            if told:
                connection.execute(insert(NoticeRow), [{"channel": channel, **asdict(one)} for one in told])
