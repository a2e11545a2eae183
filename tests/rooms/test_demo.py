"""How long the demo waits for its results."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset

from node.commands import demo
from node.commands.demo_node import DemoNode
from node.testing.pacs import Pacs
from node.testing.scanner import send
from node.testing.studies import a_study

REPORT = "1.2.840.10008.5.1.4.1.1.88.11"  #: Basic Text SR Storage


class _Clock:
    """Each wait takes minutes, and in it something may come home."""

    def __init__(self, pacs: Pacs, coming: list[Dataset]) -> None:
        self._pacs, self._coming, self._now = pacs, list(coming), 0.0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, _seconds: float) -> None:
        self._now += 250
        if self._coming:
            send([self._coming.pop(0)], port=self._pacs.port, calling_ae="NODE", called_ae="PACS")


def waited(coming: list[Dataset], folder: Path, monkeypatch: pytest.MonkeyPatch, *, runs: bool) -> list[bool]:
    """Whether each study came home."""
    samples = [demo.Sample("", "", [ds], "") for ds in coming]
    with Pacs(folder) as pacs:
        monkeypatch.setattr(demo, "time", _Clock(pacs, coming))
        demo._wait(samples, pacs, DemoNode(0, "", "", lambda: runs), lambda sample: None)
    return [bool(sample.results) for sample in samples]


def a_report(patient: int) -> Dataset:
    [report] = a_study("DX", patient=patient)
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = REPORT
    report.Modality = "SR"
    del report.PixelData
    return report


def test_the_demo_waits_as_long_as_something_comes_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reports = [a_report(number) for number in range(1, 6)]

    assert waited(reports, tmp_path / "slow", monkeypatch, runs=True) == [True] * 5  # in 20 minutes
    assert waited(reports[:2] * 2, tmp_path / "doubles", monkeypatch, runs=True) == [True] * 4


def test_the_demo_waits_no_longer_than_its_node_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert waited([a_report(1)], tmp_path / "pacs", monkeypatch, runs=False) == [False]
