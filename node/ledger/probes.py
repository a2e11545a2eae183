"""What each destination accepted when it was last asked (`radnode destinations probe`): remembered, so that results are written for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, delete, insert, select

from node.ledger.database import reading
from node.ledger.tables import ProbeRow

probe = ProbeRow.__table__.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """One destination's answer."""

    destination: str
    at: datetime
    accepted: Mapping[str, Sequence[str]]  #: SOP Class UID → Transfer Syntax UIDs


class Probes:
    """The latest answer of each destination."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def remember(self, destination: str, accepted: Mapping[str, Sequence[str]]) -> Probed:
        """Keep the answer in place of the one before."""
        found = Probed(destination=destination, at=self._clock(), accepted={uid: list(syntaxes) for uid, syntaxes in accepted.items()})
        with self._engine.begin() as connection:
            connection.execute(delete(ProbeRow).where(probe.destination == destination))
            connection.execute(insert(ProbeRow).values(destination=destination, at=found.at, accepted=found.accepted))
        return found

    def forget(self, destination: str) -> None:
        """From now on the destination is taken to accept everything, as before it was asked."""
        with self._engine.begin() as connection:
            connection.execute(delete(ProbeRow).where(probe.destination == destination))

    def all(self) -> dict[str, Probed]:
        """By destination; one that was never asked is missing."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(ProbeRow.__table__)).all()
        return {row.destination: Probed(destination=row.destination, at=row.at, accepted=row.accepted) for row in rows}
