"""Needs a while: as long as the file in its bundle says."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from node.domain import Result
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes
from tests.faulty_pipelines._whole import bright_part


class TakesItsTime(Pipeline):
    takes: ClassVar[Takes] = Takes.VOLUME

    def load(self, device: str) -> Any:
        return None

    def run(self, volume: Volume, model: Any) -> Result:
        with (self.bundle.path / "runs").open("a") as runs:
            runs.write(f"{volume.series.series_instance_uid}\n")
        time.sleep(float((self.bundle.path / "seconds").read_text()))
        return bright_part(volume)
