"""A reader takes an outline over in the real OHIF, drags it with the mouse, stores it in the PACS, and the node hears an answer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright
from pydicom import Dataset

from node.domain import Role
from node.provenance import role_said
from node.testing.studies import a_study, write_study
from tests.conftest import need
from tests.stories.conftest import Department
from tests.stories.department import store, wait_for
from tests.stories.test_a_study_comes_home import results_of

pytestmark = pytest.mark.slow

OUTLINE = """() => {
  const viewport = services.cornerstoneViewportService.getCornerstoneViewport(services.viewportGridService.getActiveViewportId());
  const mine = cornerstoneTools.annotation.state.getAllAnnotations().filter((one) => one.metadata.toolName === 'PlanarFreehandROI');
  if (!mine.length) return [];
  const { left, top } = viewport.canvas.getBoundingClientRect();
  return mine[0].data.contour.polyline.map((point) => viewport.worldToCanvas(point)).map(([x, y]) => [x + left, y + top]);
}"""


@pytest.fixture
def ohif(shared: Path) -> Iterator[Callable[[str], str]]:
    """Starts OHIF in front of an Orthanc; returns its address."""
    server = shared / "tools" / "viewer" / "ohif_server.py"
    if not server.is_file():
        pytest.skip("the viewer is not here")
    need("npm", "npm")
    started: list[subprocess.Popen[str]] = []

    def start(orthanc: str) -> str:
        started.append(subprocess.Popen([sys.executable, str(server), "--orthanc", orthanc], stdout=subprocess.PIPE, text=True))
        return started[-1].stdout.readline().split(" at ")[1].strip()

    yield start
    for one in started:
        one.terminate()
        one.wait(30)
        one.stdout.close()


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        graphics = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
        browser = playwright.chromium.launch(executable_path=need("chromium", "chromium"), args=graphics)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.add_init_script("localStorage.setItem('shownTours', JSON.stringify(['basicViewerTour']))")
        page.set_default_timeout(90_000)
        yield page
        browser.close()


def drag(page: Page) -> None:
    """Pull the right side of the outline outwards, as a reader does who finds it too narrow."""
    points = wait_for("the outline on the image", lambda: page.evaluate(OUTLINE), seconds=60)
    right = max(range(len(points)), key=lambda at: points[at][0])
    part = len(points) // 8
    page.mouse.move(*points[right - part])
    page.mouse.down()
    page.mouse.move(points[right][0] + 30, points[right][1], steps=12)
    page.mouse.move(*points[(right + part) % len(points)], steps=12)
    page.mouse.up()
    wait_for("the outline to follow", lambda: page.evaluate(OUTLINE) != points, seconds=30)


def test_an_outline_that_was_dragged_in_the_viewer_comes_home_as_modified(
    a_department: Callable[..., Department], ohif: Callable[[str], str], page: Page, tmp_path: Path
) -> None:
    department = a_department()
    department.node.settings["destinations"]["archive"]["profile"] = "ohif"
    department.start()
    [image] = images = a_study("US", patient=81, kind="malignant")
    write_study(images, tmp_path / "images")
    assert store(tmp_path / "images", department.archive.dicom_port, called="ORTHANC").returncode == 0

    def editable() -> list[Dataset]:
        results = {role_said(ds.SeriesDescription): ds for ds in results_of(department, image.StudyInstanceUID)}
        return [results[Role.SR_EDITABLE]] if {Role.SR, Role.SR_EDITABLE} <= set(results) else []

    [report] = wait_for("the outlines in the archive", editable, seconds=240, every=1)

    page.goto(f"{ohif(department.archive.url)}/viewer?StudyInstanceUIDs={image.StudyInstanceUID}")
    page.get_by_text(f"S:{report.SeriesNumber}", exact=False).first.dblclick()
    page.locator('[data-cy="yes-hydrate-btn"]').click()
    drag(page)
    page.locator('[data-cy="trackedMeasurements-btn"]').click()
    page.get_by_role("button", name="Create SR").click()
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_have_count(0)

    def heard() -> list[dict[str, Any]]:
        return json.loads(department.node.command("verdicts", "list", "--json"))["verdicts"]

    [verdict] = wait_for("a verdict", heard, seconds=120, every=2)
    assert (verdict["opinion"], verdict["pipeline"], verdict["source"]) == ("modify", "breast_ultrasound", "SR")
    assert verdict["finding"] == "malignant"
    assert 0.5 < verdict["dice"] < 0.99
    assert len(verdict["region"]["outline"]) > 5
