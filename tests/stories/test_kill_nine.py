"""kill -9 of any one process at ten moments of a study's path, then a restart: exactly one set of results each time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from node.testing.studies import a_study, write_study
from tests.stories.conftest import Department
from tests.stories.department import store, wait_for
from tests.stories.test_a_study_comes_home import complete_results, results_of

#: (who is killed, when): seconds after the study was sent, or what `radnode status` shows then
MOMENTS = [
    ("receiver", 0.0),
    ("gateway", 0.3),
    ("serve", 0.6),
    ("gateway", 1.6),
    ("web", 2.0),
    ("serve", 2.4),
    ("model", "IN PROGRESS"),
    ("worker", "IN PROGRESS"),
    ("serve", "IN PROGRESS"),
    ("gateway", "COMPLETED"),
]


@pytest.fixture(scope="module")
def department(tmp_path_factory: pytest.TempPathFactory):
    # a CT asks no text detector, and a node that starts so often would spend its time on loading one
    found = Department(tmp_path_factory.mktemp("killed"), deidentification={"text_detection": "off"}).start()
    yield found
    found.stop()


@pytest.mark.slow
@pytest.mark.parametrize(("part", "moment"), MOMENTS, ids=[f"{part} at {moment}" for part, moment in MOMENTS])
def test_one_set_of_results_whoever_is_killed(department: Department, tmp_path: Path, part: str, moment: float | str):
    node = department.node
    number = MOMENTS.index((part, moment))
    slices = 6 if isinstance(moment, float) else 24  # long enough to be met while it runs
    sources = a_study("CT", slices=slices, patient=20 + number, study=number)
    write_study(sources, tmp_path / "study")
    jobs_before = node.status()["jobs"]
    assert store(tmp_path / "study", node.dicom_port).returncode == 0

    if isinstance(moment, float):
        time.sleep(moment)
    else:
        wait_for(f"a job to be {moment}", lambda: node.status()["jobs"][moment] > jobs_before[moment], seconds=120, every=0.02)
    node.kill(part)
    if part == "serve":
        node.start()

    study = sources[0].StudyInstanceUID
    complete_results(department, study)
    wait_for("the node to be at rest", lambda: node.at_rest(for_s=3), seconds=120)
    results = results_of(department, study)
    assert sorted(ds.Modality for ds in results) in (["OT", "SEG", "SR"], ["OT", "SR"])
    assert sum(node.status()["jobs"].values()) == sum(jobs_before.values()) + 1


def test_the_audit_trail_survived_it_all(department: Department):
    said: Callable[[], str] = lambda: department.node.command("audit", "verify")  # noqa: E731
    assert "intact" in said()
