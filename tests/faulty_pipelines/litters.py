"""Leaves a temporary file, and ends without a word."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from node.domain import Result
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes


class Litters(Pipeline):
    takes: ClassVar[Takes] = Takes.VOLUME

    def load(self, device: str) -> Any:
        return None

    def run(self, volume: Volume, model: Any) -> Result:
        left = Path(tempfile.mkdtemp(prefix="left-")) / "pixels"
        left.write_bytes(b"pixels")
        (self.bundle.path / "left").write_text(str(left))
        os._exit(9)
