"""Today, Studies and the story of one study, as a person meets them: one node, one browser, a phantom that went the whole way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import uvicorn
import yaml
from argon2 import PasswordHasher
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from config import Settings
from node.assembly import House, now
from node.gateway import Gateway
from node.ledger.people import People
from node.ledger.reception import Reception
from node.ledger.tokens import Role
from node.ledger.trail_list import TrailList
from node.pipelines.interface import Pipeline
from node.registry import Registry
from node.testing.studies import a_study
from node.web.app import create_app
from node.web.ui.markup import Html, facts, more, table, tag, took
from node.web.ui.studies import Asked
from tests.conftest import need
from tests.ports import free_port
from tests.rooms.api_site import Site, doors
from tests.rooms.workbench import FAULTY, bundle

RULES = [
    {"name": "chest CT", "when": {"modality": "CT"}, "run": "works", "send_to": ["pacs", "archive"]},
    {"name": "head MR", "when": {"modality": "MR"}, "run": "raises", "send_to": "pacs"},
]
WHY = "the archive was full in the morning"
expect.set_options(timeout=20_000)  # what a page does by itself may wait for a busy machine


class Ward:
    """A node's own web room behind a real server, its studies, and a browser for each role."""

    def __init__(self, folder: Path, browser: Browser) -> None:
        self.folder, self._browser = folder, browser
        self.site = Site(home=_house(folder), gateway=None, folder=folder, web=None)  # type: ignore[arg-type]
        self.site.gateway = Gateway(self.home)
        self.strangers: list[str] = []  #: requests to anybody else
        self._sessions: dict[Role, str] = {}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def home(self) -> House:
        return self.site.home

    def opens(self) -> Ward:
        app = create_app(doors(self.home))
        self._server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=self.port, access_log=False, log_config=None))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def closes(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self.home.outbox.close()
        self.home.close()

    def session(self, role: Role) -> str:
        if role not in self._sessions:
            given = self.home.reception.add(f"a-{role}", role, who="os:test")
            self._sessions[role] = self.home.reception.change_password(f"a-{role}", given, "four words in a row")
        return self._sessions[role]

    def page(self, role: Role = Role.ADMIN, *, width: int = 1280, height: int = 800, look: str = "light") -> Page:
        context = self._browser.new_context(viewport={"width": width, "height": height})
        cookies = {"radnode": self.session(role), "radnode_look": look}
        context.add_cookies([{"name": name, "value": value, "url": self.url} for name, value in cookies.items()])
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on(
            "request",
            lambda asked: (
                None
                if asked.url.startswith((self.url, "data:", "blob:", f"ws://127.0.0.1:{self.port}"))
                else self.strangers.append(asked.url)
            ),
        )
        return page

    def asks(self, path: str, role: Role = Role.ADMIN) -> httpx.Response:
        return httpx.get(self.url + path, headers={"Authorization": f"Bearer {self.site.token(role)}"}, timeout=30)


def _house(folder: Path) -> House:
    (folder / "rules.yaml").write_text(yaml.safe_dump({"rules": RULES}))
    (folder / "archive").write_text("not a folder")
    for name in ("works", "raises"):
        bundle(folder / "models", name)
    home = House(
        Settings(
            data_dir=folder / "data",
            rules=folder / "rules.yaml",
            bundles_dir=folder / "models",
            intake={"settle_after_s": 0, "min_free_mb": 0},
            deidentification={"text_detection": "off"},
            delivery={"first_retry_s": 0, "give_up_after_hours": 0},
            destinations={name: {"kind": "folder", "path": str(folder / name)} for name in ("pacs", "archive")},
        )
    )
    home.__dict__["pipelines"] = Registry(FAULTY, Pipeline)  # type: ignore[type-abstract]
    people = People(home.ledger, now, hasher=PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    home.__dict__["reception"] = Reception(people, home.reception.sessions, home.trail.record)
    home.check()
    return home


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=need("chromium", "chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def ward(browser, tmp_path_factory) -> Iterator[Ward]:
    ward = Ward(tmp_path_factory.mktemp("ward"), browser).opens()
    ward.chest = ward.site.arrives(*a_study("CT", slices=8, rows=96, patient=1))
    ward.other = ward.site.arrives(*a_study("CT", slices=4, rows=64, patient=4))
    ward.refused = ward.site.arrives(*a_study("US", patient=2, kind="benign", BurnedInAnnotation="YES"))
    ward.given_up = ward.site.arrives(*a_study("MR", slices=3, patient=5))
    ward.site.works_off()
    [ward.job] = [job.id for job in ward.home.jobs.of_study(ward.chest)]
    ward.pseudonym = ward.home.cards.one(ward.chest).pseudonym
    yield ward
    ward.closes()


def trail(ward: Ward, study: str, what: str) -> list:
    return [record for record in TrailList(ward.home.ledger).of_study(study, 500) if record.what == what]


def opened(ward: Ward, study: str, role: Role = Role.ADMIN, **look) -> Page:
    page = ward.page(role, **look)
    page.goto(f"{ward.url}/studies/{study}")
    return page


def drawn(page: Page) -> None:
    """The picture on the screen is that of the slider."""
    at = page.get_by_role("slider", name="Slice").input_value()
    expect(page.locator("canvas")).to_have_attribute("data-slice", at)


def picture(page: Page) -> str:
    drawn(page)
    return page.evaluate("document.querySelector('canvas').toDataURL()")


# --- the story ----------------------------------------------------------------------------------------------------------------
def test_the_story_of_a_study_is_two_clicks_from_the_first_page(ward):
    page = ward.page(Role.RADIOLOGIST)
    page.goto(ward.url)
    expect(page.get_by_text("The node takes studies.")).to_be_visible()

    page.get_by_role("link", name="Studies", exact=True).click()
    page.get_by_role("link", name=ward.pseudonym).click()

    expect(page.get_by_role("heading", level=1)).to_have_text("The story of a study")
    for step in ("Arrival", "Settled", "De-identification", "Routes", "Jobs", "Deliveries", "Audit", "Results"):
        expect(page.get_by_role("heading", level=2, name=step)).to_be_visible()
    expect(page.get_by_text(ward.pseudonym)).to_be_visible()
    expect(page.get_by_role("table", name="Findings of works")).to_contain_text("lesion")
    expect(page.get_by_role("table", name="Deliveries", exact=True)).to_contain_text("Not a directory")
    expect(page.locator("details", has_text="chest CT").first).to_contain_text("modality CT is one of CT")
    expect(page.locator("details", has_text="head MR").first).to_contain_text("modality CT is none of MR")
    assert not ward.strangers


def test_a_refused_study_says_why_and_an_unknown_one_is_not_found(ward):
    page = opened(ward, ward.refused)
    expect(page.get_by_text("Burned In Annotation is YES")).to_be_visible()
    expect(page.get_by_text("Nothing was asked of a model.")).to_be_visible()

    assert page.goto(f"{ward.url}/studies/2.25.404").status == 404
    expect(page.get_by_text("it is not known, or was purged")).to_be_visible()


def test_the_slider_changes_the_picture_and_a_switch_takes_a_segment_away(ward):
    page = opened(ward, ward.chest)
    first = picture(page)

    slider = page.get_by_role("slider", name="Slice")
    slider.focus()
    page.keyboard.press("ArrowRight")
    second = picture(page)
    page.get_by_role("checkbox", name="Lesion").uncheck()
    expect(page.locator("canvas")).to_have_attribute("data-layers", "0")
    bare = picture(page)
    page.get_by_role("checkbox", name="Lesion").check()
    expect(page.locator("canvas")).to_have_attribute("data-layers", "1")
    page.get_by_role("slider", name="Overlay").fill("0")

    assert len({first, second, bare}) == 3
    page.wait_for_function("bare => document.querySelector('canvas').toDataURL() === bare", arg=bare)
    film = ward.asks(f"/pictures/{ward.job}").json()
    after = min([at for at in film["keys"] if at > int(slider.input_value())], default=film["keys"][0])
    page.get_by_role("button", name="Next key slice").press("Enter")
    expect(slider).to_have_value(str(after))
    page.get_by_label("Show").select_option("Heat map")
    expect(page.get_by_role("img")).to_have_accessible_name(f"works 1.0.0: heat map, picture {film['captures'].index(after) + 1} of 6")


def test_one_look_at_many_slices_is_one_record(ward):
    before = len(trail(ward, ward.chest, "pictures of a result"))
    stories = len(trail(ward, ward.chest, "the story of a study"))
    page = opened(ward, ward.chest, Role.AUDITOR)
    for _ in range(3):
        drawn(page)
        page.get_by_role("slider", name="Slice").press("ArrowLeft" if _ else "ArrowRight")
    drawn(page)

    [record] = trail(ward, ward.chest, "pictures of a result")[before:]
    assert (record.who, record.peer, record.facts["job"]) == ("user:a-auditor", "127.0.0.1", ward.job)
    assert len(trail(ward, ward.chest, "the story of a study")) == stories + 1


def test_what_an_archive_refused_is_sent_again_by_hand_with_a_reason(ward):
    page = opened(ward, ward.chest, Role.INTEGRATOR)
    table = page.get_by_role("table", name="Deliveries", exact=True)
    expect(table).to_contain_text("REFUSED")
    (ward.folder / "archive").unlink()  # now a folder can be made there

    page.get_by_role("button", name="Send again to archive").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Send again to archive").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Say why")
    dialog.get_by_label("Why?").fill(WHY)
    dialog.get_by_role("button", name="Send again to archive").click()
    expect(dialog).to_be_hidden()
    expect(table).to_contain_text("QUEUED")
    ward.home.outbox.send_due()

    expect(table).not_to_contain_text("QUEUED")  # the page renews itself
    expect(table).not_to_contain_text("REFUSED")
    assert {record.facts["reason"] for record in trail(ward, ward.chest, "delivery queued again")} == {WHY}


def test_a_job_that_was_given_up_is_tried_again_and_the_trail_says_why(ward):
    page = opened(ward, ward.given_up, Role.INTEGRATOR)
    expect(page.get_by_text("CANCELED")).to_be_visible()
    page.get_by_role("button", name="Retry raises").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Why?").fill(WHY)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    expect(page.get_by_text("SCHEDULED")).to_be_visible()
    [record] = trail(ward, ward.given_up, "job tried again")
    assert (record.who, record.facts["reason"]) == ("user:a-integrator", WHY)


def test_a_purge_asks_for_the_study_s_own_name_and_then_nothing_is_left(ward):
    name = ward.home.cards.one(ward.other).pseudonym
    [job] = [one.id for one in ward.home.jobs.of_study(ward.other)]
    page = opened(ward, ward.other)
    drawn(page)
    page.get_by_role("button", name="Purge").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Why?").fill(WHY)
    dialog.get_by_label("Type").fill(ward.pseudonym)
    dialog.get_by_role("button", name="Purge").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Nothing was done")
    assert ward.home.cards.one(ward.other)

    dialog.get_by_label("Type").fill(name)
    dialog.get_by_role("button", name="Purge").click()

    page.wait_for_url("**/studies")
    assert ward.home.cards.one(ward.other) is None
    assert ward.asks(f"/pictures/{job}/slices/0.png").status_code == 404


def test_what_can_t_be_written_into_the_trail_is_not_done_and_the_page_says_so(ward, monkeypatch):
    page = opened(ward, ward.chest)
    drawn(page)
    page.get_by_role("button", name="Purge").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Why?").fill(WHY)
    dialog.get_by_label("Type").fill(ward.pseudonym)

    def full(_events):
        raise OSError("no space left")

    monkeypatch.setattr(ward.home.trail, "record_all", full)
    dialog.get_by_role("button", name="Purge").click()

    expect(dialog.get_by_role("alert")).to_contain_text("What can't be written into the audit trail isn't done")
    monkeypatch.undo()
    assert ward.home.cards.one(ward.chest)
    assert ward.home.keyring.existing_key(ward.chest)


def test_who_may_only_look_is_offered_nothing_to_do(ward):
    page = opened(ward, ward.chest, Role.RADIOLOGIST)
    drawn(page)

    for name in ("Purge", "Route again", "Send again"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)


# --- studies ------------------------------------------------------------------------------------------------------------------
def test_search_finds_a_study_and_a_typed_name_goes_nowhere(ward):
    page = ward.page(Role.RADIOLOGIST)
    page.goto(f"{ward.url}/studies")
    rows = page.get_by_role("table").locator("tbody tr")
    word = page.get_by_label("Pseudonym or clean UID")
    expect(rows.first).to_be_visible()

    word.fill(ward.pseudonym.lower())
    word.press("Enter")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("lesion")
    word.fill("Doe, Jane")
    word.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Names and patient numbers are not known here")
    assert "Doe" not in page.url
    word.fill("")
    page.get_by_label("State").select_option("in quarantine")

    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("not de-identified")
    assert page.url.endswith("/studies?state=QUARANTINED")
    page.reload()
    expect(rows).to_have_count(1)


def test_the_list_goes_on_a_page_at_a_time(ward, monkeypatch):
    monkeypatch.setattr("node.web.ui.studies.ROWS", 1)
    page = ward.page()
    page.goto(f"{ward.url}/studies")
    link = page.get_by_role("table").get_by_role("link")
    newest = link.text_content()

    page.get_by_role("button", name="Older").click()
    expect(link).not_to_have_text(newest)
    page.get_by_role("button", name="Newer").click()

    expect(link).to_have_text(newest)
    expect(page.get_by_role("button", name="Newest")).to_be_disabled()


@pytest.mark.parametrize(
    "given",
    [
        {"study": "Müller^Jörg"},
        {"state": "DONE"},
        {"since": "yesterday"},
        {"until": "9999-12-32"},
        {"until": "9999-12-31"},
        {"study": "P123"},
    ],
)
def test_what_can_t_be_searched_for_is_said(given):
    with pytest.raises(ValueError):
        Asked.of(given)


def test_an_address_holds_what_was_asked():
    asked = Asked.of({"study": " PF0E31A8376B76487 ", "finding": "lesion", "until": "2026-03-01", "odd": "x"})

    assert asked.address == "/studies?study=PF0E31A8376B76487&finding=lesion&until=2026-03-01"
    assert (asked.wanted.pseudonym, asked.wanted.label, asked.wanted.study) == ("PF0E31A8376B76487", "lesion", "")
    assert asked.wanted.until.astimezone().strftime("%d %H") == "02 00"  # the day counts


@pytest.fixture
def in_berlin(monkeypatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize(("day", "hours"), [("2026-03-28", 24), ("2026-03-29", 23), ("2026-10-25", 25)])
def test_a_day_is_as_long_as_the_clock_makes_it(day, hours):
    wanted = Asked.of({"since": day, "until": day}).wanted

    assert wanted.until - wanted.since == timedelta(hours=hours)


# --- today --------------------------------------------------------------------------------------------------------------------
def test_the_first_page_leads_nobody_to_a_page_that_is_not_for_them(ward):
    there = {role: "/studies?state=QUARANTINED" in ward.asks("/", role).text for role in Role}

    assert there == {role: role is not Role.PRIVACY for role in Role}


def test_the_first_page_renews_itself_in_place(ward):
    page = ward.page()
    page.goto(ward.url)
    tile = page.locator(".tile", has_text="Studies, 24 hours").locator(".number")
    expect(page.locator(".chart svg")).to_be_visible()
    before = tile.inner_text()
    page.evaluate("window.same = document.querySelector('.chart svg')")

    ward.site.arrives(*a_study("CT", slices=2, rows=64, patient=3))
    ward.site.gateway.follow()

    expect(tile).to_have_text(str(int(before) + 1))
    assert page.evaluate("window.same === document.querySelector('.chart svg')")
    expect(page.get_by_role("table", name="Destinations")).to_contain_text("up")


# --- all of them --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("look", "width", "height"), [("light", 1280, 800), ("dark", 1920, 1080)])
def test_nothing_keeps_anybody_out_and_nothing_is_cut_off(ward, look, width, height):
    page = ward.page(look=look, width=width, height=height)
    for path in ("/", "/studies", f"/studies/{ward.chest}"):
        page.goto(ward.url + path)
        page.locator(".page h1").wait_for()
        if path.count("/") == 2:
            drawn(page)
        for one in page.locator("summary").all():
            one.click()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        found = Axe().run(page).response["violations"]
        bad = [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found if one["impact"] in ("serious", "critical")]
        assert bad == [], path
    assert ward.strangers == []


# --- the routes of pictures ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("", 200),
        ("/slices/7.png", 200),
        ("/slices/0.png?window=bone", 200),
        ("/slices/8.png", 404),
        ("/slices/0.png?window=other", 404),
        ("/slices/0.png?window=../x", 422),
        ("/slices/-1.png", 422),
        ("/segments/1/0.png", 200),
        ("/segments/2/0.png", 404),
        ("/captures/0.png", 200),
        ("/captures/9.png", 404),
    ],
)
def test_a_picture_or_what_to_do(ward, path, status):
    answer = ward.asks(f"/pictures/{ward.job}{path}")

    assert answer.status_code == status, answer.text[:200]
    if ".png" in path and status == 200:
        assert answer.content.startswith(b"\x89PNG")
        assert "no-store" in answer.headers["cache-control"]
    elif status != 200:
        assert answer.headers["content-type"] == "application/problem+json"


def test_pictures_are_for_those_who_may_look_and_of_jobs_that_are_known(ward):
    assert httpx.get(f"{ward.url}/pictures/{ward.job}/slices/0.png").status_code == 401
    assert ward.asks("/pictures/abcdef/slices/0.png").status_code == 404
    before = len(trail(ward, ward.chest, "pictures of a result"))
    for _ in range(3):
        ward.asks(f"/pictures/{ward.job}/slices/1.png?view=one", Role.AUDITOR)
    ward.asks(f"/pictures/{ward.job}/slices/1.png?view=two", Role.AUDITOR)
    assert [one.who for one in trail(ward, ward.chest, "pictures of a result")[before:]] == ["token:a-auditor"] * 2


# --- markup -------------------------------------------------------------------------------------------------------------------
def test_whatever_comes_in_is_text():
    evil = '"><img src=x onerror=alert(1)>'
    written = (
        table((evil,), [[evil, tag("b", evil, title=evil), Html("<i>ours</i>")]], caption=evil) + facts({evil: evil}) + more(evil, evil)
    )

    assert "<img" not in written
    assert written.count("&lt;img") == 10
    assert "<i>ours</i>" in written


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, ""), (0.04, "0.0 s"), (59.96, "60.0 s"), (61, "1 min 1 s"), (3599.6, "1 h 0 min"), (7260, "2 h 1 min")]
)
def test_a_time_span_reads_as_people_say_it(seconds, words):
    assert took(seconds) == words
