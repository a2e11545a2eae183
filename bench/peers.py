"""The peers that de-identification is measured against: their own virtual environment, and an Orthanc on loopback."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
import urllib.request
import venv
import zipfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tests.ports import free_port

ROOT = Path(__file__).parents[1]
REQUIREMENTS = Path(__file__).parent / "requirements-peers.txt"
ORTHANC = "/usr/sbin/Orthanc"
SCRIPT = Path(__file__).parent / "peer_files.py"


def python_of_peers() -> Path:
    """The Python in which the peers are installed; the first call makes it, below the user's cache."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    home = Path.home() / ".cache" / "radnode-bench" / f"peers-{digest}"
    python = home / "bin" / "python"
    if not (home / "installed").exists():
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--requirement", REQUIREMENTS], check=True)
        (home / "installed").touch()
    return python


def versions() -> dict[str, str]:
    """Name and version of each peer, as pinned; and Orthanc's own word."""
    pinned = dict(line.split("==") for line in REQUIREMENTS.read_text().splitlines() if "==" in line)
    said = subprocess.run([ORTHANC, "--version"], capture_output=True, text=True).stdout.split()
    return {**pinned, "Orthanc": next((word for word in said if word[0].isdigit()), "?")}


class Orthanc:
    """An Orthanc of its own in `folder`, as it comes; stopped at the end."""

    def __init__(self, folder: Path, prefix: Iterable[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._http = free_port()
        config = {
            "Name": "BENCH", "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "DicomServerEnabled": False,
            "HttpPort": self._http, "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "Plugins": [],
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(config))
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen([*prefix, ORTHANC, str(folder / "orthanc.json")], stdout=log, stderr=log)
        until = time.monotonic() + 30
        while True:
            try:
                self.ask("/system")
                return
            except OSError:
                if time.monotonic() > until:
                    raise SystemExit(f"Orthanc does not start:\n{(folder / 'log').read_text()[-1000:]}") from None
                time.sleep(0.1)

    def __enter__(self) -> Orthanc:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(30)

    def ask(self, path: str, body: bytes | dict[str, Any] | None = None, method: str | None = None) -> bytes:
        """One request; a dictionary goes as JSON."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        request = urllib.request.Request(f"http://127.0.0.1:{self._http}{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=600) as answer:
            return bytes(answer.read())

    def upload(self, files: Iterable[Path]) -> int:
        """Store files; how many it refused."""
        refused = 0
        for path in files:
            try:
                self.ask("/instances", path.read_bytes())
            except OSError:
                refused += 1
        return refused

    def patients(self) -> list[str]:
        return list(json.loads(self.ask("/patients")))

    def anonymize(self, patient: str) -> str:
        """A patient's studies under one new name: the new patient."""
        return str(json.loads(self.ask(f"/patients/{patient}/anonymize", {}))["ID"])

    def download(self, patient: str, out: Path) -> int:
        """Every file of a patient below `out`; how many."""
        with zipfile.ZipFile(BytesIO(self.ask(f"/patients/{patient}/archive"))) as archive:
            archive.extractall(out / patient)
            return len(archive.namelist())

    def delete(self, patient: str) -> None:
        self.ask(f"/patients/{patient}", method="DELETE")

    def cpu_s(self) -> float:
        """CPU seconds of the server so far."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)
