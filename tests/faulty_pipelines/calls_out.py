"""Tries to send pixels to somebody: the test says to which port of this machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, ClassVar

from node.domain import Result
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes
from tests.faulty_pipelines._whole import bright_part


class CallsOut(Pipeline):
    takes: ClassVar[Takes] = Takes.VOLUME

    def load(self, device: str) -> Any:
        return None

    def run(self, volume: Volume, model: Any) -> Result:
        told = Path(self.bundle.path / "told.txt").read_text().split()
        facts = {"environment": sorted(os.environ), "hidden": os.listdir(told[1])}
        try:
            with socket.create_connection(("127.0.0.1", int(told[0])), timeout=5) as out:
                out.sendall(b"pixels")
            facts["network"] = "reached"
        except OSError as why:
            facts["network"] = type(why).__name__
        result = bright_part(volume)
        result.facts.update(facts)
        return result
