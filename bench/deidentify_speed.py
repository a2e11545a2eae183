"""De-identification of folders: this node beside dicognito, deid, dicom-anonymizer and Orthanc, in the same run.

    python -m bench.deidentify_speed [--instances 300] [--rounds 5] [--cores 1 2] [--on FOLDER]

CT instances of 512 x 512 x 16 bit, read from and written to files; by default files in memory (/dev/shm), so that no tool is measured by how
long a disk takes to make a file, which on some machines is more than all the rest. Every round runs each tool once, in turn, on one core and on two
(`taskset`). A tool that has no parallel run of its own gets two processes with half of the files each. Two figures each:

steady  inside a process that has run before: what each further instance costs
whole   from the start of the process to its end: interpreter, imports, settings and databases included

The node's figures include what the peers don't do: sealing the way home, searching what was written for all that identifies, and signing for
it. A second row is the node with `deidentification.leak_scan` off, which is nearer to what the peers do.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import ROOT, SCRIPT, Orthanc, python_of_peers, versions
from node.testing.studies import a_study, uid_of

NODE, NODE_ALONE = "this node", "this node, leak scan off"
ORTHANC, ORTHANC_ONLY = "Orthanc: upload, anonymize, download", "Orthanc: anonymize alone"
PYTHON_PEERS = ("dicognito", "deid", "dicom-anonymizer")


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds that one run took."""

    wall_s: float
    cpu_s: float


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--instances", type=int, default=300)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    asked.add_argument("--skip", nargs="*", default=[], choices=[*PYTHON_PEERS, "orthanc"])
    asked.add_argument("--on", type=Path, default=Path("/dev/shm"), help="where the files lie")
    asked.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    options = asked.parse_args()
    if options.part:
        ours(Path(options.part[0]), Path(options.part[1]), int(options.part[2]))
        return
    with tempfile.TemporaryDirectory(prefix="radnode-bench-", dir=options.on) as scratch:
        bench = Bench(Path(scratch), options.instances)
        for number in range(options.rounds):
            for cores in options.cores:
                for name in (NODE, NODE_ALONE, *PYTHON_PEERS, ORTHANC):
                    if name not in options.skip and not (name == ORTHANC and "orthanc" in options.skip):
                        bench.run(name, cores)
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        print(bench.table(options.rounds))


class Bench:
    """The files, and what every run spent."""

    def __init__(self, scratch: Path, instances: int) -> None:
        self.scratch, self.instances = scratch, instances
        self.source = make_instances(scratch / "in", instances)
        self.spent: dict[tuple[str, str, int], list[Spent]] = defaultdict(list)
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "RADNODE_DATA_DIR": str(scratch / "data"), **_key()}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        out = scratch / "first"  # the node's data folder and its byte code are there from now on, as on any day but the first
        subprocess.run(_radnode(self.source, out), env=self.environment, check=True, capture_output=True, cwd=ROOT)
        shutil.rmtree(out)

    def run(self, name: str, cores: int) -> None:
        """One run of one tool."""
        if name in (NODE, NODE_ALONE):
            out = self._fresh()
            environment = self.environment | ({"RADNODE_DEIDENTIFICATION__LEAK_SCAN": "false"} if name == NODE_ALONE else {})
            spent = _timed([[*_on(cores), *_radnode(self.source, out)]], environment)
            self._count(out)
            self.spent[name, "whole", cores].append(spent)
            part = [*_on(cores), sys.executable, "-m", "bench.deidentify_speed", "--part", str(self.source), str(self._fresh()), str(cores)]
            said = subprocess.run(part, env=environment, check=True, capture_output=True, cwd=ROOT).stdout
            self.spent[name, "steady", cores].append(Spent(**json.loads(said.splitlines()[-1])))
        elif name == ORTHANC:
            self._orthanc(cores)
        else:
            files = sorted(self.source.iterdir())
            shares = [files[start::cores] for start in range(cores)]
            self.spent[name, "whole", cores].append(_timed(self._peer(name, cores, shares, rounds=1), self.environment))
            said_by_all = _said_by(self._peer(name, cores, shares, rounds=2), self.environment)
            steady = [json.loads(said.splitlines()[-1]) for said in said_by_all]
            wall = max(one["wall_s"] for one in steady)
            self.spent[name, "steady", cores].append(Spent(wall, sum(one["cpu_s"] for one in steady)))

    def _peer(self, name: str, cores: int, shares: list[list[Path]], *, rounds: int) -> list[list[str]]:
        commands = []
        for number, share in enumerate(shares):
            listed = self.scratch / f"list{number}"
            listed.write_text("\n".join(map(str, share)))
            out = self._fresh(number)
            commands.append([*_on(cores), str(python_of_peers()), str(SCRIPT), name, str(listed), str(out), "--rounds", str(rounds)])
        return commands

    def _orthanc(self, cores: int) -> None:
        home = self.scratch / "orthanc"
        shutil.rmtree(home, ignore_errors=True)
        with Orthanc(home, _on(cores)) as server:
            began, busy = time.perf_counter(), server.cpu_s()
            server.upload(sorted(self.source.iterdir()))
            uploaded = time.perf_counter(), server.cpu_s()
            [patient] = server.patients()
            new = server.anonymize(patient)
            done = time.perf_counter(), server.cpu_s()
            assert server.download(new, self._fresh()) == self.instances
            self.spent[ORTHANC, "steady", cores].append(Spent(time.perf_counter() - began, server.cpu_s() - busy))
            self.spent[ORTHANC_ONLY, "steady", cores].append(Spent(done[0] - uploaded[0], done[1] - uploaded[1]))

    def _fresh(self, number: int = 0) -> Path:
        out = self.scratch / f"out{number}"
        shutil.rmtree(out, ignore_errors=True)
        return out

    def _count(self, out: Path) -> None:
        made = sum(path.suffix == ".dcm" for path in out.rglob("*"))
        if made != self.instances:
            raise SystemExit(f"{made} of {self.instances} instances came out")

    def table(self, rounds: int) -> str:
        """Medians over the rounds; ratios are medians of the rounds' own ratios."""
        lines = [
            f"{self.instances} CT, 512 x 512 x 16 bit, {rounds} rounds, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}; "
            + ", ".join(f"{name} {version}" for name, version in versions().items()),
            "",
            "| | cores | tool | instances per wall second | per CPU second | node's ratio, wall | node's ratio, CPU |",
            "|---|---|---|---|---|---|---|",
        ]
        for what, cores in sorted({(what, cores) for _, what, cores in self.spent}):
            ours = self.spent[NODE, what, cores]
            for name in (NODE, NODE_ALONE, *PYTHON_PEERS, ORTHANC, ORTHANC_ONLY):
                theirs = self.spent.get((name, what, cores))
                if theirs:
                    wall, cpu = (self.instances / statistics.median(getattr(one, field) for one in theirs) for field in ("wall_s", "cpu_s"))
                    ratios = [
                        statistics.median(getattr(b, field) / getattr(a, field) for a, b in zip(ours, theirs, strict=True))
                        for field in ("wall_s", "cpu_s")
                    ]
                    lines.append(f"| {what} | {cores} | {name} | {wall:.0f} | {cpu:.0f} | {ratios[0]:.1f} | {ratios[1]:.1f} |")
        return "\n".join(lines)


def make_instances(folder: Path, count: int) -> Path:
    """One study of one patient, every slice with noise of its own."""
    folder.mkdir(parents=True)
    slices = a_study("CT", slices=12, rows=512)
    random = np.random.default_rng(1)
    noise = random.integers(0, 32, (512, 512), dtype=np.uint16)
    for number in range(1, count + 1):
        ds = slices[number % len(slices)]
        pixels = np.frombuffer(ds.PixelData, np.uint16).reshape(512, 512)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid_of("speed", number)
        ds.InstanceNumber = number
        ds.PixelData = np.clip(pixels ^ np.roll(noise, number, 1), 0, 4095).astype(np.uint16).tobytes()
        ds.save_as(folder / f"{number:05d}.dcm", enforce_file_format=True)
    return folder


def ours(source: Path, target: Path, workers: int) -> None:
    """Runs in a process of its own: the folder machinery, the third time."""
    import config
    from node.assembly import House

    home = House(config.load(None))
    last: Spent | None = None
    for _ in range(3):
        shutil.rmtree(target, ignore_errors=True)
        with _measured() as took:
            home.folders(workers=workers).deidentify(source, target)
        last = took()
    assert last is not None
    print(json.dumps({"wall_s": last.wall_s, "cpu_s": last.cpu_s}))


@contextmanager
def _measured() -> Iterator[Callable[[], Spent]]:
    """Wall and CPU seconds of this process and the children that have ended."""

    def cpu() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in used)

    wall, busy = time.perf_counter(), cpu()
    end: list[Spent] = []
    yield lambda: end[0]
    end.append(Spent(time.perf_counter() - wall, cpu() - busy))


def _timed(commands: list[list[str]], environment: dict[str, str]) -> Spent:
    with _measured() as took:
        _said_by(commands, environment)
    return took()


def _said_by(commands: list[list[str]], environment: dict[str, str]) -> list[str]:
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT) for command in commands]
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"failed: {commands[0]}")
    return said


def _radnode(source: Path, target: Path) -> list[str]:
    return [sys.executable, "-m", "node", "deidentify", str(source), str(target)]


def _on(cores: int) -> list[str]:
    return ["taskset", "--cpu-list", ",".join(map(str, range(cores)))]


def _key() -> dict[str, Any]:
    return {"RADNODE_VAULT__MASTER_KEY": base64.b64encode(os.urandom(32)).decode()}


if __name__ == "__main__":
    main()
