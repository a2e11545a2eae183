"""The audit trail: whoever touches it is found out, and every record leaves it in the form of PS3.15 A.5."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sqlalchemy import Engine, text

from node.audit import Action, AuditEvent, Event, Outcome, Type, from_dict, to_dict, to_xml
from node.ledger.database import open_engine, open_ledger
from node.ledger.trail import FIRST, Head, Trail, key_of
from tests.conftest import need
from tests.rooms.databases import postgres, postgres_server, sqlite

SCHEMA = Path(__file__).parents[1] / "conformance" / "audit_message.rng"


def now() -> datetime:
    return datetime.now(UTC)


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
def trail(engine: Engine, tmp_path: Path) -> Trail:
    return Trail(engine, now, head=Head(tmp_path / "audit.head", key_of(tmp_path / "audit.key")))


def an_event(number: int = 1, **more: object) -> AuditEvent:
    return AuditEvent(
        event=Event.INSTANCES_TRANSFERRED,
        action=Action.CREATE,
        peer="CT01",
        study=f"2.25.{number}",
        patient="P0011223344556677",
        what="received",
        facts={"instances": str(number)},
        **more,  # type: ignore[arg-type]
    )


def ten_events(trail: Trail) -> None:
    for number in range(1, 11):
        trail.record(an_event(number))


def run(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))


# --- what is found ------------------------------------------------------------------------------------------------------
def test_an_untouched_trail_is_intact(trail: Trail) -> None:
    assert trail.verify().intact

    ten_events(trail)

    verdict = trail.verify()
    assert (verdict.intact, verdict.records, verdict.head) == (True, 10, "signed")
    assert [record["seq"] for record in trail.tail(3)] == [8, 9, 10]
    assert [record["facts"] for record in trail.of_study("2.25.4")] == [{"instances": "4"}]


@pytest.mark.parametrize(
    ("column", "value"),
    [("event", "{}"), ("at", "2020-01-01T00:00:00+00:00"), ("previous", "f" * 64), ("hash", "f" * 64), ("study", "2.25.9")],
)
def test_an_altered_record_is_named(trail: Trail, engine: Engine, column: str, value: str) -> None:
    ten_events(trail)
    run(engine, f"UPDATE audit SET {column} = '{value}' WHERE seq = 4")

    verdict = trail.verify()

    assert (verdict.intact, verdict.seq) == (False, 4)
    assert "altered" in verdict.reason


def test_a_removed_record_is_named(trail: Trail, engine: Engine) -> None:
    ten_events(trail)
    run(engine, "DELETE FROM audit WHERE seq IN (4, 5)")

    verdict = trail.verify()

    assert (verdict.intact, verdict.seq, verdict.reason) == (False, 4, "removed: after record 3 comes 6")


def test_the_first_record_is_missed_too(trail: Trail, engine: Engine) -> None:
    ten_events(trail)
    run(engine, "DELETE FROM audit WHERE seq = 1")

    assert trail.verify().seq == 1


def test_records_that_changed_places_are_named(trail: Trail, engine: Engine) -> None:
    ten_events(trail)
    run(engine, "UPDATE audit SET seq = 99 WHERE seq = 4")
    run(engine, "UPDATE audit SET seq = 4 WHERE seq = 5")
    run(engine, "UPDATE audit SET seq = 5 WHERE seq = 99")

    assert trail.verify().seq == 4


def test_a_record_cut_out_with_the_numbers_closed_up_and_its_hashes_made_anew_is_found(trail: Trail, engine: Engine) -> None:
    """Somebody who may write to the database, but does not have the head's key."""
    ten_events(trail)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM audit WHERE seq <> 4 ORDER BY seq")).all()
    run(engine, "DELETE FROM audit")
    forger = Trail(engine, now)
    forger._head = None
    for row in rows:
        forger.record(from_dict(json.loads(row.event)))

    verdict = trail.verify()
    assert (verdict.intact, verdict.seq) == (False, 10)

    forger.record(an_event(11))
    assert (trail.verify().seq, trail.verify().reason.split(":")[0]) == (10, "the record is not the one its head was signed for")


def test_an_end_that_was_cut_off_is_missed_now_and_for_ever(trail: Trail, engine: Engine) -> None:
    ten_events(trail)
    run(engine, "DELETE FROM audit WHERE seq > 7")
    assert (trail.verify().seq, trail.verify().reason) == (8, "removed: the trail ends at 7, its head says 10")

    trail.record(an_event(11))

    assert trail.verify().seq == 8
    assert [record["event"] for record in trail.tail(2)] == [Event.SECURITY_ALERT.value[0], Event.INSTANCES_TRANSFERRED.value[0]]


def test_a_trail_that_was_emptied_is_missed(trail: Trail, engine: Engine) -> None:
    ten_events(trail)
    run(engine, "DELETE FROM audit")

    assert trail.verify().seq == 1


def test_a_head_that_was_taken_away_or_forged_is_missed_now_and_for_ever(trail: Trail, tmp_path: Path) -> None:
    ten_events(trail)
    Head(tmp_path / "audit.head", b"another key").write(10, FIRST)
    assert (trail.verify().intact, trail.verify().reason) == (False, "the head is not signed with this key")

    (tmp_path / "audit.head").unlink()
    assert (trail.verify().intact, trail.verify().reason) == (False, "the head is missing")

    trail.record(an_event(11))
    assert (trail.verify().intact, trail.verify().seq) == (False, 11)


def test_a_head_that_lags_behind_after_a_crash_is_no_alarm(trail: Trail, tmp_path: Path) -> None:
    ten_events(trail)
    before = (tmp_path / "audit.head").read_bytes()
    trail.record(an_event(11))
    (tmp_path / "audit.head").write_bytes(before)
    assert trail.verify().intact

    trail.record(an_event(12))

    assert (trail.verify().intact, trail.verify().records) == (True, 12)


def test_the_heads_key_can_be_read_by_its_owner_only_and_stays_the_same(tmp_path: Path) -> None:
    key = key_of(tmp_path / "audit.key")

    assert key == key_of(tmp_path / "audit.key")
    assert len(key) == 32
    assert (tmp_path / "audit.key").stat().st_mode & 0o077 == 0


# --- many at once -------------------------------------------------------------------------------------------------------
def _record_many(url: str, folder: Path, worker: int) -> None:
    trail = Trail(open_engine(url), now, head=Head(folder / "audit.head", key_of(folder / "audit.key")))
    for number in range(25):
        trail.record(an_event(1000 * worker + number))


def test_several_processes_append_one_after_the_other(engine: Engine, trail: Trail, tmp_path: Path) -> None:
    url = engine.url.render_as_string(hide_password=False)
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_record_many, args=(url, tmp_path, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0] * 4
    assert (trail.verify().intact, trail.verify().records) == (True, 100)
    assert len({record["study"] for record in trail.tail(100)}) == 100


def test_a_hundred_thousand_records_are_verified_in_seconds(tmp_path: Path) -> None:
    trail = Trail(sqlite(tmp_path), now)
    trail.record_all(an_event(number) for number in range(100_000))
    begun = time.perf_counter()

    verdict = trail.verify()

    assert (verdict.intact, verdict.records) == (True, 100_000)
    assert time.perf_counter() - begun < 20


def test_a_sqlite_ledger_has_its_head_beside_it(tmp_path: Path) -> None:
    Trail(open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}"), now).record(an_event())

    assert {"audit.head", "audit.key"} <= {path.name for path in tmp_path.iterdir()}


# --- the way out --------------------------------------------------------------------------------------------------------
EVERY_KIND = [
    *(AuditEvent(event=event, action=Action.EXECUTE, what="a step", facts={"instances": "3"}) for event in Event),
    *(AuditEvent(event=Event.SECURITY_ALERT, type=type, action=Action.EXECUTE, who="admin@radnode") for type in Type),
    *(an_event(outcome=outcome) for outcome in Outcome),
    AuditEvent(event=Event.EXPORT, action=Action.READ, peer="PACS", study="2.25.1", what='<&" refused', outcome=Outcome.MINOR_FAILURE),
]


@pytest.mark.parametrize("event", EVERY_KIND, ids=lambda event: event.event.name)
def test_an_event_comes_back_from_its_json_as_it_went_in(event: AuditEvent) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(event)))) == event


def test_every_kind_of_event_is_a_valid_audit_message(tmp_path: Path) -> None:
    xmllint = need("xmllint", "libxml2-utils")
    files = []
    for number, event in enumerate(EVERY_KIND):
        files.append(tmp_path / f"{number}.xml")
        files[-1].write_text(to_xml(event, now()))

    checked = subprocess.run([xmllint, "--noout", "--relaxng", SCHEMA, *files], capture_output=True, text=True)

    assert checked.returncode == 0, checked.stderr


def test_the_schema_refuses_what_is_not_an_audit_message(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.xml"
    wrong.write_text(to_xml(an_event(), now()).replace("EventOutcomeIndicator", "EventOutcome"))

    checked = subprocess.run([need("xmllint", "libxml2-utils"), "--noout", "--relaxng", SCHEMA, wrong], capture_output=True)

    assert checked.returncode != 0


def test_a_receipt_names_who_sent_who_received_which_study_and_whose(trail: Trail) -> None:
    trail.record(an_event(7))

    [message] = [ElementTree.fromstring(xml) for xml in trail.export("xml")]

    event = message.find("EventIdentification/EventID")
    assert event is not None
    assert event.attrib == {"csd-code": "110104", "codeSystemName": "DCM", "originalText": "DICOM Instances Transferred"}
    roles = {user.get("UserID"): user.find("RoleIDCode").get("csd-code") for user in message.iter("ActiveParticipant")}  # type: ignore[union-attr]
    assert roles == {"CT01": "110153", "radnode": "110152"}
    objects = {thing.get("ParticipantObjectTypeCode"): thing.get("ParticipantObjectID") for thing in message[4:]}
    assert objects == {"2": "2.25.7", "1": "P0011223344556677"}


def test_the_json_export_can_be_checked_by_somebody_else(trail: Trail) -> None:
    ten_events(trail)

    lines = [json.loads(line) for line in trail.export("json")]

    assert [line["seq"] for line in lines] == list(range(1, 11))
    assert all(after["previous"] == before["hash"] for before, after in pairwise(lines))


def test_who_sends_is_the_source_and_who_takes_is_the_destination():
    def roles(**facts: str) -> dict[str, str]:
        event = AuditEvent(event=Event.INSTANCES_TRANSFERRED, action=Action.CREATE, who="node", peer="archive", study="2.25.1", facts=facts)
        message = ElementTree.fromstring(to_xml(event, datetime(2026, 1, 1, tzinfo=UTC)))
        people = message.iter("ActiveParticipant")
        return {one.attrib["UserID"]: one.find("RoleIDCode").attrib["originalText"] for one in people}

    assert roles(direction="in") == {"node": "Destination Role ID", "archive": "Source Role ID"}
    assert roles(direction="out") == {"node": "Source Role ID", "archive": "Destination Role ID"}


@pytest.mark.parametrize("odd", ["\x0b", "\x00", "\x1b", "\ufffe"])
def test_an_ae_title_that_is_no_text_does_not_make_the_export_unreadable(odd: str) -> None:
    """An Orthanc tells who sent a study as it was called there."""
    event = AuditEvent(
        event=Event.INSTANCES_TRANSFERRED, action=Action.CREATE, peer=f"CT{odd}01", study="2.25.1", what=f"by CT{odd}01 é 😀"
    )

    message = ElementTree.fromstring(to_xml(event, datetime(2026, 1, 1, tzinfo=UTC)))

    assert message.findall("ActiveParticipant")[1].attrib["UserID"] == "CT\ufffd01"
