"""A runner: the place where a Job is carried out."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Runner(ABC):
    """Takes scheduled jobs from the ledger and sees each to its end."""

    @abstractmethod
    def run_waiting(self) -> int:
        """Carry on: start what waits, look after what runs. Returns how many jobs are under way."""

    @abstractmethod
    def close(self) -> None:
        """Finish or give back what runs, and end the workers."""
