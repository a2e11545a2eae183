"""What anybody may send to a node whose ledger is in PostgreSQL, which can't hold all that SQLite can."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from node.assembly import now
from node.ledger.tokens import Role
from node.ledger.trail import Trail
from node.web.audit import AuditParts
from tests.rooms.databases import postgres, postgres_server
from tests.rooms.people_web import Office


@pytest.fixture(scope="module")
def office(tmp_path_factory) -> Iterator[Office]:
    with postgres_server() as url:
        ledger = postgres(url)
        trail = Trail(ledger, now)
        office = Office(tmp_path_factory.mktemp("office"), SimpleNamespace(ledger=ledger, trail=trail))  # type: ignore[arg-type]
        office.with_parts(audit=AuditParts(find=trail.find, verify=trail.verify, export=trail.export)).opens()
        yield office
        office.closes()
        ledger.dispose()


def test_a_name_that_no_database_can_hold_is_no_failure_of_the_node(office, caplog):
    answer = office.browser().post("/login", data={"name": "x\0y", "password": "z"}, headers={"Origin": office.url})

    assert answer.status_code == 422
    assert "neither looked for nor kept" in answer.json()["detail"]
    assert "a request failed" not in caplog.text


def test_the_trail_has_no_record_of_a_number_beyond_all_numbers(office):
    page = office.browser(Role.AUDITOR).get("/audit?before=999999999999999")

    assert page.status_code == 200
    assert "password changed" in page.text
