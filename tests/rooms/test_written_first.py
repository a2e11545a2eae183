"""What can't be written into the audit trail isn't done: every act by hand, over HTTP, from the command line and on a page."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, MetaData, select

import node.web
from node.assembly import House
from node.audit import Action, AuditEvent, Event, Outcome, written_first
from node.commands import purge as purging
from node.commands import tokens as tokening
from node.domain import CleanUid
from node.errors import NotNow
from node.gateway import Gateway
from node.ledger.tokens import Role
from tests.rooms.api_site import WHY
from tests.rooms.who_may import MATRIX, WITHOUT_A_ROLE, Comes, Door
from tests.rooms.whole_office import Whole, whole_office

TEXT = "rules:\n- {name: mine, when: {modality: CT}, run: works, send_to: archive}\n"
PASSING = {("sessions", "seen_at"), ("people", "signed_in_at")}  #: that somebody was there


class TrailFull(Exception):
    """The disk of the audit trail is full."""


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with whole_office(tmp_path_factory.mktemp("office")) as office:
        for role in (Role.ADMIN, Role.RADIOLOGIST):
            office.session(role)
        office.site.token("admin")
        office.site.home.probes.remember("pacs", {})
        home = office.site.home
        home.reception.add("anna", "auditor", who="os:test")
        for destination in ("pacs", "nowhere"):
            home.rule_book.publish(TEXT.replace("archive", "pacs").replace("mine", destination), who="os:test", reason=WHY)
        yield office


@pytest.fixture
def full(office: Whole, monkeypatch: pytest.MonkeyPatch) -> Iterator[Whole]:
    """Nothing can be written into the trail; whatever a test tries, both databases are as before."""

    def fails(_events: Any) -> None:
        raise TrailFull

    before = rows(office.site.home.ledger), rows(office.site.home.wing), files(office)
    monkeypatch.setattr(office.site.home.trail, "record_all", fails)
    yield office
    assert (rows(office.site.home.ledger), rows(office.site.home.wing), files(office)) == before


def rows(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that a database holds."""
    metadata = MetaData()
    metadata.reflect(engine)
    with engine.connect() as connection:
        return {
            table.name: sorted(
                map(tuple, connection.execute(select(*(column for column in table.c if (table.name, column.name) not in PASSING)))), key=str
            )
            for table in metadata.tables.values()
        }


def files(office: Whole) -> set[Path]:
    """What lies in the node's folder, but for what databases and trail leave beside themselves."""
    return {path for path in (office.site.folder / "data").rglob("*") if path.suffix in {".dcm", ".key", ".json", ".log"}}


# --- over HTTP -----------------------------------------------------------------------------------------------------------------
def post(path: str, **body: str) -> Callable[[Whole], httpx.Response]:
    """As an administrator's program asks. What stands in braces is read from the office."""

    def ask(office: Whole) -> httpx.Response:
        headers = {"Authorization": f"Bearer {office.site.token('admin')}"}
        return office.browser().post(path.format(**names(office)), json=body or None, headers=headers)

    return ask


def form(path: str, role: Role | None = None, **given: str) -> Callable[[Whole], httpx.Response]:
    """As a browser sends a form."""

    def ask(office: Whole) -> httpx.Response:
        headers = {"Origin": office.url}
        return office.browser(role).post(path.format(**names(office)), data=given, headers=headers, follow_redirects=False)

    return ask


def names(office: Whole) -> dict[str, str]:
    home = office.site.home
    return {
        "done": office.study,
        "refused": office.studies["refused"],
        "given_up": office.studies["given up"],
        "job": office.job.id,
        "lost_job": home.jobs.of_study(office.studies["given up"])[0].id,
        "dead": str(home.deliveries.find(limit=1, state="REFUSED").items[0].id),
        "request": office.waiting.id,
        "earlier": str(next(one.number for one in home.rule_book.history() if one.step == "publish")),
        "link": home.reading_links.make(office.job.id),
    }


_VERSION = "/api/v1/models/{pipeline}/versions/{version}"
ACTS: dict[Door, Callable[[Whole], httpx.Response]] = {
    ("POST", "/api/v1/studies/{study}/retry"): post("/api/v1/studies/{given_up}/retry"),
    ("POST", "/api/v1/studies/{study}/reroute"): post("/api/v1/studies/{done}/reroute"),
    ("POST", "/api/v1/studies/{study}/purge"): post("/api/v1/studies/{done}/purge", reason=WHY),
    ("POST", "/api/v1/jobs/{job}/retry"): post("/api/v1/jobs/{lost_job}/retry"),
    ("POST", "/api/v1/deliveries/{delivery}/replay"): post("/api/v1/deliveries/{dead}/replay"),
    ("POST", "/api/v1/destinations/{destination}/echo"): post("/api/v1/destinations/pacs/echo"),
    ("POST", "/api/v1/quarantine/{study}/release"): post("/api/v1/quarantine/{refused}/release", reason=WHY),
    ("POST", f"{_VERSION}/promote"): post("/api/v1/models/works/versions/2.0.0/promote", reason=WHY),
    ("POST", f"{_VERSION}/shadow"): post("/api/v1/models/works/versions/2.0.0/shadow", reason=WHY),
    ("POST", f"{_VERSION}/retire"): post("/api/v1/models/works/versions/2.0.0/retire", reason=WHY),
    ("POST", "/api/v1/models/{pipeline}/rollback"): post("/api/v1/models/works/rollback", reason=WHY),
    ("POST", "/api/v1/rules"): post("/api/v1/rules", text=TEXT, reason=WHY),
    ("POST", "/api/v1/rules/drafts"): post("/api/v1/rules/drafts", text=TEXT, reason=WHY),
    ("POST", "/api/v1/rules/watch"): post("/api/v1/rules/watch", text=TEXT, reason=WHY),
    ("POST", "/api/v1/rules/{number}/approve"): post("/api/v1/rules/1/approve", reason=WHY),
    ("POST", "/api/v1/rules/{number}/rollback"): post("/api/v1/rules/{earlier}/rollback", reason=WHY),
    ("POST", "/api/v1/studies/{study}/reveal"): post("/api/v1/studies/{done}/reveal", reason=WHY),
    ("POST", "/api/v1/reveal-requests/{id}/approve"): post("/api/v1/reveal-requests/{request}/approve"),
    ("POST", "/emergency"): form("/emergency", Role.RADIOLOGIST, reason="Unconscious, allergy to contrast?"),
    ("POST", "/answers/{job}"): form("/answers/{job}", Role.RADIOLOGIST, answer="accept:"),
    ("POST", "/read/{token}"): form("/read/{link}", answer="accept:"),
}


def test_every_act_over_http_is_tried() -> None:
    comes = {**WITHOUT_A_ROLE, **{door: what for door, (_, what) in MATRIX.items()}}

    assert set(ACTS) == {door for door, what in comes.items() if what is Comes.ACT}


@pytest.mark.parametrize("door", sorted(ACTS))
def test_over_http_nothing_is_done_that_can_not_be_written_down(full: Whole, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(full.site.home.destinations["pacs"], "echo", lambda: asked.append("pacs") or "there")

    answer = ACTS[door](full)

    assert answer.status_code == 500, answer.text
    assert asked == []


# --- by the parts that the command line and the pages call ------------------------------------------------------------------------
BY_HAND: dict[str, Callable[[House, Whole], object]] = {
    "purge": lambda home, office: Gateway(home).purge(CleanUid(office.study)),
    "radnode purge": lambda home, office: purging.purge([office.study]),
    "radnode tokens create": lambda home, office: tokening.create("new", ["admin"]),
    "radnode tokens disable": lambda home, office: tokening.disable("a-admin"),
    "look at a refused study": lambda home, office: home.show_refused(office.studies["refused"], office.site.folder / "shown"),
    "mask": lambda home, office: home.mask_by_hand(office.studies["refused"], "", [(0, 0, 10, 10)], WHY),
    "release": lambda home, office: home.release_refused(office.studies["refused"], WHY),
    "probe": lambda home, office: home.probe("pacs", []),
    "forget a probe": lambda home, office: home.forget_probe("pacs"),
    "rotate keys": lambda home, office: home.rotate_keys(None, lambda done, of: None),
    "re-identify": lambda home, office: home.reidentify_folder(office.site.folder / "in-0", office.site.folder / "named", print, WHY),
    "approve a reveal": lambda home, office: home.approve_reveal(office.waiting.id, who="os:another"),
    "answer": lambda home, office: home.answer(office.job.id, "accept", who="dr"),
    "publish rules": lambda home, office: home.rule_book.publish(TEXT, who="os:test", reason=WHY),
    "keep a draft": lambda home, office: home.rule_book.keep(TEXT, who="os:test", reason=WHY),
    "watch a draft": lambda home, office: home.rule_book.watch(TEXT, who="os:test", reason=WHY),
    "stop watching": lambda home, office: home.rule_book.stop_watching(who="os:test"),
    "roll rules back": lambda home, office: home.rule_book.rollback(1, who="os:test", reason=WHY),
    "let somebody in": lambda home, office: office.reception.add("berta", "auditor", who="os:test"),
    "give roles": lambda home, office: office.reception.give("anna", "admin", who="os:test"),
    "reset": lambda home, office: office.reception.reset("anna", who="os:test"),
    "disable": lambda home, office: office.reception.disable("anna", who="os:test"),
    "somebody whom a provider vouches for": lambda home, office: office.reception.vouched("dr.new", ["admin"], "s" * 64),
}


@pytest.mark.parametrize("act", sorted(BY_HAND))
def test_by_hand_nothing_is_done_that_can_not_be_written_down(full: Whole, act: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (purging, tokening):
        monkeypatch.setattr(command, "house", lambda *_, **__: full.site.home)

    with pytest.raises(TrailFull):
        BY_HAND[act](full.site.home, full)

    assert not (full.site.folder / "shown").exists()
    assert not (full.site.folder / "named").exists()


def test_a_page_does_nothing_outside_of_what_it_writes_down() -> None:
    """Each call of an act that writes nothing down by itself stands in a `with notes.does(...)`."""
    found = {
        (path.name, act): inside
        for path in Path(node.web.__file__).parent.rglob("*.py")
        for act, inside in calls(ast.parse(path.read_text()))
    }

    assert {act for _, act in found} == {
        "send_again",
        "purge",
        "try_again",
        "outgoing.replay",
        "outgoing.echo",
        "_desk.probe",
        "_desk.forget",
    }
    assert [place for place, inside in found.items() if not inside] == []


def calls(tree: ast.AST, *, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """(act, whether a `with` that writes it down is around it)."""
    for child in ast.iter_child_nodes(tree):
        around = inside or (isinstance(child, ast.With) and any(".does(" in ast.unparse(one.context_expr) for one in child.items))
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute):
            words = ast.unparse(child.func).split(".")
            for act in (words[-1], ".".join(words[-2:])):
                if act in {"send_again", "purge", "try_again", "outgoing.replay", "outgoing.echo", "_desk.probe", "_desk.forget"}:
                    yield act, around
        yield from calls(child, inside=around)


# --- what is written down --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("why", "outcome", "word"), [(NotNow("later"), Outcome.MINOR_FAILURE, "refused"), (OSError(), Outcome.SERIOUS_FAILURE, "failed")]
)
def test_what_was_not_done_after_all_is_written_down_as_that(why: Exception, outcome: Outcome, word: str) -> None:
    trail: list[AuditEvent] = []
    event = AuditEvent(event=Event.SECURITY_ALERT, action=Action.EXECUTE, what="purge asked for")

    def act() -> None:
        assert trail == [event]
        raise why

    with pytest.raises(type(why)), written_first(trail.append, event):
        act()

    assert [(one.what, one.outcome) for one in trail] == [("purge asked for", Outcome.SUCCESS), (f"purge asked for: {word}", outcome)]
