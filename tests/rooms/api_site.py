"""A node's own web room with studies in every state, made by the node's own steps: what tests of the API ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from fastapi.testclient import TestClient
from pydicom.dataset import Dataset

from config import Settings
from node.assembly import House
from node.commands.options import EXAMPLE_RULES
from node.commands.web_parts import web_parts
from node.gateway import Gateway
from node.pipelines.interface import Pipeline
from node.registry import Registry
from node.runners.inline import InlineRunner
from node.testing.studies import a_study, write_study
from node.visits import Visits
from node.web.app import create_app
from node.web.parts import WebParts
from tests.rooms.workbench import FAULTY, bundle

RULES = [
    {"name": "chest CT", "when": {"modality": "CT"}, "run": "works", "send_to": ["pacs", "archive"]},
    {"name": "head MR", "when": {"modality": "MR"}, "run": "raises", "send_to": "pacs"},
]
WHY = "the ward asked for it twice"


@dataclass
class Site:
    """The node and who may come in."""

    home: House
    gateway: Gateway
    folder: Path
    web: TestClient
    sources: dict[str, Dataset] = field(default_factory=dict)  #: by clean Study Instance UID
    tokens: dict[str, str] = field(default_factory=dict)

    def arrives(self, *datasets: Dataset) -> str:
        """A study comes by folder; returns its clean UID. Nothing is done with it yet."""
        number = len(self.sources)
        write_study(datasets, self.folder / f"in-{number}")
        self.home.take_folder(self.folder / f"in-{number}")
        study = self.home.clean_uids.of(str(datasets[0].StudyInstanceUID))
        self.sources[study] = datasets[0]
        return study

    def works_off(self) -> None:
        """All that waits is done: settled, routed, analysed, delivered."""
        while self.gateway.settle():
            pass
        with self.runner() as runner:
            runner.run_waiting()
        self.gateway.hand_over()
        self.home.outbox.send_due()
        self.gateway.follow()

    def runner(self) -> InlineRunner:
        home = self.home
        return InlineRunner(
            home.jobs,
            clean_folder=home.clean,
            results_folder=home.results,
            bundles_dir=home.settings.bundles_dir,
            room=FAULTY,
        )

    def token(self, role: str) -> str:
        if role not in self.tokens:
            self.tokens[role] = self.home.tokens.create(f"a-{role}", role)
        return self.tokens[role]

    def ask(self, method: str, path: str, role: str = "admin", **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token(role)}", **more.pop("headers", {})}
        return self.web.request(method, path, headers=headers, **more)

    def get(self, path: str, role: str = "admin", **asked: Any) -> httpx.Response:
        return self.ask("GET", f"/api/v1/{path}", role, params=asked)

    def post(self, path: str, role: str = "admin", key: str = "", **body: Any) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}
        return self.ask("POST", f"/api/v1/{path}", role, json=body or None, headers=headers)


@contextmanager
def a_site(folder: Path) -> Iterator[Site]:
    """Nothing has come yet."""
    with a_house(folder) as home, TestClient(create_app(doors(home))) as web:
        yield Site(home=home, gateway=Gateway(home), folder=folder, web=web)


@contextmanager
def a_house(folder: Path, **settings: Any) -> Iterator[House]:
    """Its parts. `pacs` is a folder that takes everything, `archive` one that nobody can write."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"rules": RULES}))
    (folder / "occupied").write_text("not a folder")
    for name, version in (("works", "1.0.0"), ("raises", "1.0.0")):
        bundle(folder / "models", name, version)
    home = House(
        Settings(
            data_dir=folder / "data",
            rules=folder / "rules.yaml",
            bundles_dir=folder / "models",
            intake={"settle_after_s": 0, "min_free_mb": 0},
            deidentification={"text_detection": "off"},
            delivery={"first_retry_s": 0, "give_up_after_hours": 0},
            destinations={
                "pacs": {"kind": "folder", "path": str(folder / "pacs")},
                "archive": {"kind": "folder", "path": str(folder / "occupied")},
            },
            **settings,
        )
    )
    home.__dict__["pipelines"] = Registry(FAULTY, Pipeline)  # type: ignore[type-abstract]
    home.check()
    yield home
    home.outbox.close()
    home.close()


def doors(home: House) -> WebParts:
    """What the web is handed of a house."""
    return web_parts(home, Visits(home, EXAMPLE_RULES))


def a_full_site(site: Site) -> dict[str, str]:
    """One study in each state; by what became of it."""
    studies = {
        "done": site.arrives(*a_study("CT", slices=4, rows=64, patient=1)),
        "given up": site.arrives(*a_study("MR", slices=4, patient=4)),
        "refused": site.arrives(*a_study("US", patient=2, kind="benign", BurnedInAnnotation="YES")),
    }
    site.works_off()
    studies["arriving"] = site.arrives(*a_study("CT", slices=2, rows=64, patient=3))
    site.gateway.follow()
    return studies
