"""Takes the process down before it is of any use."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from node.domain import Result
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes
from tests.faulty_pipelines._whole import bright_part


class DiesWhileLoading(Pipeline):
    takes: ClassVar[Takes] = Takes.VOLUME

    def load(self, device: str) -> Any:
        os._exit(5)

    def run(self, volume: Volume, model: Any) -> Result:
        return bright_part(volume)
