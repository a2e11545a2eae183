"""Two processes, started by torchrun, train one network: real ones, talking over gloo on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tests.rooms.tiny_breast_set import a_breast_set

ROOT = Path(__file__).parents[2]


def torchrun(*words: str, processes: int = 2) -> None:
    """Run a module in several processes of this Python, as the command of that name does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", *words]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]


def told(out: Path, rank: int) -> dict[str, Any]:
    return torch.load(out / f"told-{rank}.pt", weights_only=True)


def test_two_processes_have_one_network_and_each_its_own_pictures(tmp_path: Path) -> None:
    torchrun("tests.rooms.one_of_several", str(tmp_path), "0.05", "new")

    one, other = told(tmp_path, 0), told(tmp_path, 1)
    for kind in ("state", "model"):
        assert all(torch.equal(one[kind][key], other[kind][key]) for key in one[kind])
    assert not set(one["seen"]) & set(other["seen"])  # so equal weights mean that gradients were shared
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line.get("final") for line in log] == [True]  # one process writes
    assert log[0]["images"] == log[0]["step"] * 4 * 2
    assert log[0]["val_weight"] == one["state"]["1.weight"].item()

    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torchrun("tests.rooms.one_of_several", str(tmp_path), "0.08", "resume")

    again = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert again["step"] > saved["step"]
    assert again["average_steps"] == again["step"]
    one, other = told(tmp_path, 0), told(tmp_path, 1)
    assert all(torch.equal(one["state"][key], other["state"][key]) for key in one["state"])
    assert not set(one["seen"]) & set(other["seen"])


def test_the_command_trains_a_real_recipe_in_two_processes(tmp_path: Path) -> None:
    data = a_breast_set(tmp_path / "data")

    torchrun("training", "breast_ultrasound", "--data", str(data), "--out", str(tmp_path / "run"), "--minutes", "0.1")

    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line.get("final") for line in log] == [True]
    weights = torch.load(tmp_path / "run" / "weights.pt", weights_only=True)
    average = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["average"]
    assert all(torch.equal(weights[key], average[key]) for key in average)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoint.pt", "labels.json", "log.jsonl", "weights.pt"}
