"""How the node does today, in counts: what came, what waits, what was found, what failed, hour by hour."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, case, false, func, literal, literal_column, select

from node.domain import JobState
from node.ledger.database import reading
from node.ledger.tables import CardRow, JobRow

HOURS = 24
card, job = CardRow.__table__.c, JobRow.__table__.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """What happened from `begins` on, for an hour."""

    begins: datetime
    studies: int  #: whose first image came
    instances: int  #: of those studies
    analysed: int  #: jobs that were completed
    failed: int  #: jobs that were given up


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Jobs that wait or run."""

    waiting: int
    running: int
    oldest: datetime | None  #: when the one that waits longest was scheduled


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The clean side's part of *Today*: the last 24 hours, and what is now."""

    since: datetime
    studies: int
    instances: int
    states: Mapping[str, int]  #: of the studies that came since
    jobs: Mapping[str, int]  #: of all jobs that deliver, by state
    shadow_jobs: Mapping[str, int]
    failed: int  #: jobs given up since
    queue: Queue
    hours: Sequence[Hour]  #: the oldest first; the last one is not over


class Today:
    """Asks the ledger; every question walks an index over one day at most."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def work(self) -> Work:
        """The last 24 hours, to the full hour."""
        now = self._clock()
        begins = [now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=n) for n in reversed(range(HOURS))]
        with reading(self._engine) as connection:
            hours = _hours(connection, begins)
            counted = connection.execute(select(job.state, job.shadow, func.count()).group_by(job.state, job.shadow)).all()
            oldest = connection.scalar(select(func.min(job.scheduled_at)).where(job.state == JobState.SCHEDULED.value))
            states = connection.execute(select(card.state, func.count()).where(card.arrived_at >= begins[0]).group_by(card.state)).all()
        jobs, shadows = ({state.value: _of(counted, state, shadow) for state in JobState} for shadow in (False, True))
        return Work(
            since=begins[0],
            studies=sum(hour.studies for hour in hours),
            instances=sum(hour.instances for hour in hours),
            states={row[0]: int(row[1]) for row in states},
            jobs=jobs,
            shadow_jobs=shadows,
            failed=sum(hour.failed for hour in hours),
            queue=Queue(waiting=jobs[JobState.SCHEDULED.value], running=jobs[JobState.IN_PROGRESS.value], oldest=oldest),
            hours=hours,
        )

    def jobs(self) -> dict[str, int]:
        """How many jobs stand in each state, shadows too: quickly."""
        with reading(self._engine) as connection:
            found: dict[str, int] = dict(connection.execute(select(job.state, func.count()).group_by(job.state)).all())
        return {state.value: int(found.get(state.value, 0)) for state in JobState}


def _hours(connection: Connection, begins: Sequence[datetime]) -> list[Hour]:
    """One question a table, for all hours: SQLite and PostgreSQL cut time by different functions, so the hours are named one by one."""
    came, ended = _hour_of(card.arrived_at, begins), _hour_of(job.ended_at, begins)
    of_cards = select(came, func.count(), func.coalesce(func.sum(card.instances), 0)).where(card.arrived_at >= begins[0]).group_by("hour")
    of_jobs = select(ended, job.state, func.count()).where(job.ended_at >= begins[0], job.shadow == false()).group_by("hour", job.state)
    studies = {row[0]: row for row in connection.execute(of_cards)}
    jobs = {(row[0], row[1]): int(row[2]) for row in connection.execute(of_jobs)}
    return [
        Hour(
            begins=begin,
            studies=int(studies[number][1]) if number in studies else 0,
            instances=int(studies[number][2]) if number in studies else 0,
            analysed=jobs.get((number, JobState.COMPLETED.value), 0),
            failed=jobs.get((number, JobState.CANCELED.value), 0),
        )
        for number, begin in enumerate(begins)
    ]


def _hour_of(column: Any, begins: Sequence[datetime]) -> Any:
    """Which of the hours a moment lies in, by its number; what lies after the last one counts to it."""
    ends: list[Any] = [(column < literal(end, column.type), literal_column(str(number))) for number, end in enumerate(begins[1:])]
    return case(*ends, else_=literal_column(str(len(begins) - 1))).label("hour")


def _of(counted: Sequence[Any], state: JobState, shadow: bool) -> int:
    return sum(int(row[2]) for row in counted if row[0] == state.value and bool(row[1]) is shadow)
