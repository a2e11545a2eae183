"""The node of the demo: `radnode serve` with settings of its own, on loopback, in a folder that goes away."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from node.errors import NodeError
from node.testing.pacs import Pacs

CALLER = "DEMO"  #: the one AE title that may send

#: pipeline: the name of its rule, and what a series must be
_ROUTES: dict[str, tuple[str, dict[str, list[str]]]] = {
    "covid_ct": ("chest CT", {"modality": ["CT"], "body_part": ["CHEST"]}),
    "breast_ultrasound": ("breast ultrasound", {"modality": ["US"], "body_part": ["BREAST"]}),
    "covid_xray": ("chest film", {"modality": ["DX"], "body_part": ["CHEST"]}),
    "chest_xray": ("chest film findings", {"modality": ["CR"], "body_part": ["CHEST"], "sex": ["M"]}),
    "xray_anomaly": ("chest film, unlike", {"modality": ["CR"], "body_part": ["CHEST"], "sex": ["F"]}),
    "brain_mri": ("brain MR", {"modality": ["MR"], "body_part": ["BRAIN"]}),
}


@dataclass(frozen=True, slots=True)
class DemoNode:
    """Where it listens, and who may sign in."""

    port: int  #: DICOM
    address: str  #: of the web pages
    admin: str  #: the name and the one-time password, as a sentence goes on
    runs: Callable[[], bool]  #: whether it has not ended


@dataclass(frozen=True, slots=True)
class Starting:
    """A node on its way up."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int
    web: int

    def ready(self) -> DemoNode:
        """Wait until it is up. Raises NodeError when it does not start."""
        said = self.process.stdout.readline() if self.process.stdout else b""
        first = re.search(r"sign in as (\S+ with the one-time password +\S+)", self.log.read_text())
        if b"ready" not in said or first is None:
            raise NodeError(f"the node did not start:\n{self.log.read_text()[-2000:]}")
        return DemoNode(self.port, f"http://127.0.0.1:{self.web}/", " ".join(first[1].split()), lambda: self.process.poll() is None)


@contextmanager
def demo_node(folder: Path, pacs: Pacs, profile: str) -> Iterator[Starting]:
    """Start it, and run it until the block ends."""
    port, web = _free_ports()
    (folder / "radnode.yaml").write_text(yaml.safe_dump(_settings(folder, pacs, profile, port, web)))
    rules = [{"name": name, "when": when, "run": pipeline, "send_to": ["pacs"]} for pipeline, (name, when) in _ROUTES.items()]
    (folder / "rules.yaml").write_text(yaml.safe_dump({"rules": rules}))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RADNODE_")}
    log = folder / "node.log"
    with log.open("wb") as errors:
        command = [sys.executable, "-m", "node", "serve", "--config", str(folder / "radnode.yaml")]
        node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, start_new_session=True)
        try:
            yield Starting(node, log, port, web)
        finally:
            node.send_signal(signal.SIGTERM)
            node.wait(60)


def _settings(folder: Path, pacs: Pacs, profile: str, port: int, web: int) -> dict[str, Any]:
    return {
        "data_dir": str(folder / "data"),
        "rules": str(folder / "rules.yaml"),
        "scp": {"port": port, "callers": [{"ae_title": CALLER, "addresses": ["127.0.0.1/32"]}]},
        "web": {"port": web},
        "intake": {"settle_after_s": 1, "min_free_mb": 64},
        "destinations": {"pacs": {"kind": "dimse", "host": "127.0.0.1", "port": pacs.port, "ae_title": pacs.ae_title, "profile": profile}},
    }


def _free_ports() -> tuple[int, int]:
    """Two TCP ports that were free on loopback a moment ago: held together, so that they differ."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])
