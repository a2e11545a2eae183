"""Starts the parts of a node as processes, restarts what ends, and ends them all together."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from node import log

_log = log.get(__name__)

SHORTEST_PAUSE_S, LONGEST_PAUSE_S, STEADY_AFTER_S = 0.2, 30.0, 60.0
READY_FD = "RADNODE_READY_FD"
WHERE, TELLING_S = signal.SIGUSR2, 0.5
PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class Part:
    """One process of the node: how it is started, and how it has done."""

    name: str
    command: Sequence[str]
    keep_fds: Sequence[int] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_s: float = SHORTEST_PAUSE_S
    start_at: float = 0.0
    ready: bool = False
    ready_pipe: int = -1


class Supervisor:
    """Keeps the parts alive until SIGTERM or SIGINT; then asks them to finish, and waits."""

    def __init__(self, parts: Sequence[Part], *, drain_s: float = 30) -> None:
        self._parts = list(parts)
        self._drain_s = drain_s
        self._ending = False

    def run(self, on_ready: object = None) -> int:
        """Blocks until the node ends. `on_ready` is called once, when every part has said that it is ready."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        told = False
        while not self._ending:
            now = time.monotonic()
            for part in self._parts:
                self._look_after(part, now)
            if not told and all(part.ready for part in self._parts):
                told = True
                if callable(on_ready):
                    on_ready()
            self._listen(0.1)
        return self._drain()

    def _look_after(self, part: Part, now: float) -> None:
        if part.process is None:
            if now >= part.start_at:
                self._start(part, now)
            return
        status = part.process.poll()
        if status is None:
            if now - part.started_at > STEADY_AFTER_S:
                part.pause_s = SHORTEST_PAUSE_S
            return
        _log.warning("a part ended and is started again", extra={"part": part.name, "status": status, "pause_s": round(part.pause_s, 1)})
        part.process, part.ready = None, False
        part.start_at = now + part.pause_s
        part.pause_s = min(part.pause_s * 2, LONGEST_PAUSE_S)

    def _start(self, part: Part, now: float) -> None:
        reading, writing = os.pipe()
        part.process = subprocess.Popen(
            list(part.command),
            pass_fds=(*part.keep_fds, writing),
            env={**os.environ, **part.environment, READY_FD: str(writing)},
            start_new_session=True,
        )
        os.close(writing)
        if part.ready_pipe >= 0:
            os.close(part.ready_pipe)
        part.ready_pipe, part.started_at = reading, now

    def _listen(self, seconds: float) -> None:
        waiting = {part.ready_pipe: part for part in self._parts if part.ready_pipe >= 0 and not part.ready}
        if not waiting:
            time.sleep(seconds)
            return
        for pipe in select.select(list(waiting), [], [], seconds)[0]:
            part = waiting[pipe]
            part.ready = os.read(pipe, 1) == b"\n"
            os.close(pipe)
            part.ready_pipe = -1

    def _end(self, *_: object) -> None:
        self._ending = True

    def _drain(self) -> int:
        for part in self._parts:
            if part.process and part.process.poll() is None:
                part.process.terminate()
        end = time.monotonic() + self._drain_s
        for part in self._parts:
            if part.process:
                try:
                    part.process.wait(max(0.1, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    _log.warning("a part did not end in time and is killed; where it stands follows", extra={"part": part.name})
                    part.process.send_signal(WHERE)
                    time.sleep(TELLING_S)
                    part.process.kill()
                    part.process.wait()
        return 0


def part_command(name: str, *arguments: str) -> list[str]:
    """How a part is started: this interpreter, this program."""
    return [sys.executable, "-m", "node", "part", name, *arguments]


def say_ready() -> None:
    """A part tells the supervisor that it is ready; without a supervisor nothing happens."""
    pipe = os.environ.pop(READY_FD, "")
    if pipe:
        os.write(int(pipe), b"\n")
        os.close(int(pipe))


def say_where_when_asked() -> None:
    """On SIGUSR2 this process writes to standard error what each of its threads is doing: files, lines and functions, no values."""
    faulthandler.register(WHERE, all_threads=True)


def end_with_parent() -> None:
    """Linux ends this process when its parent is gone (prctl(2), PR_SET_PDEATHSIG), so that no part outlives a killed node."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
