"""How long a node takes to be ready and to end, and what its processes hold: `python -m bench.node_start [--rounds 5]`.

Ready is when the node says so: every part is up, ports are open. It ends twice: while the worker still loads its models, and when it has them all.
Beside it Orthanc, until it answers over HTTP.
"""

from __future__ import annotations

import argparse
import base64
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import yaml

from bench.peers import ROOT, Orthanc
from tests.ports import free_port

MB = 1 << 20
LOADED_S = 40  #: by then a worker has all its models


class Taken(NamedTuple):
    """One life of a node."""

    ready_s: float
    ended_s: float
    parts_mb: float  #: memory of all its processes that is no other process's too, but for those that run models


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rounds", type=int, default=5)
    rounds = asked.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="radnode-bench-") as scratch:
        settings = Path(scratch) / "radnode.yaml"
        settings.write_text(yaml.safe_dump({"data_dir": f"{scratch}/data", "scp": {"port": free_port()}, "web": {"port": free_port()}}))
        life(settings, 0)  # the data folder and the byte code are there from now on, as on any day but the first
        early = [life(settings, 1) for _ in range(rounds)]
        late = life(settings, LOADED_S)
        others = [orthanc(Path(scratch) / f"orthanc{number}") for number in range(rounds)]
    print("| | ready, s | ended, s | memory, MB |\n|---|---|---|---|")
    print(row("this node, ended while its models load", [statistics.median(part) for part in zip(*early, strict=True)]))
    print(row("this node, ended with its models loaded", list(late)))
    print(row("Orthanc", [statistics.median(others)]))


def row(name: str, figures: list[float]) -> str:
    told = [f"{figure:.1f}" if figure < 100 else f"{figure:.0f}" for figure in figures]
    return f"| {name} | {' | '.join([*told, *['–'] * (3 - len(told))])} |"


def life(settings: Path, seconds: float) -> Taken:
    """Start a node, leave it alone for `seconds`, and end it."""
    began = time.perf_counter()
    environment = {**os.environ, "RADNODE_VAULT__MASTER_KEY": base64.b64encode(b"k" * 32).decode()}
    command = [sys.executable, "-m", "node", "serve", "--config", str(settings)]
    node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, cwd=ROOT)
    assert node.stdout is not None
    if not node.stdout.readline():
        raise SystemExit("the node did not start")
    ready_s = time.perf_counter() - began
    time.sleep(seconds)
    parts = psutil.Process(node.pid).children()
    held = sum(part.memory_full_info().uss for part in (psutil.Process(node.pid), *parts)) / MB
    began = time.perf_counter()
    node.send_signal(signal.SIGTERM)
    node.wait(60)
    return Taken(ready_s, time.perf_counter() - began, held)


def orthanc(home: Path) -> float:
    """Seconds until an Orthanc answers."""
    began = time.perf_counter()
    with Orthanc(home, []):
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
