"""Nothing is wrong with it."""

from __future__ import annotations

from typing import Any, ClassVar

from node.domain import Result
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes
from tests.faulty_pipelines._whole import bright_part


class Works(Pipeline):
    takes: ClassVar[Takes] = Takes.VOLUME

    def load(self, device: str) -> Any:
        return []

    def run(self, volume: Volume, model: Any) -> Result:
        model.append("used")
        result = bright_part(volume)
        result.facts["used"] = len(model)
        return result
