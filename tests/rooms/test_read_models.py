"""What lists and pages ask of the ledger, on both databases; the whole way through the node is in test_api.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from node.audit import Action, AuditEvent, Event
from node.codes import Code
from node.domain import Algorithm, CleanUid, Job, Pseudonym, Route, StudyRef
from node.errors import CursorInvalid, KeyBusy, KeyReused, NotNow, NotThere
from node.ledger.answers import AT_WORK, KEPT, Answers
from node.ledger.cards import Cards, Seen, Wanted, labels_of
from node.ledger.job_list import JobList
from node.ledger.jobs import FAILURES, Jobs
from node.ledger.paging import cursor_of
from node.ledger.today import Today
from node.ledger.trail import Trail
from node.ledger.trail_list import TrailList
from tests.rooms.databases import postgres, postgres_server, sqlite

NOON = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    made = sqlite(tmp_path) if request.param == "sqlite" else postgres(request.getfixturevalue("server"))
    yield made
    made.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def seen(number: int, state: str = "PROCESSED", *, hours_ago: float = 0, instances: int = 3) -> Seen:
    at = NOON - timedelta(hours=hours_ago)
    return Seen(study=CleanUid(f"2.25.{number}"), state=state, revision=1, arrived_at=at, last_at=at, instances=instances, source="CT01")


def a_job(number: int, pipeline: str = "covid_ct", *, series: int = 1, version: str = "1.0.0", shadow: bool = False) -> Job:
    study = CleanUid(f"2.25.{number}")
    return Job(
        id=f"{number}-{pipeline}-{series}-{version}",
        study=StudyRef(study=study, revision=1),
        pseudonym=Pseudonym(f"P{number:016X}"),
        folder=Path("studies") / study,
        route=Route(rule="r", series=CleanUid(f"2.25.{number}.{series}"), pipeline=pipeline, destinations=("pacs",), reasons=("because",)),
        algorithm=Algorithm(name=pipeline, version=version, digest=f"digest of {version}", family=Code("1", "DCM", "x")),
        inputs=(CleanUid("2.25.7"),),
        shadow=shadow,
    )


def done(jobs: Jobs, job: Job, **summary: object) -> None:
    jobs.submit(job)
    assert jobs.claim("w", 60) is not None
    jobs.done(job, [], {"analysed": True, "findings": [], **summary})


def test_studies_of_the_same_moment_are_paged_by_their_names(engine: Engine) -> None:
    cards = Cards(engine)
    cards.keep(seen(number, hours_ago=number // 4) for number in range(10))
    walked, cursor = [], ""
    while True:
        page = cards.find(Wanted(), limit=3, cursor=cursor)
        walked += [one.study for one in page.items]
        if not (cursor := page.next):
            break

    assert walked == [f"2.25.{n}" for n in (3, 2, 1, 0, 7, 6, 5, 4, 9, 8)]
    with pytest.raises(CursorInvalid):
        cards.find(Wanted(), limit=3, cursor=cursor_of(7))


def test_a_card_changes_only_when_the_study_did(engine: Engine) -> None:
    cards = Cards(engine)

    assert cards.keep([seen(1), seen(2)]) == 2
    assert cards.keep([seen(1), seen(2)]) == 0
    cards.described(CleanUid("2.25.1"), pseudonym="P1", series=2, modalities=["CT", "SR", "CT"])
    assert cards.keep([replace(seen(1), state="SETTLED"), seen(2)]) == 1
    card = cards.one("2.25.1")
    assert (card.state, card.pseudonym, card.series, card.modalities) == ("SETTLED", "P1", 2, ["CT", "SR"])
    assert cards.on_their_way() == ["2.25.1"]
    cards.forget(CleanUid("2.25.1"))
    assert cards.one("2.25.1") is None
    assert cards.find(Wanted(modality="CT"), limit=5).items == []


def test_a_study_is_found_by_its_latest_result_only_and_never_by_a_shadow(engine: Engine, clock: Clock) -> None:
    cards, jobs, study = Cards(engine), Jobs(engine, clock), CleanUid("2.25.1")
    cards.keep([seen(1)])
    present = [{"name": "infection", "present": True}, {"name": "effusion", "present": False}]
    done(jobs, a_job(1), label="infection", findings=present)
    cards.labelled(study)
    first = cards.one(study).labels
    clock.now += timedelta(minutes=1)
    done(jobs, a_job(1, version="2.0.0"), label="normal")
    done(jobs, a_job(1, version="3.0.0", shadow=True), label="tumor")
    done(jobs, a_job(1, series=2), label="lesion")
    cards.labelled(study)

    assert first == ["infection"]
    assert cards.one(study).labels == ["lesion", "normal"]
    assert labels_of({"analysed": False, "label": "x"}) == ["not analysed"]


def test_today_counts_by_the_hour_and_leaves_shadows_out(engine: Engine, clock: Clock) -> None:
    cards, jobs = Cards(engine), Jobs(engine, clock)
    cards.keep([seen(1), seen(2, hours_ago=1, instances=5), seen(3, "QUARANTINED", hours_ago=22.9), seen(4, hours_ago=25)])
    done(jobs, a_job(1))
    done(jobs, a_job(2, shadow=True))
    lost = a_job(3)
    jobs.submit(lost)
    for _ in range(FAILURES):
        assert jobs.claim("w", 60) is not None
        jobs.failed(lost, "no")
    jobs.submit(a_job(4))

    work = Today(engine, clock).work()

    assert (work.studies, work.instances, work.states) == (3, 11, {"PROCESSED": 2, "QUARANTINED": 1})
    assert [(hour.studies, hour.instances, hour.analysed, hour.failed) for hour in work.hours[-2:]] == [(1, 5, 0, 0), (1, 3, 1, 1)]
    assert (work.hours[0].begins, work.hours[0].studies) == (NOON.replace(minute=0) - timedelta(hours=23), 1)
    assert (work.jobs["COMPLETED"], work.shadow_jobs["COMPLETED"], work.failed) == (1, 1, 1)
    assert (work.queue.waiting, work.queue.running, work.queue.oldest) == (1, 0, NOON)
    assert Today(engine, clock).jobs() == {"SCHEDULED": 1, "IN PROGRESS": 0, "COMPLETED": 2, "CANCELED": 1}


def test_only_a_job_that_was_given_up_waits_again(engine: Engine, clock: Clock) -> None:
    jobs, shown, lost = Jobs(engine, clock), JobList(engine), a_job(1)
    jobs.submit(lost)
    for _ in range(FAILURES):
        jobs.claim("w", 60)
        jobs.failed(lost, "no")

    assert shown.given_up("2.25.1") == [lost.id]
    shown.again(lost.id)

    assert shown.given_up("2.25.1") == []
    assert (shown.one(lost.id).state, shown.one(lost.id).reason) == ("SCHEDULED", "")
    with pytest.raises(NotNow):
        shown.again(lost.id)
    with pytest.raises(NotThere):
        shown.again("nothing")
    assert jobs.claim("w", 60).id == lost.id


def test_the_trail_is_filtered_by_what_the_event_is_and_not_by_what_it_says(engine: Engine, tmp_path: Path) -> None:
    trail, shown = Trail(engine, Clock()), TrailList(engine)
    plain = AuditEvent(event=Event.QUERY, action=Action.EXECUTE, who="token:a_b", what='"event":"110104", "who":"token:a%b"}')
    other = AuditEvent(
        event=Event.EXPORT, action=Action.READ, who="token:axb", study="2.25.1", facts={"event": "110112", "who": "token:a_b"}
    )
    trail.record_all([plain, other])

    assert [one.seq for one in shown.find(limit=5, event="110112").items] == [1]
    assert [one.seq for one in shown.find(limit=5, who="token:a_b").items] == [1]
    assert shown.find(limit=5, event="110104").items == shown.find(limit=5, who="token:a%b").items == []
    assert [one.seq for one in shown.find(limit=5, study="2.25.1").items] == [2]
    assert [one.seq for one in shown.find(limit=5, since=NOON, until=NOON + timedelta(seconds=1)).items] == [2, 1]
    assert shown.find(limit=5, until=NOON).items == []
    assert [one.seq for one in shown.after(1, 5)] == [2]
    assert shown.last() == 2


def test_a_key_is_for_one_request_for_a_day(engine: Engine, clock: Clock) -> None:
    answers = Answers(engine, clock)

    assert answers.begin("alice", "k", b"do it") is None
    with pytest.raises(KeyBusy):
        answers.begin("alice", "k", b"do it")
    answers.end("alice", "k", 200, '{"done": "it"}')
    assert answers.begin("alice", "k", b"do it").body == '{"done": "it"}'
    with pytest.raises(KeyReused):
        answers.begin("alice", "k", b"do something else")
    assert answers.begin("bob", "k", b"do something else") is None
    answers.drop("bob", "k")
    assert answers.begin("bob", "k", b"do it") is None
    clock.now += AT_WORK + timedelta(seconds=1)
    assert answers.begin("bob", "k", b"do it") is None  # the first one was lost with its process
    clock.now += KEPT
    assert answers.begin("alice", "k", b"do something else") is None
