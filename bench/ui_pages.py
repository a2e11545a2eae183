"""How long a person waits for the pages of a node that has seen many studies.

    python -m bench.ui_pages [--studies 100000]

Fills the databases of a fresh node as `bench.ui_queries` does, starts its web server alone, signs in with Chromium, and opens each page
several times. "answer" is the page as the server gives it, over HTTP; "on the screen" is until Chromium shows its content, scripts and
all. Bounds: the first page in a second, a search in 300 ms.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx
from playwright.sync_api import Page, sync_playwright

from bench.ui_queries import RARE, fill
from config import Settings
from node.assembly import House
from tests.ports import free_port

TIMES = 5
PASSWORD = "four words in a row"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--chromium", default="chromium")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        some, one_time = _filled(Path(folder), asked.studies)
        with _web(Path(folder)) as address:
            browser = playwright.chromium.launch(executable_path=f"/usr/bin/{asked.chromium}", args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            first = _signed_in(page, address, one_time)
            print(f"{asked.studies} studies; Today, the first time that anybody opens it: {first * 1000:.0f} ms on the screen")
            cookies = {one["name"]: one["value"] for one in page.context.cookies()}
            print(f"{'milliseconds, median (slowest) of ' + str(TIMES):44}{'answer':>16}{'on the screen':>18}")
            with httpx.Client(base_url=address, cookies=cookies, timeout=60) as plain:
                for name, path in _pages(some).items():
                    answer = _timed(lambda path=path: plain.get(path).raise_for_status())
                    shown = _timed(lambda path=path: _opened(page, address + path))
                    print(f"{name:44}{_said(answer):>16}{_said(shown):>18}")
            browser.close()


def _pages(some: str) -> dict[str, str]:
    return {
        "Today": "/",
        "Studies": "/studies",
        "Studies: by UID": f"/studies?study={some}",
        "Studies: by modality": "/studies?modality=CT",
        "Studies: by a usual finding": "/studies?finding=normal",
        "Studies: by a rare finding": f"/studies?finding={RARE}",
        "Studies: a finding that no such image has": "/studies?finding=normal&modality=MR",
        "The story of a study": f"/studies/{some}",
        "Destinations and sources": "/destinations",
        "Audit": "/audit",
        "Rules": "/rules",
        "Models": "/models",
    }


def _filled(folder: Path, studies: int) -> tuple[str, str]:
    """A study that has everything, and the administrator's one-time password."""
    house = House(Settings(data_dir=folder / "data", rules=folder / "rules.yaml"))
    some = fill(house.ledger, house.wing, studies)
    made = house.reception.first()
    house.close()
    if made is None:
        raise SystemExit("the node has an administrator already")
    return some, made[1]


@contextmanager
def _web(folder: Path) -> Iterator[str]:
    port = free_port()
    (folder / "rules.yaml").write_text("rules: []\n")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RADNODE_")}
    environment |= {"RADNODE_DATA_DIR": str(folder / "data"), "RADNODE_RULES": str(folder / "rules.yaml"), "RADNODE_WEB__PORT": str(port)}
    with (folder / "web.log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "node", "part", "web"], env=environment, stderr=log)
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                time.sleep(0.1)
                try:
                    httpx.get(f"{address}/healthz")
                    break
                except httpx.TransportError:
                    if server.poll() is not None:
                        raise SystemExit((folder / "web.log").read_text()[-2000:]) from None
            yield address
        finally:
            server.terminate()
            server.wait(30)


def _signed_in(page: Page, address: str, one_time: str) -> float:
    """Seconds from the press that gets in to the first page on the screen."""
    page.goto(address)
    page.get_by_label("Name").fill("admin")
    page.get_by_label("Password").fill(one_time)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("Present password").fill(one_time)
    page.get_by_label("New password", exact=True).fill(PASSWORD)
    page.get_by_label("New password again").fill(PASSWORD)
    began = time.perf_counter()
    page.get_by_role("button", name="Change the password").click()
    page.get_by_role("heading", name="Today").wait_for()
    return time.perf_counter() - began


def _opened(page: Page, url: str) -> None:
    page.goto(url, wait_until="commit")
    page.locator(".page h1").wait_for()


def _timed(ask: Callable[[], object]) -> list[float]:
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        ask()
        took.append((time.perf_counter() - began) * 1000)
    return took


def _said(took: list[float]) -> str:
    return f"{median(took):.0f} ({max(took):.0f})"


if __name__ == "__main__":
    main()
