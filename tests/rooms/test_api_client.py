"""The typed client of the API, with a node that listens: what it reads is what the node shows, what it does is done once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from pydantic import TypeAdapter
from pydicom import dcmread, dcmwrite
from pydicom.uid import generate_uid

from node.api_client import RadnodeApi, Step
from node.client import Refused
from node.testing.studies import a_study
from node.web.api.story import Story
from tests.rooms.api_site import WHY, Site, a_full_site, a_site, doors
from tests.rooms.test_web import Server

DOCS = Path(__file__).parents[2] / "docs" / "api.md"


@dataclass
class Listening:
    """A site that listens on a port, and what is in it."""

    site: Site
    url: str
    studies: dict[str, str]
    lines: list[httpx.Client] = field(default_factory=list)

    def client(self, role: str = "admin", transport: httpx.BaseTransport | None = None) -> RadnodeApi:
        self.lines.append(httpx.Client(transport=transport, timeout=30))
        return RadnodeApi(self.url, self.site.token(role), http=self.lines[-1])


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    with a_site(tmp_path_factory.mktemp("site")) as site:
        server = Server(doors(site.home))
        made = Listening(site, server.url, a_full_site(site))
        yield made
        for line in made.lines:
            line.close()
        server.stop()


class Breaks(httpx.HTTPTransport):
    """The first answer that is asked for by POST is lost on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        if request.method == "POST":
            self.keys.append(request.headers["idempotency-key"])
            if len(self.keys) == 1:
                answer.read()
                raise httpx.ReadError("lost")
        return answer


def test_lists_are_read_to_their_end_whatever_a_page_holds(node: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.api_client.MOST", 2)
    with node.client("radiologist") as client:
        assert {card.study for card in client.studies()} == set(node.studies.values())
        assert [card.study for card in client.studies(state="QUARANTINED")] == [node.studies["refused"]]
        assert list(client.studies(until=datetime(2020, 1, 1, tzinfo=UTC))) == []
        assert len(list(client.deliveries(state="REFUSED"))) > 2
        with pytest.raises(ValueError, match="time zone"):
            client.studies(since=datetime(2020, 1, 1))


def test_what_is_read_has_the_types_of_the_routes(node: Listening) -> None:
    with node.client() as client:
        story = client.study(node.studies["done"])
        job = client.job(story.jobs[0].id)

        said = node.site.get(f"studies/{node.studies['done']}").json()
        read = TypeAdapter(Story).dump_python(story, mode="json")
        del said["audit"], read["audit"]  # the second look is in it
        assert read == said
        assert isinstance(story.arrival.arrived_at, datetime)
        assert story.arrival.arrived_at.tzinfo
        assert job == story.jobs[0]
        assert job.result["findings"]
        assert {one.name for one in client.destinations()} == {"pacs", "archive"}
        assert [one.kind for one in client.quarantine()] == [story_of_the_refused(node, client)]
        assert client.model("works") in list(client.models())
        assert client.today().work.studies == 4
        assert client.audit_chain().intact
        assert {one.study for one in client.audit(study=node.studies["done"])} == {node.studies["done"]}
        assert len(list(client.audit_export(study=node.studies["done"]))) > 3


def story_of_the_refused(node: Listening, client: RadnodeApi) -> str:
    refused = client.study(node.studies["refused"]).refused
    assert refused
    return refused.kind


def test_every_route_of_the_api_has_its_call(node: Listening) -> None:
    """A route that is added without a call in the client is found here."""
    schema = httpx.get(f"{node.url}/openapi.json", headers={"Authorization": f"Bearer {node.site.token('admin')}"}).json()
    routes = {
        (method.upper(), re.sub(r"\{\w+\}", "{}", path))
        for path, known in schema["paths"].items()
        for method in known
        if "/api/v1/" in path
    }
    asked = set()

    class Notes(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            path = re.sub(
                r"(studies|jobs|deliveries|destinations|quarantine|models|versions|rules|difference)/(\d+\b[\d.]*|x)(?=/|$)",
                r"\1/{}",
                request.url.path,
            )
            asked.add((request.method, path))
            return httpx.Response(404, json={"detail": "noted"})

    client = node.client(transport=Notes())
    for call, words in {
        **dict.fromkeys(("today", "studies", "jobs", "deliveries", "destinations", "quarantine", "models", "audit", "audit_chain", "audit_export", "events", "rules"), ()),
        **dict.fromkeys(("study", "job", "model", "retry", "reroute", "retry_job", "echo"), ("x",)),
        "replay": (1,), "rule_text": (1,), "rules_difference": (1, 1), "validate_rules": ("x",),
        **dict.fromkeys(("publish_rules", "keep_rules", "watch_rules"), ("x", WHY)),
        **dict.fromkeys(("approve_rules", "roll_rules_back"), (1, WHY)),
        **dict.fromkeys(("purge", "release", "rollback"), ("x", WHY)),
        **dict.fromkeys(("promote", "shadow", "retire"), ("x", "x", WHY)),
    }.items():  # fmt: skip
        reason = {"reason": words[-1]} if WHY in words else {}
        with pytest.raises(Refused, match="noted"):
            next(iter(getattr(client, call)(*(word for word in words if word != WHY), **reason)))

    revealing = {route for route in routes if "reveal" in route[1]}
    assert routes - revealing - asked == set()
    assert asked <= routes


def test_an_act_whose_answer_is_lost_is_done_once(node: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.api_client._PAUSES_S", (0.05, 0.05))
    line = Breaks()
    [job] = [one for one in node.client().jobs(state="CANCELED") if one.study == node.studies["given up"]]
    with node.client("integrator", line) as client:
        done = client.retry_job(job.id)  # a second one with another key would be refused: the job waits already

        assert done.what == [job.id]
        assert len(line.keys) == 2
        assert len(set(line.keys)) == 1
        with pytest.raises(Refused) as why:
            client.retry_job(job.id)
    assert why.value.status == 409
    written = [one.what for one in node.client().audit(study=job.study) if one.what.startswith("job tried again")]  # the latest first
    assert written == ["job tried again: refused", "job tried again", "job tried again"]


def test_rules_are_checked_published_and_rolled_back_and_nobody_is_overwritten(node: Listening) -> None:
    with node.client() as client:
        [first] = client.rules()
        text = client.rule_text(first.number).text
        wrong = client.validate_rules(text.replace("modality", "modalty")).problems
        draft = client.keep_rules(text.replace("chest CT", "CT of the chest"), reason=WHY)
        made = client.publish_rules(client.rule_text(draft.number).text, reason=WHY, base=first.number)

        assert first.active
        assert "modalty" in wrong[0].what
        assert wrong[0].line
        assert client.validate_rules(text).problems == []
        assert (draft.state, draft.active) == ("draft", False)
        assert (made.state, made.active, made.who) == ("published", True, "token:a-admin")
        assert client.rules_difference(first.number, made.number).added == ("CT of the chest",)
        with pytest.raises(Refused, match="active now") as late:
            client.publish_rules(text + "# mine", reason=WHY, base=first.number)
        assert late.value.status == 409
        with pytest.raises(Refused) as broken:
            client.publish_rules("rules: [", reason=WHY)
        assert broken.value.status == 422
        watched = client.watch_rules(text + "# watched", reason=WHY)
        with pytest.raises(Refused) as own:
            client.approve_rules(watched.number, reason=WHY)
        assert own.value.status == 409
        with pytest.raises(Refused) as unknown:
            client.rule_text(999)
        assert unknown.value.status == 404

        back = client.roll_rules_back(first.number, reason=WHY, base=made.number)

        assert (back.active, back.step) == (True, "rollback")
        assert client.rule_text(back.number).text == text
        assert [one.number for one in client.rules() if one.watched] == [watched.number]
    with node.client("integrator") as client:
        assert client.validate_rules(text).problems == []
        with pytest.raises(Refused) as forbidden:
            client.publish_rules(text, reason=WHY)
    assert forbidden.value.status == 403


def test_a_role_that_may_not_is_told_so(node: Listening) -> None:
    with node.client("radiologist") as client, pytest.raises(Refused, match="role") as why:
        client.purge(node.studies["done"], reason=WHY)
    assert why.value.status == 403


def test_a_node_that_is_not_there_is_no_problem_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.api_client._PAUSES_S", (0.01,))
    with RadnodeApi("http://127.0.0.1:9", "token") as client, pytest.raises(httpx.TransportError):
        client.echo("pacs")


def test_events_go_on_where_the_connection_broke(node: Listening) -> None:
    class Cuts(httpx.HTTPTransport):
        asked: list[str]

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            self.asked.append(request.headers.get("last-event-id", ""))
            answer = super().handle_request(request)
            if len(self.asked) > 1:
                return answer

            def until_the_third() -> Iterator[bytes]:
                text = ""
                for piece in answer.iter_raw():
                    text += piece.decode()
                    if text.count("event: step") >= 3:
                        yield "".join(text.partition("id:")[:2]).encode() + "id:".join(text.split("id:")[1:4]).encode()
                        raise httpx.ReadError("cut")

            return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=until_the_third())

    line = Cuts()
    line.asked = []
    whole = [one for one in node.client().events(after=0, seconds=1) if isinstance(one, Step)]
    with node.client(transport=line) as client:
        steps = [one for one in client.events(after=0, seconds=3) if isinstance(one, Step)]

    assert [one.seq for one in steps][: len(whole)] == [one.seq for one in whole]
    assert len(line.asked) == 2
    assert line.asked[1] == str(whole[2].seq)


def test_events_of_one_study(node: Listening) -> None:
    told = list(node.client().events(study=node.studies["done"], after=0, seconds=1))
    assert told
    assert all(isinstance(one, Step) and one.study == node.studies["done"] for one in told)


def test_dicomweb_stores_a_study_and_finds_results(node: Listening) -> None:
    [sent] = a_study("CT", slices=1, rows=64, patient=9, StudyInstanceUID=generate_uid())
    file = BytesIO()
    dcmwrite(file, sent, enforce_file_format=True)
    node.client("integrator").dicomweb().store_instances([dcmread(BytesIO(file.getvalue()))])
    source = str(node.site.sources[node.studies["done"]].StudyInstanceUID)

    node.site.home.intake.index_new()
    came = node.site.home.clean_uids.of(str(sent.StudyInstanceUID))
    assert node.site.home.arrivals.one(came).channel == "stow"
    archive = node.client("radiologist").dicomweb()
    found = archive.search_for_instances(source)
    assert found
    assert archive.retrieve_study_metadata(source)


def test_the_examples_of_the_page_run(node: Listening, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NODE_URL", node.url)
    monkeypatch.setenv("NODE_TOKEN", node.site.token("integrator"))
    examples = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)

    words: dict[str, object] = {}
    for example in examples:
        exec(example, words)

    assert len(examples) == 3
    said = capsys.readouterr().out
    assert "works 1.0.0" in said
    assert "('archive'" in said
    assert words["archive"]
