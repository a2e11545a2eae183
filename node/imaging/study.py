"""A clean study on disk: `study.json`, and one folder a series with one file an instance, all named by clean UIDs."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import datetime
from pathlib import Path

from pydicom import dcmread

from node.domain import Channel, CleanUid, Instance, Origin, Pseudonym, Series, Study, StudyRef

MANIFEST = "study.json"


def write_manifest(folder: Path, *, ref: StudyRef, pseudonym: Pseudonym, origin: Origin) -> None:
    """Say whose folder this is, in clean words."""
    facts = {
        "study": ref.study,
        "revision": ref.revision,
        "pseudonym": pseudonym,
        "origin": {
            "channel": origin.channel.value,
            "received_at": origin.received_at.isoformat(),
            "calling_ae": origin.calling_ae,
            "called_ae": origin.called_ae,
            "peer": origin.peer,
        },
    }
    (folder / MANIFEST).write_text(json.dumps(facts, indent=1))


def instance_path(folder: Path, series: str, sop_instance: str) -> Path:
    """Where an instance of a clean study lies. Both names are clean UIDs, made by us."""
    return folder / series / f"{sop_instance}.dcm"


def read_study(folder: Path) -> Study:
    """Open a clean study: every header, no pixels."""
    facts = json.loads((folder / MANIFEST).read_text())
    origin = facts["origin"]
    found: dict[str, list[Instance]] = defaultdict(list)
    for path in sorted(folder.glob("*/*.dcm")):
        header = dcmread(path, stop_before_pixels=True)
        found[str(header.SeriesInstanceUID)].append(Instance(header=header, path=path))
    return Study(
        ref=StudyRef(study=CleanUid(facts["study"]), revision=int(facts["revision"])),
        pseudonym=Pseudonym(facts["pseudonym"]),
        origin=Origin(
            channel=Channel(origin["channel"]),
            received_at=datetime.fromisoformat(origin["received_at"]),
            calling_ae=origin["calling_ae"],
            called_ae=origin["called_ae"],
            peer=origin["peer"],
        ),
        folder=folder,
        series=tuple(
            Series(
                series_instance_uid=CleanUid(uid),
                modality=str(instances[0].header.get("Modality", "")),
                instances=tuple(instances),
            )
            for uid, instances in sorted(found.items())
        ),
    )
