"""Rules, models and destinations as an administrator works with them: one node, one browser."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect, sync_playwright

from node.errors import RevisionRefused
from node.identified.deliveries import Deliveries
from node.ledger.tokens import Role
from node.rules.form import form_of, text_of
from node.testing.studies import a_study
from node.web.ui.model_card import as_html, figures
from node.web.ui.rules_form import Sheet, acted, focus_after, range_from, rules_from, words_from
from tests.conftest import need
from tests.rooms.keyboard import tabs_to
from tests.rooms.test_pages import Ward
from tests.rooms.workbench import bundle

WHY = "thin slices read better"
SIZES = ((1280, 800), (1920, 1080))
expect.set_options(timeout=20_000)  # what a page does by itself may wait for a busy machine
PICTURES = os.environ.get("RADNODE_TEST_PICTURES", "")  #: a folder: pages are left there as a person sees them
KINDS = {"modality": "words", "slice_thickness_mm": "number", "contrast": "yes or no", "body_part": "words"}


class Office(Ward):
    """The same node with two versions of a pipeline, and an archive that refuses."""

    def opens(self) -> Office:
        bundle(self.folder / "models", "works", "0.9.0")
        super().opens()
        self.home.take_rules_file()
        self.chest = self.site.arrives(*a_study("CT", slices=4, rows=64, patient=1))
        self.site.works_off()
        self.pseudonym = self.home.cards.one(self.chest).pseudonym
        return self


@pytest.fixture(scope="module")
def office(tmp_path_factory) -> Iterator[Office]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=need("chromium", "chromium"), args=["--no-sandbox"])
        office = Office(tmp_path_factory.mktemp("office"), browser).opens()
        yield office
        office.closes()
        browser.close()


def opened(office: Office, path: str, role: Role = Role.ADMIN, **look) -> Page:
    page = office.page(role, **look)
    page.goto(office.url + path)
    page.wait_for_function("() => window.did_handshake")  # a page that came too late to the node is loaded again, and forgets
    return page


def because(page: Page, button: str, why: str = WHY) -> None:
    """The dialog is answered."""
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Why?").fill(why)
    dialog.get_by_role("button", name=button, exact=True).click()


def yaml_of(page: Page) -> Locator:
    return page.get_by_label("The rules as YAML")


def holding(piece: str) -> re.Pattern[str]:
    return re.compile(re.escape(piece))


def changes(office: Office) -> list[str]:
    """What the audit trail says was changed, the latest last."""
    return [str(one.get("what")) for one in office.home.trail.tail(200)]


# --- rules ----------------------------------------------------------------------------------------------------------------
def test_a_rule_is_changed_in_the_form_tried_published_and_rolled_back(office):
    book = office.home.rule_book
    first = book.active().number
    page = opened(office, "/rules")
    expect(yaml_of(page)).to_have_value(book.active().text)

    page.locator("details.rule").first.locator("input[name='r0.name']").fill("thin chest CT")
    page.get_by_label("Add a condition to: All of these").first.select_option("slice_thickness_mm")
    expect(yaml_of(page)).to_have_value(holding("slice_thickness_mm: {}"))
    expect(page.locator(".problems")).to_contain_text("column")
    expect(page.get_by_label("slice_thickness_mm from")).to_be_focused()
    page.get_by_label("slice_thickness_mm to").fill("0.1")
    page.get_by_label("slice_thickness_mm to").press("Tab")
    expect(yaml_of(page)).to_have_value(holding("max: 0.1"))
    expect(page.locator(".problems")).to_contain_text("valid")

    page.get_by_label("Pseudonym or clean UID").fill(office.pseudonym)
    page.get_by_role("button", name="Try", exact=True).click()
    expect(page.get_by_role("table", name="Rule thin chest CT")).to_contain_text("is not at most 0.1")
    expect(page.get_by_role("table", name="Rule thin chest CT")).to_contain_text("modality CT is one of CT")
    page.get_by_role("button", name="Replay").click()
    expect(page.get_by_text("1 fewer; here they are")).to_be_visible()

    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_role("dialog")).to_contain_text("1 added, 1 removed")
    because(page, "Publish")
    expect(page.get_by_label("Rules in force")).to_contain_text(f"Revision {first + 1}")
    assert "max: 0.1" in book.active().text
    assert (book.active().who, book.active().reason) == ("user:a-admin", WHY)

    page.get_by_role("button", name=f"Roll back to {first}").click()
    because(page, f"Roll back to {first}")
    expect(page.get_by_label("Rules in force")).to_contain_text(f"Revision {first + 2}")
    assert book.active().text == book.get(first).text
    assert f"rules {first + 2}: rolled back to {first}" in changes(office)


def test_a_rule_is_changed_and_published_by_the_keyboard_alone(office):
    book = office.home.rule_book
    first = book.active().number
    page = opened(office, "/rules")
    expect(yaml_of(page)).to_have_value(book.active().text)
    tabs_to(page, "The rules as YAML")
    page.keyboard.press("Control+End")
    page.keyboard.type("# by the keyboard\n")
    expect(page.get_by_label("Rules in force")).to_contain_text("Changed, made from")

    tabs_to(page, "Publish", key="Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Why?")).to_be_focused()
    page.keyboard.type(WHY)
    tabs_to(page, "Publish", most=5)
    page.keyboard.press("Enter")
    expect(page.get_by_label("Rules in force")).to_contain_text(f"Revision {first + 1}")

    tabs_to(page, f"Roll back to {first}")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Why?")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert book.active().text.endswith("# by the keyboard\n")


def test_a_rule_waits_for_another_one_and_for_what_it_found(office):
    page = opened(office, "/rules")
    first, second = page.locator("details.rule").first, page.locator("details.rule").nth(1)
    expect(first.get_by_role("group", name="When the jobs of these rules have ended")).to_have_count(0)
    waits = second.get_by_role("group", name="When the jobs of these rules have ended")

    waits.get_by_label("chest CT").check()
    expect(yaml_of(page)).to_have_value(holding("after: chest CT"))
    second.get_by_role("button", name="Only if they found …").click()
    found = second.get_by_role("group", name="Only if they found: 1")
    expect(found.get_by_label("Present")).to_have_value("yes")
    found.get_by_label("Finding").fill("lesion")
    found.get_by_label("Probability from").fill("0.7")
    found.get_by_label("Probability from").press("Tab")
    expect(yaml_of(page)).to_have_value(re.compile('{finding: "?lesion"?, present: true, probability: {min: 0.7}}'))
    expect(page.locator(".problems")).to_contain_text("valid")

    first.locator("input[name='r0.name']").fill("thin chest CT")  # who waits for it waits for it still
    first.locator("input[name='r0.name']").press("Tab")
    expect(yaml_of(page)).to_have_value(holding("after: thin chest CT"))
    expect(waits.get_by_label("thin chest CT")).to_be_checked()
    second.get_by_label("Priority").select_option("stat")
    expect(yaml_of(page)).to_have_value(holding("after: thin chest CT"))
    expect(page.locator(".problems")).to_contain_text("valid")

    text = yaml_of(page).input_value()
    yaml_of(page).fill(text.replace("after: thin chest CT", "after: [thin chest CT, nobody]"))
    expect(waits.get_by_label("nobody")).to_be_checked()
    expect(page.locator(".problems")).to_contain_text("is no rule above this one")
    waits.get_by_label("nobody").uncheck()
    expect(page.locator(".problems")).to_contain_text("valid")
    if PICTURES:
        page.screenshot(path=f"{PICTURES}/rules-after.png", full_page=True)
    second.get_by_role("button", name="Remove: only if they found 1").click()
    waits.get_by_label("thin chest CT").uncheck()
    expect(yaml_of(page)).not_to_have_value(re.compile("after|if_found"))


def test_a_typing_error_is_named_with_its_line_and_the_form_waits(office):
    page = opened(office, "/rules")
    yaml_of(page).fill("rules:\n  - name: x\n    when: {modality: CT}\n    run: nothing\n")
    expect(page.locator(".problems")).to_contain_text("line 4, column 10")
    expect(page.locator(".numbers .bad")).to_have_text("4")
    expect(page.locator("input[name='r0.name']")).to_have_value("x")

    yaml_of(page).fill("rules: [")
    expect(page.get_by_text("The form is back")).to_be_visible()
    page.get_by_role("button", name="Take back all changes").click()
    expect(page.locator(".problems")).to_contain_text("valid")


def test_two_at_once_are_told_and_nothing_is_lost(office):
    book = office.home.rule_book
    page = opened(office, "/rules")
    mine = book.active().text + "# mine\n"
    yaml_of(page).fill(mine)
    expect(page.get_by_label("Rules in force")).to_contain_text("Changed, made from")
    other = book.publish(book.active().text + "# theirs\n", who="os:other", reason="a word of theirs")

    page.get_by_role("button", name="Publish").click()
    because(page, "Publish")
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text(f"revision {other.number} by os:other is active now")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(yaml_of(page)).to_have_value(mine)
    page.get_by_role("button", name="What did it change?").click()
    expect(page.get_by_text("+# theirs")).to_be_visible()
    page.get_by_role("button", name="I saw it").click()
    page.get_by_role("button", name="Publish").click()
    because(page, "Publish")

    expect(page.get_by_label("Rules in force")).to_contain_text(f"Revision {other.number + 1}")
    assert book.active().text == mine


def test_a_draft_is_kept_and_watched_by_the_administrator_and_looked_at_by_others(office):
    book = office.home.rule_book
    page = opened(office, "/rules")
    yaml_of(page).fill("rules: []\n")
    expect(page.get_by_label("Rules in force")).to_contain_text("Changed, made from")
    page.get_by_role("button", name="Save as draft").click()
    because(page, "Save as draft")
    expect(page.get_by_role("dialog")).to_be_hidden()
    draft = book.history()[-1]
    assert draft.text == "rules: []\n"
    expect(page.get_by_role("button", name=f"Open revision {draft.number}", exact=True)).to_be_visible()
    page.get_by_role("button", name="Watch", exact=True).click()
    because(page, "Watch")
    expect(page.get_by_label("Watched draft")).to_contain_text("0 differences on 0 studies")
    office.site.arrives(*a_study("CT", slices=2, rows=64, patient=3))
    office.site.works_off()
    otherwise = page.get_by_role("table", name="What the watched draft would have done otherwise")
    expect(otherwise).to_contain_text("fewer")  # the page renews itself

    look = opened(office, "/rules", Role.AUDITOR)
    for name in ("Publish", "Save as draft", "Watch", "Stop watching"):
        expect(look.get_by_role("button", name=name, exact=True)).to_be_disabled()
    assert book.watched().text == "rules: []\n"
    with suppress(RevisionRefused):
        book.stop_watching(who="os:test")


def test_a_hasty_double_click_keeps_one_draft(office):
    kept = sum("draft kept" in what for what in changes(office))
    page = opened(office, "/rules")
    page.get_by_role("button", name="Save as draft").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Why?").fill(WHY)
    dialog.get_by_role("button", name="Save as draft", exact=True).dblclick()

    expect(page.get_by_text("Save as draft: done.")).to_be_visible()
    expect(dialog).to_have_count(0)
    assert sum("draft kept" in what for what in changes(office)) == kept + 1
    page.context.close()


def test_a_proposal_is_approved_by_another_person_than_who_made_it(office, monkeypatch):
    book = office.home.rule_book
    monkeypatch.setattr(book, "_second_person", True)
    text = book.active().text
    mine = book.publish(text + "# mine\n", who="user:a-admin", reason="a word of mine")
    theirs = book.publish(text + "# theirs\n", who="user:another", reason="a word of theirs")
    page = opened(office, "/rules")
    expect(page.get_by_role("button", name=f"Approve {mine.number}")).to_be_disabled()

    page.get_by_role("button", name=f"Approve {theirs.number}").click()
    expect(page.get_by_role("dialog")).to_contain_text("+# theirs")
    because(page, f"Approve {theirs.number}")

    expect(page.get_by_label("Rules in force")).to_contain_text("by user:another, approved by user:a-admin")
    expect(page.get_by_role("button", name=f"Approve {mine.number}")).to_have_count(0)  # made from what is active no more
    assert book.active().number == theirs.number


# --- models ---------------------------------------------------------------------------------------------------------------
def test_a_version_is_promoted_and_rolled_back(office):
    page = opened(office, "/models")
    table = page.get_by_role("table", name="Versions of works")
    row = table.get_by_role("row", name="0.9.0")
    expect(row).to_contain_text("retired")
    expect(page.get_by_role("button", name="Retire raises 1.0.0")).to_be_visible()
    expect(page.get_by_role("button", name="Roll back raises")).to_have_count(0)  # it has one version only

    page.get_by_role("button", name="Promote works 0.9.0").press("Enter")
    because(page, "Promote works 0.9.0")
    expect(row).to_contain_text("active")
    expect(row).to_contain_text(f"user:a-admin: {WHY}")
    page.get_by_role("button", name="Compare two versions of works").click()
    expect(page.get_by_text("No series was read by both 0.9.0 and 1.0.0")).to_be_visible()
    page.get_by_role("button", name="Roll back works").click()
    because(page, "Roll back works")

    expect(row).to_contain_text("retired")
    assert "works: rolled back to 1.0.0" in changes(office)
    look = opened(office, "/models", Role.RADIOLOGIST)
    expect(look.get_by_role("button", name="Promote works 0.9.0")).to_be_disabled()


# --- destinations ---------------------------------------------------------------------------------------------------------
def test_a_dead_letter_is_replayed_by_hand(office):
    page = opened(office, "/destinations", Role.INTEGRATOR)
    letters = page.get_by_role("table", name="Dead letters")
    expect(letters).to_contain_text("Not a directory")
    page.get_by_role("button", name="Echo archive").click()
    expect(page.get_by_text("no answer")).to_be_visible()
    (office.folder / "archive").unlink()
    page.get_by_role("button", name="Echo archive").click()
    expect(page.get_by_text("answers", exact=True)).to_be_visible()
    before = letters.locator("tbody tr").count()

    letters.get_by_role("button").first.click()
    because(page, page.get_by_role("dialog").get_by_role("heading").inner_text(), "the disk was put back")
    expect(letters.locator("tbody tr")).to_have_count(before - 1)
    page.get_by_role("button", name="Send all again").click()
    because(page, f"Send all again ({before - 1})", "the disk was put back")
    expect(page.get_by_text("Nothing was refused.")).to_be_visible()
    office.home.outbox.send_due()

    assert office.home.deliveries.counts()["archive"]["REFUSED"] == 0
    assert changes(office).count("delivery queued again") == before
    expect(page.get_by_role("table", name="Sources")).to_contain_text("a folder")
    look = opened(office, "/destinations", Role.AUDITOR)
    expect(look.get_by_role("button", name="Echo archive")).to_be_disabled()


def fill_in(page: Page, study: str) -> None:
    """Everything that a form can hold, and an answer below it."""
    page.get_by_role("button", name="Send on by finding").first.click()
    page.get_by_role("button", name="Add a group: none of").first.click()
    page.get_by_label("Add a condition to: None of these groups").select_option("contrast")
    page.get_by_label("Add a condition to: All of these").first.select_option("slice_count")
    expect(page.get_by_label("slice_count from")).to_be_visible()
    expect(page.locator(".problems")).to_contain_text("column")
    page.get_by_role("button", name="Take back all changes").click()
    page.get_by_label("Pseudonym or clean UID").fill(study)
    page.get_by_label("Pseudonym or clean UID").press("Enter")
    expect(page.get_by_role("table", name="Rule chest CT")).to_be_visible()
    page.get_by_role("button", name="Send on by finding").first.click()
    page.get_by_role("button", name="Add a group: none of").first.click()
    expect(page.get_by_label("Present")).to_be_visible()


# --- all of them ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("look", ["light", "dark"])
def test_nothing_keeps_anybody_out_and_nothing_is_cut_off(office, look):
    for width, height in SIZES:
        page = office.page(look=look, width=width, height=height)
        for path in ("/rules", "/models", "/destinations"):
            page.goto(office.url + path)
            page.get_by_role("table").first.wait_for()
            if path == "/rules":
                fill_in(page, office.pseudonym)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
            if width == SIZES[0][0]:
                found = Axe().run(page).response["violations"]
                bad = [
                    (one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found if one["impact"] in ("serious", "critical")
                ]
                assert bad == [], path
        page.context.close()
    assert office.strangers == []


# --- the form, without a browser --------------------------------------------------------------------------------------------
TEXT = """\
rules:
  - name: chest CT        # all of them
    when: {modality: CT, slice_thickness_mm: {max: 3}}   # thin
    any_of:
      - body_part: [CHEST, THORAX]
    run: works
    send_to: [pacs]
"""


def fields(rules: list) -> list[tuple[str, str]]:
    """What a browser would send of a form in which nobody changed anything."""
    return [
        ("r0.name", "chest CT"),
        ("r0.when.modality", "CT"),
        ("r0.when.slice_thickness_mm.min", ""),
        ("r0.when.slice_thickness_mm.max", "3"),
        ("r0.any_of.0.body_part", "CHEST, THORAX"),
        ("r0.run?", "1"),
        ("r0.run", "works"),
        ("r0.send_to?", "1"),
        ("r0.send_to", "pacs"),
        ("r0.series", "all"),
        ("r0.priority", "routine"),
        ("r0.between", ""),
    ]


def test_an_echo_that_can_not_be_written_down_is_not_sent_and_the_page_says_so(office, monkeypatch):
    def fails(_events):
        raise OSError("no space left")

    page = opened(office, "/destinations")
    asked = []
    monkeypatch.setattr(office.home.trail, "record_all", fails)
    monkeypatch.setattr(Deliveries, "echo", lambda *_: asked.append(1))
    page.get_by_role("button", name="Echo archive").click()

    expect(page.get_by_text("What can't be written into the audit trail isn't done")).to_be_visible()
    assert asked == []


def test_a_form_that_nobody_changed_leaves_the_text_as_it_is():
    rules = form_of(TEXT)["rules"]

    assert text_of({"rules": rules_from(fields(rules), rules, KINDS)}, TEXT) == TEXT


def test_what_was_changed_in_a_field_is_all_that_changes_in_the_text():
    rules = form_of(TEXT)["rules"]
    changed = [
        (name, {"r0.when.slice_thickness_mm.max": "2.5", "r0.between": "20:00-06:00", "r0.name": "thin chest CT"}.get(name, value))
        for name, value in fields(rules)
    ] + [("r0.send_to", "ward")]

    text = text_of({"rules": rules_from(changed, rules, KINDS)}, TEXT)

    assert "# all of them" in text
    assert "# thin" in text
    [rule] = form_of(text)["rules"]
    assert rule["when"] == {"modality": "CT", "slice_thickness_mm": {"max": 2.5}}
    assert (rule["name"], rule["between"], rule["send_to"], rule["run"]) == ("thin chest CT", "20:00-06:00", ["pacs", "ward"], "works")


ORDERED = """\
rules:
  - {name: "chest, CT", when: {modality: CT}, run: works}
  - name: head
    when: {modality: MR}
    any_of: {body_part: HEAD}      # the only group
    run: raises
    after: ["chest, CT"]           # the lungs first
    if_found: {finding: lesion, probability: {min: 0.5}}
"""


def ordered(**changed: str) -> list[tuple[str, str]]:
    """What a browser would send of that form."""
    told = {"r0.name": "chest, CT", "r1.name": "head", "r1.any_of.0.body_part": "HEAD", "r1.after?": "1", "r1.after": "#0"}
    told |= {"r1.if_found.0.finding": "lesion", "r1.if_found.0.min": "0.5", "r1.if_found.0.max": "", "r1.if_found.0.present": ""}
    return [(name, changed.get(name, value)) for name, value in told.items() if changed.get(name) != "gone"]


def test_what_a_rule_waits_for_stays_as_it_is_written_until_somebody_changes_it():
    rules = form_of(ORDERED)["rules"]

    def text(**changed: str) -> str:
        return text_of({"rules": rules_from(ordered(**changed), rules, {"body_part": "words"})}, ORDERED)

    assert text() == ORDERED
    assert form_of(text(**{"r0.name": "chest"}))["rules"][1]["after"] == ["chest"]
    assert "# the lungs first" in text(**{"r0.name": "chest"})
    assert form_of(text(**{"r1.if_found.0.present": "no"}))["rules"][1]["if_found"]["present"] is False
    assert form_of(text(**{"r1.any_of.0.body_part": "HEAD, NECK"}))["rules"][1]["any_of"] == {"body_part": ["HEAD", "NECK"]}
    assert "after" not in form_of(text(**{"r1.after": "gone"}))["rules"][1]


def test_a_single_group_gets_company_as_a_list():
    rules = form_of(ORDERED)["rules"]

    after = acted(rules, ["put", [1, "if_found"], {"finding": "other"}], KINDS)
    assert [one["finding"] for one in after[1]["if_found"]] == ["lesion", "other"]
    assert "if_found" not in acted(rules, ["drop", [1, "if_found", 0]], KINDS)[1]
    assert acted(rules, ["condition", [1, "any_of", 0], "modality"], KINDS)[1]["any_of"] == [{"body_part": "HEAD", "modality": ""}]


def test_buttons_change_the_rules_and_an_odd_one_changes_nothing():
    rules = form_of(TEXT)["rules"]

    assert acted(rules, ["condition", [0, "when"], "contrast"], KINDS)[0]["when"]["contrast"] is True
    assert "any_of" not in acted(rules, ["drop", [0, "any_of", 0]], KINDS)[0]
    assert acted(rules, ["put", [0, "none_of"], {}], KINDS)[0]["none_of"] == [{}]
    assert [rule["name"] for rule in acted(acted(rules, ["add"], KINDS), ["move", 1, 0], KINDS)] == ["new rule", "chest CT"]
    for odd in (
        None,
        [],
        ["drop", [9]],
        ["drop", []],
        ["move", 0, 7],
        ["condition", [0, "when"], "nobody"],
        ["put", [0, "name"], 1],
        "x",
        ["?"],
    ):
        assert acted(rules, odd, KINDS) == rules


@pytest.mark.parametrize(
    ("act", "where"),
    [
        (["condition", [1, "any_of", 0], "modality"], '[name^="r1.any_of.0.modality"]'),
        (["add"], "nth-of-type(3)"),
        (["move", 0, 1], "nth-of-type(2)"),
        (["open", 2], "nth-of-type(3)"),
        (["drop", [2]], "nth-of-type(3)"),
        (["put", [0, "send_if"], {}], "nth-of-type(1)"),
        (["?"], "button"),
        (None, "button"),
    ],
)
def test_after_a_button_the_keyboard_goes_on_where_it_was(act, where):
    assert where in focus_after(act, 3)


def test_of_many_rules_those_that_lie_closed_have_no_fields_and_stay_as_they_are():
    many = [{"name": str(n), "when": {"modality": "CT", "contrast": False}, "run": ["a", "b"], "send_to": "pacs"} for n in range(31)]
    sheet = Sheet({"conditions": {}, "pipelines": {}, "destinations": [], "priority": ["routine"], "series": ["all"]})
    html = sheet.html(many, [False, True])

    assert "r1.name" in html
    assert "r2.name" not in html
    assert rules_from([("r1.name", "one")], many, KINDS) == [
        {**rule, **({"name": "one", "was": "1"} if rule["name"] == "1" else {})} for rule in many
    ]
    assert acted(many, ["open", 2], KINDS) == many


def test_a_value_that_a_field_can_t_say_is_left_to_the_yaml():
    sheet = Sheet(
        {
            "conditions": {"modality": {"kind": "words"}},
            "pipelines": {},
            "destinations": [],
            "priority": ["routine"],
            "series": ["all"],
        }
    )
    html = sheet.html([{"name": "<b>x</b>", "when": {"modality": [["CT"]]}, "any_of": 3, "run": {}, "send_if": "x"}], [])

    assert html.count("is changed in the YAML") == 4
    assert "<b>" not in html
    assert (words_from("CT, MR,"), words_from(" CT "), range_from("3", "3"), range_from("1", "x")) == (
        ["CT", "MR"],
        "CT",
        3,
        {"min": 1, "max": "x"},
    )


def test_the_figures_of_a_card_are_text_whatever_they_hold():
    card = "# A\n\n## Data\nno\n\n## Figures\nOn **9** images.\n\n| | <i> |\n|---|---|\n| Dice | 0.7 |\n\n- one\n  more\n- two\n\n## Limits\nno\n"
    html = as_html(figures(card), caption="Figures")

    assert "On 9 images." in html
    assert "<td>0.7</td>" in html
    assert "<i>" not in html
    assert html.count("<li>") == 2
    assert "no" not in figures(card)
    assert figures("# nothing") == ""


def test_a_long_table_of_figures_shows_its_first_rows_and_keeps_the_rest():
    rows = "".join(f"| row {number} | 0.{number} |\n" for number in range(1, 10))
    shown, folded = as_html(f"|set|AUC|\n|---|---|\n{rows}\nRemarks.", caption="Figures").split("<details", 1)

    assert [f"row {number}<" in shown for number in range(1, 10)] == [True] * 6 + [False] * 3
    assert [f"row {number}<" in folded for number in range(1, 10)] == [False] * 6 + [True] * 3
    assert "Remarks." in folded
    assert folded.count(">AUC<") == 1


def test_on_a_telephone_one_thing_stands_below_the_other(office):
    page = office.page(width=390, height=844)
    for path in ("/", "/studies", "/rules", "/models", "/destinations", "/audit", "/users", f"/studies/{office.chest}"):
        page.goto(office.url + path)
        page.get_by_role("table").first.wait_for(state="attached")
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
