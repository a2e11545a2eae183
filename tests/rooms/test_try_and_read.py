"""*Try it* and the reading page as people use them: one node with its real models, one browser, one phantom that went the whole way."""

from __future__ import annotations

import io
import os
import re
import zipfile
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, Route, expect, sync_playwright
from pydicom import Dataset

from node.annotations.drawn import Drawn, answers, proposals
from node.annotations.examples import gather
from node.assembly import now
from node.domain import VerdictSource
from node.errors import VerdictRefused
from node.gateway import Gateway
from node.ledger.reading_links import ReadingLinks
from node.ledger.tokens import Role
from node.runners.inline import InlineRunner
from node.testing.phantom_breast_ultrasound import breast_ultrasound
from node.testing.studies import a_study, write_study
from tests.conftest import need
from tests.rooms.keyboard import tabs_to
from tests.rooms.upload_desk import Desk, part10, zipped

PICTURES = os.environ.get("RADNODE_TEST_PICTURES", "")  #: a folder: every page is left there as a person sees it
RULES = "rules:\n- {name: breast, when: {modality: US}, run: breast_ultrasound, send_to: archive}\n"


class Clinic(Desk):
    """A desk with a browser, people, and the result of one study."""

    def _inline(self, queue: Any, results: Path) -> InlineRunner:
        """The model in this process, to spare a second one; workers are tried in `test_predict.py`."""
        home = self.house
        return InlineRunner(queue, clean_folder=home.clean, results_folder=results, bundles_dir=home.settings.bundles_dir)

    def analyses(self, folder: Path, *others: Sequence[Dataset]) -> None:
        """Phantoms come in by folder and go the whole way; the first is the one that `study` and `job` name."""
        self.house.runner_for = self._inline  # type: ignore[method-assign]
        datasets = a_study("US", patient=2, kind="malignant")
        for number, one in enumerate((datasets, *others)):
            write_study(one, folder / "in" / str(number))
        self.house.take_folder(folder / "in")
        self.study = self.house.clean_uids.of(str(datasets[0].StudyInstanceUID))
        gateway = Gateway(self.house)
        while gateway.settle():
            pass
        with self._inline(self.house.jobs, self.house.results) as runner:
            runner.run_waiting()
        gateway.hand_over()
        gateway.follow()
        [job] = self.house.jobs.of_study(self.study)
        self.job = job.id

    def signed_in(self, role: Role, look: str = "light") -> Page:
        name, sessions = f"a-{role}-{look}", self.house.reception.sessions
        if self.house.reception.people.find(name) is None:
            given = self.house.reception.add(name, role, who="os:test")
            self.house.reception.change_password(name, given, "four words in a row")
        session = sessions.open(name)
        return self.window({"radnode": session, "radnode_look": look})

    def window(self, cookies: dict[str, str] | None = None) -> Page:
        """A browser of its own."""
        context = self.browser.new_context(viewport={"width": 1280, "height": 900})
        context.add_cookies([{"name": name, "value": value, "url": self.url} for name, value in (cookies or {}).items()])
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda why: self.complaints.append(str(why)))
        return page


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    folder = tmp_path_factory.mktemp("clinic")
    (folder / "rules.yaml").write_text(RULES)

    clinic = Clinic(
        folder,
        rules=folder / "rules.yaml",
        intake={"settle_after_s": 0, "min_free_mb": 0},
        deidentification={"text_detection": "off"},
        destinations={"archive": {"kind": "folder", "path": str(folder / "archive")}},
        web={"max_upload_mb": 8},
    )
    clinic.complaints = []
    clinic.analyses(folder)
    with sync_playwright() as playwright:
        clinic.browser = playwright.chromium.launch(executable_path=need("chromium", "chromium"), args=["--no-sandbox"])
        yield clinic
        clinic.browser.close()
    clinic.close()


def looked_at(page: Page, name: str, look: str = "light") -> None:
    """Nothing of this page keeps anybody out (axe-core), and it fits its window."""
    for width in (1920, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        if PICTURES:
            page.wait_for_timeout(300)
            page.screenshot(path=str(Path(PICTURES) / f"{name}-{look}-{width}.png"), full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{name} is wider than its window"
    found = Axe().run(page).response["violations"]
    grave = [(one["id"], [node["html"][:160] for node in one["nodes"]]) for one in found if one["impact"] in {"serious", "critical"}]
    assert grave == [], name


def a_picture() -> bytes:
    out = io.BytesIO()
    Image.fromarray(breast_ultrasound("malignant").pixels).save(out, "PNG")
    return out.getvalue()


def a_bomb() -> bytes:
    """A small zip that is large when it is unpacked."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.dcm", bytes(128) + b"DICM" + bytes(16 << 20))
    return out.getvalue()


def chooses(page: Page, name: str, content: bytes, kind: str = "application/octet-stream") -> None:
    page.locator("input[type=file]").set_input_files({"name": name, "mimeType": kind, "buffer": content})


def drops(page: Page, name: str, content: bytes, kind: str) -> None:
    """As from a folder's window."""
    carried = page.evaluate_handle(
        """([text, name, type]) => {
          const carried = new DataTransfer();
          carried.items.add(new File([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], name, { type }));
          return carried;
        }""",
        [b64encode(content).decode(), name, kind],
    )
    page.dispatch_event(".drop", "drop", {"dataTransfer": carried})


# --- try it -------------------------------------------------------------------------------------------------------------------
def test_a_picture_becomes_a_heat_map_in_three_clicks_and_is_gone(clinic: Clinic) -> None:
    page = clinic.signed_in(Role.RADIOLOGIST)
    page.goto(clinic.url + "/try")
    expect(page.locator("input[type=file]")).to_have_count(0)
    looked_at(page, "try-terms")

    page.get_by_role("button", name="I accept").click()
    drops(page, "Duck Donald.png", a_picture(), "image/png")
    expect(page.get_by_text("1 file, ")).to_be_visible()
    page.get_by_role("button", name="Analyse").click()
    expect(page.get_by_role("alert")).to_have_text("A picture does not say what it shows: name the pipeline.")
    page.get_by_label("Pipeline").select_option("breast_ultrasound")
    page.get_by_role("button", name="Analyse").click()

    found = page.get_by_role("region", name="Result")
    expect(found.get_by_role("heading", level=2)).to_contain_text("%", timeout=120_000)
    expect(found.get_by_role("rowheader")).to_contain_text(["normal", "benign", "malignant"])
    picture = found.get_by_role("img")
    assert picture.evaluate("one => one.decode().then(() => one.naturalWidth)") > 200
    assert clinic.left() == []
    assert clinic.house.trail.tail(50)[-1]["who"] == "user:a-radiologist-light"
    assert not any(b"Duck" in path.read_bytes() for path in clinic.house.clean.rglob("*") if path.is_file())
    looked_at(page, "try-found")

    chooses(page, "a.dcm", b"no picture at all")
    page.get_by_role("button", name="Analyse").click()
    expect(page.get_by_role("alert")).to_contain_text("of no kind that is taken")
    chooses(page, "a.zip", a_bomb())
    page.get_by_role("button", name="Analyse").click()
    expect(page.get_by_role("alert")).to_contain_text("Unpacked the upload is larger than 8 MB")
    chooses(page, "a.dcm", bytes(9 << 20))
    page.get_by_role("button", name="Analyse").click()
    expect(page.get_by_role("alert")).to_contain_text("larger than 8 MB")
    page.get_by_label("Pipeline").select_option("covid_ct")
    chooses(page, "a.png", a_picture(), "image/png")
    page.get_by_role("button", name="Analyse").press("Enter")
    expect(found.get_by_role("heading", level=2)).to_have_text("Not analysed")
    expect(found).to_contain_text("A plain picture holds no Hounsfield units")
    assert clinic.left() == []
    looked_at(page, "try-not-analysed")

    page.get_by_label("Pipeline").select_option("The rules choose")
    page.get_by_text("What is known of the patient").click()
    page.get_by_label("Age, years").fill("61")
    chooses(page, "a.zip", zipped(part10(a_study("US", patient=3, kind="benign"))), "application/zip")
    page.get_by_role("button", name="Analyse").click()
    expect(found).to_contain_text("chosen by the rule “breast”")
    assert clinic.left() == []

    page.reload()  # accepted for the session: two clicks
    expect(page.get_by_role("button", name="Analyse")).to_be_disabled()
    page.context.close()
    clinic.complaints.clear()  # of the uploads that were refused


def test_what_is_nearly_sure_is_not_said_to_be_sure(clinic: Clinic) -> None:
    def surer(route: Route) -> None:
        answer = route.fetch()
        said = answer.json()
        said["prediction"]["confidence"] = 0.9996
        for one, probability in zip(said["prediction"]["findings"], (0.99996, 0.00001, 0.25), strict=True):
            one["probability"] = probability
        route.fulfill(response=answer, json=said)

    page = clinic.signed_in(Role.RADIOLOGIST)
    page.route("**/try/upload*", surer)
    page.goto(clinic.url + "/try")
    page.get_by_role("button", name="I accept").click()
    page.get_by_label("Pipeline").select_option("breast_ultrasound")
    chooses(page, "a.png", a_picture(), "image/png")
    page.get_by_role("button", name="Analyse").click()

    found = page.get_by_role("region", name="Result")
    expect(found.get_by_role("heading", level=2)).to_contain_text(", >99 %", timeout=120_000)
    for chance in (">99.9 %", "<0.1 %", "25.0 %"):
        expect(found.get_by_role("cell", name=chance, exact=True)).to_be_visible()
    page.context.close()


def test_a_picture_is_tried_by_the_keyboard_alone(clinic: Clinic) -> None:
    page = clinic.signed_in(Role.INTEGRATOR)
    page.on("filechooser", lambda _: None)  # heard from the start: the browser needs a moment to hand its own window over
    page.goto(clinic.url + "/try")
    page.get_by_role("button", name="I accept").wait_for()
    tabs_to(page, "I accept: research use only")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Analyse").wait_for()
    tabs_to(page, "Choose files")
    with page.expect_file_chooser() as asked:
        page.keyboard.press("Enter")
    asked.value.set_files({"name": "a.png", "mimeType": "image/png", "buffer": a_picture()})
    expect(page.get_by_text("1 file, ")).to_be_visible()
    tabs_to(page, "Pipeline")
    page.keyboard.type("breast")
    tabs_to(page, "Analyse")
    page.keyboard.press("Enter")

    headline = page.get_by_role("region", name="Result").get_by_role("heading", level=2)
    expect(headline).to_contain_text("%", timeout=120_000)
    expect(headline).to_be_focused()  # what a screen reader goes on with
    page.context.close()


def test_nobody_is_told_anything_before_the_terms_are_accepted(clinic: Clinic) -> None:
    answer = clinic.ask("/try/upload", a_picture(), pipeline="breast_ultrasound")

    assert (answer.status_code, answer.json()["detail"][:6]) == (409, "Accept")
    assert clinic.ask("/try/upload", a_picture(), role="auditor").status_code == 403


# --- the reading page -----------------------------------------------------------------------------------------------------------
def test_whoever_holds_a_link_rejects_with_a_reason_and_it_is_counted(clinic: Clinic) -> None:
    page = clinic.window()
    page.goto(f"{clinic.url}/read/{clinic.house.reading_links.make(clinic.job)}")
    expect(page.get_by_role("table", name="Findings of breast_ultrasound")).to_contain_text("malignant")
    expect(page.locator("canvas")).to_have_attribute("data-slice", "0")
    looked_at(page, "read")

    page.get_by_label("Reason").select_option("normal anatomy")
    page.get_by_role("button", name="Reject: malignant").click()

    expect(page.get_by_role("status").first).to_contain_text("Your answer is kept.")
    expect(page.get_by_role("row", name=re.compile("Accept.*rejected by a reader.*normal anatomy"))).to_be_visible()
    page.get_by_label("Missed by the model").select_option("benign")
    page.get_by_role("button", name="Missed").click()
    expect(page.locator("form")).to_contain_text("missed (benign) by a reader")
    looked_at(page, "read-answered")
    page.emulate_media(color_scheme="dark")
    looked_at(page, "read-answered", "dark")
    [rates] = clinic.house.verdicts.rates().values()
    assert (rates.reject, rates.missed, rates.total) == (1, 1, 2)
    assert {one.verdict.source for one in clinic.house.verdicts.heard()} == {VerdictSource.PAGE}
    looks = [one for one in clinic.house.trail.tail(200) if one.get("what") == "the reading page"]
    assert {one["who"][:5] for one in looks} == {"link:"}
    page.context.close()


def test_a_link_to_one_finding_asks_about_that_one_only(clinic: Clinic) -> None:
    told = clinic.house.told_of_job(clinic.job).told
    uids = {one.finding: uid for uid, one in told.items()}
    token = clinic.house.reading_links.make(clinic.job, uids["malignant"])
    with httpx.Client(base_url=clinic.url, headers={"Origin": clinic.url}) as reader:
        shown = reader.get(f"/read/{token}")
        other = reader.post(f"/read/{token}", data={"answer": f"accept:{uids['benign']}"})
        elsewhere = reader.post(f"/read/{token}", data={"answer": f"accept:{uids['malignant']}"}, headers={"Origin": "http://evil"})

    assert "Accept: malignant" in shown.text
    assert "Accept: benign" not in shown.text
    assert (other.status_code, elsewhere.status_code) == (422, 403)
    assert "The link is for another finding." in other.text


def test_a_form_that_is_sent_twice_says_what_was_missed_once(clinic: Clinic) -> None:
    """As with a double click: the page has no script that would stop it."""
    token = clinic.house.reading_links.make(clinic.job)
    before = len(clinic.house.verdicts.heard())
    with httpx.Client(base_url=clinic.url, headers={"Origin": clinic.url}) as reader:
        first, second = (re.search(r'name="form" value="(\w+)"', reader.get(f"/read/{token}").text)[1] for _ in range(2))
        for form, words in ((first, ""), (first, ""), (first, "a large one"), (second, "")):
            kept = reader.post(f"/read/{token}", data={"answer": "missed:", "missed": "benign", "words": words, "form": form})
            assert kept.status_code == 303

    assert len(clinic.house.verdicts.heard()) == before + 3


def test_a_forged_or_expired_link_opens_nothing_and_says_so(clinic: Clinic) -> None:
    good = clinic.house.reading_links.make(clinic.job)
    old = ReadingLinks(clinic.house.keyring.site_key("reading links"), clock=now, lasts=timedelta(0)).make(clinic.job)
    before = len(clinic.house.verdicts.heard())
    page = clinic.window()
    for token, why in ((good[:-2] + "AA", "It was not made here, or was altered."), (old, "It has run out.")):
        assert page.goto(f"{clinic.url}/read/{token}").status == 403
        expect(page.get_by_role("alert")).to_have_text(why)
        assert httpx.get(f"{clinic.url}/read/{token}/pictures/slices/0.png").status_code == 403
        assert httpx.post(f"{clinic.url}/read/{token}", data={"answer": "accept:"}, headers={"Origin": clinic.url}).status_code == 403

    looked_at(page, "read-closed")
    assert len(clinic.house.verdicts.heard()) == before
    assert httpx.get(f"{clinic.url}/pictures/{clinic.job}/slices/0.png").status_code == 401
    page.context.close()
    clinic.complaints.clear()


def test_the_story_of_the_study_takes_the_same_click(clinic: Clinic) -> None:
    page = clinic.signed_in(Role.RADIOLOGIST, "dark")
    page.goto(f"{clinic.url}/studies/{clinic.study}")
    page.get_by_role("button", name="Accept: malignant").click()

    expect(page.get_by_role("row", name=re.compile("Accept.*accepted by you"))).to_be_visible()
    expect(page).to_have_url(re.compile(f"/studies/{clinic.study}"))
    looked_at(page, "story-answered", "dark")
    [rates] = clinic.house.verdicts.rates().values()
    assert (rates.accept, rates.reject) == (1, 1)
    page.context.close()


# --- labelling ------------------------------------------------------------------------------------------------------------------
def test_a_drawing_says_what_became_of_each_proposal(clinic: Clinic) -> None:
    ours = clinic.house.told_of_job(clinic.job)
    [place] = clinic.house.light_box.places(clinic.job)
    sizes = {place.image: (place.rows, place.columns)}
    [first] = proposals(ours, clinic.job, sizes)
    corner = ((1.0, 1.0), (9.0, 1.0), (9.0, 9.0), (1.0, 9.0))
    new = replace(first, uid="", finding="", outline=corner)

    def said(*drawn: Drawn) -> list[tuple[str, bool]]:
        return [(str(one.opinion), one.region is not None) for one in answers(clinic.job, [first], drawn, sizes, "")]

    assert first.finding == "malignant"
    assert said(first) == [("accept", False)]
    assert said() == [("reject", False)]
    assert said(replace(first, outline=corner), new) == [("modify", True), ("missed", True)]
    assert said(first, replace(new, uid=first.uid)) == [("modify", True), ("missed", True)]
    for wrong in (corner[:2], ((0.0, 0.0), (1e9, 0.0), (0.0, 5.0)), ((1.0, 1.0),) * 3):
        with pytest.raises(VerdictRefused):
            said(replace(new, outline=wrong))


def test_a_finding_that_was_missed_somewhere_is_there_without_a_mask(clinic: Clinic) -> None:
    [example] = gather(clinic.house.verdicts.heard(), clinic.house.told).examples

    benign = example.labels["benign"]
    assert (benign.present, benign.mask) == (True, None)


def test_a_proposal_is_moved_by_keyboard_and_a_box_is_drawn_and_both_are_exported(clinic: Clinic) -> None:
    page = clinic.signed_in(Role.RADIOLOGIST, "dark")
    page.goto(f"{clinic.url}/label")
    expect(page.get_by_text("No result is uncertain, or all were answered.")).to_be_visible()
    page.goto(f"{clinic.url}/label/{clinic.job}")
    region = page.get_by_role("button", name="Region 1", exact=True)
    for _ in range(3):
        region.press("Control+ArrowRight")
    looked_at(page, "label", "dark")
    drawing = page.locator("svg.drawing")
    page.get_by_role("button", name="Box", exact=True).click()
    drawing.scroll_into_view_if_needed()
    place = drawing.bounding_box()
    page.mouse.move(place["x"] + place["width"] * 0.5, place["y"] + 12)
    page.mouse.down()
    page.mouse.move(place["x"] + place["width"] * 0.5 + 60, place["y"] + 60)
    page.mouse.up()
    box = drawing.locator("polygon").nth(1).get_attribute("points")
    page.get_by_role("button", name="Brush").click()
    page.mouse.move(place["x"] + place["width"] * 0.5 + 30, place["y"] + 40)
    page.mouse.down()
    page.mouse.move(place["x"] + place["width"] * 0.5 + 120, place["y"] + 40, steps=4)
    page.mouse.up()
    painted = drawing.locator("polygon").nth(1).get_attribute("points")
    width = [max(xs) - min(xs) for xs in ([float(one.split(",")[0]) for one in points.split()] for points in (box, painted))]
    assert width[1] > 1.4 * width[0]  # the box and what the brush added to it
    page.get_by_label("Finding of Region 2").select_option("benign")
    expect(page.get_by_text("Save says: 1 modified, 1 missed by the model.")).to_be_visible()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Kept: modify of malignant, missed of benign.")).to_be_visible()
    looked_at(page, "label-kept", "dark")

    drawn = {str(one.verdict.opinion): one.verdict for one in clinic.house.verdicts.heard() if one.verdict.region}
    assert set(drawn) == {"modify", "missed"}
    assert 0.5 < drawn["modify"].dice < 1
    [example] = gather(clinic.house.verdicts.heard(), clinic.house.told).examples
    assert example.labels["malignant"].mask.any()
    page.context.close()


def test_no_page_complained(clinic: Clinic) -> None:
    assert clinic.complaints == []
