"""What was answered to a request with an Idempotency-Key: whoever sends it again gets the same answer, and nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from sqlalchemy import Engine, delete, select, update

from node.errors import KeyBusy, KeyReused
from node.ledger.database import insert_of
from node.ledger.tables import AnswerRow

KEPT = timedelta(hours=24)
AT_WORK = timedelta(minutes=10)  #: a first request that has said nothing for so long is taken to be lost
answer = AnswerRow.__table__.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An answer that was given before."""

    status: int
    body: str


class Answers:
    """Answers in the ledger, each for 24 hours."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def begin(self, who: str, key: str, request: bytes) -> Kept | None:
        """None: nobody has asked yet, go on, and `end` or `drop` it. Otherwise what was answered then.

        Raises
        ------
        KeyReused
            The key was used for another request.
        KeyBusy
            The first request is still at work.
        """
        name, same, now = _name(who, key), sha256(request).hexdigest(), self._clock()
        with self._engine.begin() as connection:
            connection.execute(delete(AnswerRow).where(answer.at < now - KEPT))
            connection.execute(delete(AnswerRow).where(answer.key == name, answer.status == 0, answer.at < now - AT_WORK))
            insert = insert_of(connection)
            fresh = insert(AnswerRow).values(key=name, request=same, status=0, body="", at=now)
            if connection.execute(fresh.on_conflict_do_nothing(index_elements=[answer.key]).returning(answer.key)).first():
                return None
            row = connection.execute(select(AnswerRow.__table__).where(answer.key == name)).one()
        if row.request != same:
            raise KeyReused
        if row.status == 0:
            raise KeyBusy
        return Kept(status=row.status, body=row.body)

    def end(self, who: str, key: str, status: int, body: str) -> None:
        """It is done; this was the answer."""
        with self._engine.begin() as connection:
            connection.execute(update(AnswerRow).where(answer.key == _name(who, key)).values(status=status, body=body))

    def drop(self, who: str, key: str) -> None:
        """Nothing was done: the key may be used again."""
        with self._engine.begin() as connection:
            connection.execute(delete(AnswerRow).where(answer.key == _name(who, key), answer.status == 0))


def _name(who: str, key: str) -> str:
    return sha256(f"{who}\n{key}".encode()).hexdigest()
