"""Jobs that somebody waits for, in memory: what a runner takes its jobs from where no ledger may know of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from typing import Any, Protocol

from node import log
from node.domain import Job
from node.errors import NobodyFree, PredictionFailed
from node.ledger.payload import Made

_log = log.get(__name__)

MOST_TRIES = 2  #: of a job whose worker was gone before it began
LOOK_S = 0.25  #: how often somebody who waits looks whether anybody still listens


class _State(Enum):
    WAITING = auto()
    RUNNING = auto()
    DONE = auto()
    FAILED = auto()


@dataclass(slots=True)
class _Ticket:
    job: Job
    written_at: datetime
    state: _State = _State.WAITING
    summary: dict[str, Any] = field(default_factory=dict)
    made: Sequence[Made] = ()
    reason: str = ""
    tries: int = 0


class WaitingRoom:
    """A queue of jobs, each with somebody who waits for its end. It is what `LocalRunner` asks for as `Queue`: a failed job is not tried again."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self.wanted: Callable[[], None] = lambda: None  #: called when a job has come
        self._changed = threading.Condition()
        self._waiting: deque[_Ticket] = deque()
        self._running: dict[str, _Ticket] = {}

    # --- who waits ------------------------------------------------------------------------------------------------------------
    def carried_out(
        self, job: Job, *, wait_s: float, nobody_listens: Callable[[], bool] = lambda: False
    ) -> tuple[Sequence[Made], dict[str, Any]]:
        """The job's objects and summary. Returns, or raises, when no worker is at it any more.

        Raises
        ------
        NobodyFree
            No worker took it within `wait_s`, or nobody listens any more.
        PredictionFailed
            With the runner's reason.
        """
        ticket = _Ticket(job, self._clock())
        until = time.monotonic() + wait_s
        with self._changed:
            self._waiting.append(ticket)
            self._changed.notify_all()
        self.wanted()
        with self._changed:
            while ticket.state in (_State.WAITING, _State.RUNNING):
                self._changed.wait(LOOK_S)
                if ticket.state is _State.WAITING and (time.monotonic() > until or nobody_listens()):
                    self._waiting.remove(ticket)
                    raise NobodyFree
        if ticket.state is _State.FAILED:
            raise PredictionFailed(ticket.reason)
        return ticket.made, ticket.summary

    def wait_for_work(self, timeout_s: float) -> bool:
        """Until there is a job, or the time is over; whether there is one."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._waiting or self._running), timeout_s)

    # --- what a runner asks and tells -----------------------------------------------------------------------------------------
    def claim(self, worker: str, lease_s: float) -> Job | None:
        """The next job, in the order in which they came."""
        with self._changed:
            if not self._waiting:
                return None
            ticket = self._waiting.popleft()
            ticket.state = _State.RUNNING
            self._running[ticket.job.id] = ticket
            return ticket.job

    def renew(self, id: str, worker: str, lease_s: float) -> bool:
        """Nobody else can take it."""
        return True

    def done(self, finished: Job, objects: Sequence[Made], summary: dict[str, Any], *, worker: str = "") -> bool:
        """Whoever waits is told."""
        return self._end(finished, _State.DONE, made=tuple(objects), summary=summary)

    def failed(self, lost: Job, reason: str, *, worker: str = "") -> bool:
        """Whoever waits is told; it is not tried again."""
        self._end(lost, _State.FAILED, reason=reason)
        return False

    def give_back(self, unfinished: Job, *, worker: str = "", counted: bool = False) -> None:
        """The worker ended before it began: another one, or none after some tries."""
        with self._changed:
            ticket = self._running.get(unfinished.id)
            if ticket is None:
                return
            ticket.tries += 1
            if ticket.tries < MOST_TRIES and counted:
                del self._running[unfinished.id]
                ticket.state = _State.WAITING
                self._waiting.appendleft(ticket)
                return
        self._end(unfinished, _State.FAILED, reason="the worker ended before it began")

    def give_back_all_of(self, is_gone: Callable[[str], bool]) -> int:
        """Nothing outlives this process."""
        return 0

    def scheduled_at(self, id: str) -> datetime | None:
        """When it came."""
        with self._changed:
            ticket = self._running.get(id)
            return ticket.written_at if ticket else None

    def predecessor_report(self, of: Job) -> tuple[str, str] | None:
        """No result was kept that this one could replace."""
        return None

    def give_up(self, reason: str) -> None:
        """No runner is left: whatever ran has failed."""
        with self._changed:
            running = [ticket.job for ticket in self._running.values()]
        for job in running:
            self._end(job, _State.FAILED, reason=reason)

    def _end(self, job: Job, state: _State, **facts: Any) -> bool:
        with self._changed:
            ticket = self._running.pop(job.id, None)
            if ticket is None:
                return False
            for name, fact in facts.items():
                setattr(ticket, name, fact)
            ticket.state = state
            self._changed.notify_all()
            return True


class Works(Protocol):
    """What is asked of a runner here."""

    def run_waiting(self) -> int: ...

    def wait(self, timeout_s: float) -> None: ...

    def close(self) -> None: ...


class Crew:
    """Keeps a runner at work while there are jobs; ends it when there were none for a while, and starts it anew with the next one."""

    def __init__(self, room: WaitingRoom, start: Callable[[], Works], *, idle_s: float) -> None:
        self._room, self._start, self._idle_s = room, start, idle_s
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        room.wanted = self._ensure

    def _ensure(self) -> None:
        """See to it that somebody works."""
        with self._lock:
            if not self._closing.is_set() and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._work, name="predictions", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the workers; jobs under way fail."""
        self._closing.set()
        if thread := self._thread:
            thread.join(30)

    def _work(self) -> None:
        try:
            with closing(self._start()) as runner:
                self._keep_at_work(runner)
        except Exception as why:  # the next job starts another crew
            _log.error("the workers for predictions can't be kept", extra={"where": log.where_it_failed(why)})
            self._room.give_up("the workers ended")

    def _keep_at_work(self, runner: Works) -> None:
        last = time.monotonic()
        while not self._closing.is_set():
            if self._room.wait_for_work(LOOK_S):
                last = time.monotonic()
            elif time.monotonic() - last > self._idle_s and self._may_go():
                _log.info("nobody asks for predictions: their workers end")
                return
            if runner.run_waiting():
                runner.wait(0.1)
            elif self._room.wait_for_work(0):
                self._closing.wait(0.02)  # a worker is coming up

    def _may_go(self) -> bool:
        """Nothing came meanwhile; what comes from here on finds no crew and starts another."""
        with self._lock:
            if self._room.wait_for_work(0):
                return False
            self._thread = None
            return True
