"""The audit trail is found, exported and checked over HTTP, and whoever looks at it is in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from xml.etree.ElementTree import fromstring

import pytest
from sqlalchemy import text

from node.audit import Action, AuditEvent, Event
from node.ledger.database import open_ledger, sqlite_url
from node.ledger.tokens import Role
from node.ledger.trail import Trail
from node.ledger.trail_search import Wanted
from node.web.audit import AuditParts, wanted
from node.web.ui.audit import sentence
from tests.rooms.people_web import Office


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 5, 8, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(hours=1)
        return self.now


@pytest.fixture(scope="module")
def trail(tmp_path_factory) -> Trail:
    """Six records, an hour apart from 9 to 14."""
    trail = Trail(open_ledger(sqlite_url(tmp_path_factory.mktemp("trail") / "ledger.sqlite")), Clock())
    for n, (event, who, study, patient) in enumerate(
        [
            (Event.IMPORT, "AETITLES=CT01", "1.2.3", "P-77"),
            (Event.INSTANCES_ACCESSED, "user:anna", "1.2.3", "P-77"),
            (Event.SECURITY_ALERT, "radnode", "", ""),
            (Event.INSTANCES_ACCESSED, "user:Berta_1", "1.2.4", "P-78"),
            (Event.QUERY, "user:anna%", "", ""),
            (Event.EXPORT, "radnode", "1.2.3", ""),
        ]
    ):
        facts = {"note": "user:anna"} if n == 2 else {}
        trail.record(AuditEvent(event=event, action=Action.READ, who=who, study=study, patient=patient, what=f"step {n}", facts=facts))
    return trail


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, [6, 5, 4, 3, 2, 1]),
        ({"event": "110103"}, [4, 2]),
        ({"who": "ANNA"}, [5, 2]),
        ({"who": "anna%"}, [5]),
        ({"who": "berta_"}, [4]),
        ({"study": "1.2.3"}, [6, 2, 1]),
        ({"study": "P-77"}, [2, 1]),
        ({"study": "P-7"}, []),
        ({"since": "2026-01-05T12:00"}, [6, 5, 4]),
        ({"since": "2026-01-05T11:00", "until": "2026-01-05T13:00"}, [4, 3]),
        ({"since": "2026-01-05", "until": "2026-01-05"}, [6, 5, 4, 3, 2, 1]),
        ({"since": "2026-01-05T13:00+01:00"}, [6, 5, 4]),
        ({"event": "110103", "who": "anna", "study": "1.2.3"}, [2]),
        ({"since": "yesterday"}, [6, 5, 4, 3, 2, 1]),
    ],
)
def test_records_are_found_by_event_who_study_and_time(trail, asked, found):
    assert [record["seq"] for record in trail.find(wanted(**asked))] == found
    assert [json.loads(line)["seq"] for line in trail.export("json", wanted(**asked))] == found[::-1]


def test_records_come_in_pages(trail):
    first = trail.find(Wanted(), limit=4)
    second = trail.find(Wanted(), before=first[-1]["seq"], limit=4)

    assert [record["seq"] for record in first + second] == [6, 5, 4, 3, 2, 1]
    assert [record["seq"] for record in trail.find(Wanted(who="anna"), limit=1)] == [5]


@pytest.fixture(scope="module")
def office(tmp_path_factory) -> Iterator[Office]:
    office = Office(tmp_path_factory.mktemp("office"))
    trail = office.trail
    office.with_parts(audit=AuditParts(find=trail.find, verify=trail.verify, export=trail.export)).opens()
    yield office
    office.closes()


def test_an_export_is_one_xml_document_or_lines_of_json_and_is_itself_in_the_trail(office):
    auditor = office.browser(Role.AUDITOR)

    lines = [json.loads(line) for line in auditor.get("/api/v1/audit/export?who=os:test").text.splitlines()]
    document = fromstring(auditor.get("/api/v1/audit/export?format=xml").text)

    assert {line["who"] for line in lines} == {"os:test"}
    assert {message.tag for message in document} == {"AuditMessage"}
    used = office.trail.find(Wanted(event=Event.AUDIT_LOG_USED.value[0]))
    assert [(record["who"], record["what"]) for record in used] == [
        ("user:a-auditor", "audit trail exported as xml"),
        ("user:a-auditor", "audit trail exported as json"),
    ]
    assert used[1]["facts"] == {"who": "os:test"}


def test_looking_is_in_the_trail_and_shown_by_the_next_look(office):
    auditor = office.browser(Role.AUDITOR)
    auditor.get("/audit?who=nobody-at-all")

    assert office.trail.tail(1)[0]["facts"] == {"who": "nobody-at-all"}
    assert "audit trail looked at" in auditor.get("/audit").text
    assert auditor.get("/audit?before=abc&since=x").status_code == 200


@pytest.mark.parametrize("moment", ["yesterday", "2026-01-05T12:00:00 01:00", "0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-10:00"])
def test_a_moment_that_can_not_be_read_is_said_and_gives_nothing_out(office, moment):
    auditor = office.browser(Role.AUDITOR)

    for name in ("since", "until"):
        answer = auditor.get(f"/api/v1/audit/export?{name}={moment}")
        assert (answer.status_code, name in answer.json()["detail"]) == (422, True)
        page = auditor.get(f"/audit?{name}={moment}")
        assert page.status_code == 200
        assert f"{name} can't be read" in page.text.replace("&#39;", "'").replace("\\u0027", "'")


def test_a_radiologist_neither_sees_nor_exports_it(office):
    reader = office.browser(Role.RADIOLOGIST)

    assert reader.get("/audit").status_code == 403
    assert "os:test" not in reader.get("/audit").text
    assert reader.get("/api/v1/audit/export").status_code == 403


def test_the_first_record_that_was_altered_is_named(office):
    office.browser(Role.AUDITOR)  # who was added: that is the first record
    assert sentence(office.trail.verify()).startswith("The chain is whole")
    with office.engine.begin() as connection:
        connection.execute(text("UPDATE audit SET event = replace(event, 'added', 'edited') WHERE seq = 1"))

    assert sentence(office.trail.verify()) == "The chain is BROKEN at record 1: altered: the record does not have its own hash."
