"""The gateway and the worker as two programs, and a source that is asked how many images a study has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydicom import dcmread

from node.testing.studies import a_study, write_study
from tests.stories.conftest import BREAST, CHEST, Department
from tests.stories.department import NodeProcess, store, wait_for


def test_gateway_and_worker_are_two_programs_that_share_the_clean_side_only(tmp_path: Path):
    gateway = NodeProcess(tmp_path / "gateway", half="gateway")
    gateway.settings["destinations"] = {"archive": {"kind": "folder", "path": str(tmp_path / "home")}}
    gateway.rules(BREAST)
    worker = NodeProcess(tmp_path / "worker", half="worker")
    worker.settings["data_dir"] = str(tmp_path / "elsewhere")
    worker.settings["database"] = {"url": f"sqlite:///{gateway.data / 'clean' / 'ledger.sqlite'}"}
    worker.settings.pop("rules")
    [source] = a_study("US", patient=4, kind="benign")
    write_study([source], tmp_path / "study")
    try:
        gateway.start()
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "clean").symlink_to(gateway.data / "clean")  # the volume that both mount, at another place
        worker.start()

        assert store(tmp_path / "study", gateway.dicom_port).returncode == 0

        results = wait_for("three results", lambda: found if len(found := list((tmp_path / "home").rglob("*.dcm"))) == 3 else None)
        assert {str(dcmread(path).PatientName) for path in results} == {str(source.PatientName)}
        assert not (tmp_path / "elsewhere" / "identified").exists()
    finally:
        worker.stop()
        gateway.stop()


def test_a_study_settles_early_when_its_source_says_that_it_is_complete(a_department: Callable[..., Department], tmp_path: Path):
    department = a_department(
        intake={"settle_after_s": 600, "settle_complete_after_s": 1, "count_from": "pacs", "min_free_mb": 64}, orthancs={}
    )
    node = department.node
    node.settings["sources"] = {"pacs": {"kind": "qido", "url": department.archive.dicomweb_url}}
    node.rules(CHEST)
    sources = a_study("CT", slices=8, rows=128, patient=3)
    write_study(sources, tmp_path / "study")
    department.start()
    store(tmp_path / "study", department.archive.dicom_port, called="ORTHANC")

    assert store(tmp_path / "study", node.dicom_port).returncode == 0

    wait_for("a job, long before the quiet timer", lambda: sum(node.status()["jobs"].values()), seconds=60)
    assert "complete: 8 of 8 instances" in node.log.read_text()
