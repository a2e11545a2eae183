"""Clean studies, bundles and jobs for tests of what workers do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydicom.dataset import Dataset
from safetensors.torch import save_file

from node.bundle import Bundle, write_sums
from node.domain import Channel, CleanUid, Job, JobState, Origin, Priority, Pseudonym, Route, StudyRef
from node.imaging.study import instance_path, write_manifest
from node.ledger.jobs import Jobs, job_id
from node.runners.interface import Runner
from node.testing.studies import a_study
from tests.rooms.databases import sqlite

FAULTY = "tests.faulty_pipelines"
PSEUDONYM = Pseudonym("P0011223344556677")


def now() -> datetime:
    return datetime.now(UTC)


def clean_study(datasets: list[Dataset], folder: Path, *, revision: int = 1) -> Path:
    """The data sets as a clean study. They come from phantoms, so nobody has to be taken out but their invented names."""
    study = CleanUid(str(datasets[0].StudyInstanceUID))
    home = folder / study / str(revision)
    for ds in datasets:
        ds.PatientName, ds.PatientID, ds.PatientBirthDate = f"{PSEUDONYM}", PSEUDONYM, ""
        path = instance_path(home, str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID))
        path.parent.mkdir(parents=True, exist_ok=True)
        ds.save_as(path, enforce_file_format=True)
    origin = Origin(channel=Channel.FOLDER, received_at=now())
    write_manifest(home, ref=StudyRef(study=study, revision=revision), pseudonym=PSEUDONYM, origin=origin)
    return home


def bundle(folder: Path, pipeline: str, version: str = "1.0.0", *, weight: float = 1.0, numbers: int = 1) -> Bundle:
    """A small intact bundle for a pipeline of the tests."""
    path = folder / pipeline / version
    if not path.exists():
        (path / "configs").mkdir(parents=True)
        (path / "models").mkdir()
        (path / "configs" / "metadata.json").write_text(
            json.dumps({"version": version, "radnode": {"pipeline": pipeline, "intended_use": {"min_age_years": 18}}})
        )
        (path / "configs" / "inference.json").write_text("{}")
        save_file({"weight": torch.full((numbers,), weight)}, path / "models" / "model.safetensors")
        write_sums(path)
    return Bundle.open(path)


def a_job(folder: Path, datasets: list[Dataset], of: Bundle, *, priority: Priority = Priority.ROUTINE) -> Job:
    """The bundle's pipeline on the series."""
    study, series = CleanUid(str(datasets[0].StudyInstanceUID)), CleanUid(str(datasets[0].SeriesInstanceUID))
    inputs = tuple(sorted(CleanUid(str(ds.SOPInstanceUID)) for ds in datasets))
    return Job(
        id=job_id(study, series, of.name, of.version, of.digest, inputs),
        study=StudyRef(study=study, revision=1),
        pseudonym=PSEUDONYM,
        folder=folder,
        route=Route(rule="test", series=series, pipeline=of.name, destinations=("folder",), priority=priority),
        algorithm=of.algorithm,
        inputs=inputs,
    )


@dataclass
class Bench:
    """A data folder with a ledger, clean chest CTs, and bundles, as they are asked for."""

    root: Path
    jobs: Jobs

    @classmethod
    def at(cls, root: Path) -> Bench:
        return cls(root, Jobs(sqlite(root), now, clean_folder=root / "clean"))

    @property
    def folders(self) -> dict[str, Path]:
        """The arguments that every runner is given."""
        return {"clean_folder": self.root / "clean", "results_folder": self.root / "clean" / "results", "bundles_dir": self.root / "models"}

    def job(self, pipeline: str, *, priority: Priority = Priority.ROUTINE, number: int = 1) -> Job:
        """A job for that pipeline on chest CT `number`."""
        datasets = a_study("CT", slices=6, rows=64, study=number)
        folder = clean_study(datasets, self.root / "clean" / "studies")
        return a_job(folder, datasets, bundle(self.root / "models", pipeline), priority=priority)

    def submit(self, pipeline: str, **more: Any) -> Job:
        job = self.job(pipeline, **more)
        self.jobs.submit(job)
        return job

    def state_of(self, job: Job) -> JobState:
        found = self.jobs.get(job.id)
        assert found is not None
        return found.state


def until(done: Callable[[], bool], runner: Runner | None = None, *, seconds: float = 60) -> None:
    """Let the runner carry on until that is so."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it took too long"
        if runner is not None:
            runner.run_waiting()
        time.sleep(0.02)


def all_ended(bench: Bench) -> Callable[[], bool]:
    """Nothing waits and nothing runs."""
    return lambda: not any(bench.jobs.counts()[state] for state in (JobState.SCHEDULED, JobState.IN_PROGRESS))
