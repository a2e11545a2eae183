"""Jobs that somebody waits for: in order, each with an end, and workers that come and go with the demand."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from node import codes
from node.domain import Algorithm, CleanUid, Job, Pseudonym, Route, StudyRef
from node.errors import NobodyFree, PredictionFailed
from node.waiting_room import Crew, WaitingRoom
from tests.rooms.upload_desk import until


def a_job(id: str) -> Job:
    return Job(
        id=id,
        study=StudyRef(study=CleanUid("2.25.1"), revision=1),
        pseudonym=Pseudonym("P1"),
        folder=Path("nowhere"),
        route=Route(rule="", series=CleanUid("2.25.2"), pipeline="works", destinations=()),
        algorithm=Algorithm(name="works", version="1", digest="0", family=codes.ARTIFICIAL_INTELLIGENCE),
        inputs=(),
    )


@pytest.fixture
def room() -> WaitingRoom:
    return WaitingRoom(lambda: datetime.now(UTC))


class Runner:
    """Does a job a turn, or fails."""

    def __init__(self, room: WaitingRoom, *, breaks: bool = False) -> None:
        self._room, self._breaks = room, breaks
        self.closed = False

    def run_waiting(self) -> int:
        if job := self._room.claim("me", 60):
            if self._breaks:
                raise RuntimeError
            self._room.done(job, [], {"did": job.id})
        return 0

    def wait(self, timeout_s: float) -> None:
        """There is nothing to wait for."""

    def close(self) -> None:
        self.closed = True


def test_a_job_that_nobody_takes_is_asked_to_come_again_and_leaves_the_room(room: WaitingRoom) -> None:
    with pytest.raises(NobodyFree):
        room.carried_out(a_job("1"), wait_s=0.1)
    assert room.claim("late", 60) is None


def test_a_job_of_whom_nobody_listens_any_more_need_not_begin(room: WaitingRoom) -> None:
    with pytest.raises(NobodyFree):
        room.carried_out(a_job("1"), wait_s=60, nobody_listens=lambda: True)


def test_a_job_whose_worker_went_before_it_began_is_given_to_another_once(room: WaitingRoom) -> None:
    ended: list[str] = []

    def wait() -> None:
        with pytest.raises(PredictionFailed) as why:
            room.carried_out(a_job("1"), wait_s=60)
        ended.append(why.value.detail)

    waiting = threading.Thread(target=wait)
    waiting.start()
    until("the job", lambda: room.wait_for_work(0))
    for _ in range(2):
        job = room.claim("me", 60)
        assert job is not None
        room.give_back(job, counted=True)
    waiting.join(10)
    assert ended == ["the worker ended before it began"]


def test_workers_end_when_nobody_asks_and_come_back_with_the_next_job(room: WaitingRoom) -> None:
    runners: list[Runner] = []

    def start() -> Runner:
        runners.append(Runner(room))
        return runners[-1]

    crew = Crew(room, start, idle_s=0)
    assert runners == []
    assert room.carried_out(a_job("1"), wait_s=60) == ((), {"did": "1"})
    until("the end of the workers", lambda: runners[0].closed)
    assert room.carried_out(a_job("2"), wait_s=60) == ((), {"did": "2"})
    crew.close()
    assert len(runners) == 2
    assert all(one.closed for one in runners)


def test_a_runner_that_breaks_fails_its_jobs_and_the_next_one_gets_another(room: WaitingRoom) -> None:
    runners = [Runner(room), Runner(room, breaks=True)]
    crew = Crew(room, runners.pop, idle_s=60)
    with pytest.raises(PredictionFailed):
        room.carried_out(a_job("1"), wait_s=60)
    assert room.carried_out(a_job("2"), wait_s=60)[1] == {"did": "2"}
    crew.close()
