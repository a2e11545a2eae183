"""Crashes on the first try only."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from node.domain import Result
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes
from tests.faulty_pipelines._whole import bright_part


class KillsFirstTime(Pipeline):
    takes: ClassVar[Takes] = Takes.VOLUME

    def load(self, device: str) -> Any:
        return None

    def run(self, volume: Volume, model: Any) -> Result:
        tried = self.bundle.path / "tried"
        if not tried.exists():
            tried.touch()
            os._exit(9)
        return bright_part(volume)
