"""What must happen again and again: index, settle, hand over, deliver, catch up, expire, verify. APScheduler keeps the time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from node import log
from node.errors import NodeError

_log = log.get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chore:
    """One thing to do every so often. Runs again only after it has ended; a failure is logged and the next turn tries again."""

    name: str
    every_s: float
    do: Callable[[], Any]


class Housekeeping:
    """Runs the chores, each in its own thread, until `close`."""

    def __init__(self, chores: Sequence[Chore]) -> None:
        self._failing: dict[str, str] = {}
        self._lock = threading.Lock()
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(max(1, len(chores)))},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone=UTC,
        )
        for number, chore in enumerate(chores):
            first = datetime.now(UTC) + timedelta(milliseconds=10 * number)
            self._scheduler.add_job(self._do, "interval", [chore], seconds=chore.every_s, id=chore.name, next_run_time=first)

    def start(self) -> None:
        """Begin. Returns at once."""
        self._scheduler.start()

    def close(self) -> None:
        """Let what runs end, and stop."""
        self._scheduler.shutdown(wait=True)

    @property
    def failing(self) -> dict[str, str]:
        """Chores whose last turn failed, with type and place of the failure, and its words where they are ours."""
        with self._lock:
            return dict(self._failing)

    def _do(self, chore: Chore) -> None:
        try:
            chore.do()
        except Exception as why:  # the next turn tries again; one chore must not stop the others
            said = {"because": why.detail or why.message} if isinstance(why, NodeError) else {}
            place = " ".join((log.where_it_failed(why), *said.values()))
            with self._lock:
                news = self._failing.get(chore.name) != place
                self._failing[chore.name] = place
            if news:
                _log.exception("a chore failed and will be tried again", extra={"chore": chore.name, **said})
        else:
            with self._lock:
                self._failing.pop(chore.name, None)
