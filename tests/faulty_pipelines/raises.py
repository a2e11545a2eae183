"""Fails with a text that quotes what it was given."""

from __future__ import annotations

from typing import Any, ClassVar

from node.domain import Result
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes


class Raises(Pipeline):
    takes: ClassVar[Takes] = Takes.VOLUME

    def load(self, device: str) -> Any:
        return None

    def run(self, volume: Volume, model: Any) -> Result:
        raise ValueError(f"CANARY {volume.series.header.PatientID}")
