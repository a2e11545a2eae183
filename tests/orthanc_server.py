"""A real Orthanc (Debian's package) on free loopback ports, with the project's own configuration and script."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from tests.ports import free_port

ROOT = Path(__file__).parents[1]
PLUGINS = Path("/usr/share/orthanc/plugins")


def example_configuration() -> dict[str, Any]:
    """`orthanc/orthanc.json` as shipped; Orthanc reads JSON with comments, Python does not."""
    text = (ROOT / "orthanc" / "orthanc.json").read_text()
    return json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))


class OrthancServer:
    """Starts with the shipped `orthanc.json`; ports, folders and what a test needs are laid over it."""

    def __init__(self, program: str, folder: Path, **changes: Any) -> None:
        self.program = program
        self.folder = folder
        self.http_port = changes.pop("HttpPort", 0) or free_port()
        self.dicom_port = changes.pop("DicomPort", 0) or free_port()
        self.node_port = changes.pop("node_port", 0) or free_port()  #: where the script calls; nobody listens there unless a test does
        self.changes = changes
        self.process: subprocess.Popen[bytes] | None = None
        self.secret = "a-secret-of-the-tests"
        self.http = httpx.Client(timeout=60)  # one for all calls: making one costs more than a call

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb_url(self) -> str:
        return f"{self.url}/dicom-web"

    @property
    def ae_title(self) -> str:
        return str(self.configuration()["DicomAet"])

    @property
    def log(self) -> str:
        return (self.folder / "orthanc.log").read_text(errors="replace")

    def configuration(self) -> dict[str, Any]:
        whole = example_configuration()
        whole["Radnode"]["Url"] = f"http://127.0.0.1:{self.node_port}"
        whole.update(
            HttpPort=self.http_port,
            DicomPort=self.dicom_port,
            StorageDirectory=str(self.folder / "storage"),
            IndexDirectory=str(self.folder / "storage"),
            TemporaryDirectory=str(self.folder / "tmp"),
            LuaScripts=[str(ROOT / "orthanc" / "stable-study.lua")],
            Plugins=[str(PLUGINS / "libOrthancDicomWeb.so")],
            AuthenticationEnabled=False,
            StableAge=1,
        )
        whole.update(self.changes)
        return whole

    # --- life ---------------------------------------------------------------------------------------------------------
    def start(self, patience_s: float = 60) -> OrthancServer:
        for name in ("storage", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(self.configuration(), indent=1))
        environment = {**os.environ, "RADNODE_HOOK_SECRET": self.secret}
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen([self.program, str(path)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise RuntimeError(f"Orthanc ended at once: {self.log[-2000:]}")
            try:
                if self.http.get(f"{self.dicomweb_url}/studies", timeout=5).status_code < 300:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        self.stop()
        raise TimeoutError("Orthanc does not answer")

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None
        self.http.close()
        self.http = httpx.Client(timeout=60)

    # --- what it is given and what it holds -----------------------------------------------------------------------------
    def get(self, route: str) -> Any:
        answer = self.http.get(self.url + route)
        answer.raise_for_status()
        return answer.json()

    def upload(self, part10: bytes) -> dict[str, Any]:
        answer = self.http.post(f"{self.url}/instances", content=part10)
        answer.raise_for_status()
        return answer.json()

    def empty(self) -> None:
        """Take everything out, so that one server serves several tests."""
        for patient in self.get("/patients"):
            self.http.delete(f"{self.url}/patients/{patient}").raise_for_status()

    def instances_of(self, study_instance_uid: str) -> list[str]:
        """Orthanc's ids of what it holds of a study."""
        return [one for study in self._studies(study_instance_uid) for one in self._ids(f"/studies/{study}/instances")]

    def is_stable(self, study_instance_uid: str) -> bool:
        return any(self.get(f"/studies/{study}")["IsStable"] for study in self._studies(study_instance_uid))

    def _studies(self, study_instance_uid: str) -> list[str]:
        question = {"Level": "Study", "Query": {"StudyInstanceUID": study_instance_uid}}
        return list(httpx.post(f"{self.url}/tools/find", json=question, timeout=60).json())

    def _ids(self, route: str) -> list[str]:
        return [one["ID"] for one in self.get(route)]
