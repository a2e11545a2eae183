"""People and the pages, in a real browser, from the first start on. One node and one browser; the tests follow one another."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import need
from tests.stories.department import NodeProcess

OWN = "four words in a row"
PICTURES = os.environ.get("RADNODE_TEST_PICTURES", "")  #: a folder: every page is left there as a person sees it


class Desk:
    """The node, a browser, and what both have seen."""

    def __init__(self, node: NodeProcess, browser: Browser) -> None:
        self.node, self._browser = node, browser
        self.url = f"http://127.0.0.1:{node.web_port}"
        self.hosts: set[str] = set()
        self.complaints: list[str] = []
        self.passwords: dict[str, str] = {}

    def opens(self, path: str = "/") -> Page:
        """A window of its own, as on another machine."""
        page = self._browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        page.on("websocket", lambda socket: self.hosts.add(urlsplit(socket.url).netloc))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda why: self.complaints.append(str(why)))
        page.goto(self.url + path)
        return page

    def signs_in(self, name: str) -> Page:
        page = self.opens()
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(self.passwords[name])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda url: "/login" not in url)
        return page

    def chooses(self, page: Page, name: str, password: str = OWN) -> None:
        expect(page).to_have_title(re.compile("Your password"))
        page.get_by_label("Present password").fill(self.passwords[name])
        page.get_by_label("New password", exact=True).fill(password)
        page.get_by_label("New password again").fill(password)
        page.get_by_role("button", name="Change the password").click()
        page.wait_for_url(self.url + "/")
        page.get_by_role("heading", name="Today").wait_for()
        self.passwords[name] = password


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    node = NodeProcess(tmp_path_factory.mktemp("node"), half="gateway")
    node.rules()
    node.start()
    expect.set_options(timeout=20_000)  # as patient as a person at a machine that has much to do
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=need("chromium", "chromium"), args=["--no-sandbox"])
            desk = Desk(node, browser)
            desk.passwords["admin"] = re.search(r"one-time password {2}(\S+)", node.log.read_text())[1]
            yield desk
            browser.close()
    finally:
        node.stop()


def looked_at(page: Page, name: str, *, within: str = "html") -> None:
    """Nothing of this page keeps anybody out (axe-core), light and dark, and it fits its window."""
    for look in ("light", "dark"):
        page.emulate_media(color_scheme=look)
        for width in (1280, 1920):
            page.set_viewport_size({"width": width, "height": 900})
            if PICTURES:
                page.wait_for_timeout(400)
                page.screenshot(path=str(Path(PICTURES) / f"{name}-{look}-{width}.png"))
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{name} is wider than its window"
        page.wait_for_function("!document.getAnimations().some(a => a.playState === 'running')")
        rules = {} if look == "light" else {"runOnly": ["color-contrast"]}  # the rest is the same in the dark
        found = Axe().run(page, context=within, options=rules).response["violations"]
        grave = [
            (one["id"], [(node["html"][:120], node.get("failureSummary", "")[:250]) for node in one["nodes"]])
            for one in found
            if one["impact"] in {"serious", "critical"}
        ]
        assert grave == [], f"{name}, {look}"
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 800})


def offered(page: Page) -> set[str]:
    """The pages that the navigation names."""
    return {link.inner_text().split("\n")[-1] for link in page.get_by_role("navigation").get_by_role("link").all()}


def test_the_first_administrator_signs_in_once_with_what_the_console_said(desk):
    page = desk.opens()
    expect(page).to_have_title(re.compile("Sign in"))
    expect(page.get_by_text("RESEARCH USE ONLY")).to_be_visible()
    looked_at(page, "sign-in")

    page = desk.signs_in("admin")
    looked_at(page, "password")
    page.goto(desk.url + "/users")
    desk.chooses(page, "admin")

    assert {"Today", "Studies", "Audit", "Users"} <= offered(page)
    looked_at(page, "today")
    page.context.close()


def test_a_radiologist_who_is_let_in_sees_no_users_page(desk):
    page = desk.signs_in("admin")
    page.get_by_role("link", name="Users").click()
    page.get_by_label("Name", exact=True).fill("dr.reader")
    page.get_by_role("button", name="Add").click()
    desk.passwords["dr.reader"] = page.locator(".one-time").inner_text()
    looked_at(page, "users-password", within=".q-dialog")
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_role("cell", name="dr.reader", exact=True)).to_be_visible()
    expect(page.locator(".one-time")).to_have_count(0)
    looked_at(page, "users")
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_title(re.compile("Sign in"))

    page = desk.signs_in("dr.reader")
    desk.chooses(page, "dr.reader")
    assert "Today" in offered(page)
    assert not {"Audit", "Users"} & offered(page)
    for path in ("/users", "/audit"):
        assert page.goto(desk.url + path).status == 403
        expect(page.get_by_text("This page is for the role")).to_be_visible()
    page.goto(desk.url)
    page.get_by_role("link", name="Emergency access").click()
    page.get_by_role("heading", name="Emergency access").wait_for()
    looked_at(page, "emergency")
    page.get_by_label("Why?").fill("Unconscious, allergy to contrast?")
    page.get_by_role("button", name="Take emergency access").click()
    expect(page.get_by_text("radiologist, privacy until")).to_be_visible()
    page.context.close()
    desk.complaints.clear()  # of the two pages that were refused


def test_a_name_that_is_taken_is_said_and_nothing_changes(desk):
    page = desk.signs_in("admin")
    page.goto(desk.url + "/users")
    page.get_by_label("Name", exact=True).fill("admin")
    page.get_by_role("button", name="Add").click()

    expect(page.get_by_text("the name is taken")).to_be_visible()
    page.context.close()


def test_somebody_gets_another_role_and_signs_in_again_for_it(desk):
    theirs = desk.signs_in("dr.reader")
    theirs.get_by_role("heading", name="Today").wait_for()
    page = desk.signs_in("admin")
    page.goto(desk.url + "/users")
    page.get_by_role("button", name="Roles of dr.reader").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("checkbox", name="auditor").click()
    looked_at(page, "users-roles", within=".q-dialog")
    dialog.get_by_role("button", name="Change the roles").click()

    expect(page.get_by_role("row", name=re.compile("dr.reader.*radiologist, auditor"))).to_be_visible()
    expect(theirs).to_have_title(re.compile("Sign in"), timeout=15_000)
    theirs.context.close()
    theirs = desk.signs_in("dr.reader")
    assert "Audit" in offered(theirs)
    theirs.context.close()

    page.get_by_role("button", name="Roles of admin").click()
    for role in ("privacy", "admin"):
        dialog.get_by_role("checkbox", name=role).click()
    dialog.get_by_role("button", name="Change the roles").click()
    expect(page.get_by_text("this is the last administrator")).to_be_visible()
    page.context.close()


def test_who_is_sent_away_is_out_on_the_page_that_is_open(desk):
    theirs = desk.signs_in("dr.reader")
    theirs.get_by_role("heading", name="Today").wait_for()
    page = desk.signs_in("admin")
    page.goto(desk.url + "/users")
    page.get_by_role("button", name="Disable dr.reader").click()
    page.get_by_role("button", name="Disable", exact=True).click()

    expect(page.get_by_role("row", name=re.compile("dr.reader.*disabled"))).to_be_visible()
    expect(theirs).to_have_title(re.compile("Sign in"), timeout=15_000)
    theirs.context.close()
    page.context.close()


def test_the_auditor_finds_what_happened_and_that_nobody_altered_it(desk):
    page = desk.signs_in("admin")
    page.get_by_role("link", name="Audit").click()
    page.get_by_label("Who (a part of it)").fill("dr.reader")
    page.get_by_label("Event", exact=True).click()
    page.get_by_role("option", name="User Authentication").click()
    page.get_by_role("button", name="Find").click()

    expect(page).to_have_url(re.compile("who=dr.reader"))
    expect(page.get_by_role("cell", name="signed in").first).to_be_visible()
    assert {cell.inner_text() for cell in page.locator("tbody tr td:nth-child(4)").all()} == {"user:dr.reader"}
    page.get_by_role("button", name="Verify the chain").click()
    expect(page.get_by_text("The chain is whole")).to_be_visible()
    looked_at(page, "audit")
    with page.expect_download() as given:
        page.get_by_role("link", name="Export as JSON").click()
    assert all('"who": "user:dr.reader"' in line for line in Path(given.value.path()).read_text().splitlines())
    page.context.close()


def test_who_presses_twice_does_it_once(desk):
    page = desk.signs_in("admin")
    page.goto(desk.url + "/users")
    page.get_by_label("Name", exact=True).fill("dr.twice")
    page.get_by_role("button", name="Add").dblclick()

    page.get_by_role("button", name="Done").click()
    page.get_by_role("button", name="New password for dr.twice").click()
    page.get_by_role("dialog").get_by_role("button", name="New password").dblclick()
    expect(page.locator(".one-time")).to_have_count(1)
    page.get_by_role("button", name="Done").click()
    page.goto(desk.url + "/audit?who=user:admin")
    expect(page.get_by_role("cell", name="user dr.twice reset", exact=True)).to_have_count(1)
    expect(page.get_by_role("cell", name=re.compile("^user dr.twice added"))).to_have_count(1)
    page.context.close()


def test_a_record_that_was_altered_is_named_and_shown(desk):
    ledger = sqlite3.connect(desk.node.data / "clean" / "ledger.sqlite", timeout=60)
    with ledger:
        [(seq,)] = ledger.execute("SELECT min(seq) FROM audit WHERE event LIKE '%dr.reader%'")
        ledger.execute("UPDATE audit SET event = replace(event, 'dr.reader', 'nobody') WHERE seq = ?", (seq,))
    ledger.close()
    page = desk.signs_in("admin")
    page.goto(desk.url + "/audit")
    page.get_by_role("button", name="Verify the chain").click()

    expect(page.get_by_text(f"The chain is BROKEN at record {seq}: altered")).to_be_visible()
    page.get_by_role("link", name="Show it").click()
    expect(page.locator("tbody tr").first.locator("td").first).to_have_text(str(seq))
    page.context.close()


def test_light_and_dark_are_remembered(desk):
    page = desk.signs_in("admin")
    page.get_by_role("button", name="Light or dark").click()
    expect(page.locator("body")).to_have_class(re.compile("body--dark"))

    page.reload()
    expect(page.locator("body")).to_have_class(re.compile("body--dark"))
    page.context.close()


def test_the_keyboard_alone_gets_to_the_content(desk):
    page = desk.signs_in("admin")
    page.get_by_role("heading", name="Today").wait_for()
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.innerText || document.activeElement.getAttribute('aria-label')").split("\n")[-1]
        )

    assert "Skip to the content" in reached
    assert {"Today", "Audit", "Users", "Sign out"} <= set(reached)
    page.context.close()


def test_nothing_was_asked_of_another_host_and_no_policy_was_broken(desk):
    assert desk.hosts == {urlsplit(desk.url).netloc}
    assert desk.complaints == []
