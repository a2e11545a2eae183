"""Gives the probability that stands in its bundle's folder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from node.domain import Result
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes
from tests.faulty_pipelines._whole import bright_part


class SaysANumber(Pipeline):
    takes: ClassVar[Takes] = Takes.VOLUME

    def load(self, device: str) -> Any:
        return None

    def run(self, volume: Volume, model: Any) -> Result:
        result = bright_part(volume)
        probability = float((self.bundle.path / "number").read_text())
        return replace(result, findings=tuple(replace(finding, probability=probability) for finding in result.findings))
