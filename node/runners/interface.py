"""A runner: the place where a Job is carried out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


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
