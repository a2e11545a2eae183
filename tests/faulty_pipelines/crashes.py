"""Writes where it must not, as broken native code does."""

from __future__ import annotations

import ctypes
from typing import Any, ClassVar

from node.domain import Result
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes


class Crashes(Pipeline):
    takes: ClassVar[Takes] = Takes.VOLUME

    def load(self, device: str) -> Any:
        return None

    def run(self, volume: Volume, model: Any) -> Result:
        ctypes.string_at(0)
        raise AssertionError("unreachable")
