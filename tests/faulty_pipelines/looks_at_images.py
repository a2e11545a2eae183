"""Takes each image by itself."""

from __future__ import annotations

from typing import Any, ClassVar

from node.domain import Result
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes
from tests.faulty_pipelines._whole import bright_part


class LooksAtImages(Pipeline):
    takes: ClassVar[Takes] = Takes.IMAGE

    def load(self, device: str) -> Any:
        return None

    def run(self, volume: Volume, model: Any) -> Result:
        return bright_part(volume)
