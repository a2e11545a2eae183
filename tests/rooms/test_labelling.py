"""The labelling desk as a reader works at it: the least certain result is taken from the list, drawn on, saved, and exported."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import pytest
import yaml
from playwright.sync_api import Locator, Page, expect, sync_playwright
from skimage.draw import polygon2mask

from node.annotations.examples import gather
from node.assessment.outlines import mask_of
from node.domain import Opinion
from node.ledger.tokens import Role
from node.testing.studies import a_study
from tests.conftest import need
from tests.rooms.front_door import radnode
from tests.rooms.test_try_and_read import Clinic, looked_at

RULES = """\
rules:
- {name: breast, when: {modality: US}, run: breast_ultrasound, send_to: archive}
- {name: film, when: {modality: DX}, run: covid_xray, send_to: archive}
"""
Point = tuple[float, float]


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    """A node that has read a film and three breasts, of which it is sure of one."""
    folder = tmp_path_factory.mktemp("clinic")
    (folder / "rules.yaml").write_text(RULES)
    settings = {
        "rules": str(folder / "rules.yaml"),
        "intake": {"settle_after_s": 0, "min_free_mb": 0},
        "deidentification": {"text_detection": "off"},
        "destinations": {"archive": {"kind": "folder", "path": str(folder / "archive")}},
    }
    clinic = Clinic(folder, **settings)
    clinic.config = folder / "radnode.yaml"
    clinic.config.write_text(yaml.safe_dump({"data_dir": str(folder / "data"), **settings}))
    clinic.complaints = []
    clinic.analyses(folder, a_study("US", patient=3, kind="benign"), a_study("US", patient=4, kind="normal"), a_study("DX", patient=5))
    with sync_playwright() as playwright:
        clinic.browser = playwright.chromium.launch(executable_path=need("chromium", "chromium"), args=["--no-sandbox"])
        yield clinic
        clinic.browser.close()
    clinic.close()


class Desk:
    """A hand at the desk: it points at pixels of the image."""

    def __init__(self, page: Page) -> None:
        self.page, self.drawing = page, page.locator("svg.drawing")
        page.wait_for_function("document.querySelector('svg.drawing image')")
        self.drawing.scroll_into_view_if_needed()

    def place(self, point: Point) -> Point:
        """Of a pixel on the screen."""
        at = self.drawing.evaluate(
            "(svg, [x, y]) => { const at = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM()); return [at.x, at.y]; }", list(point)
        )
        return at[0], at[1]

    def takes(self, tool: str) -> None:
        self.page.get_by_role("group", name="Tools").get_by_role("button", name=tool, exact=True).click()

    def clicks(self, *points: Point) -> None:
        for point in points:
            self.page.mouse.click(*self.place(point))

    def strokes(self, start: Point, end: Point) -> None:
        self.page.mouse.move(*self.place(start))
        self.page.mouse.down()
        self.page.mouse.move(*self.place(end), steps=12)
        self.page.mouse.up()

    def regions(self) -> Locator:
        return self.page.locator("ul.regions li")


def filled(corners: Sequence[Point], shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centres lie within, by another library than the node's."""
    return polygon2mask(shape, np.array(corners)[:, ::-1] - 0.5)


def painted(start: Point, end: Point, radius: float, shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centres are within `radius` of a straight stroke."""
    rows, columns = np.indices(shape) + 0.5
    (x, y), (u, v) = start, end
    along = np.clip(((columns - x) * (u - x) + (rows - y) * (v - y)) / ((u - x) ** 2 + (v - y) ** 2), 0, 1)
    return np.hypot(columns - x - along * (u - x), rows - y - along * (v - y)) <= radius


def alike(found: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Dice, and how many times as large."""
    return 2 * (found & wanted).sum() / (found.sum() + wanted.sum()), found.sum() / wanted.sum()


def job_of(clinic: Clinic, label: str) -> str:
    [found] = [job.id for job in clinic.house.jobs.all() if clinic.house.jobs.summary_of(job.id)["label"] == label]
    return found


# --- the list -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("look", ["light", "dark"])
def test_the_list_begins_with_what_the_models_are_least_sure_of(clinic: Clinic, look: str) -> None:
    page = clinic.signed_in(Role.RADIOLOGIST, look)
    page.goto(f"{clinic.url}/label")

    rows = page.get_by_role("table", name="Results worth labelling").get_by_role("row")
    expect(rows).to_have_count(3)  # a head and two: of what is on ultrasound the model is sure
    expect(rows.nth(1)).to_contain_text("covid_xray")
    expect(rows.nth(1)).to_contain_text("threshold")
    expect(page.get_by_text(clinic.job[:12])).to_have_count(0)
    looked_at(page, "label-list", look)
    rows.nth(1).get_by_role("link").click()
    expect(page.locator("svg.drawing")).to_be_visible()
    page.wait_for_load_state("networkidle")
    looked_at(page, "label-film", look)
    page.context.close()


# --- the desk -------------------------------------------------------------------------------------------------------------------
def test_polygon_brush_and_eraser_are_kept_as_they_were_drawn_and_exported(clinic: Clinic) -> None:
    job = job_of(clinic, "benign")
    page = clinic.signed_in(Role.RADIOLOGIST)
    page.goto(f"{clinic.url}/label/{job}")
    desk = Desk(page)
    [place] = clinic.house.light_box.places(job)
    shape, (wide, high) = (place.rows, place.columns), (place.columns, place.rows)
    expect(desk.regions()).to_have_count(1)  # the model's own outline, as a proposal

    corners = [(x * wide, y * high) for x, y in ((0.08, 0.55), (0.22, 0.52), (0.27, 0.7), (0.16, 0.85), (0.06, 0.75))]
    desk.takes("Polygon")
    desk.clicks(*corners)
    expect(desk.drawing.locator("polyline.drawn")).to_be_visible()
    desk.clicks(corners[0])
    expect(desk.regions()).to_have_count(2)
    page.get_by_label("Finding of Region 2").select_option("malignant")

    desk.clicks((0.95 * wide, 0.95 * high))  # beside everything: nothing is chosen, so that the brush makes a region of its own
    desk.takes("Brush")
    page.get_by_role("slider").fill(str(radius := round(wide / 25)))
    start, end = (0.7 * wide, 0.7 * high), (0.9 * wide, 0.8 * high)
    desk.strokes(start, end)
    expect(desk.regions()).to_have_count(3)
    page.get_by_label("Finding of Region 3").select_option("malignant")
    desk.takes("Eraser")
    wiped = (0.9 * wide, 0.6 * high), (0.9 * wide, 0.95 * high)
    desk.strokes(*wiped)
    expect(desk.regions()).to_have_count(3)
    desk.takes("Brush")
    for _ in range(8):
        desk.strokes((0.75 * wide, 0.725 * high), (0.8 * wide, 0.75 * high))  # where it is painted already: nothing changes
    desk.takes("Choose and move")
    looked_at(page, "label-drawn")
    page.emulate_media(color_scheme="dark")
    expect(page.get_by_text("Save says: 2 missed by the model.")).to_be_visible()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Kept: accept of benign, missed of malignant, missed of malignant.")).to_be_visible()
    looked_at(page, "label-saved")

    wanted = [filled(corners, shape), painted(start, end, radius, shape) & ~painted(*wiped, radius, shape)]
    said = [one.verdict for one in clinic.house.verdicts.heard(of_job=job)]
    drawn = [mask_of(np.array(one.region.outline), shape) for one in said if one.opinion is Opinion.MISSED]
    drawn.sort(key=lambda mask: np.argwhere(mask)[:, 1].min())  # the polygon lies on the left
    for found, meant in zip(drawn, wanted, strict=True):
        dice, times = alike(found, meant)
        assert dice > 0.98
        assert abs(times - 1) < 0.02
    page.goto(f"{clinic.url}/label")
    expect(page.get_by_role("table", name="Results worth labelling").get_by_role("row")).to_have_count(3)
    expect(page.get_by_role("link", name=job[:12])).to_have_count(0)
    page.context.close()

    out = clinic.config.parent / "coco"
    done = radnode("annotations", "export", "--format", "coco", "--out", out, config=clinic.config)
    assert done.returncode == 0, done.stderr
    whole = [json.loads(path.read_text()) for path in (out / "v1" / "annotations").glob("*.json")]
    [set_] = [one for one in whole if one["images"]]
    names = {one["id"]: one["name"] for one in set_["categories"]}
    areas = sorted(one["area"] for one in set_["annotations"] if names[one["category_id"]] == "malignant")
    assert areas == sorted(int(mask.sum()) for mask in drawn)
    assert [names[one["category_id"]] for one in set_["annotations"]].count("benign") == 1
    [image] = set_["images"]
    assert cv2.imread(str(out / "v1" / "images" / image["file_name"])).shape[:2] == shape


def test_an_eraser_over_all_of_a_region_removes_it_and_a_double_click_closes_a_polygon(clinic: Clinic) -> None:
    page = clinic.signed_in(Role.RADIOLOGIST)
    page.goto(f"{clinic.url}/label/{job_of(clinic, 'normal')}")
    desk = Desk(page)
    expect(page.get_by_text("Nothing is drawn yet.")).to_be_visible()

    desk.takes("Polygon")
    desk.clicks((40, 40), (70, 40))
    page.mouse.dblclick(*desk.place((55, 60)))
    expect(desk.regions()).to_have_count(1)
    outline = [tuple(map(float, one.split(","))) for one in desk.drawing.locator("polygon").get_attribute("points").split()]
    assert len(outline) == 3
    assert all(math.dist(a, b) < 2 for a, b in zip(outline, ((40, 40), (70, 40), (55, 60)), strict=True))
    desk.takes("Eraser")
    page.get_by_role("slider").fill("30")
    desk.strokes((40, 45), (70, 45))
    expect(desk.regions()).to_have_count(0)
    desk.takes("Polygon")
    desk.clicks((40, 40), (70, 40))
    page.keyboard.press("Escape")
    expect(desk.drawing.locator("polyline.drawn")).to_have_count(0)
    desk.takes("Eraser")
    desk.strokes((40, 45), (70, 45))  # of nothing
    expect(desk.regions()).to_have_count(0)
    page.context.close()


def test_what_was_drawn_makes_an_example_that_nothing_else_is_said_of(clinic: Clinic) -> None:
    [example] = gather(clinic.house.verdicts.heard(), clinic.house.told).examples

    assert {name: (one.present, one.mask is not None) for name, one in example.labels.items()} == {
        "benign": (True, True),
        "malignant": (True, True),
    }
    assert example.unknown == {"normal"}


def test_no_page_complained(clinic: Clinic) -> None:
    assert clinic.complaints == []
