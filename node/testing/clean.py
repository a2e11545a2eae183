"""Synthetic datasets laid out as a clean study, so that the hall's rooms can be tried without the wing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydicom.dataset import Dataset

from node.domain import Channel, CleanUid, Origin, Pseudonym, Study, StudyRef
from node.imaging.study import instance_path, read_study, write_manifest


def clean_study(
    datasets: Sequence[Dataset], folder: Path, *, calling_ae: str = "SCANNER", called_ae: str = "RADNODE", pseudonym: str = "P0001"
) -> Study:
    """Write the instances into `folder` as the de-identifier lays them out, and read them back. Nothing is de-identified."""
    for ds in datasets:
        path = instance_path(folder, str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID))
        path.parent.mkdir(parents=True, exist_ok=True)
        ds.save_as(path, enforce_file_format=True)
    origin = Origin(channel=Channel.DIMSE, received_at=datetime(2026, 5, 11, 9, 20, tzinfo=UTC), calling_ae=calling_ae, called_ae=called_ae)
    ref = StudyRef(study=CleanUid(str(datasets[0].StudyInstanceUID)), revision=1)
    write_manifest(folder, ref=ref, pseudonym=Pseudonym(pseudonym), origin=origin)
    return read_study(folder)
