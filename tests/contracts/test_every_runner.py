"""What every runner promises, whatever the place: jobs end, failures are tried once more and set aside, nothing is left behind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from node.domain import JobState, Priority
from node.registry import Registry
from node.runners.interface import Runner
from tests.rooms.workbench import FAULTY, Bench, all_ended, until

REGISTRY: Registry[Runner] = Registry("node.runners", Runner)  # type: ignore[type-abstract]

Make = Callable[..., Runner]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench.at(tmp_path)


@pytest.fixture(params=list(REGISTRY))
def make(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Make]:
    """Makes runners of one kind, with the arguments the node gives to each."""
    made: list[Runner] = []

    def runner(**more: Any) -> Runner:
        kind: Any = REGISTRY[request.param]
        arguments = {"count": 1, "device": "cpu", "job_timeout_s": 120, "memory_mb": 4000, "room": FAULTY, **bench.folders}
        made.append(kind(bench.jobs, **{**arguments, **more}))
        return made[-1]

    yield runner
    for one in made:
        one.close()


def test_no_runner_is_broken() -> None:
    assert REGISTRY.broken == {}
    assert {"inline", "local"} <= set(REGISTRY)


def test_a_job_is_completed_with_whole_objects_and_a_summary(make: Make, bench: Bench) -> None:
    job = bench.submit("works")

    until(all_ended(bench), make())

    assert bench.state_of(job) is JobState.COMPLETED
    written = bench.jobs.objects_of(job)
    assert [one.role.value for one in written] == ["SEG", "SC", "SR"]
    assert all(one.path.read_bytes()[128:132] == b"DICM" for one in written)
    assert (bench.jobs.summary_of(job.id) or {})["label"] == "lesion"


def test_a_series_that_is_refused_is_a_result(make: Make, bench: Bench) -> None:
    job = bench.submit("refuses")

    until(all_ended(bench), make())

    assert bench.state_of(job) is JobState.COMPLETED
    assert [one.role.value for one in bench.jobs.objects_of(job)] == ["SR"]


def test_a_failing_job_is_tried_twice_and_set_aside_with_a_reason_that_quotes_nothing(make: Make, bench: Bench) -> None:
    failing, sound = bench.submit("raises", number=1), bench.submit("works", number=2)

    until(all_ended(bench), make())

    [aside] = bench.jobs.set_aside_not_reported()
    assert (aside.id, aside.attempts) == (failing.id, 2)
    assert aside.reason.startswith("the pipeline failed: ValueError at raises.py")
    assert "CANARY" not in aside.reason
    assert bench.state_of(sound) is JobState.COMPLETED


def test_a_bundle_that_is_damaged_sets_the_job_aside_and_names_the_file(make: Make, bench: Bench) -> None:
    bench.submit("works")
    weights = bench.root / "models" / "works" / "1.0.0" / "models" / "model.safetensors"
    weights.write_bytes(b"not these")

    until(all_ended(bench), make())

    [aside] = bench.jobs.set_aside_not_reported()
    assert "file=models/model.safetensors" in aside.reason


def test_stat_comes_first(make: Make, bench: Bench) -> None:
    bench.submit("works", number=1)
    stat = bench.submit("works", number=2, priority=Priority.STAT)

    until(lambda: bench.jobs.counts()[JobState.COMPLETED] > 0, make())

    ended = bench.jobs.completed_not_handed_over()
    assert stat.id in [job.id for job in ended]


def test_every_place_writes_the_same_bytes(bench: Bench, tmp_path: Path) -> None:
    """A retry elsewhere overwrites; it never doubles."""
    digests = []
    job = bench.submit("works")
    scheduled = bench.jobs.scheduled_at(job.id)
    for number, name in enumerate(REGISTRY):
        other = Bench.at(tmp_path / f"again{number}")
        other.jobs._clock = lambda: scheduled  # type: ignore[assignment,return-value]
        again = other.submit("works")
        node_uid = other.root / "clean" / "results" / "node_uid"
        node_uid.parent.mkdir(parents=True)
        node_uid.write_text("2.25.1")
        kind: Any = REGISTRY[name]
        with kind(other.jobs, device="cpu", room=FAULTY, **other.folders) as runner:
            until(all_ended(other), runner)
        digests.append([hashlib.sha256(one.path.read_bytes()).hexdigest() for one in other.jobs.objects_of(again)])

    assert len(digests[0]) == 3
    assert all(digest == digests[0] for digest in digests)


def test_closing_twice_is_harmless_and_nothing_runs_afterwards(make: Make, bench: Bench) -> None:
    runner = make()
    runner.run_waiting()
    runner.close()
    runner.close()

    assert bench.jobs.counts()[JobState.IN_PROGRESS] == 0
