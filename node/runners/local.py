"""Warm worker processes on this machine. One that crashes, hangs or grows is killed and replaced; its job is tried once more."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

import node
from node import log
from node.domain import Job
from node.ledger.holders import holder, is_gone
from node.ledger.payload import job_to_json, made_from_dict
from node.runners.interface import Queue, Runner

_log = log.get(__name__)

LEASE_S = 60.0
START_TIMEOUT_S = 180.0
LONGEST_PAUSE_S = 30.0  #: between starts of a worker that does not come up
MEMORY_EVERY_S = 0.25
WORKERS_ENVIRONMENT = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SYSTEMROOT"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"),  # the numbers of the first are counted in the order of the second
)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
MB = 1024 * 1024


class LocalRunner(Runner):
    """Claims jobs from the ledger and hands them to worker processes that hold their models warm.

    A worker gets clean data only, has no keys in its environment, no network, and dies with this process. `run_waiting` must be
    called again and again, well within `lease_s`: it is what notices that a worker is gone, hangs or grows.

    Parameters
    ----------
    job_timeout_s
        A worker that needs longer for one job hangs.
    memory_mb
        Resident memory of a worker and its children above which it is replaced.
    model_memory_mb
        What the models that a worker holds warm may take together.
    hidden
        Folders that look empty to a worker where the machine allows it: the identified wing.
    warm
        Load models at the start, before the first job, as far as they fit.
    first
        Which, as (pipeline, version), the most important first; None: the newest version of every pipeline.
    act, act_arguments
        What a worker does with a job, as `module:function`, and more arguments for it (`room`: where pipelines are found).
    """

    def __init__(
        self,
        jobs: Queue,
        *,
        clean_folder: Path,
        results_folder: Path,
        bundles_dir: Path,
        count: int = 1,
        device: str = "auto",
        job_timeout_s: float = 1800,
        memory_mb: int = 8192,
        model_memory_mb: float = math.inf,
        lease_s: float = LEASE_S,
        hidden: Sequence[Path] = (),
        warm: bool = True,
        first: Sequence[tuple[str, str]] | None = None,
        act: str = "node.inference:carry_out",
        **act_arguments: Any,
    ) -> None:
        self.name = holder()
        self._jobs = jobs
        self._lease_s = lease_s
        self._lock = threading.RLock()
        self._closed = False
        # the kernel ends a worker with the *thread* that started it, so one thread that stays starts them all
        self._nursery = ThreadPoolExecutor(1, thread_name_prefix="nursery")
        settings = {
            "parent": os.getpid(),
            "clean_folder": str(clean_folder.absolute()),
            "results_folder": str(results_folder.absolute()),
            "bundles_dir": str(bundles_dir.absolute()),
            "device": device,
            "hidden": [str(folder.absolute()) for folder in hidden],
            "warm": warm,
            "first": first,
            "model_memory_mb": model_memory_mb,
            "act": act,
            "act_arguments": act_arguments,
            "log_level": "INFO",
        }
        threads = max(1, len(os.sched_getaffinity(0)) // count)
        self._workers = [
            _Worker(
                {**settings, "number": number},
                start=lambda begin: self._nursery.submit(begin).result(),
                threads=threads,
                job_timeout_s=job_timeout_s,
                memory_mb=memory_mb,
            )
            for number in range(count)
        ]
        returned = jobs.give_back_all_of(is_gone)
        if returned:
            _log.info("jobs of a runner that is gone wait again", extra={"jobs": returned})

    def run_waiting(self) -> int:
        """Take answers, replace what crashed, hangs or grew, keep leases, and give free workers what waits. Never blocks for long."""
        with self._lock:
            if self._closed:
                return 0
            for worker in self._workers:
                self._look_after(worker)
            for worker in self._workers:
                if worker.free and (job := self._jobs.claim(self.name, self._lease_s)):
                    self._hand(job, worker)
            return sum(worker.held is not None for worker in self._workers)

    def wait(self, timeout_s: float) -> None:
        """Return when a worker has something to say, or after `timeout_s`."""
        streams = [worker.stream for worker in self._workers if worker.stream is not None]
        with suppress(OSError, ValueError):  # a stream that was closed meanwhile
            if streams:
                select.select(streams, [], [], timeout_s)
                return
        time.sleep(timeout_s)

    def close(self, drain_s: float = 0) -> None:
        """Give running jobs `drain_s` to end; give the rest back, and end the workers."""
        until = time.monotonic() + drain_s
        while time.monotonic() < until and any(worker.held for worker in self._workers):
            with self._lock:
                for worker in self._workers:
                    self._look_after(worker)
            self.wait(0.1)
        with self._lock:
            self._closed = True
            unfinished = [worker.held for worker in self._workers if worker.held]
            for worker in self._workers:
                worker.stop()
            self._nursery.shutdown()
            for job in unfinished:
                self._jobs.give_back(job, worker=self.name)

    def _hand(self, job: Job, worker: _Worker) -> None:
        written_at = self._jobs.scheduled_at(job.id)
        order = {
            "job": json.loads(job_to_json(job)),
            "written_at": written_at.isoformat() if written_at else "",
            "predecessor": self._jobs.predecessor_report(job),
        }
        worker.take(job, order, renew_every_s=self._lease_s / 3)
        _log.info("job started", extra={"job": job.id, "pipeline": job.route.pipeline, "attempt": job.attempts})

    def _look_after(self, worker: _Worker) -> None:
        if worker.untold is None:
            job = worker.job
            answer = worker.look()
            if job is None or not answer:
                if job is not None and worker.lease_is_due(self._lease_s / 3) and not self._jobs.renew(job.id, self.name, self._lease_s):
                    _log.warning("job was taken over by another runner", extra={"job": job.id})
                    worker.replace("its job was taken over")
                return
            worker.untold = job, answer
        self._tell(*worker.untold)  # again by the next look, when the ledger is away
        worker.untold = None

    def _tell(self, job: Job, answer: dict[str, Any]) -> None:
        """The ledger hears how a job ended."""
        if "returned" in answer:
            self._jobs.give_back(job, worker=self.name, counted=True)
            return
        if "failed" in answer:
            again = self._jobs.failed(job, answer["failed"], worker=self.name)
            _log.warning("job failed", extra={"job": job.id, "again": again, "reason": answer["failed"]})
            return
        made = [made_from_dict(one) for one in answer["done"]]
        kept = self._jobs.done(job, made, answer["summary"], worker=self.name)
        _log.info("job done", extra={"job": job.id, "kept": kept, "objects": len(made)})


class _Worker:
    """One worker process, and the job it is on."""

    def __init__(
        self,
        settings: dict[str, Any],
        *,
        start: Callable[[Callable[[], subprocess.Popen[bytes]]], subprocess.Popen[bytes]],
        threads: int,
        job_timeout_s: float,
        memory_mb: int,
    ) -> None:
        self.job: Job | None = None
        self.untold: tuple[Job, dict[str, Any]] | None = None  #: how a job ended, until the ledger has heard it
        self._settings = settings
        self._start = start
        self._threads = threads
        self._job_timeout_s = job_timeout_s
        self._memory_mb = memory_mb
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: TemporaryDirectory[str] | None = None
        self._ready = self._warm = self._leaving = False
        self._heard = b""
        self._step = ""
        self._begun = self._renewed = self._weighed = 0.0
        self._pause_s, self._start_at = 0.0, 0.0

    @property
    def free(self) -> bool:
        return self._ready and self.held is None and not self._leaving

    @property
    def held(self) -> Job | None:
        """The job it is on, or whose end the ledger has not heard yet."""
        return self.untold[0] if self.untold else self.job

    @property
    def stream(self) -> Any:
        """What `select` can wait on; None while there is no process."""
        return self._process.stdout if self._process else None

    def take(self, job: Job, order: dict[str, Any], *, renew_every_s: float) -> None:
        """Start on a job. A worker that died meanwhile is noticed by the next look."""
        self.job, self._step = job, ""
        self._begun = self._renewed = time.monotonic()
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def lease_is_due(self, every_s: float) -> bool:
        """Whether the job's lease should be renewed now."""
        if time.monotonic() - self._renewed < every_s:
            return False
        self._renewed = time.monotonic()
        return True

    def look(self) -> dict[str, Any]:
        """Start the process if there is none; its answer when the job has ended, well or badly; else empty."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._start_at:
                self._begin(now)
            return {}
        answer = self._read()
        if not answer and self._process.poll() is not None:
            answer = self._read()  # what it said last
            reason, job, begun = _ending(self._process.returncode), self.job, self._step
            self.replace(reason)
            if answer or job is None:
                return answer
            return {"failed": self._during(reason)} if begun else {"returned": reason}
        if answer:
            return answer
        if reason := self._too_much(now):
            job = self.job
            self.replace(reason)
            return {"failed": self._during(reason)} if job else {}
        return {}

    def replace(self, reason: str) -> None:
        """Kill the process; the next look starts another, after a pause when it never came up."""
        came_up = self._ready
        if self._process is not None and self._process.returncode not in {None, 0}:
            _log.warning("a worker is replaced", extra={"number": self._settings["number"], "reason": reason})
        self._kill()
        self._pause_s = 0.0 if came_up else min(max(1.0, 2 * self._pause_s), LONGEST_PAUSE_S)
        self._start_at = time.monotonic() + self._pause_s

    def stop(self) -> None:
        """End the process: politely when it is idle. One that still loads its models would not hear of it."""
        if self._process is not None and self._warm and self.job is None and self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(2)
        self._kill()

    # --- below ----------------------------------------------------------------------------------------------------------
    def _begin(self, now: float) -> None:
        command = [sys.executable, "-P", "-m", "node.runners._worker", json.dumps(self._settings)]
        scratch = self._scratch = TemporaryDirectory(prefix="radnode-worker-", ignore_cleanup_errors=True)
        self._process = self._start(
            lambda: subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**_environment(self._threads), "TMPDIR": scratch.name},
                cwd="/",
                start_new_session=True,
            )
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._ready = self._warm = self._leaving = False
        self._heard, self._begun = b"", now
        self._settings["warm"] = False  # a model that takes a worker down while it loads does so once

    def _read(self) -> dict[str, Any]:
        """The answer to the job, when it has come; progress and readiness are noted on the way."""
        assert self._process is not None
        assert self._process.stdout is not None
        with suppress(BlockingIOError):
            while chunk := os.read(self._process.stdout.fileno(), 65536):
                self._heard += chunk
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "ready" in said:
                self._ready, self._pause_s = True, 0.0
                _log.info("a worker is ready", extra={"number": self._settings["number"], "device": said["device"]})
                if not said["network"]:
                    _log.warning("this machine does not let a worker go without a network", extra={"number": self._settings["number"]})
            elif "warm" in said:
                self._warm = True
            elif "step" in said:
                self._step = said["step"]
            elif self.job is not None:
                self.job, self._leaving = None, said.get("leaving", False)
                return dict(said)
        return {}

    def _too_much(self, now: float) -> str:
        """Why the process must go: too long, or too large."""
        if not self._ready:
            return f"the worker did not start within {START_TIMEOUT_S:.0f} s" if now - self._begun > START_TIMEOUT_S else ""
        if self.job is not None and now - self._begun > self._job_timeout_s:
            return f"the pipeline did not end within {self._job_timeout_s:g} s"
        if now - self._weighed > MEMORY_EVERY_S:
            self._weighed = now
            assert self._process is not None
            if _resident_mb(self._process.pid) > self._memory_mb:
                return f"the worker used more than {self._memory_mb} MB of memory"
        return ""

    def _during(self, reason: str) -> str:
        return f"{reason} (step: {self._step})" if self._step else reason

    def _kill(self) -> None:
        process, self._process = self._process, None
        self._ready, self.job = False, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the session it leads: what it started goes too
        with suppress(subprocess.TimeoutExpired):  # one that the kernel can't stop now is left to it
            process.wait(10)
        for stream in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()
        if self._scratch is not None:
            self._scratch.cleanup()  # with what a process that was killed left there


def _environment(threads: int) -> dict[str, str]:
    """Only what a worker needs: nothing of the node's settings and keys."""
    kept = {name: os.environ[name] for name in WORKERS_ENVIRONMENT if name in os.environ}
    root = str(Path(node.__file__).absolute().parents[1])
    return {**kept, **dict.fromkeys(THREADS, str(threads)), "PYTHONPATH": root, "HF_HUB_OFFLINE": "1"}


def _ending(status: int) -> str:
    if status < 0:
        with suppress(ValueError):
            return f"the worker was stopped by {signal.Signals(-status).name}"
    return f"the worker ended with exit status {status}"


def _resident_mb(pid: int) -> float:
    """Memory of a process and its children."""
    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                total += one.memory_info().rss
    return total / MB
