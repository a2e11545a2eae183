"""An upload is being looked at when the node dies, or is asked to end: nothing of it is left."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import httpx

from node.testing.studies import a_study
from tests.rooms.upload_desk import part10
from tests.stories.department import NodeProcess, wait_for


def test_nothing_of_an_upload_outlives_the_node(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path)
    node.rules({"name": "films", "when": {"modality": "DX"}, "run": "covid_xray", "send_to": []})
    node.start()
    visits = node.data / "clean" / "visits"
    try:
        token = node.token("radiologist")
        asking = _ask(node, token)
        wait_for("the visit", lambda: list(visits.rglob("*.dcm")), every=0.02)

        node.kill("web")

        asking.join()
        wait_for("another web part", lambda: _answers(node))
        assert list(visits.rglob("*")) == []

        asking = _ask(node, token)
        wait_for("the visit", lambda: list(visits.rglob("*.dcm")), every=0.02)
    finally:
        assert node.stop() == 0
    asking.join()
    assert not visits.exists()
    assert node.status()["jobs"]["COMPLETED"] == 0


def _ask(node: NodeProcess, token: str) -> threading.Thread:
    """Somebody who hands in a film, and may never be answered."""

    def ask() -> None:
        with suppress(httpx.HTTPError):
            [film] = part10(a_study("DX", patient=1))
            httpx.post(f"{node.url}/predict", headers={"Authorization": f"Bearer {token}"}, files={"files": film}, timeout=120)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def _answers(node: NodeProcess) -> bool:
    try:
        return httpx.get(f"{node.url}/healthz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
