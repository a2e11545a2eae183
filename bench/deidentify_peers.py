"""How well is it done? This node and its peers over the same two sets in the same run, all graded by the same graders.

    python -m bench.deidentify_peers [--patients 48] [--only e1-1 midi] [--keep FOLDER]

e1-1   every attribute of PS3.15 Table E.1-1, at the top and nested, in many character sets: `node/testing/e1_1_set.py`
midi   studies with identity in headers, free text, private attributes and burned into pixels: `node/testing/midi_set.py`

All tools as they come. The node keeps what its options allow (they are passed to the grader); the peers are held to the Basic Profile.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.peers import ROOT, SCRIPT, Orthanc, python_of_peers, versions
from node.testing.midi_answers import Do
from node.testing.midi_grade import Grade, grade
from node.testing.midi_set import write_midi_set

PRIVACY = (Do.TEXT_REMOVED, Do.DATE_SHIFTED, Do.UID_CHANGED, Do.PATIENT_CONSISTENT)
USE = (Do.TAG_RETAINED, Do.TEXT_RETAINED)
Tool = Callable[[Path, Path], dict[str, Any]]  #: a folder into another; what the tool says


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--patients", type=int, default=48)
    asked.add_argument("--only", nargs="+", choices=["e1-1", "midi"], default=["e1-1", "midi"])
    asked.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    asked.add_argument("--keep", type=Path, help="leave the sets, what came out and the grades (JSON) here")
    options = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="radnode-bench-") as scratch:
        home = options.keep or Path(scratch)
        home.mkdir(parents=True, exist_ok=True)
        print(", ".join(f"{name} {version}" for name, version in versions().items()))
        if "e1-1" in options.only:
            print("\n" + e1_1(home / "e1-1", options.tools))
        if "midi" in options.only:
            print("\n" + midi(home / "midi", options.tools, options.patients))


def e1_1(home: Path, tools: list[str]) -> str:
    """The table of the worst-case set."""
    from node.testing import e1_1_grade, e1_1_set

    manifest = e1_1_set.write_set(home / "in")
    lines = [
        "| tool | out / in | rows right at the top level | at any depth | rows left as they were | leaks | UID faults | date faults | flags | one pseudonym a patient |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in tools:
        if name == EVERY_IMAGE:
            continue  # no text is burned in but where it is declared
        said = _run(name, home / "in", home / name)
        got = e1_1_grade.grade(home / "in", home / name, manifest, said.get("options", ()))
        _note(home, name, {"failed": got.failed, "leaked": got.leaked, "missing": got.missing, "flags": got.wrong_flags, "said": said})
        lines.append(
            f"| {name} | {got.outputs} / {got.inputs} | {got.top_level_ok} of {got.rows} | {got.any_depth_ok} | {got.fail} | {got.leaks} "
            f"| {got.uid_faults} | {got.date_faults} | {got.flags_ok} of {got.flags} | {'yes' if got.one_pseudonym_a_patient else 'no'} |"
        )
        print(name, file=sys.stderr)
    return "\n".join(lines)


def midi(home: Path, tools: list[str], patients: int) -> str:
    """The table of the set with an answer key."""
    count = write_midi_set(home / "in", home / "key", patients=patients)
    lines = []
    for name in tools:
        said = _run(name, home / "in", home / name)
        got = grade(home / "in", home / name, home / "key")
        _note(home, name, {"wrong": got.wrong, "missed": got.missed, "leaks": got.leaks, "withheld": got.withheld, "said": said})
        texts = sum(number for height, number in got.texts.items() if height != "other")
        lines.append(
            f"| {name} | {count - len(got.withheld)} / {count} | {got.share:.2%} | {got.share_of(*PRIVACY):.2%} | {got.share_of(*USE):.2%} "
            f"| {len(got.leaks)} | {texts - len(got.missed)} of {texts} | {got.missed_from(10)} | {_changed(got):.3%} |"
        )
        print(name, got.share, file=sys.stderr)
    actions = sum(got.of.values())
    return "\n".join(
        [
            f"{patients} patients, {count} instances, {actions} actions, {got.of[Do.PIXELS_HIDDEN]} identifying texts in pixels.",
            "",
            "| tool | out / in | right actions | of privacy in headers | of use in headers | identifiers left in headers | texts hidden | legible from 10 px | pixels changed elsewhere |",
            "|---|---|---|---|---|---|---|---|---|",
            *lines,
        ]
    )


def _changed(got: Grade) -> float:
    return sum(got.outside) / max(1, len(got.outside))


def _run(name: str, source: Path, target: Path) -> dict[str, Any]:
    shutil.rmtree(target, ignore_errors=True)
    return TOOLS[name](source, target)


def _note(home: Path, name: str, facts: dict[str, Any]) -> None:
    (home / f"{name}.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False, default=list))


# --- the tools ---------------------------------------------------------------------------------------------------------------------
def this_node(source: Path, target: Path, **settings: str) -> dict[str, Any]:
    """`radnode deidentify` on an empty data folder; its report without the list of files."""
    with tempfile.TemporaryDirectory(prefix="radnode-bench-") as data:
        key = base64.b64encode(os.urandom(32)).decode()
        environment = {**os.environ, "RADNODE_DATA_DIR": data, "RADNODE_VAULT__MASTER_KEY": key, **settings}
        command = [sys.executable, "-m", "node", "deidentify", str(source), str(target), "--json"]
        said = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    if not (target / "report.json").exists():
        raise SystemExit(f"radnode deidentify failed:\n{said.stderr[-2000:]}")
    report: dict[str, Any] = json.loads((target / "report.json").read_text())
    (target / "report.json").unlink()
    report["reasons"] = sorted({f"{one['outcome']}: {one.get('reason', '')}"[:160] for one in report.pop("outcomes")})
    return report


def _nothing(source: Path, target: Path) -> dict[str, Any]:
    shutil.copytree(source, target)
    return {}


def _python_peer(name: str) -> Tool:
    def run(source: Path, target: Path) -> dict[str, Any]:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
            listed.write("\n".join(str(path) for path in sorted(source.rglob("*.dcm"))))
            listed.flush()
            command = [str(python_of_peers()), str(SCRIPT), name, listed.name, str(target), "--pixels"]
            said = subprocess.run(command, check=True, capture_output=True, text=True)
        return dict(json.loads(said.stdout.splitlines()[-1]))

    return run


def _orthanc(source: Path, target: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="radnode-bench-") as folder, Orthanc(Path(folder)) as server:
        refused = server.upload(sorted(source.rglob("*.dcm")))
        target.mkdir(parents=True)
        for patient in server.patients():
            server.download(server.anonymize(patient), target)
        return {"refused": refused}


def _every_image(source: Path, target: Path) -> dict[str, Any]:
    """CT and MR that say ORIGINAL\\PRIMARY are looked at too."""
    return this_node(source, target, RADNODE_DEIDENTIFICATION__TEXT_DETECTION="all")


EVERY_IMAGE = "this node, looking at every image"
TOOLS: dict[str, Tool] = {
    "this node": this_node,
    EVERY_IMAGE: _every_image,
    "Orthanc": _orthanc,
    "dicom-anonymizer": _python_peer("dicom-anonymizer"),
    "deid": _python_peer("deid"),
    "dicognito": _python_peer("dicognito"),
    "nothing done": _nothing,
}


if __name__ == "__main__":
    main()
