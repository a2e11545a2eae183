"""A hospital's PostgreSQL goes away and comes back, while studies arrive and jobs run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread

from node.testing.studies import a_study, write_study
from tests.conftest import ROOT
from tests.rooms.databases import PostgresServer, restartable_postgres
from tests.stories.conftest import BREAST
from tests.stories.department import NodeProcess, store, wait_for


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with restartable_postgres() as found:
        found.statement("CREATE DATABASE ledger", "CREATE DATABASE identified")
        yield found


def test_nothing_is_lost_or_doubled_and_everybody_is_told(server: PostgresServer, tmp_path: Path):
    """Senders, programs and people hear that it can't be done now; the parts stay, and the work goes on by itself."""
    node = NodeProcess(tmp_path / "node")
    node.settings["database"] = {"url": server.url("ledger"), "identified_url": server.url("identified")}
    node.settings["destinations"] = {"archive": {"kind": "folder", "path": str(tmp_path / "home")}}
    node.rules(BREAST)
    for patient in (1, 2):
        write_study(a_study("US", patient=patient, kind="benign"), tmp_path / str(patient))
    try:
        node.start()
        token = node.token()
        parts = {name: {one.pid for one in found} for name, found in node.parts().items()}
        assert store(tmp_path / "1", node.dicom_port).returncode == 0
        server.stop()

        assert store(tmp_path / "2", node.dicom_port).returncode != 0
        for path in ("/api/v1/today", "/"):
            answer = httpx.get(node.url + path, headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert "database" in answer.json()["detail"]
        status = subprocess.run(
            [sys.executable, "-m", "node", "status", "--config", str(node.config)], cwd=ROOT, capture_output=True, text=True
        )
        assert status.returncode == 1
        assert status.stderr.count("\n") == 1
        assert "The database can't be used now" in status.stderr
        assert "Connection refused" in status.stderr

        server.start()
        assert store(tmp_path / "2", node.dicom_port).returncode == 0
        wait_for("both studies' results", lambda: len(list((tmp_path / "home").rglob("*.dcm"))) == 6)
        wait_for("a node at rest", lambda: node.at_rest(for_s=3))
        assert all({one.pid for one in found} >= parts[name] for name, found in node.parts().items())  # the same processes all the time
    finally:
        node.stop()
    assert len({dcmread(path).SOPInstanceUID for path in (tmp_path / "home").rglob("*.dcm")}) == 6
    assert "Traceback" not in node.log.read_text()
