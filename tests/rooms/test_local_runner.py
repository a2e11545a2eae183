"""The local runner and faults that are real: a crash, a hang, hunger for memory, a socket. Each is contained and the queue goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from node.domain import JobState, Priority
from node.ledger.database import open_ledger, sqlite_url
from node.ledger.holders import holder, is_gone
from node.ledger.jobs import Jobs
from node.runners.local import LocalRunner
from tests.rooms.workbench import FAULTY, Bench, all_ended, bundle, now, until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench.at(tmp_path)


@pytest.fixture
def runner_for(bench: Bench) -> Iterator[Callable[..., LocalRunner]]:
    """Runners on the bench's ledger, closed at the end."""
    runners: list[LocalRunner] = []

    def make(**more: Any) -> LocalRunner:
        runners.append(LocalRunner(bench.jobs, **{**bench.folders, "device": "cpu", "room": FAULTY, **more}))
        return runners[-1]

    yield make
    for runner in runners:
        runner.close()


def workers_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "node.runners._worker" in child.cmdline()]


# --- the ordinary day ---------------------------------------------------------------------------------------------------
def test_a_job_ends_with_its_objects_on_disk_as_the_ledger_says(bench: Bench, runner_for: Callable[..., LocalRunner]) -> None:
    job = bench.submit("works")
    until(all_ended(bench), runner_for())

    written = bench.jobs.objects_of(job)

    assert [one.role.value for one in written] == ["SEG", "SC", "SR"]
    assert all(one.path == bench.root / "clean" / "results" / job.id / f"{one.role}.dcm" for one in written)
    assert all(one.path.stat().st_size > 1000 for one in written)
    summary = bench.jobs.summary_of(job.id)
    assert summary is not None
    assert (summary["label"], summary["analysed"], set(summary["seconds"])) == ("lesion", True, {"read", "load", "build", "run", "write"})


def test_the_model_stays_warm_from_one_job_to_the_next(bench: Bench, runner_for: Callable[..., LocalRunner]) -> None:
    first, second = bench.submit("works", number=1), bench.submit("works", number=2)
    until(all_ended(bench), runner_for())

    used = [(bench.jobs.summary_of(job.id) or {})["facts"]["used"] for job in (first, second)]

    assert used == [1, 2]


def test_models_are_loaded_before_their_first_job(bench: Bench, runner_for: Callable[..., LocalRunner]) -> None:
    bundle(bench.root / "models", "loads_slowly")
    loaded = bench.root / "models" / "loads_slowly" / "1.0.0" / "loaded"

    until(loaded.exists, runner_for())

    assert bench.jobs.all() == []


def test_a_model_that_kills_its_worker_while_loading_does_not_stop_the_others(bench: Bench, runner_for: Callable[..., LocalRunner]) -> None:
    bundle(bench.root / "models", "dies_while_loading")
    runner = runner_for()
    until(lambda: runner._workers[0].free, runner)
    time.sleep(0.5)

    sound, faulty = bench.submit("works", number=1), bench.submit("dies_while_loading", number=2)
    until(all_ended(bench), runner)

    assert (bench.state_of(sound), bench.state_of(faulty)) == (JobState.COMPLETED, JobState.CANCELED)


def test_a_stat_job_overtakes_routine_jobs(bench: Bench, runner_for: Callable[..., LocalRunner]) -> None:
    routine = [bench.submit("works", number=number) for number in (1, 2)]
    stat = bench.submit("works", number=3, priority=Priority.STAT)
    order: list[str] = []
    runner = runner_for()

    def note() -> bool:
        for job in bench.jobs.completed_not_handed_over():
            if job.id not in order:
                order.append(job.id)
        return all_ended(bench)()

    until(note, runner)

    assert order == [stat.id, *(job.id for job in routine)]


# --- faults -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("pipeline", "reason", "limits"),
    [
        ("crashes", "the worker was stopped by SIGSEGV (step: run)", {}),
        ("exits", "the worker ended with exit status 7 (step: run)", {}),
        ("hangs", "the pipeline did not end within 8 s (step: run)", {"job_timeout_s": 8}),
        ("grows", "the worker used more than 900 MB of memory (step: run)", {"memory_mb": 900}),
        ("raises", "the pipeline failed: ValueError at raises.py:19", {}),
    ],
)
def test_a_fault_is_contained_tried_once_more_and_set_aside_and_the_queue_goes_on(
    bench: Bench, runner_for: Callable[..., LocalRunner], pipeline: str, reason: str, limits: dict[str, float]
) -> None:
    faulty, sound = bench.submit(pipeline, number=1), bench.submit("works", number=2)

    until(all_ended(bench), runner_for(**limits))

    [aside] = bench.jobs.set_aside_not_reported()
    assert (aside.id, aside.attempts, aside.reason) == (faulty.id, 2, reason)
    assert bench.state_of(sound) is JobState.COMPLETED
    assert len(workers_of(os.getpid())) == 1


def test_a_fault_that_passes_costs_one_try(bench: Bench, runner_for: Callable[..., LocalRunner]) -> None:
    job = bench.submit("kills_first_time")

    until(all_ended(bench), runner_for())

    found = bench.jobs.get(job.id)
    assert found is not None
    assert (found.state, found.attempts) == (JobState.COMPLETED, 2)


def test_a_worker_that_dies_while_idle_harms_no_job(bench: Bench, runner_for: Callable[..., LocalRunner]) -> None:
    runner = runner_for()
    until(lambda: runner._workers[0].free, runner)
    [worker] = workers_of(os.getpid())
    worker.kill()

    job = bench.submit("works")
    until(all_ended(bench), runner)

    assert bench.state_of(job) is JobState.COMPLETED


def test_a_worker_that_never_comes_up_takes_no_job(bench: Bench, runner_for: Callable[..., LocalRunner]) -> None:
    bench.submit("works")
    runner = runner_for(act="node.no_such_room:act")
    end = time.monotonic() + 4
    until(lambda: time.monotonic() > end, runner)

    assert bench.jobs.counts()[JobState.SCHEDULED] == 1


# --- what a worker may not do ---------------------------------------------------------------------------------------------
def test_a_worker_reaches_no_network_holds_no_key_and_does_not_see_the_wing(
    bench: Bench, runner_for: Callable[..., LocalRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADNODE_VAULT__MASTER_KEY", "CANARY")
    monkeypatch.setenv("PGPASSWORD", "CANARY")
    wing = bench.root / "identified"
    wing.mkdir()
    (wing / "master.key").write_text("CANARY")
    called = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)

        def listen() -> None:
            with suppress(OSError):
                while True:
                    with suppress(TimeoutError):
                        server.accept()
                        called.set()

        threading.Thread(target=listen, daemon=True).start()
        job = bench.submit("calls_out")
        told = bench.root / "models" / "calls_out" / "1.0.0" / "told.txt"
        told.write_text(f"{server.getsockname()[1]} {wing}")
        runner = runner_for(hidden=[wing])
        until(all_ended(bench), runner)

    facts = (bench.jobs.summary_of(job.id) or {})["facts"]
    assert facts["network"] != "reached"
    assert not called.is_set()
    assert not [name for name in facts["environment"] if name.startswith(("RADNODE", "PG"))]
    assert facts["hidden"] == [] or os.geteuid() != 0
    assert (wing / "master.key").read_text() == "CANARY"


def test_the_filter_alone_refuses_every_socket_that_is_not_local() -> None:
    """For machines that allow no name spaces, such as an ordinary container."""
    tried = """
import socket
from node.confinement import refuse_sockets
assert refuse_sockets()
socket.socketpair()
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
    try:
        socket.socket(family)
    except PermissionError:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-c", tried], cwd=ROOT, capture_output=True, text=True)

    assert (done.stdout.split(), done.stderr) == (["refused"] * 3, "")


# --- several runners, and the end of one ------------------------------------------------------------------------------------
def test_two_runners_on_one_ledger_never_run_a_job_twice(bench: Bench, runner_for: Callable[..., LocalRunner]) -> None:
    jobs = [bench.submit("takes_its_time", number=number) for number in range(1, 9)]
    folder = bench.root / "models" / "takes_its_time" / "1.0.0"
    (folder / "seconds").write_text("0.05")
    one, other = runner_for(), runner_for()

    def both() -> bool:
        other.run_waiting()
        return all_ended(bench)()

    until(both, one)

    assert sorted((folder / "runs").read_text().split()) == sorted(job.route.series for job in jobs)
    assert bench.jobs.counts()[JobState.COMPLETED] == 8


def test_closing_gives_running_jobs_back_and_leaves_no_process(bench: Bench, runner_for: Callable[..., LocalRunner]) -> None:
    job = bench.submit("takes_its_time")
    folder = bench.root / "models" / "takes_its_time" / "1.0.0"
    (folder / "seconds").write_text("600")
    runner = runner_for()
    until((folder / "runs").exists, runner)

    runner.close()

    found = bench.jobs.get(job.id)
    assert found is not None
    assert (found.state, found.attempts) == (JobState.SCHEDULED, 0)
    assert workers_of(os.getpid()) == []
    assert runner.run_waiting() == 0


def test_what_a_worker_that_died_left_among_temporary_files_goes_with_it(bench: Bench, runner_for: Callable[..., LocalRunner]) -> None:
    bench.submit("litters")
    runner = runner_for()
    until(all_ended(bench), runner)

    left = Path((bench.root / "models" / "litters" / "1.0.0" / "left").read_text())
    room = left.parents[1]

    assert room.name.startswith("radnode-worker-")
    assert not left.exists()
    runner.close()
    assert not list(Path(tempfile.gettempdir()).glob(f"{room.name}*"))


def test_draining_lets_a_running_job_end(bench: Bench, runner_for: Callable[..., LocalRunner]) -> None:
    job = bench.submit("takes_its_time")
    folder = bench.root / "models" / "takes_its_time" / "1.0.0"
    (folder / "seconds").write_text("1")
    runner = runner_for()
    until((folder / "runs").exists, runner)

    runner.close(drain_s=30)

    assert bench.state_of(job) is JobState.COMPLETED


def test_a_job_that_another_runner_took_over_is_dropped(bench: Bench, runner_for: Callable[..., LocalRunner]) -> None:
    """This machine slept for longer than the lease."""
    bench.submit("takes_its_time")
    folder = bench.root / "models" / "takes_its_time" / "1.0.0"
    (folder / "seconds").write_text("600")
    runner = runner_for(lease_s=0.6)
    until((folder / "runs").exists, runner)
    time.sleep(0.8)
    taken = bench.jobs.claim("another", 600)
    assert taken is not None

    until(lambda: not runner._workers[0].job, runner)

    found = bench.jobs.get(taken.id)
    assert found is not None
    assert (found.state, found.reason) == (JobState.IN_PROGRESS, "")


A_RUNNER = """
import sys, time
from pathlib import Path
from node.ledger.database import open_ledger, sqlite_url
from node.ledger.jobs import Jobs
from node.runners.local import LocalRunner
from tests.rooms.workbench import FAULTY, now
root = Path(sys.argv[1])
jobs = Jobs(open_ledger(sqlite_url(root / "ledger.sqlite")), now, clean_folder=root / "clean")
runner = LocalRunner(jobs, clean_folder=root / "clean", results_folder=root / "clean" / "results", bundles_dir=root / "models",
                     device="cpu", room=FAULTY, lease_s=float(sys.argv[2]))
while True:
    runner.run_waiting()
    time.sleep(0.05)
"""


@pytest.mark.parametrize("lease_s", [3, 600])
def test_a_killed_runner_takes_its_workers_along_and_another_one_finishes(
    bench: Bench, runner_for: Callable[..., LocalRunner], monkeypatch: pytest.MonkeyPatch, lease_s: float
) -> None:
    """With a short lease by waiting; with a long one because the process is known to be gone."""
    job = bench.submit("takes_its_time")
    folder = bench.root / "models" / "takes_its_time" / "1.0.0"
    (folder / "seconds").write_text("600")
    process = subprocess.Popen([sys.executable, "-c", A_RUNNER, str(bench.root), str(lease_s)], cwd=ROOT)
    until((folder / "runs").exists)
    [worker] = workers_of(process.pid)

    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, seconds=10)
    (folder / "seconds").write_text("0")
    if lease_s < 10:  # as another machine, which can't see that process
        monkeypatch.setattr("node.runners.local.is_gone", lambda name: False)
    until(all_ended(bench), runner_for())

    found = bench.jobs.get(job.id)
    assert found is not None
    assert (found.state, found.attempts) == (JobState.COMPLETED, 2)
    assert len(bench.jobs.objects_of(job)) == 3


def test_a_runner_may_be_driven_by_threads_that_come_and_go(bench: Bench, runner_for: Callable[..., LocalRunner]) -> None:
    """The kernel ends a worker with the thread that started it; housekeeping's threads do not live long."""
    job, runner = bench.submit("works"), runner_for()
    end = time.monotonic() + 60
    while not all_ended(bench)() and time.monotonic() < end:
        thread = threading.Thread(target=runner.run_waiting)
        thread.start()
        thread.join()
        time.sleep(0.02)

    found = bench.jobs.get(job.id)
    assert found is not None
    assert (found.state, found.attempts) == (JobState.COMPLETED, 1)


def test_a_holder_is_gone_only_when_its_process_of_this_machine_is() -> None:
    mine = holder()
    ended = subprocess.run(
        [sys.executable, "-c", "from node.ledger.holders import holder; print(holder())"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()

    assert len(ended) <= 100
    assert (is_gone(mine), is_gone(ended)) == (False, True)
    assert not is_gone("another-machine/1:1:1:00000000")
    assert not is_gone("inline")


def test_the_ledger_is_shared_by_url(bench: Bench) -> None:
    """Another process opens the same file and sees the same jobs."""
    job = bench.submit("works")

    other = Jobs(open_ledger(sqlite_url(bench.root / "ledger.sqlite")), now, clean_folder=bench.root / "clean")

    assert [found.id for found in other.all()] == [job.id]
