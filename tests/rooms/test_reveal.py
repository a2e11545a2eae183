"""Who is this? Told with a reason, to who may know, once it is written down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread

from config import Settings
from node.assembly import House
from node.audit import AuditEvent, Outcome, Type
from node.domain import CleanUid
from node.errors import KeyMissing, ReasonRefused, RevealRefused
from node.identified.reveal import LONGEST, Reveal
from node.ledger.trail import Trail
from node.testing.studies import a_study, write_study
from tests.conftest import ROOT
from tests.rooms.api_site import doors
from tests.rooms.databases import sqlite
from tests.rooms.front_door import radnode
from tests.rooms.test_commands import settings
from tests.rooms.test_deidentifier import Wing, a_slice
from tests.rooms.test_web import Server

__all__ = ["settings"]
WHY = "the referring ward asks for a second opinion"
CANARIES = ("DOE", "JANE", "MRN-4711", "19610312", "ACC-99", "1.2.826.0.1")


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class Desk:
    """The wing with one study, and its reveal."""

    def __init__(self, folder: Path, approval: str = "none") -> None:
        self.wing = Wing(folder)
        self.study = self.wing.deidentify(a_slice(1, SpecificCharacterSet="ISO_IR 192")).ref.study
        self.clock = Clock()
        self.trail = Trail(sqlite(folder), self.clock)
        self.reveal = Reveal(self.wing.engine, self.wing.identities, self.trail.record, approval=approval, now=self.clock)

    def asks(self, who: str = "os:alice", reason: str = WHY):
        return self.reveal.identity(self.study, who=who, reason=reason)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def guarded(tmp_path: Path) -> Desk:
    """A site where a second person must approve."""
    return Desk(tmp_path, "second person")


def test_the_answer_is_the_patients_own_data(desk: Desk) -> None:
    assert desk.asks().who == {
        "PatientName": "DOE^JANE",
        "PatientID": "MRN-4711",
        "PatientBirthDate": "19610312",
        "AccessionNumber": "ACC-99",
        "StudyInstanceUID": "1.2.826.0.1.3680043.2.1.1",
    }


def test_who_asked_and_why_is_in_the_chain_without_the_patient(desk: Desk) -> None:
    answer = desk.asks()

    [record] = desk.trail.tail(5)
    assert record["who"] == "os:alice"
    assert record["study"] == desk.study
    assert record["what"] == "identity revealed"
    assert record["type"] == Type.USE_OF_RESTRICTED_FUNCTION.value[0]
    assert record["facts"]["reason"] == WHY
    assert desk.trail.verify().intact
    for canary in CANARIES:
        assert canary not in json.dumps(record)
        assert canary not in repr(answer)


def test_nothing_is_told_that_could_not_be_written_down(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    def full(event: AuditEvent) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="space"):
        Reveal(desk.wing.engine, desk.wing.identities, full).identity(desk.study, who="os:alice", reason=WHY)


@pytest.mark.parametrize("reason", ["", "   ", "curious", "x" * (LONGEST + 1), "a reason\nof two lines", "a reason with \x1b[31m colour"])
def test_without_a_reason_nobody_is_told(desk: Desk, reason: str) -> None:
    with pytest.raises(ReasonRefused):
        desk.asks(reason=reason)
    assert desk.trail.tail(5) == []


@pytest.mark.parametrize(
    "reason", ["is this Jane from ward 3?", "patient MRN-4711 was mixed up", "born 19610312 or not?", "mrn 4711 mixed"]
)
def test_a_reason_that_names_the_patient_is_not_kept(desk: Desk, reason: str) -> None:
    with pytest.raises(ReasonRefused, match="not who") as refused:
        desk.asks(reason=reason)

    [record] = desk.trail.tail(5)
    assert record["outcome"] == Outcome.MINOR_FAILURE.value
    for canary in ("Jane", "4711", "19610312"):
        assert canary not in json.dumps(record)
        assert canary not in str(refused.value)


def test_of_a_purged_study_nobody_is_told_and_the_try_is_noted(desk: Desk) -> None:
    desk.wing.keyring.shred(desk.study)

    with pytest.raises(KeyMissing):
        desk.asks()

    [record] = desk.trail.tail(5)
    assert record["what"] == "reveal: no such identity"


@pytest.mark.parametrize("typed", ["DOE^JANE", "MRN-4711", "1.2.826.0.1.3680043.8.498.1"])
def test_what_is_no_clean_uid_is_asked_in_vain_and_not_kept(desk: Desk, typed: str) -> None:
    with pytest.raises(KeyMissing):
        desk.reveal.identity(CleanUid(typed), who="os:alice", reason=WHY)

    [record] = desk.trail.tail(5)
    assert record["what"] == "reveal: no such identity"
    assert typed not in json.dumps(record)


def test_a_second_person_must_approve_and_once_only(guarded: Desk) -> None:
    waiting = guarded.asks().waiting

    assert waiting is not None
    assert not guarded.asks().who
    assert guarded.asks().waiting.id == waiting.id  # asking again makes no second request
    assert [one.id for one in guarded.reveal.requests()] == [waiting.id]

    guarded.reveal.approve(waiting.id, who="os:bob")

    assert guarded.asks().who["PatientName"] == "DOE^JANE"
    assert guarded.asks().waiting.id != waiting.id
    said = [(record["who"], record["what"]) for record in guarded.trail.tail(10)]
    assert said == [
        ("os:alice", "reveal requested"),
        ("os:bob", "reveal approved"),
        ("os:alice", "identity revealed"),
        ("os:alice", "reveal requested"),
    ]


@pytest.mark.parametrize("again", ["os:alice", "token:alice", "token:ALICE"])
def test_who_asked_can_not_approve(guarded: Desk, again: str) -> None:
    waiting = guarded.asks().waiting

    with pytest.raises(RevealRefused, match="another person"):
        guarded.reveal.approve(waiting.id, who=again)

    assert guarded.asks().waiting.id == waiting.id
    assert "approval refused: by the requester" in [record["what"] for record in guarded.trail.tail(10)]


def test_an_approval_is_for_one_person_one_study_and_a_time(guarded: Desk) -> None:
    waiting = guarded.asks().waiting
    guarded.reveal.approve(waiting.id, who="os:bob")

    assert guarded.asks(who="os:carol").waiting
    guarded.clock.now += timedelta(hours=25)
    assert guarded.asks().waiting.id != waiting.id
    with pytest.raises(RevealRefused):
        guarded.reveal.approve(waiting.id, who="os:bob")
    with pytest.raises(RevealRefused):
        guarded.reveal.approve("0" * 12, who="os:bob")


# --- over HTTP --------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Server, str]]:
    """A node's own web room on loopback, a second person's approval asked for, and one study in its vault."""
    folder = tmp_path_factory.mktemp("site")
    house = House(Settings(data_dir=folder / "data", reidentification={"approval": "second person"}))
    write_study(a_study("CT", slices=1, rows=64, patient=2), folder / "in")
    house.folders().deidentify(folder / "in", folder / "out")
    server = Server(doors(house))
    yield house, server, _study_of(folder / "out")
    server.stop()
    house.close()


def _study_of(folder: Path) -> str:
    [path] = folder.rglob("*.dcm")
    return str(dcmread(path).StudyInstanceUID)


def ask(server: Server, token: str, path: str, **body: str) -> httpx.Response:
    return httpx.post(f"{server.url}/api/v1/{path}", json=body, headers={"Authorization": f"Bearer {token}"}, timeout=30)


def test_over_http_two_tokens_and_a_reason_open_it(site, caplog) -> None:
    house, server, study = site
    alice, bob = (house.tokens.create(name, role) for name, role in (("alice", "privacy"), ("bob", "admin")))

    first = ask(server, alice, f"studies/{study}/reveal", reason=WHY)
    own = ask(server, alice, f"reveal-requests/{first.json()['request']}/approve")
    listed = httpx.get(f"{server.url}/api/v1/reveal-requests", headers={"Authorization": f"Bearer {bob}"}, timeout=30)
    second = ask(server, bob, f"reveal-requests/{first.json()['request']}/approve")
    told = ask(server, alice, f"studies/{study}/reveal", reason=WHY)

    assert [answer.status_code for answer in (first, own, listed, second, told)] == [202, 409, 200, 200, 200]
    assert own.headers["content-type"] == "application/problem+json"
    assert told.json()["PatientID"] == "PHANTOM-0002"
    assert told.json()["PatientName"] == "Åström^Anne-Sofie"
    assert told.headers["cache-control"] == "no-store"
    said = [(record["who"], record["what"]) for record in house.trail.tail(6)]
    assert said == [
        ("token:alice", "reveal requested"),
        ("token:alice", "approval refused: by the requester"),
        ("token:bob", "reveal requests listed"),
        ("token:bob", "reveal approved"),
        ("token:alice", "identity revealed"),
    ]
    assert house.trail.verify().intact
    trail = json.dumps(house.trail.tail(10), ensure_ascii=False)
    for canary in ("PHANTOM-0002", "Åström", "Anne"):
        assert canary not in trail
        assert canary not in caplog.text


@pytest.mark.parametrize("role", ["integrator", "radiologist", "auditor"])
def test_over_http_other_roles_are_told_nothing(site, role: str) -> None:
    house, server, study = site

    answer = ask(server, house.tokens.create(f"some-{role}", role), f"studies/{study}/reveal", reason=WHY)

    assert answer.status_code == 403
    assert "PHANTOM" not in answer.text


def test_over_http_what_is_missing_is_a_problem_that_repeats_nothing(site) -> None:
    house, server, study = site
    token = house.tokens.create("dora", "privacy")

    for path, body, status in (
        (f"studies/{study}/reveal", {}, 422),
        (f"studies/{study}/reveal", {"reason": "short"}, 422),
        (f"studies/{study}/reveal", {"reason": "x" * (1 << 17)}, 413),
        (f"studies/{study}/reveal", {"reason": "because PHANTOM-0002 was mixed up"}, 422),
        ("studies/2.25.4711/reveal", {"reason": WHY}, 404),
        ("reveal-requests/abc/approve", {}, 409),
    ):
        answer = ask(server, token, path, **body)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert "PHANTOM" not in answer.text
    assert httpx.post(f"{server.url}/api/v1/studies/{study}/reveal", json={"reason": WHY}, timeout=30).status_code == 401


# --- on the command line ------------------------------------------------------------------------------------------------------
def test_on_the_command_line(settings: Path, tmp_path: Path) -> None:
    write_study(a_study("CT", slices=1, rows=64, patient=2), tmp_path / "in")
    assert radnode("deidentify", tmp_path / "in", tmp_path / "out", config=settings).returncode == 0
    study = _study_of(tmp_path / "out")

    told = radnode("reveal", "--study", study, "--reason", WHY, "--json", config=settings)
    without = radnode("reveal", "--study", study, config=settings)
    home = radnode("reidentify", tmp_path / "out", tmp_path / "home", "--reason", "the archive was lost", config=settings)

    assert json.loads(told.stdout)["PatientID"] == "PHANTOM-0002"
    assert (without.returncode, home.returncode) == (1, 0)
    assert "reason" in without.stderr
    records = json.loads(radnode("audit", "tail", "--json", config=settings).stdout)
    assert [record["facts"]["reason"] for record in records if "reason" in record.get("facts", {})] == [WHY, "the archive was lost"]
    assert "PHANTOM" not in json.dumps(records)


def test_on_the_command_line_with_a_second_person(settings: Path, tmp_path: Path, monkeypatch) -> None:
    settings.write_text(settings.read_text() + "\nreidentification: {approval: second person}\n")
    write_study(a_study("CT", slices=1, rows=64, patient=2), tmp_path / "in")
    radnode("deidentify", tmp_path / "in", tmp_path / "out", config=settings)
    again = ("reidentify", tmp_path / "out", tmp_path / "home")

    without = radnode(*again, config=settings)
    first = radnode(*again, "--reason", "the archive was lost", config=settings)
    [waiting] = json.loads(radnode("reveal", "requests", "--json", config=settings).stdout)
    own = radnode("reveal", "approve", waiting["id"], config=settings)
    monkeypatch.setattr("node.assembly.os_user", lambda: "os:somebody-else")
    other = radnode("reveal", "approve", waiting["id"], config=settings)
    monkeypatch.undo()
    done = radnode(*again, "--reason", "the archive was lost", config=settings)

    assert [answer.returncode for answer in (without, first, own, other, done)] == [1, 1, 1, 0, 0]
    assert waiting["purpose"] == "reidentify"
    assert str(tmp_path) not in json.dumps(waiting)
    assert len(list((tmp_path / "home").rglob("*.dcm"))) == 1
    assert radnode(*again, "--reason", "the archive was lost", config=settings).returncode == 1  # used once


def test_there_is_no_third_way_to_a_name() -> None:
    """The re-identifier names results on their way out, reveal answers a person, and what a reader sends is searched for who the images are of."""
    asks = {path.name for path in (ROOT / "node").rglob("*.py") if "identities.get(" in path.read_text()}
    homes = {path.name for path in (ROOT / "node").rglob("*.py") if ".reidentify(" in path.read_text()}

    assert asks == {"assessments.py", "reidentifier.py", "reveal.py"}
    assert homes == {"assembly.py"}  # `House.reidentify_folder`, which writes it down first
