"""Finds every series outside its intended use."""

from __future__ import annotations

from typing import Any, ClassVar

from node.domain import Result
from node.errors import OutsideIntendedUse
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes


class Refuses(Pipeline):
    takes: ClassVar[Takes] = Takes.VOLUME

    def load(self, device: str) -> Any:
        return None

    def run(self, volume: Volume, model: Any) -> Result:
        raise OutsideIntendedUse("made for other images")
