"""Versions of a label set: each a folder with a manifest of digests that says what changed since the one before."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from node.annotations import coco, folder, seg, voc
from node.annotations.examples import SPLITS, Example
from node.errors import ExportRefused

MANIFEST = "manifest.json"
FORMATS: Mapping[str, Callable[[Sequence[Example], Path], dict[str, int]]] = {
    "coco": coco.write,
    "voc": voc.write,
    "seg": seg.write,
    "folder": folder.write,
}
_VERSION = re.compile(r"v(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written, or found to be there already."""

    folder: Path
    version: int
    new: bool  #: False: nothing has changed since this version, and none was made
    manifest: Mapping[str, Any]


def export(
    examples: Sequence[Example], kind: str, out: Path, *, at: datetime, chosen: Mapping[str, str], left_out: Mapping[str, int]
) -> Exported:
    """The next version below `out`: `v1`, `v2`, … It gets its name when it is whole.

    Raises
    ------
    ExportRefused
        For an unknown format, another one than the folder holds, or when there is nothing to export.
    """
    if kind not in FORMATS:
        raise ExportRefused(f"known formats: {', '.join(FORMATS)}")
    if not examples:
        raise ExportRefused("no reader's answer fits, or their studies are gone; `radnode verdicts list` shows them")
    last = _last(out)
    before = json.loads((last / MANIFEST).read_text()) if last else None
    if before and before["format"] != kind:
        raise ExportRefused(f"this folder holds versions in the format {before['format']}; choose another folder for {kind}")
    version = before["version"] + 1 if before else 1
    draft = out / f".v{version}-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        counts = FORMATS[kind](examples, draft)
        files = {str(path.relative_to(draft)): _sha256(path) for path in sorted(draft.rglob("*")) if path.is_file()}
        if last and before and before["files"] == files:
            return Exported(folder=last, version=before["version"], new=False, manifest=before)
        manifest = {
            "format": kind,
            "version": version,
            "made_at": at.isoformat(timespec="seconds"),
            "chosen": dict(chosen),
            "examples": len(examples),
            "patients": {split: len({one.pseudonym for one in examples if one.split == split}) for split, _ in SPLITS},
            "verdicts": sorted({verdict for one in examples for verdict in one.verdicts}),
            "counts": counts,
            "left_out": dict(left_out),
            "since_last": _changes(before["files"] if before else {}, files),
            "files": files,
        }
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=1))
        draft.rename(out / f"v{version}")
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Exported(folder=out / f"v{version}", version=version, new=True, manifest=manifest)


def _last(out: Path) -> Path | None:
    versions = {int(found[1]): path for path in out.glob("v*") if (found := _VERSION.fullmatch(path.name)) and (path / MANIFEST).is_file()}
    return versions[max(versions)] if versions else None


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, list[str]]:
    return {
        "added": sorted(now.keys() - before.keys()),
        "changed": sorted(name for name in now.keys() & before.keys() if now[name] != before[name]),
        "removed": sorted(before.keys() - now.keys()),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
