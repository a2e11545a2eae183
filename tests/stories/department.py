"""A small department on loopback: the node as its users start it, and what a test wants to know of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import yaml

import config
from node.assembly import House
from tests.conftest import ROOT, need
from tests.ports import free_port

T = TypeVar("T")


def wait_for(what: str, ask: Callable[[], T | None], *, seconds: float = 120, every: float = 0.2) -> T:
    """The first answer that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = ask()
        if answer:
            return answer
        time.sleep(every)
    raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")


class NodeProcess:
    """`radnode serve` with its own data folder and settings."""

    def __init__(self, folder: Path, *, half: str = "serve", **settings: Any) -> None:
        self.folder = folder
        self.half = half  #: serve, or one of its halves: gateway, worker
        self.data = folder / "data"
        self.dicom_port, self.web_port = free_port(), free_port()
        self.config = folder / "radnode.yaml"
        self.log = folder / "node.log"
        self.settings: dict[str, Any] = {
            "data_dir": str(self.data),
            "rules": str(folder / "rules.yaml"),
            "scp": {"port": self.dicom_port, "callers": [{"ae_title": "SCANNER"}, {"ae_title": "STORESCU"}]},
            "web": {"port": self.web_port, "hook_secret": "a secret between two"},
            "intake": {"settle_after_s": 2, "settle_complete_after_s": 0.5, "min_free_mb": 64},
            "delivery": {"first_retry_s": 0.5, "longest_retry_s": 3},
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def rules(self, *rules: dict[str, Any]) -> None:
        """Write the rules file."""
        (self.folder / "rules.yaml").write_text(yaml.safe_dump({"rules": list(rules)}))

    def start(self, *, seconds: float = 90) -> NodeProcess:
        """Start, and wait for the one line that says it is ready."""
        self.config.write_text(yaml.safe_dump(self.settings))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RADNODE_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "node", self.half, "--config", str(self.config)],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        os.set_blocking(self._process.stdout.fileno(), False)
        said = b""

        def ready() -> bool:
            nonlocal said
            if self._process.poll() is not None:
                raise AssertionError(f"the node ended with {self._process.returncode}:\n{self.log.read_text()[-4000:]}")
            said += self._process.stdout.read() or b""
            return b"ready" in said

        try:
            wait_for("the node to be ready", ready, seconds=seconds)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> int:
        """SIGTERM, as a service manager would."""
        if self._process is None:
            return 0
        self._process.terminate()
        status = self._process.wait(60)
        self._process.stdout.close()
        self._process = None
        return status

    def parts(self) -> dict[str, list[psutil.Process]]:
        """The node's processes by part: serve, receiver, gateway, worker, web, and the warm workers as `model`."""
        found: dict[str, list[psutil.Process]] = {"serve": [psutil.Process(self._process.pid)]}
        for child in found["serve"][0].children(recursive=True):
            try:
                words = child.cmdline()
            except psutil.Error:
                continue
            name = words[words.index("part") + 1] if "part" in words else "model"
            found.setdefault(name, []).append(child)
        return found

    def kill(self, part: str) -> None:
        """kill -9 of one process."""
        victim = self.parts()[part][0]
        os.kill(victim.pid, signal.SIGKILL)
        if part == "serve":
            self._process.wait(10)
            self._process.stdout.close()
            self._process = None
            time.sleep(0.5)

    def command(self, *words: str, check: bool = True) -> str:
        """Run `radnode WORDS` with this node's settings; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "node", *words, "--config", str(self.config)], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done.stdout

    @cached_property
    def _house(self) -> House:
        return House(config.load(self.config))

    def status(self) -> dict[str, Any]:
        """What `radnode status --json` prints, without starting a process for it."""
        return self._house.overview()

    def at_rest(self, *, for_s: float) -> bool:
        """Nothing arrives, settles, runs or waits to be sent, and that stays so for a while."""
        end = time.monotonic() + for_s
        while time.monotonic() < end:
            facts = self.status()
            busy = facts["studies"]["SETTLED"] + facts["jobs"]["SCHEDULED"] + facts["jobs"]["IN PROGRESS"]
            busy += sum(one["QUEUED"] for one in facts["deliveries"].values())
            if busy:
                return False
            time.sleep(1)
        return True

    def token(self, role: str = "integrator") -> str:
        return self.command("tokens", "create", f"test-{time.time_ns()}", "--role", role).strip().splitlines()[-1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.web_port}"

    def stow(self, files: Iterable[Path], token: str) -> httpx.Response:
        """STOW-RS, one request."""
        parts = b"".join(b"--frontier\r\nContent-Type: application/dicom\r\n\r\n" + file.read_bytes() + b"\r\n" for file in files)
        return httpx.post(
            f"{self.url}/dicom-web/studies",
            content=parts + b"--frontier--\r\n",
            headers={
                "Content-Type": 'multipart/related; type="application/dicom"; boundary=frontier',
                "Accept": "application/dicom+json",
                "Authorization": f"Bearer {token}",
            },
            timeout=120,
        )


def store(
    folder: Path | Iterable[Path], port: int, *, calling: str = "SCANNER", called: str = "RADNODE"
) -> subprocess.CompletedProcess[str]:
    """C-STORE with DCMTK: a folder, or some files."""
    program = need("storescu", "dcmtk")
    what = ["+sd", "+r", str(folder)] if isinstance(folder, Path) else [str(file) for file in folder]
    return subprocess.run(
        [program, "-R", "-aet", calling, "-aec", called, "127.0.0.1", str(port), *what],
        capture_output=True,
        text=True,
        timeout=300,
    )
