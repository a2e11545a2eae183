"""The department: a real Orthanc and a node beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.orthanc_server import OrthancServer
from tests.stories.department import NodeProcess

CHEST = {"name": "chest CT", "when": {"modality": ["CT"], "slice_count": {"min": 3}}, "run": "covid_ct", "send_to": ["archive"]}
BREAST = {"name": "breast ultrasound", "when": {"modality": ["US"]}, "run": "breast_ultrasound", "send_to": ["archive"]}


class Department:
    """One Orthanc that calls one node, and gets its results."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.node = NodeProcess(folder / "node")
        self.archive = OrthancServer(
            need("Orthanc", "orthanc orthanc-dicomweb"),
            folder / "orthanc",
            Radnode={"Url": self.node.url, "Orthanc": "archive", "Secret": self.node.settings["web"]["hook_secret"]},
        )
        self.node.settings["orthancs"] = {"archive": {"url": self.archive.url, "catch_up_every_s": 2}}
        self.node.settings["destinations"] = {"archive": {"kind": "orthanc", "url": self.archive.url}}
        self.node.settings.update(settings)
        self.node.rules(CHEST, BREAST)

    def start(self) -> Department:
        try:
            self.archive.start()
            self.node.start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        self.node.stop()
        self.archive.stop()


@pytest.fixture(scope="module")
def department(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Department]:
    """One department for the stories of a file; each story brings its own patient."""
    found = Department(tmp_path_factory.mktemp("department")).start()
    yield found
    found.stop()


@pytest.fixture
def a_department(tmp_path: Path) -> Iterator[Callable[..., Department]]:
    """A department of one's own, with its own settings; not started."""
    made: list[Department] = []

    def make(**settings: Any) -> Department:
        made.append(Department(tmp_path / str(len(made)), **settings))
        return made[-1]

    yield make
    for one in made:
        one.stop()
