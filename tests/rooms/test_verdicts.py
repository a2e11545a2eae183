"""Readers' answers in the ledger, signed links, and what is worth asking next. On SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from node.annotations.coco import run_lengths
from node.annotations.examples import split_of
from node.annotations.worth import worth_labelling
from node.domain import CleanUid, Opinion, ReaderRegion, Verdict, VerdictSource
from node.errors import LinkRefused
from node.ledger.jobs import Jobs
from node.ledger.read_studies import Read, read_studies
from node.ledger.reading_links import ReadingLinks
from node.ledger.tokens import Bearer, Role
from node.ledger.verdicts import Rates, Verdicts, verdict_id
from node.web.app import WebParts, create_app
from tests.rooms.databases import postgres, postgres_server, sqlite
from tests.rooms.test_ledger import Clock, a_job, made_by

WHEN = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    made = sqlite(tmp_path) if request.param == "sqlite" else postgres(request.getfixturevalue("server"))
    yield made
    made.dispose()


def an_answer(job: str, opinion: Opinion, uid: str = "2.25.7", *, reader: str = "R1", hours: int = 0, **more: Any) -> Verdict:
    at = WHEN + timedelta(hours=hours)
    return Verdict(
        id=verdict_id(job, uid, f"{reader} {at} {opinion}"),
        job=job,
        opinion=opinion,
        source=VerdictSource.SR,
        at=at,
        tracking_uid=uid,
        finding="infection",
        reader=reader,
        **more,
    )


def test_an_answer_is_kept_once_and_read_back_whole(engine: Engine, tmp_path: Path) -> None:
    Jobs(engine, Clock()).submit(job := a_job())
    verdicts = Verdicts(engine, clean_folder=tmp_path / "clean")
    outlined = ReaderRegion(image=CleanUid("2.25.111"), frame=2, outline=((1.0, 2.5), (3.0, 4.0)))
    drawn = ReaderRegion(file=tmp_path / "clean" / "assessments" / "a.dcm", segment=3)
    said = [
        an_answer(job.id, Opinion.MODIFY, reason="margins", object=CleanUid("2.25.5"), region=outlined, dice=0.75),
        an_answer(job.id, Opinion.MODIFY, "2.25.8", region=drawn),
        an_answer(job.id, Opinion.ACCEPT, "2.25.9"),
    ]

    assert (verdicts.record(*said), verdicts.record(*said)) == (3, 0)

    found = verdicts.heard()
    assert {one.verdict.id: one.verdict for one in found} == {one.id: one for one in said}
    assert {(one.pipeline, one.version, one.pseudonym) for one in found} == {("covid_ct", "1.0.0", "P0011223344556677")}
    assert verdicts.get(said[0].id[:10]).verdict == said[0]
    assert verdicts.get("") is verdicts.get("%") is None
    assert (len(verdicts.heard(since=WHEN + timedelta(hours=1))), len(verdicts.heard(pipeline="chest_xray"))) == (0, 0)


def test_the_last_word_of_each_reader_is_counted(engine: Engine) -> None:
    Jobs(engine, Clock()).submit(job := a_job())
    verdicts = Verdicts(engine)
    verdicts.record(
        an_answer(job.id, Opinion.REJECT, hours=0),
        an_answer(job.id, Opinion.ACCEPT, hours=1),
        an_answer(job.id, Opinion.MODIFY, reader="R2", dice=0.5),
        an_answer(job.id, Opinion.MISSED, "", hours=2),
        an_answer(job.id, Opinion.MISSED, "", hours=3),
    )

    rates = verdicts.rates()[("covid_ct", "1.0.0")]

    assert (rates.accept, rates.modify, rates.reject, rates.missed) == (1, 1, 0, 2)
    assert (rates.agreement, rates.mean_dice) == (0.25, 0.5)
    assert verdicts.answered() == {job.id}


def test_nobody_has_answered_a_new_node(engine: Engine) -> None:
    assert (Verdicts(engine).rates(), Verdicts(engine).heard()) == ({}, [])


def test_prometheus_is_told_over_http() -> None:
    nobody: Any = None
    parts = WebParts(
        accept_instance=nobody,
        head=nobody,
        spool=nobody,
        hook=nobody,
        bearer=lambda token: Bearer(name="prometheus", roles=frozenset({Role.AUDITOR})) if token == "good" else None,
        record=lambda event: None,
        agreement=lambda: {("covid_ct", "1.0.0"): Rates(accept=3, reject=1, mean_dice=0.5)},
    )

    answer = TestClient(create_app(parts)).get("/metrics", headers={"Authorization": "Bearer good"})

    assert 'radnode_verdicts{opinion="accept",pipeline="covid_ct",version="1.0.0"} 3.0' in answer.text
    assert 'radnode_verdicts_dice{pipeline="covid_ct",version="1.0.0"} 0.5' in answer.text


# --- links ------------------------------------------------------------------------------------------------------------------
def test_a_link_opens_what_it_names_until_it_runs_out() -> None:
    clock = Clock()
    links = ReadingLinks(b"k" * 32, clock=clock, lasts=timedelta(days=1))
    token = links.make("0a1b", "2.25.77")

    clock.forward(86_399)
    assert (links.open(token).job, links.open(token).tracking_uid) == ("0a1b", "2.25.77")

    clock.forward(1)
    with pytest.raises(LinkRefused, match="run out"):
        links.open(token)


def test_a_link_that_was_altered_or_made_elsewhere_opens_nothing() -> None:
    links, others = (ReadingLinks(key * 32, clock=Clock()) for key in (b"k", b"o"))
    token = links.make("0a1b")
    said, mac = token.split(".")

    for wrong in ("", ".", "x", said, f"{said}.", f".{mac}", f"{said}A.{mac}", token + "A", others.make("0a1b"), "ü.ü", "A" * 100_000):
        with pytest.raises(LinkRefused):
            links.open(wrong)
    assert "k" * 8 not in repr(links)


# --- what to ask next ---------------------------------------------------------------------------------------------------------
def a_read(job: str, probability: float, *, version: str = "1.0.0", shadow: bool = False, facts: dict[str, Any] | None = None) -> Read:
    finding = {"name": "infection", "probability": probability, "present": probability >= 0.5}
    summary = {"analysed": True, "findings": [finding], "facts": facts or {}}
    series = job.removesuffix("-shadow")
    return Read(
        job=job, study=f"study {series}", series=series, pipeline="p", version=version, shadow=shadow, inputs=("i",), summary=summary
    )


def test_the_least_sure_comes_first_and_says_why() -> None:
    reads = [
        a_read("sure", 0.99),
        a_read("near", 0.55),
        a_read("spread", 0.9, facts={"spread": {"infection": 0.2}}),
        a_read("divided", 0.9),
        a_read("divided-shadow", 0.2, version="2.0.0", shadow=True),
        a_read("answered", 0.5),
    ]

    found = worth_labelling(reads, {"answered"}, {"p": {"infection": 0.5}})

    assert [one.read.job for one in found] == ["divided", "near", "spread"]
    assert found[0].reasons[0] == "infection: version 2.0.0 in the shadow decides otherwise"
    assert found[1].reasons == ("infection 0.55, threshold 0.50",)
    assert found[2].score == pytest.approx(0.8)


def test_a_result_is_measured_against_its_own_threshold() -> None:
    [one] = worth_labelling([a_read("a", 0.9, facts={"thresholds": {"infection": 0.9}})], (), {"p": {"infection": 0.5}})

    assert one.score == 1


def test_every_result_in_the_ledger_is_looked_at(engine: Engine) -> None:
    jobs = Jobs(engine, Clock())
    jobs.submit(job := a_job())
    jobs.claim("worker", 60)
    jobs.done(job, made_by(job), {"analysed": True, "findings": [], "facts": {}})

    [read] = read_studies(engine)

    assert (read.job, read.version, read.shadow, read.inputs) == (job.id, "1.0.0", False, ("2.25.111", "2.25.112"))
    assert list(read_studies(engine, "another")) == []


# --- splits and masks ---------------------------------------------------------------------------------------------------------
def test_patients_are_split_in_the_shares_that_are_meant() -> None:
    splits = [split_of(f"P{number:016X}") for number in range(4000)]

    shares = {name: splits.count(name) / len(splits) for name in ("train", "val", "test")}
    assert shares == {"train": pytest.approx(0.70, abs=0.03), "val": pytest.approx(0.15, abs=0.03), "test": pytest.approx(0.15, abs=0.03)}


@pytest.mark.parametrize(("rows", "counts"), [(["01", "01"], [2, 2]), (["10", "11"], [0, 2, 1, 1]), (["00", "00"], [4])])
def test_run_lengths_go_down_the_columns(rows: list[str], counts: list[int]) -> None:
    assert run_lengths(np.array([[pixel == "1" for pixel in row] for row in rows])) == counts
