"""Jobs in the ledger: claimed by one worker, tried again, never done twice. On SQLite and on a real PostgreSQL."""

from __future__ import annotations

import shutil
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData, inspect, text
from sqlalchemy.exc import IntegrityError

from node.codes import ARTIFICIAL_INTELLIGENCE
from node.domain import (
    Algorithm,
    CleanUid,
    Job,
    JobState,
    Priority,
    Pseudonym,
    Role,
    Route,
    SendIf,
    StudyRef,
    VersionState,
    WrittenObject,
)
from node.errors import DatabaseNewer
from node.identified.arrivals import Arrivals
from node.identified.tables import Base as IdentifiedBase
from node.ledger.database import (
    IDENTIFIED,
    LEDGER,
    _newest_revision,
    alembic_config,
    migrate,
    open_engine,
    open_identified,
    open_ledger,
    revision_of,
    sqlite_url,
    version_table,
)
from node.ledger.decisions import Decisions
from node.ledger.jobs import ATTEMPTS, Jobs, job_id
from node.ledger.payload import Made, job_from_json, job_to_json
from node.ledger.tables import Base, JobRow
from node.ledger.versions import Entry, History, VersionDecisions
from node.off_peak import Window
from tests.rooms.databases import postgres, postgres_server, sqlite

WRITE_ONE = "the tables changed: write a revision with `python -m node.ledger.migrations`"


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


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
def jobs(engine: Engine, clock: Clock) -> Jobs:
    return Jobs(engine, clock)


def a_job(
    series: str = "2.25.11",
    *,
    priority: Priority = Priority.ROUTINE,
    inputs: tuple[str, ...] = ("2.25.111", "2.25.112"),
    digest: str = "a" * 64,
    pipeline: str = "covid_ct",
) -> Job:
    return Job(
        id=job_id("2.25.1", series, pipeline, "1.0.0", digest, inputs),
        study=StudyRef(study=CleanUid("2.25.1"), revision=1),
        pseudonym=Pseudonym("P0011223344556677"),
        folder=Path("studies/2.25.1/1"),
        route=Route(
            rule="chest CT", series=CleanUid(series), pipeline=pipeline, destinations=("pacs",), priority=priority, reasons=("CT",)
        ),
        algorithm=Algorithm(name=pipeline, version="1.0.0", digest=digest, family=ARTIFICIAL_INTELLIGENCE),
        inputs=tuple(CleanUid(uid) for uid in inputs),
    )


def made_by(job: Job, *roles: Role) -> list[Made]:
    return [
        Made(
            object=WrittenObject(
                job=job.id,
                study=job.study.study,
                role=role,
                sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
                sop_instance_uid=f"2.25.{int(job.id, 16) % 10**20}{number}",
                path=Path(f"results/{job.id}/{role}.dcm"),
            ),
            sha256="0" * 64,
        )
        for number, role in enumerate(roles or (Role.SR,))
    ]


def test_the_same_work_has_the_same_name_whatever_the_order_of_its_images() -> None:
    first = job_id("2.25.1", "2.25.2", "covid_ct", "1.0.0", "d" * 64, ["2.25.3", "2.25.4"])

    assert first == job_id("2.25.1", "2.25.2", "covid_ct", "1.0.0", "d" * 64, ["2.25.4", "2.25.3"])
    assert len({first, *(job_id("2.25.1", "2.25.2", "covid_ct", *rest) for rest in OTHERS)}) == 4


OTHERS = [
    ("1.0.1", "d" * 64, ["2.25.3", "2.25.4"]),
    ("1.0.0", "e" * 64, ["2.25.3", "2.25.4"]),
    ("1.0.0", "d" * 64, ["2.25.3", "2.25.4", "2.25.5"]),
]


def test_a_job_crosses_a_pipe_unchanged() -> None:
    job = replace(a_job(priority=Priority.STAT), predecessor="f" * 32, attempts=1, reason="x")

    assert job_from_json(job_to_json(job)) == job


def test_what_findings_send_on_and_the_hours_cross_a_pipe_too() -> None:
    job = a_job()
    sends = SendIf(finding="infection", low=0.5, present=True, destinations=("ward",))
    route = replace(job.route, between=(Window.of("20:00-06:00"),), send_if=(sends,))
    later = replace(job, route=route, not_before=datetime(2026, 3, 1, 20, tzinfo=UTC))

    assert job_from_json(job_to_json(later)) == later


def test_a_job_of_the_night_is_claimed_in_the_night_and_keeps_nobody_waiting(jobs: Jobs, clock: Clock) -> None:
    evening = clock.now + timedelta(hours=12)
    sends = (SendIf(finding="infection", low=0.5, destinations=("ward",)),)
    of_the_night = a_job("2.25.11")
    jobs.submit(replace(of_the_night, route=replace(of_the_night.route, send_if=sends), not_before=evening))
    jobs.submit(a_job("2.25.12"))

    claimed = jobs.claim("one", 60)
    assert claimed is not None
    assert claimed.route.series == "2.25.12"
    assert jobs.claim("one", 60) is None
    jobs.done(claimed, [], {})
    clock.now = evening
    claimed = jobs.claim("one", 60)
    assert claimed is not None
    assert (claimed.route.series, claimed.route.send_if, claimed.not_before) == ("2.25.11", sends, evening)


def test_a_job_submitted_twice_is_one_job(jobs: Jobs) -> None:
    jobs.submit(a_job())
    jobs.submit(a_job(priority=Priority.STAT))

    assert [job.route.priority for job in jobs.all()] == [Priority.ROUTINE]
    assert jobs.claim("a", 60) is not None
    assert jobs.claim("b", 60) is None
    assert jobs.counts() == {"SCHEDULED": 0, "IN PROGRESS": 1, "COMPLETED": 0, "CANCELED": 0}


def test_a_job_comes_out_of_the_ledger_as_it_went_in(jobs: Jobs, clock: Clock) -> None:
    jobs.submit(a_job())

    [job] = jobs.of_study("2.25.1")

    assert job == a_job()
    assert jobs.scheduled_at(job.id) == clock.now


def test_stat_comes_before_routine_and_the_oldest_first(jobs: Jobs, clock: Clock) -> None:
    for series, priority in [("2.25.11", "ROUTINE"), ("2.25.12", "ROUTINE"), ("2.25.13", "STAT"), ("2.25.14", "STAT")]:
        jobs.submit(a_job(series, priority=Priority(priority)))
        clock.forward(1)

    order = [jobs.claim("a", 60) for _ in range(4)]

    assert [job.route.series for job in order if job] == ["2.25.13", "2.25.14", "2.25.11", "2.25.12"]


def test_a_job_whose_lease_ran_out_is_taken_up_by_another_worker(jobs: Jobs, clock: Clock) -> None:
    jobs.submit(a_job())
    first = jobs.claim("a", 60)
    clock.forward(59)
    assert jobs.claim("b", 60) is None

    clock.forward(2)
    second = jobs.claim("b", 60)

    assert first is not None
    assert second is not None
    assert (first.attempts, second.attempts) == (1, 2)
    assert not jobs.renew(first.id, "a", 60)
    assert not jobs.done(first, made_by(first), {}, worker="a")
    assert jobs.done(second, made_by(second), {}, worker="b")


def test_a_renewed_lease_holds(jobs: Jobs, clock: Clock) -> None:
    jobs.submit(a_job())
    job = jobs.claim("a", 60)
    assert job is not None
    clock.forward(50)
    assert jobs.renew(job.id, "a", 60)
    clock.forward(50)

    assert jobs.claim("b", 60) is None


def test_a_failed_job_is_tried_once_more_and_then_set_aside_with_the_reason(jobs: Jobs) -> None:
    jobs.submit(a_job())
    first = jobs.claim("a", 60)
    assert first is not None
    assert jobs.failed(first, "the worker crashed (signal 11)")

    second = jobs.claim("a", 60)
    assert second is not None
    assert not jobs.failed(second, "the worker crashed (signal 11) again")

    assert jobs.claim("a", 60) is None
    [aside] = jobs.set_aside_not_reported()
    assert (aside.state, aside.reason) == (JobState.CANCELED, "the worker crashed (signal 11) again")


def test_a_job_set_aside_is_reported_once(jobs: Jobs) -> None:
    jobs.submit(a_job())
    for _ in range(2):
        claimed = jobs.claim("a", 60)
        assert claimed is not None
        jobs.failed(claimed, "no")
    [aside] = jobs.set_aside_not_reported()

    jobs.reported(aside, made_by(aside), {"analysed": False})
    assert [written.role for written in jobs.objects_of(aside)] == [Role.SR]
    jobs.handed_over(aside)

    assert jobs.set_aside_not_reported() == []
    assert jobs.get(aside.id).state is JobState.CANCELED  # type: ignore[union-attr]


def test_a_job_that_was_given_back_has_not_used_up_an_attempt(jobs: Jobs) -> None:
    jobs.submit(a_job())
    for _ in range(5):
        claimed = jobs.claim("a", 60)
        assert claimed is not None
        assert claimed.attempts == 1
        jobs.give_back(claimed, worker="a")

    assert jobs.counts()[JobState.SCHEDULED] == 1


def test_a_job_that_takes_its_runner_with_it_every_time_is_set_aside_at_last(jobs: Jobs, clock: Clock) -> None:
    jobs.submit(a_job())
    for _ in range(ATTEMPTS):
        assert jobs.claim("a", 60) is not None
        clock.forward(61)

    assert jobs.claim("a", 60) is None
    [aside] = jobs.set_aside_not_reported()
    assert f"stopped {ATTEMPTS} times" in aside.reason


def test_jobs_of_a_worker_that_is_gone_wait_again_at_once(jobs: Jobs) -> None:
    jobs.submit(a_job("2.25.11"))
    jobs.submit(a_job("2.25.12"))
    jobs.claim("gone", 600)
    jobs.claim("here", 600)

    assert jobs.give_back_all_of(lambda worker: worker == "gone") == 1
    assert jobs.counts()[JobState.SCHEDULED] == 1


def test_a_completed_job_its_objects_and_its_summary_appear_together(jobs: Jobs) -> None:
    jobs.submit(a_job())
    job = jobs.claim("a", 60)
    assert job is not None
    made = made_by(job, Role.SR, Role.SEG, Role.SC)
    wrong = [*made, Made(object=replace(made[0].object, role=Role.SC), sha256="")]
    with pytest.raises(IntegrityError):
        jobs.done(job, wrong, {"label": "infection"})
    assert jobs.counts()[JobState.IN_PROGRESS] == 1
    assert jobs.objects_of(job) == []

    assert jobs.done(job, made, {"label": "infection"})

    assert [waiting.id for waiting in jobs.completed_not_handed_over()] == [job.id]
    assert [written.role for written in jobs.objects_of(job)] == [Role.SEG, Role.SC, Role.SR]
    assert jobs.summary_of(job.id) == {"label": "infection"}
    assert jobs.is_ours(made[0].object.sop_instance_uid)
    assert not jobs.is_ours("2.25.111")
    jobs.handed_over(job)
    assert jobs.completed_not_handed_over() == []


def test_late_images_make_a_job_that_waits_for_the_first_and_names_it(jobs: Jobs, clock: Clock) -> None:
    early, late = a_job(), a_job(inputs=("2.25.111", "2.25.112", "2.25.113"))
    jobs.submit(early)
    clock.forward(10)
    jobs.submit(late)
    first = jobs.claim("a", 60)
    assert first is not None
    assert first.id == early.id
    assert jobs.claim("b", 60) is None

    jobs.done(first, made_by(first), {}, worker="a")
    second = jobs.claim("b", 60)

    assert second is not None
    assert (second.id, second.predecessor) == (late.id, early.id)
    assert jobs.predecessor_report(second) == ("1.2.840.10008.5.1.4.1.1.88.34", made_by(early)[0].object.sop_instance_uid)


def test_a_report_that_says_why_not_is_a_predecessor_too(jobs: Jobs, clock: Clock) -> None:
    early, late = a_job(), a_job(inputs=("2.25.111", "2.25.112", "2.25.113"))
    jobs.submit(early)
    for _ in range(2):
        claimed = jobs.claim("a", 60)
        assert claimed is not None
        jobs.failed(claimed, "no")
    jobs.reported(early, made_by(early), {"analysed": False})
    clock.forward(10)
    jobs.submit(late)

    second = jobs.claim("b", 60)

    assert second is not None
    assert second.predecessor == early.id


# --- jobs in the shadow -----------------------------------------------------------------------------------------------------
def in_the_shadow(of: Job, digest: str = "b" * 64) -> Job:
    """The same images for another version, which delivers nothing."""
    algorithm = replace(of.algorithm, version="1.1.0", digest=digest)
    id = job_id(of.study.study, of.route.series, of.route.pipeline, "1.1.0", digest, of.inputs)
    return replace(of, id=id, algorithm=algorithm, route=replace(of.route, destinations=()), shadow=True)


def carried_out(jobs: Jobs, summary: dict[str, object] | None = None) -> Job:
    claimed = jobs.claim("a", 60)
    assert claimed is not None
    assert jobs.done(claimed, made_by(claimed), summary or {"analysed": True}, worker="a")
    return claimed


def test_nobody_waits_for_a_shadow_and_no_report_names_one(jobs: Jobs, clock: Clock) -> None:
    early, late = a_job(), a_job(inputs=("2.25.111", "2.25.112", "2.25.113"))
    for job in (in_the_shadow(early), early, in_the_shadow(late), late):
        clock.forward(10)
        jobs.submit(job)
    carried_out(jobs)
    [waiting] = [job for job in jobs.all() if job.id == in_the_shadow(early).id]
    assert waiting.state is JobState.SCHEDULED

    clock.forward(10)
    second = carried_out(jobs)
    shadows = [carried_out(jobs), carried_out(jobs)]

    assert (second.id, second.predecessor) == (late.id, early.id)
    assert [shadow.id for shadow in shadows] == [in_the_shadow(early).id, in_the_shadow(late).id]
    assert [shadow.predecessor for shadow in shadows] == ["", ""]
    assert all(shadow.shadow for shadow in shadows)
    assert jobs.counts(shadow=True)[JobState.COMPLETED] == jobs.counts(shadow=False)[JobState.COMPLETED] == 2
    late_again = replace(late, id="e" * 32, inputs=(*late.inputs, CleanUid("2.25.114")))
    jobs.submit(late_again)
    assert carried_out(jobs).predecessor == late.id


def test_a_shadow_that_was_promoted_is_done_again_and_names_what_it_replaces(jobs: Jobs, clock: Clock) -> None:
    """Its first result went nowhere; the reader has the report of the version before."""
    active = a_job()
    jobs.submit(active)
    jobs.submit(in_the_shadow(active))
    first, shadow = carried_out(jobs), carried_out(jobs)
    for job in (first, shadow):
        jobs.handed_over(job)

    clock.forward(60)
    jobs.submit(replace(in_the_shadow(active), route=active.route, shadow=False))
    again = carried_out(jobs)

    assert (again.id, again.shadow, again.predecessor, again.route.destinations) == (shadow.id, False, first.id, ("pacs",))
    assert [job.id for job in jobs.completed_not_handed_over()] == [shadow.id]


def test_a_job_that_delivers_is_not_made_a_shadow_of(jobs: Jobs) -> None:
    active = a_job()
    jobs.submit(active)
    jobs.submit(replace(active, shadow=True))

    assert not carried_out(jobs).shadow


def test_the_readings_of_a_version_are_those_that_ended_with_a_result(jobs: Jobs, clock: Clock) -> None:
    jobs.submit(a_job())
    jobs.submit(in_the_shadow(a_job()))
    carried_out(jobs, {"label": "infection"})
    assert jobs.readings("covid_ct", "1.1.0") == []
    carried_out(jobs, {"label": "no infection"})

    [old], [new] = jobs.readings("covid_ct", "1.0.0"), jobs.readings("covid_ct", "1.1.0")

    assert (old.summary, new.summary) == ({"label": "infection"}, {"label": "no infection"})
    assert (old.study, old.series, old.inputs) == (new.study, new.series, new.inputs) == ("2.25.1", "2.25.11", ("2.25.111", "2.25.112"))
    assert jobs.readings("breast_ultrasound", "1.0.0") == []


def test_decisions_about_versions_come_one_after_the_other(engine: Engine, clock: Clock) -> None:
    decisions = VersionDecisions(engine, clock)
    barrier = threading.Barrier(4)

    def decide(number: int) -> None:
        def choose(history: History) -> list[Entry]:
            version = str(len(history))
            return [Entry(version=version, digest="d", state=VersionState.ACTIVE, step="promote", who=f"os:{number}", reason="tried")]

        barrier.wait()
        decisions.decide("covid_ct", choose)

    threads = [threading.Thread(target=decide, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = decisions.all()["covid_ct"]
    assert [one.version for one in found] == ["0", "1", "2", "3"]
    assert {one.who for one in found} == {"os:0", "os:1", "os:2", "os:3"}
    assert found[0].at == clock.now


def test_only_other_images_or_other_weights_have_a_predecessor(jobs: Jobs) -> None:
    jobs.submit(a_job())
    first = jobs.claim("a", 60)
    assert first is not None
    jobs.done(first, made_by(first), {})
    same = ["2.25.112", "2.25.111"]

    def asked(inputs: list[str], digest: str, series: str = "2.25.11") -> str:
        return jobs.predecessor_for("2.25.1", series, "covid_ct", inputs, digest)

    assert asked(same, "a" * 64) == ""
    assert asked(same, "b" * 64) == first.id
    assert asked([*same, "2.25.113"], "a" * 64) == first.id
    assert asked([*same, "2.25.113"], "a" * 64, series="2.25.12") == ""


def test_eight_workers_never_hold_the_same_job(engine: Engine, clock: Clock) -> None:
    jobs = Jobs(engine, clock)
    for number in range(60):
        jobs.submit(a_job(f"2.25.{1000 + number}"))
    taken: list[str] = []
    errors: list[BaseException] = []

    def work(worker: str) -> None:
        mine = Jobs(engine, clock)
        try:
            while job := mine.claim(worker, 600):
                taken.append(job.id)
                mine.done(job, made_by(job), {}, worker=worker)
        except BaseException as why:
            errors.append(why)

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # a claimer that finds every row locked may leave early on PostgreSQL; nobody may take a row twice
    assert errors == []
    assert len(taken) == len(set(taken)) == 60
    assert jobs.counts()[JobState.COMPLETED] == 60


def test_paths_below_the_clean_volume_are_kept_relative_to_it(engine: Engine, clock: Clock, tmp_path: Path) -> None:
    here = Jobs(engine, clock, clean_folder=tmp_path / "here")
    here.submit(replace(a_job(), folder=tmp_path / "here" / "studies" / "1"))

    [job] = Jobs(engine, clock, clean_folder=tmp_path / "there").of_study("2.25.1")

    assert job.folder == tmp_path / "there" / "studies" / "1"


@dataclass(frozen=True)
class Decided:
    series: str
    rule: str
    pipeline: str
    met: bool
    reasons: tuple[str, ...]


def test_the_routers_decisions_are_kept_and_deciding_again_replaces_them(engine: Engine, clock: Clock) -> None:
    decisions, ref = Decisions(engine, clock), StudyRef(study=CleanUid("2.25.1"), revision=1)
    decisions.record(ref, [Decided("2.25.11", "chest CT", "covid_ct", False, ("modality MR is not CT",))], rules_revision=1)
    decisions.record(ref, [Decided("2.25.11", "chest CT", "covid_ct", True, ("modality CT is CT",))], rules_revision=2)

    [kept] = decisions.of_study("2.25.1")

    assert (kept["met"], kept["reasons"], kept["decided_at"].tzinfo is not None) == (True, ["modality CT is CT"], True)
    assert (kept["pipeline"], kept["rules_revision"]) == ("covid_ct", 2)


# --- the database itself ------------------------------------------------------------------------------------------------
def differences(engine: Engine, metadata: MetaData, migrations: Path) -> list[object]:
    """What Alembic would have to change for the tables to be as the code says."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": version_table(migrations)})
        return list(compare_metadata(context, metadata))


def test_models_and_migrations_agree(engine: Engine) -> None:
    assert differences(engine, Base.metadata, LEDGER) == [], WRITE_ONE


def test_models_and_migrations_of_the_wing_agree(tmp_path: Path) -> None:
    assert differences(open_identified(sqlite_url(tmp_path / "wing.sqlite")), IdentifiedBase.metadata, IDENTIFIED) == [], WRITE_ONE


def test_both_sides_may_stand_in_one_postgresql(server: str) -> None:
    open_ledger(server).dispose()
    wing = open_identified(server)
    with wing.begin() as connection:
        for migrations in (IDENTIFIED, LEDGER):
            newest = ScriptDirectory.from_config(alembic_config(migrations)).get_current_head()
            assert revision_of(connection, migrations) == newest
        tables = set(inspect(connection).get_table_names())
    assert Arrivals(wing).sources() == []
    with wing.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))

    assert tables >= {*Base.metadata.tables, *IdentifiedBase.metadata.tables}


@pytest.mark.parametrize("migrations", [LEDGER, IDENTIFIED])
def test_the_newest_revision_is_known_without_alembic(migrations: Path) -> None:
    """A start asks the files; what they say must be what Alembic would say."""
    assert _newest_revision(migrations) == ScriptDirectory.from_config(alembic_config(migrations)).get_current_head()


def test_a_database_of_a_newer_node_is_left_alone_and_says_what_to_do(tmp_path: Path) -> None:
    """Somebody went back to the version before an update."""
    engine = open_ledger(sqlite_url(tmp_path / "ledger.sqlite"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE ledger_revision SET version_num = '9999_future'"))

    with pytest.raises(DatabaseNewer, match="restore a backup"):
        migrate(engine, LEDGER)

    with engine.begin() as connection:
        assert revision_of(connection, LEDGER) == "9999_future"
    engine.dispose()


def test_migrating_again_and_from_several_threads_changes_nothing(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "ledger.sqlite")
    errors: list[BaseException] = []

    def start() -> None:
        try:
            open_ledger(url)
        except BaseException as why:
            errors.append(why)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []


def test_databases_that_are_made_at_the_same_time_get_their_own_tables(tmp_path: Path) -> None:
    """Alembic's operations are one set for a whole process."""
    makers = [(open_ledger, Base), (open_identified, IdentifiedBase)] * 2
    with ThreadPoolExecutor(len(makers)) as pool:
        made = pool.map(lambda one: one[1][0](sqlite_url(tmp_path / f"{one[0]}.sqlite")), enumerate(makers))

    for engine, (_, base) in zip(made, makers, strict=True):
        assert set(inspect(engine).get_table_names()) >= set(base.metadata.tables)


def test_the_next_revision_can_be_written_and_is_empty_when_nothing_changed(tmp_path: Path) -> None:
    """On a copy of the checkout's migrations, so that nothing is left behind."""
    copy = tmp_path / "ledger" / "migrations"
    shutil.copytree(LEDGER, copy)
    engine = open_engine(sqlite_url(tmp_path / "ledger.sqlite"))
    migrate(engine, copy)
    with engine.begin() as connection:
        command.revision(alembic_config(copy, connection), message="nothing", autogenerate=True, rev_id="0002")

    assert "def upgrade() -> None:\n    # ### commands" in (copy / "versions" / "0002_nothing.py").read_text()
    migrate(engine, copy)
    with engine.connect() as connection:
        assert revision_of(connection, copy) == "0002"


def test_a_commit_in_sqlite_is_flushed_and_references_are_checked(tmp_path: Path) -> None:
    engine = sqlite(tmp_path)
    with engine.connect() as connection:
        asked = {name: connection.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous", "foreign_keys")}

    assert asked == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_failing_statement_does_not_repeat_its_values(engine: Engine) -> None:
    with pytest.raises(IntegrityError) as why, engine.begin() as connection:
        connection.execute(JobRow.__table__.insert().values(id="x", study="CANARY"))

    assert "CANARY" not in "".join(traceback.format_exception(why.value)).replace('study="CANARY"', "")
