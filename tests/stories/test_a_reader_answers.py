"""The radiologist's answer comes home: an SR or SEG of a viewer, sent to the node like any instance, is a verdict on our finding."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydicom import Dataset, dcmread
from typer.testing import CliRunner

import config
from node.__main__ import front_door
from node.assembly import House
from node.domain import Opinion, VerdictSource
from node.gateway import Gateway
from node.testing.studies import a_study, write_study
from tests import readers
from tests.conftest import ROOT

PIPELINE = "breast_ultrasound"


class Department:
    """One node in this process, which delivers to a folder."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        rule = {"name": "breast", "when": {"modality": "US"}, "run": PIPELINE, "send_to": "pacs"}
        (folder / "rules.yaml").write_text(yaml.safe_dump({"rules": [rule]}))
        self.config = folder / "radnode.yaml"
        content = {
            "data_dir": str(folder / "data"),
            "bundles_dir": str(ROOT / "models"),
            "rules": str(folder / "rules.yaml"),
            "deidentification": {"text_detection": "off"},
            "intake": {"settle_after_s": 0, "min_free_mb": 64},
            "destinations": {"pacs": {"kind": "folder", "path": str(folder / "pacs")}},
            **settings,
        }
        self.config.write_text(yaml.safe_dump(content))
        self.house = House(config.load(self.config))
        self.house.check()
        self.gateway = Gateway(self.house)
        self.runner = self.house.runner(inline=True)

    def takes(self, *datasets: Dataset) -> None:
        """Instances arrive and are seen through to the archive."""
        inbox = self.folder / "inbox"
        shutil.rmtree(inbox, ignore_errors=True)
        write_study(list(datasets), inbox)
        self.house.take_folder(inbox)
        self.gateway.settle()
        self.runner.run_waiting()
        self.gateway.hand_over()
        self.house.outbox.send_due()

    def delivered(self, image: Dataset) -> dict[str, Dataset]:
        """What lies in the archive of a study, by modality."""
        found = [dcmread(path) for path in sorted((self.folder / "pacs").rglob("*.dcm"))]
        return {ds.Modality: ds for ds in found if ds.StudyInstanceUID == image.StudyInstanceUID}

    def command(self, *words: str) -> str:
        done = CliRunner().invoke(front_door(words[0]), [*words, "--config", str(self.config)])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    def verdicts(self, image: Dataset) -> list[Any]:
        return self.house.verdicts.heard(study=self.house.clean_uids.of(image.StudyInstanceUID))

    def close(self) -> None:
        self.runner.close()
        self.house.outbox.close()
        self.house.close()


@pytest.fixture(scope="module")
def department(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Department]:
    found = Department(tmp_path_factory.mktemp("answers"))
    yield found
    found.close()


def a_result(department: Department, patient: int, kind: str = "malignant") -> tuple[Dataset, dict[str, Dataset]]:
    [image] = a_study("US", patient=patient, kind=kind)
    department.takes(image)
    return image, department.delivered(image)


def test_a_rejecting_assessment_comes_home_as_a_verdict_without_a_name(department: Department) -> None:
    image, results = a_result(department, 1)
    uid = readers.tracking_uids(results["SR"])[f"{PIPELINE} malignant 1"]
    jobs = len(department.house.jobs.all())

    department.takes(
        readers.aira_report(results["SR"], "reject", tracking_uid=uid, reason=f"False positive, a cyst, says {image.PatientName}")
    )

    [heard] = department.verdicts(image)
    verdict = heard.verdict
    assert (verdict.opinion, verdict.finding, verdict.tracking_uid) == (Opinion.REJECT, "malignant", uid)
    assert (heard.pipeline, heard.version, verdict.source) == (PIPELINE, "1.0.0", VerdictSource.SR)
    assert "cyst" in verdict.reason.lower()
    assert verdict.reader == department.house.clean_uids.reader("RÖNTGEN^Wilma^^Dr.")
    everything = json.dumps([str(heard), department.command("audit", "export", "--format", "json")])
    for name in (*str(image.PatientName).replace("^", " ").split(), str(image.PatientID), "Wilma", "ntgen"):
        assert name not in everything
    assert f"a reader's SR: reject of {verdict.finding}" in everything
    assert len(department.house.jobs.all()) == jobs  # no new work
    assert department.house.intake.state_counts()["SETTLED"] == 0
    assert department.house.quarantine.list() == []
