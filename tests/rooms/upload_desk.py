"""A node's web room with everything real behind it, for tests of what is handed in over HTTP."""

from __future__ import annotations

import io
import logging
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from config import Settings
from node.assembly import House
from node.commands.options import EXAMPLE_RULES
from node.commands.web_parts import web_parts
from node.pipelines.interface import Pipeline
from node.registry import Registry
from node.runners.local import LocalRunner
from node.visits import Visits
from node.web.app import create_app
from tests.ports import free_port
from tests.rooms.workbench import FAULTY


class Desk:
    """The app behind uvicorn in this process; the models in worker processes, as in the node."""

    def __init__(self, folder: Path, *, faulty: bool = False, port: int = 0, **settings: Any) -> None:
        self.house = House(Settings(data_dir=folder / "data", **{"intake": {"min_free_mb": 64}, **settings}))
        if faulty:
            self.house.__dict__["pipelines"] = Registry(FAULTY, Pipeline)  # type: ignore[type-abstract]
            self.house.runner_for = self._faulty_runner  # type: ignore[method-assign]
        self.visits = Visits(self.house, EXAMPLE_RULES)
        self.tokens = {
            role: self.house.tokens.create(f"a-{role}", role) for role in ("radiologist", "integrator", "auditor", "privacy", "admin")
        }
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._http = httpx.Client(base_url=self.url, timeout=300)
        app = create_app(web_parts(self.house, self.visits))
        self._server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=self.port, access_log=False, log_config=None, server_header=False)
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until("the server", lambda: self._server.started)

    def close(self) -> None:
        self._http.close()
        self._server.should_exit = True
        self._thread.join(20)
        self.visits.close()
        self.house.close()

    def ask(self, path: str, *files: bytes, role: str = "radiologist", accept: str = "*/*", **fields: str) -> httpx.Response:
        """One request with files, each under a name that tells of a patient."""
        parts = [("files", (f"Duck^Donald {number}.dcm", content)) for number, content in enumerate(files)]
        headers = {"Authorization": f"Bearer {self.tokens[role]}", "Accept": accept}
        return self._http.post(path, files=parts or None, data=fields, headers=headers)

    def get(self, path: str, role: str = "radiologist") -> httpx.Response:
        return self._http.get(path, headers={"Authorization": f"Bearer {self.tokens[role]}"})

    def left(self) -> list[Path]:
        """What lies in the visits' folder beside the installation's own UID."""
        folder = self.house.clean / "visits"
        return [path for path in folder.rglob("*") if path not in (folder / "results", folder / "results" / "node_uid")]

    def audited(self) -> list[dict[str, Any]]:
        """What the trail says of uploads, the latest last."""
        return [one for one in self.house.trail.tail(1000) if str(one.get("what", "")).startswith(("predict", "heatmap"))]

    def _faulty_runner(self, queue: Any, results: Path) -> LocalRunner:
        return LocalRunner(
            queue,
            device="cpu",
            job_timeout_s=self.house.settings.predict.timeout_s,
            memory_mb=4000,
            warm=False,
            clean_folder=self.house.clean,
            results_folder=results,
            bundles_dir=self.house.settings.bundles_dir,
            hidden=[self.house.identified],
            room=FAULTY,
        )


def until(what: str, so: Any, *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)


def zipped(files: Mapping[str, bytes] | Sequence[bytes]) -> bytes:
    """A zip of these files."""
    named = files if isinstance(files, Mapping) else {f"IM{number:04d}": content for number, content in enumerate(files)}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in named.items():
            archive.writestr(name, content)
    return out.getvalue()


def part10(datasets: Sequence[Any]) -> list[bytes]:
    """DICOM files of data sets."""
    found = []
    for ds in datasets:
        out = io.BytesIO()
        ds.save_as(out, enforce_file_format=True)
        found.append(out.getvalue())
    return found


class Heard(logging.Handler):
    """Everything that is logged, as the node would write it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.getMessage()} {vars(record)}")
