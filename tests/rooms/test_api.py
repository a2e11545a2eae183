"""The JSON API on a node with a study in every state: what it says, who may ask, what is written down, what is done once."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from xml.etree import ElementTree

import pytest
from playwright.sync_api import sync_playwright
from sqlalchemy import text

from node.assembly import now
from node.audit import Event
from node.gateway import Gateway
from node.ledger.answers import Answers
from node.ledger.cards import Wanted
from node.ledger.tokens import Role
from node.testing.studies import a_study
from tests.conftest import need
from tests.rooms.api_site import WHY, Site, a_full_site, a_site, doors
from tests.rooms.test_web import Server
from tests.rooms.who_may import API, FOR_PEOPLE, OTHERS, RESULTS, WITHOUT_A_ROLE, Comes
from tests.rooms.workbench import bundle

CANARIES = ("Müller", "Nuñez", "Åström", "PHANTOM-000")


@dataclass
class Clinic:
    site: Site
    studies: dict[str, str]

    def __getattr__(self, name: str):
        return getattr(self.site, name)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    """Only looked at."""
    with a_site(tmp_path_factory.mktemp("clinic")) as site:
        yield Clinic(site, a_full_site(site))


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Site]:
    """For tests that do something to it."""
    with a_site(tmp_path) as site:
        yield site


def problem(answer, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    return answer.json()["detail"]


# --- today and lists ------------------------------------------------------------------------------------------------------------
def test_today_counts_what_came_what_waits_and_what_failed(clinic: Clinic) -> None:
    said = clinic.get("today").json()

    work = said["work"]
    assert (work["studies"], work["instances"]) == (4, 11)
    assert work["states"] == {"PROCESSED": 2, "QUARANTINED": 1, "RECEIVING": 1}
    assert (work["jobs"]["COMPLETED"], work["jobs"]["CANCELED"], work["failed"]) == (1, 1, 1)
    assert len(work["hours"]) == 24
    assert sum(hour["studies"] for hour in work["hours"]) == 4
    assert (work["hours"][-1]["analysed"] + work["hours"][-2]["analysed"]) == 1
    assert said["deliveries"]["pacs"]["CONFIRMED"] == 4
    assert said["deliveries"]["archive"]["REFUSED"] == 3
    assert said["turnaround"]["studies"] == 2
    assert 0 < said["turnaround"]["median_s"] <= said["turnaround"]["p95_s"]
    assert said["disk"]["total_bytes"] > said["disk"]["free_bytes"] > 0


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, {"done", "given up", "refused", "arriving"}),
        ({"modality": "CT"}, {"done"}),
        ({"pipeline": "works"}, {"done"}),
        ({"pipeline": "raises"}, {"given up"}),
        ({"label": "lesion"}, {"done"}),
        ({"label": "not analysed"}, {"given up"}),
        ({"label": "lesion", "modality": "CT", "pipeline": "works", "state": "PROCESSED"}, {"done"}),
        ({"label": "lesion", "modality": "MR"}, set()),
        ({"state": "QUARANTINED"}, {"refused"}),
        ({"state": "RECEIVING"}, {"arriving"}),
        ({"state": "RECEIVING", "modality": "CT"}, set()),
        ({"since": "2020-01-01T00:00:00Z", "until": "2020-01-02T00:00:00+14:00"}, set()),
        ({"since": "2020-01-01T00:00:00Z", "label": "lesion"}, {"done"}),
        ({"pseudonym": "nobody"}, set()),
    ],
)
def test_studies_are_found_by_what_they_are(clinic: Clinic, asked: dict[str, str], found: set[str]) -> None:
    said = clinic.get("studies", **asked).json()

    assert {one["study"] for one in said["items"]} == {clinic.studies[name] for name in found}


def test_studies_are_found_by_pseudonym_and_by_uid(clinic: Clinic) -> None:
    [card] = clinic.get("studies", study=clinic.studies["done"]).json()["items"]

    assert (card["modalities"], card["pipelines"], card["labels"]) == (["CT"], ["works"], ["lesion"])
    assert (card["instances"], card["series"], card["channel"], card["revision"]) == (4, 1, "folder", 1)
    assert clinic.get("studies", pseudonym=card["pseudonym"]).json()["items"] == [card]


@pytest.mark.parametrize("noun", ["studies", "jobs", "deliveries", "audit"])
def test_pages_join_without_a_gap_or_a_double(clinic: Clinic, noun: str) -> None:
    whole = clinic.get(noun, limit=200).json()["items"]
    walked, path = [], f"/api/v1/{noun}?limit=1"
    for _ in range(4):
        answer = clinic.ask("GET", path)
        walked += answer.json()["items"]
        if "link" not in answer.headers:
            break
        [path] = re.findall(r'^<([^>]+)>; rel="next"$', answer.headers["link"])
        assert answer.json()["next"] in path

    if noun == "audit":  # each page that is read adds a record, so the numbers are what must join
        assert [one["seq"] for one in walked[1:]] == list(range(walked[1]["seq"], walked[1]["seq"] - 3, -1))
        return
    assert walked == whole[: len(walked)]
    assert len(walked) == min(4, len(whole)) > 1


def test_newest_comes_first(clinic: Clinic) -> None:
    times = [one["arrived_at"] for one in clinic.get("studies").json()["items"]]

    assert times == sorted(times, reverse=True)


# --- the story of a study -----------------------------------------------------------------------------------------------------
def test_the_story_tells_the_whole_way(clinic: Clinic) -> None:
    study = clinic.studies["done"]
    said = clinic.get(f"studies/{study}").json()

    assert said["arrival"]["settled_because"].startswith("quiet")
    assert [(one["revision"], one["instances"]) for one in said["arrival"]["revisions"]] == [(1, 4)]
    assert (said["deidentified"]["signature"], said["deidentified"]["hits"]) == ("good", 0)
    assert said["deidentified"]["done"]["actions"]["U"] > 0
    assert said["refused"] is None
    assert {(one["rule"], one["pipeline"], one["met"]) for one in said["decisions"]} == {
        ("chest CT", "works", True),
        ("head MR", "raises", False),
    }
    assert all(one["reasons"] for one in said["decisions"])
    [job] = said["jobs"]
    assert (job["state"], job["label"], job["analysed"]) == ("COMPLETED", "lesion", True)
    assert job["seconds"] >= 0
    assert [one["role"] for one in job["objects"]] == ["SEG", "SC", "SR"]
    states = {(one["destination"], one["role"]): one["state"] for one in said["deliveries"]}
    assert states == {
        **{("pacs", role): "CONFIRMED" for role in ("SEG", "SC", "SR")},
        **{("archive", role): "REFUSED" for role in ("SEG", "SC", "SR")},
    }
    assert all("given up" in one["reason"] for one in said["deliveries"] if one["state"] == "REFUSED")
    assert any(one["what"].startswith("de-identified") for one in said["audit"])
    assert said["audit"][0]["what"] == "study received by folder"


def test_the_story_of_a_refused_study_gives_the_reason_and_that_of_a_failed_one_too(clinic: Clinic) -> None:
    refused = clinic.get(f"studies/{clinic.studies['refused']}").json()
    failed = clinic.get(f"studies/{clinic.studies['given up']}").json()
    arriving = clinic.get(f"studies/{clinic.studies['arriving']}").json()

    assert refused["refused"]["kind"] == "BurnedInAnnotation"
    assert (refused["jobs"], refused["deidentified"]) == ([], None)
    assert failed["jobs"][0]["state"] == "CANCELED"
    assert failed["jobs"][0]["reason"]
    assert failed["jobs"][0]["result"]["analysed"] is False
    assert (arriving["arrival"]["state"], arriving["arrival"]["settled_at"]) == ("RECEIVING", None)


def test_a_report_that_somebody_altered_has_a_bad_signature(fresh: Site) -> None:
    study = fresh.arrives(*a_study("CT", slices=2, rows=64))
    fresh.works_off()
    path = fresh.home.studies / study / "r1" / "proof.json"
    path.write_text(path.read_text().replace('"hits": 0', '"hits": 7'))

    assert fresh.get(f"studies/{study}").json()["deidentified"]["signature"] == "bad"


# --- doing something ------------------------------------------------------------------------------------------------------------
def test_a_job_that_was_given_up_is_tried_again_and_its_result_goes_out(fresh: Site) -> None:
    study = fresh.arrives(*a_study("MR", slices=4, patient=4))
    fresh.works_off()
    [job] = fresh.get("jobs", state="CANCELED").json()["items"]
    before = {one["queued_at"] for one in fresh.get("deliveries", study=study).json()["items"]}

    said = fresh.post(f"jobs/{job['id']}/retry", "integrator")
    waiting = fresh.get(f"jobs/{job['id']}").json()
    again = fresh.post(f"jobs/{job['id']}/retry")
    fresh.works_off()  # it fails once more, and says so once more

    assert said.status_code == 200
    assert (waiting["state"], waiting["attempts"], waiting["reason"]) == ("SCHEDULED", 0, "")
    assert "SCHEDULED" in problem(again, 409)
    after = fresh.get("deliveries", study=study).json()["items"]
    assert {one["state"] for one in after} == {"CONFIRMED"}
    assert not before & {one["queued_at"] for one in after}
    assert [one["id"] for one in fresh.get("jobs", state="CANCELED").json()["items"]] == [job["id"]]
    assert fresh.post(f"studies/{study}/retry").json()["what"] == [job["id"]]
    assert "given up" in problem(fresh.post(f"studies/{study}/retry"), 409)


def test_a_study_is_routed_again_by_the_rules_as_they_are_now(fresh: Site) -> None:
    study = fresh.arrives(*a_study("MR", slices=4, patient=4))
    fresh.works_off()
    rules = fresh.folder / "rules.yaml"
    rules.write_text(rules.read_text().replace("run: raises", "run: works"))
    fresh.home.take_rules_file()  # as a start does

    first, second = fresh.post(f"studies/{study}/reroute"), fresh.post(f"studies/{study}/reroute")
    fresh.works_off()

    assert first.status_code == 200
    assert "on its way" in problem(second, 409)
    assert {one["pipeline"]: one["state"] for one in fresh.get("jobs", study=study).json()["items"]} == {
        "raises": "CANCELED",
        "works": "COMPLETED",
    }
    [card] = fresh.get("studies", label="lesion").json()["items"]
    assert card["pipelines"] == ["raises", "works"]


def test_a_dead_letter_is_replayed_once_the_destination_is_mended(fresh: Site) -> None:
    study = fresh.arrives(*a_study("CT", slices=2, rows=64))
    fresh.works_off()
    dead = fresh.get("deliveries", state="REFUSED").json()["items"]
    (fresh.folder / "occupied").unlink()

    said = [fresh.post(f"deliveries/{one['id']}/replay", "integrator") for one in dead]
    twice = fresh.post(f"deliveries/{dead[0]['id']}/replay")
    fresh.home.outbox.send_due()

    assert [answer.json()["state"] for answer in said] == ["QUEUED"] * 3
    assert "waits" in problem(twice, 409)
    assert {one["state"] for one in fresh.get("deliveries", study=study).json()["items"]} == {"CONFIRMED"}
    assert len(list((fresh.folder / "occupied").rglob("*.dcm"))) == 3


def test_a_refused_study_is_released_with_a_reason_by_name(fresh: Site) -> None:
    study = fresh.arrives(*a_study("US", patient=2, kind="benign", BurnedInAnnotation="YES"))
    fresh.works_off()
    [refused] = fresh.get("quarantine").json()["items"]

    without = fresh.post(f"quarantine/{study}/release", reason="short")
    named = fresh.post(f"quarantine/{study}/release", reason="looked at: only L and R\nburned in")
    done = fresh.post(f"quarantine/{study}/release", "privacy", reason="looked at: only L and R are burned in")
    again = fresh.post(f"quarantine/{study}/release", reason="looked at: only L and R are burned in")
    fresh.works_off()

    assert refused["study"] == study
    for answer in (without, named):
        assert problem(answer, 422)
    assert done.status_code == 200
    assert "not in quarantine" in problem(again, 409)
    assert fresh.get("quarantine").json()["items"] == []
    record = next(one for one in fresh.get("audit", study=study).json()["items"] if one["what"].startswith("released"))
    assert record["who"] == "token:a-privacy"
    assert "only L and R" in record["what"]


def test_a_study_is_purged_with_a_reason_that_may_not_name_the_patient(fresh: Site) -> None:
    study = fresh.arrives(*a_study("CT", slices=2, rows=64, patient=2))
    fresh.works_off()
    source = fresh.sources[study]

    naming = fresh.post(f"studies/{study}/purge", reason="the patient Åström asked for it")
    done = fresh.post(f"studies/{study}/purge", reason="the patient asked for it")

    assert "not who" in problem(naming, 422)
    assert "Åström" not in naming.text
    assert done.status_code == 200
    for answer in (fresh.get(f"studies/{study}"), fresh.post(f"studies/{study}/purge", reason=WHY)):
        assert "purged" in problem(answer, 404)
    assert fresh.get("studies").json()["items"] == []
    assert fresh.ask("GET", f"/dicom-web/studies/{source.StudyInstanceUID}/series").json() == []
    records = fresh.get("audit", study=study).json()["items"]
    assert [one["what"] for one in records[:2]] == ["purged", "purge asked for"]
    assert records[1]["facts"] == {"reason": "the patient asked for it"}
    assert records[1]["who"] == "token:a-admin"


def test_versions_are_promoted_shadowed_rolled_back_and_retired_with_a_reason(fresh: Site) -> None:
    bundle(fresh.folder / "models", "works", "2.0.0", weight=2)
    fresh.post("models/works/versions/1.0.0/promote", reason=WHY)  # fixes what was active

    steps = [
        fresh.post("models/works/versions/1.0.0/promote", reason=WHY),
        fresh.post("models/works/versions/2.0.0/promote", reason=WHY),
        fresh.post("models/works/rollback", reason=WHY),
        fresh.post("models/works/versions/2.0.0/shadow", reason=WHY),
        fresh.post("models/works/versions/2.0.0/retire", reason=WHY),
        fresh.post("models/works/versions/9.9.9/promote", reason=WHY),
        fresh.post("models/works/versions/2.0.0/promote"),
        fresh.post("models/nothing/rollback", reason=WHY),
    ]

    assert [answer.status_code for answer in steps] == [409, 200, 200, 200, 200, 409, 422, 409]
    said = fresh.get("models/works").json()
    assert said["active"] == "1.0.0"
    assert {one["version"]: (one["state"], one["by"], one["reason"]) for one in said["versions"]} == {
        "1.0.0": ("active", "token:a-admin", WHY),
        "2.0.0": ("retired", "token:a-admin", WHY),
    }
    assert [one["pipeline"] for one in fresh.get("models").json()["items"]] == ["raises", "works"]
    assert problem(fresh.get("models/nothing"), 404)


def test_destinations_show_no_secret_and_answer_an_echo(clinic: Clinic) -> None:
    said = {one["name"]: one for one in clinic.get("destinations").json()["items"]}

    assert (said["pacs"]["kind"], said["pacs"]["configured"]) == ("folder", True)
    assert said["pacs"]["last_success"]
    assert said["archive"]["last_failure"]
    assert "given up" in said["archive"]["last_reason"]
    assert clinic.post("destinations/pacs/echo").json()["answered"] is True
    down = clinic.post("destinations/archive/echo").json()
    assert (down["answered"], "folder" in down["words"]) == (False, True)
    assert problem(clinic.post("destinations/nowhere/echo"), 404)


# --- once ---------------------------------------------------------------------------------------------------------------------
def test_the_same_key_does_it_once_and_answers_twice(fresh: Site) -> None:
    fresh.arrives(*a_study("CT", slices=2, rows=64))
    fresh.works_off()
    one, other, *_ = fresh.get("deliveries", state="REFUSED").json()["items"]

    first = fresh.post(f"deliveries/{one['id']}/replay", key="k-1")
    again = fresh.post(f"deliveries/{one['id']}/replay", key="k-1")
    elsewhere = fresh.post(f"deliveries/{other['id']}/replay", key="k-1")
    somebody = fresh.post(f"deliveries/{other['id']}/replay", "integrator", key="k-1")
    failed = fresh.post(f"deliveries/{one['id']}/replay", key="k-2")
    odd = fresh.post(f"deliveries/{one['id']}/replay", key="k 1")

    assert first.status_code == 200
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert "Idempotency-Key" in problem(elsewhere, 422)
    assert somebody.status_code == 200  # keys of two callers have nothing to do with each other
    assert problem(failed, 409)
    assert problem(odd, 422)
    told = [record["what"] for record in reversed(fresh.get("audit", limit=200).json()["items"]) if "queued again" in record["what"]]
    assert told == ["delivery queued again"] * 3 + ["delivery queued again: refused"]


def test_a_key_with_another_body_is_refused_and_one_at_work_is_busy(fresh: Site) -> None:
    bundle(fresh.folder / "models", "works", "2.0.0", weight=2)
    path = "models/works/versions/1.0.0/promote"
    first = fresh.post(path, key="k", reason=WHY)
    other = fresh.post(path, key="k", reason=f"{WHY}, and once more")
    request = b"POST /api/v1/models/works/rollback\n" + json.dumps({"reason": WHY}, separators=(",", ":")).encode()
    Answers(fresh.home.ledger, now).begin("token:a-admin admin", "busy", request)

    assert first.status_code == 200
    assert "another request" in problem(other, 422)
    assert problem(fresh.post("models/works/rollback", key="busy", reason=WHY), 409)


# --- who may, and what is written down ---------------------------------------------------------------------------------------
#: routes that show nothing of a patient, not even a pseudonym
NOBODYS = {door for door, (_, comes) in API.items() if comes is Comes.NOTHING}


def routes_of(clinic: Clinic) -> set[tuple[str, str]]:
    """Those of the API and of results as the OpenAPI page has them; for the others: test_who_may.py."""
    paths = clinic.ask("GET", "/openapi.json").json()["paths"]
    return {(method.upper(), path) for path, methods in paths.items() for method in methods} - {*OTHERS, *FOR_PEOPLE, *WITHOUT_A_ROLE}


def address(clinic: Clinic, path: str) -> str:
    """The route's path, with names of things that are there."""
    study = clinic.studies["done"]
    [job] = clinic.home.jobs.of_study(study)
    if path.startswith("/dicom-web"):
        written = clinic.home.named_results.header(clinic.home.named_results.of(str(clinic.sources[study].StudyInstanceUID))[0])
        names = {"study": written.StudyInstanceUID, "series": written.SeriesInstanceUID, "instance": written.SOPInstanceUID}
        query = f"?StudyInstanceUID={written.StudyInstanceUID}" if path == "/dicom-web/studies" else ""
        return path.format(**names) + query
    names = {"study": study, "job": job.id, "delivery": "1", "destination": "pacs", "pipeline": "works", "version": "1.0.0"}
    names |= {"number": "1", "other": "1"}
    return path.format(**names) + ("?seconds=1" if path.endswith("/events") else "")


def test_every_route_is_in_the_matrix(clinic: Clinic) -> None:
    assert routes_of(clinic) == {*API, *RESULTS}


@pytest.mark.parametrize("role", list(Role))
def test_each_role_may_what_the_matrix_says(clinic: Clinic, role: Role) -> None:
    for (method, path), (roles, _) in {**API, **RESULTS}.items():
        if role in roles and (method == "POST" or path.endswith("/events")):
            continue  # done in the tests above and below
        answer = clinic.ask(method, address(clinic, path), role)

        if role in roles:
            assert answer.status_code == 200, (method, path, answer.text)
        else:
            assert "role" in problem(answer, 403), (method, path)


def test_without_a_token_every_route_is_closed(clinic: Clinic) -> None:
    for method, path in routes_of(clinic) | {("GET", "/docs"), ("GET", "/docs/start.js"), ("GET", "/openapi.json")}:
        assert clinic.web.request(method, path).status_code == 401, path


def test_whoever_is_shown_something_of_a_patient_is_in_the_trail_first(clinic: Clinic) -> None:
    for method, path in sorted(routes_of(clinic)):
        if method != "GET":
            continue
        before = clinic.home.trail.tail(1)[0]["seq"]
        answer = clinic.ask(method, address(clinic, path))
        new = [record for record in clinic.home.trail.tail(5) if record["seq"] > before]

        assert answer.status_code == 200, path
        if (method, path) in NOBODYS:
            assert new == []
            assert not any(study in answer.text for study in clinic.studies.values())
            continue
        assert [record["who"] for record in new] == ["token:a-admin"], path
        if path.startswith("/dicom-web") or "{study}" in path or "{job}" in path:
            assert [record["study"] for record in new] == [clinic.studies["done"]], path
            assert new[0]["event"] == Event.INSTANCES_ACCESSED.value[0]


def test_nothing_of_the_api_and_nothing_in_the_trail_names_a_person(clinic: Clinic) -> None:
    said = [clinic.ask("GET", address(clinic, path)).text for method, path in API if method == "GET"]
    said += [clinic.get(f"studies/{study}").text for study in clinic.studies.values()]
    uids = [str(source.StudyInstanceUID) for source in clinic.sources.values()]

    for answer in said:
        assert not [word for word in (*CANARIES, *uids) if word in answer]


# --- the trail ------------------------------------------------------------------------------------------------------------------
def test_the_trail_is_filtered_verified_and_exported(clinic: Clinic) -> None:
    study = clinic.studies["done"]
    of_study = clinic.get("audit", "auditor", study=study).json()["items"]
    transfers = clinic.get("audit", "auditor", event="110104").json()["items"]
    auditor = clinic.get("audit", "auditor", who="token:a-auditor").json()["items"]
    lines = clinic.get("audit/export", "auditor").text.splitlines()
    document = clinic.get("audit/export", "auditor", format="xml")

    assert {one["study"] for one in of_study} == {study}
    assert {one["event"] for one in transfers} == {"110104"}
    assert {one["who"] for one in auditor} == {"token:a-auditor"}
    assert clinic.get("audit/verify", "auditor").json()["intact"] is True
    assert json.loads(lines[0])["seq"] == 1
    assert document.headers["content-type"].startswith("application/xml")
    assert len(ElementTree.fromstring(document.content)) >= len(lines)


def test_an_altered_record_is_named(fresh: Site) -> None:
    fresh.arrives(*a_study("CT", slices=2, rows=64))
    fresh.works_off()
    with fresh.home.ledger.begin() as db:
        db.execute(text("UPDATE audit SET event = replace(event, 'who', 'whose') WHERE seq = 1"))

    said = fresh.get("audit/verify").json()

    assert (said["intact"], said["first_wrong"]) == (False, 1)


# --- events -------------------------------------------------------------------------------------------------------------------
def test_the_stream_tells_steps_from_where_the_client_was_and_nothing_of_who_looked(clinic: Clinic) -> None:
    study = clinic.studies["done"]
    answer = clinic.ask("GET", "/api/v1/events", params={"seconds": 1}, headers={"Last-Event-ID": "0"})
    of_one = clinic.ask("GET", "/api/v1/events", params={"seconds": 1, "study": study}, headers={"Last-Event-ID": "0"})

    assert answer.headers["content-type"].startswith("text/event-stream")
    steps = [json.loads(line) for line in re.findall(r"^event: step\ndata: (.+)$", answer.text, re.MULTILINE)]
    assert [one["what"] for one in steps if one["study"] == study][:2] == ["study received by folder", "de-identified, revision 1"]
    assert not [one for one in steps if "token" in json.dumps(one)]
    [counts] = re.findall(r"^event: jobs\ndata: (.+)$", answer.text, re.MULTILINE)
    assert json.loads(counts)["COMPLETED"] == 1
    assert set(re.findall(r'"study": "([^"]+)"', of_one.text)) == {study}
    last = re.findall(r"^id: (\d+)$", answer.text, re.MULTILINE)[-1]
    assert "event: step" not in clinic.ask("GET", "/api/v1/events", params={"seconds": 1}, headers={"Last-Event-ID": last}).text


def test_a_quiet_stream_shows_that_it_is_open_and_too_many_are_told_to_come_later(clinic: Clinic, monkeypatch) -> None:
    monkeypatch.setattr("node.web.api.events.HEARTBEAT_S", 0)
    last = str(clinic.home.trail.tail(1)[0]["seq"] + 1)
    quiet = clinic.ask("GET", "/api/v1/events", params={"seconds": 1, "study": "1.2"}, headers={"Last-Event-ID": last})
    monkeypatch.setattr("node.web.api.events.MOST_STREAMS", 0)
    full = clinic.get("events", seconds=1)

    assert ": still here" in quiet.text
    assert "event:" not in quiet.text
    assert "later" in problem(full, 503)
    assert full.headers["retry-after"]


@pytest.mark.parametrize("by", ["token", "session"])
def test_a_stream_ends_with_the_token_or_the_session_that_opened_it(fresh: Site, monkeypatch, by: str) -> None:
    monkeypatch.setattr("node.web.api.events.HEARTBEAT_S", 0)
    if by == "token":
        headers = {"Authorization": f"Bearer {fresh.home.tokens.create('leaving', 'auditor')}"}
        ends = Timer(4, fresh.home.tokens.disable, ["leaving"])
    else:
        given = fresh.home.reception.add("leaving", "auditor", who="os:test")
        headers = {"Cookie": f"radnode={fresh.home.reception.change_password('leaving', given, 'four words in a row')}"}
        ends = Timer(4, fresh.home.reception.disable, ["leaving"], {"who": "os:test"})

    began = time.monotonic()
    ends.start()
    told = fresh.web.get("/api/v1/events", params={"seconds": 60}, headers=headers)

    assert "event: jobs" in told.text
    assert time.monotonic() - began < 50


# --- the page, and bad input -----------------------------------------------------------------------------------------------------
def test_the_openapi_page_and_all_it_loads_come_from_the_node(clinic: Clinic) -> None:
    page = clinic.ask("GET", "/docs", "auditor")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)

    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for path in loaded:
        assert path.startswith("/docs/")
        assert clinic.ask("GET", path).status_code == 200
    assert problem(clinic.ask("GET", "/docs/other.js"), 404)
    document = clinic.ask("GET", "/openapi.json").json()
    assert "HTTPValidationError" not in json.dumps(document["paths"])
    assert "Problem" in document["components"]["schemas"]


def test_a_real_browser_shows_every_operation_and_asks_nobody_else(clinic: Clinic) -> None:
    server = Server(doors(clinic.home))
    asked, said = [], []
    with sync_playwright() as play, play.chromium.launch(executable_path=need("chromium", "chromium"), args=["--no-sandbox"]) as browser:
        page = browser.new_page(extra_http_headers={"Authorization": f"Bearer {clinic.token('auditor')}"})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto(f"{server.url}/docs")
        page.wait_for_selector(".opblock")
        shown = page.locator(".opblock").count()
    server.stop()

    operations = [one for methods in clinic.ask("GET", "/openapi.json").json()["paths"].values() for one in methods]
    assert shown == len(operations)
    assert said == []
    assert len(asked) >= 5
    assert all(url.startswith((f"{server.url}/docs", f"{server.url}/openapi.json")) for url in asked)


@pytest.mark.parametrize(
    "path",
    [
        "studies?cursor=nonsense",
        "studies?cursor=WzEsMl0",
        "studies?cursor=WyIyMDI2LTAxLTAxIiwieCJd",  # a moment without a zone
        "studies?cursor=WyIwMDAxLTAxLTAxVDAwOjAwOjAwKzE0OjAwIiwieCJd",  # one before all moments
        "deliveries?cursor=WzFlOTldIA",
        "deliveries?cursor=WzQ2MTE2ODYwMTg0MjczODc5MDNd",  # a number that PostgreSQL has no row for
        "studies?limit=0",
        "studies?limit=100000",
        "studies?since=yesterday",
        "studies?since=2026-01-01T00:00:00",
        "studies?since=0001-01-01T00:00:00%2B14:00",
        "studies?label=%00",
        "studies?state=LOST",
        "studies/../../etc",
        "studies/1.2.3%00",
        "audit?event=1",
    ],
)  # fmt: skip
def test_bad_input_is_a_problem_that_says_what_to_do(clinic: Clinic, path: str) -> None:
    answer = clinic.ask("GET", f"/api/v1/{path}")

    assert answer.status_code in {404, 422}, answer.text
    assert problem(answer, answer.status_code)


def test_a_body_that_is_too_large_is_not_read_to_its_end(clinic: Clinic) -> None:
    body = b'{"reason": "' + b"x" * (1 << 17) + b'"}'

    assert "kB" in problem(clinic.ask("POST", f"/api/v1/studies/{clinic.studies['done']}/purge", content=body), 413)


# --- cards follow ---------------------------------------------------------------------------------------------------------------
def test_cards_of_studies_from_before_the_update_are_made_at_the_first_turn(fresh: Site) -> None:
    study = fresh.arrives(*a_study("CT", slices=2, rows=64))
    fresh.works_off()
    before = fresh.home.cards.one(study)
    fresh.home.cards.forget(study)

    Gateway(fresh.home).follow()

    assert fresh.home.cards.one(study) == before
    assert fresh.home.cards.words() == {"modality": ["CT"], "pipeline": ["works"], "label": ["lesion"]}


def test_a_late_image_makes_the_study_arrive_again_on_its_card(fresh: Site) -> None:
    first, late, *_ = a_study("CT", slices=4, rows=64)
    study = fresh.arrives(first)
    fresh.works_off()
    fresh.arrives(late)
    fresh.gateway.follow()
    [arriving] = fresh.home.cards.find(Wanted(state="RECEIVING"), limit=10).items
    fresh.works_off()

    assert (arriving.study, arriving.revision, arriving.instances) == (study, 1, 2)
    card = fresh.home.cards.one(study)
    assert (card.state, card.revision, card.instances) == ("PROCESSED", 2, 2)
