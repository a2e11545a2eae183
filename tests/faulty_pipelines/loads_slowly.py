"""Leaves a file when its model is there."""

from __future__ import annotations

from typing import Any, ClassVar

from node.domain import Result
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes
from tests.faulty_pipelines._whole import bright_part


class LoadsSlowly(Pipeline):
    takes: ClassVar[Takes] = Takes.VOLUME

    def load(self, device: str) -> Any:
        (self.bundle.path / "loaded").touch()
        return None

    def run(self, volume: Volume, model: Any) -> Result:
        return bright_part(volume)
