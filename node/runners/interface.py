"""A runner: the place where a Job is carried out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self

from node.domain import Job
from node.ledger.payload import Made


class Queue(Protocol):
    """Where a runner takes its jobs from, and what it tells about them: the ledger's `Jobs`, or a queue in memory."""

    def claim(self, worker: str, lease_s: float) -> Job | None: ...

    def renew(self, id: str, worker: str, lease_s: float) -> bool: ...

    def done(self, finished: Job, objects: Sequence[Made], summary: dict[str, Any], *, worker: str = "") -> bool: ...

    def failed(self, lost: Job, reason: str, *, worker: str = "") -> bool: ...

    def give_back(self, unfinished: Job, *, worker: str = "", counted: bool = False) -> None: ...

    def give_back_all_of(self, is_gone: Callable[[str], bool]) -> int: ...

    def scheduled_at(self, id: str) -> datetime | None: ...

    def predecessor_report(self, of: Job) -> tuple[str, str] | None: ...


class Runner(ABC):
    """Takes scheduled jobs from the ledger and sees each to its end."""

    @abstractmethod
    def run_waiting(self) -> int:
        """Carry on: start what waits, look after what runs. Returns how many jobs are under way."""

    @abstractmethod
    def close(self) -> None:
        """Finish or give back what runs, and end the workers."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
