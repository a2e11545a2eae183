"""A new version of a model comes to the department: it runs in the shadow, is compared, promoted, and taken back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom import Dataset, dcmread
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import config
from node.__main__ import front_door
from node.assembly import House
from node.bundle import write_sums
from node.commands.offline import own_house
from node.domain import Job, JobState
from node.gateway import Gateway
from node.runners.interface import Runner
from node.testing.studies import a_study, write_study
from tests.conftest import ROOT

PIPELINE = "breast_ultrasound"
HEAD = "classification_head.3.bias"  #: normal, benign, malignant


def another_version(folder: Path, version: str) -> None:
    """The shipped bundle with its mind changed a little: malignant seems less likely to it."""
    home = folder / PIPELINE / version
    shutil.copytree(ROOT / "models" / PIPELINE / "1.1.0", home)
    metadata = json.loads((home / "configs" / "metadata.json").read_text())
    (home / "configs" / "metadata.json").write_text(json.dumps(metadata | {"version": version}))
    tensors = load_file(home / "models" / "model.safetensors")
    tensors[HEAD][2] -= 1.5
    save_file(tensors, home / "models" / "model.safetensors")
    write_sums(home)


class Department:
    """One node in this process; every command is given as its users give it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        shutil.copytree(ROOT / "models" / PIPELINE, self.models / PIPELINE)
        rule = {"name": "breast", "when": {"modality": "US"}, "run": PIPELINE, "send_to": "pacs"}
        (folder / "rules.yaml").write_text(yaml.safe_dump({"rules": [rule]}))
        self.config = folder / "radnode.yaml"
        content = {
            "data_dir": str(folder / "data"),
            "bundles_dir": str(self.models),
            "rules": str(folder / "rules.yaml"),
            "deidentification": {"text_detection": "off"},  # phantoms; who looks for text has stories of its own
            "intake": {"settle_after_s": 0, "min_free_mb": 64},
            "destinations": {"pacs": {"kind": "folder", "path": str(folder / "pacs")}},
        }
        self.config.write_text(yaml.safe_dump(content))
        self.house = House(config.load(self.config))
        self.house.check()
        self.gateway = Gateway(self.house)
        self.runner: Runner = self.house.runner(inline=True)

    def command(self, *words: str) -> str:
        done = CliRunner().invoke(front_door(words[0]), [*words, "--config", str(self.config)])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    def listed(self) -> dict[str, dict[str, Any]]:
        return {facts["version"]: facts for facts in json.loads(self.command("bundles", "list", "--json"))}

    def takes(self, datasets: list[Dataset]) -> list[Job]:
        """A study comes in and is seen through to the archive; returns its jobs."""
        before = {job.id for job in self.house.jobs.all()}
        folder = self.folder / f"study{len(before)}"
        write_study(datasets, folder)
        self.house.take_folder(folder)
        self.gateway.settle()
        self.runner.run_waiting()
        self.gateway.hand_over()
        self.house.outbox.send_due()
        return [job for job in self.house.jobs.all() if job.id not in before]

    def delivered(self) -> list[Dataset]:
        return [dcmread(path) for path in sorted((self.folder / "pacs").rglob("*.dcm"))]

    def close(self) -> None:
        self.runner.close()
        self.house.outbox.close()
        self.house.close()


@pytest.fixture(scope="module")
def department(tmp_path_factory: pytest.TempPathFactory) -> Any:
    found = Department(tmp_path_factory.mktemp("versions"))
    yield found
    found.close()


def versions_of(results: list[Dataset]) -> set[str]:
    """The versions that the delivered objects name in their contributing equipment."""
    return {str(item.SoftwareVersions[0]) for ds in results for item in ds.ContributingEquipmentSequence if item.get("SoftwareVersions")}


def test_a_new_version_is_tried_promoted_and_rolled_back(department: Department) -> None:
    """One story, since each step rests on the one before; the node is never started again."""
    # installed beside the old one, and put in the shadow before anything else happens
    another_version(department.models, "2.0.0")
    department.command("bundles", "shadow", PIPELINE, "2.0.0", "--reason", "trained on more ultrasound")
    listed = department.listed()
    assert {version: facts["state"] for version, facts in listed.items()} == {"1.1.0": "active", "2.0.0": "shadow"}
    assert listed["2.0.0"]["by"].startswith("os:")
    assert listed["2.0.0"]["reason"] == "trained on more ultrasound"
    assert listed["2.0.0"]["since"]
    assert listed["2.0.0"]["digest"] != listed["1.1.0"]["digest"]

    # a study: both versions read it, one answers
    active, shadow = sorted(department.takes(a_study("US", patient=4, kind="malignant")), key=lambda job: job.algorithm.version)
    assert (active.state, shadow.state) == (JobState.COMPLETED, JobState.COMPLETED)
    assert (active.shadow, shadow.shadow) == (False, True)
    assert active.id != shadow.id
    assert {written.role.value for written in department.house.jobs.objects_of(shadow)} == {"SEG", "SC", "SR"}
    delivered = {ds.SOPInstanceUID for ds in department.delivered()}
    assert delivered == {written.sop_instance_uid for written in department.house.jobs.objects_of(active)}
    assert shadow.predecessor == ""
    status = json.loads(department.command("status", "--json"))
    assert status["shadows"]["jobs"]["COMPLETED"] == 1
    assert status["shadows"]["pipelines"][PIPELINE][0].startswith("2.0.0 ")
    assert f"shadows     {PIPELINE} 2.0.0 " in department.command("status")
    assert "in the shadow, delivered nowhere" in department.command("audit", "export", "--format", "json")

    # how do they compare?
    found = json.loads(department.command("bundles", "compare", PIPELINE, "1.1.0", "2.0.0", "--json"))
    assert (found["series"], found["analysed"]) == (1, 1)
    summaries = [department.house.jobs.summary_of(job.id) or {} for job in (active, shadow)]
    before, after = (next(f["probability"] for f in s["findings"] if f["name"] == "malignant") for s in summaries)
    malignant = next(one for one in found["findings"] if one["name"] == "malignant")
    assert malignant["mean_difference"] == pytest.approx(after - before)
    assert after < before
    assert "1 series read by both 1.1.0 and 2.0.0" in department.command("bundles", "compare", PIPELINE, "1.1.0", "2.0.0")

    # promoted: the next study is answered by the new one
    department.command("bundles", "promote", PIPELINE, "2.0.0", "--reason", "agrees, and is better calibrated")
    [job] = department.takes(a_study("US", patient=5, kind="benign"))
    assert (job.algorithm.version, job.shadow) == ("2.0.0", False)
    new = [ds for ds in department.delivered() if ds.SOPInstanceUID not in delivered]
    assert versions_of(new) == {"2.0.0"}
    assert all(listed["2.0.0"]["digest"] in str(ds.ContributingEquipmentSequence) for ds in new)

    # and back
    assert "1.1.0 is active again" in department.command("bundles", "rollback", PIPELINE, "--reason", "misses small cysts")
    [job] = department.takes(a_study("US", patient=6, kind="benign"))
    assert job.algorithm.version == "1.1.0"
    trail = [json.loads(line) for line in department.command("audit", "export", "--format", "json").splitlines() if line.strip()]
    told = [event["what"] for event in trail if event.get("what", "").startswith(PIPELINE)]
    assert told == [f"{PIPELINE} 2.0.0: put in the shadow", f"{PIPELINE} 2.0.0: promoted", f"{PIPELINE}: rolled back to 1.1.0"]


def test_the_offline_path_takes_the_version_that_is_active_on_this_node(department: Department) -> None:
    department.command("bundles", "shadow", PIPELINE, "2.0.0", "--reason", "looked at once more")

    with own_house(config.load(department.config)) as offline:
        assert offline.bundles[PIPELINE].version == "1.1.0"
        assert offline.shelf.shadows(PIPELINE) == []
        assert offline.jobs.all() == []
