"""Takes all the memory it can get."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from node.domain import Result
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes


class Grows(Pipeline):
    takes: ClassVar[Takes] = Takes.VOLUME

    def load(self, device: str) -> Any:
        return []

    def run(self, volume: Volume, model: Any) -> Result:
        while True:
            model.append(b"x" * 16_000_000)
            time.sleep(0.01)
