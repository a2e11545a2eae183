"""Takes each image by itself and outlines without saying how sure it is, as a segmentation does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from node.domain import Result
from node.imaging.volume import Volume
from node.pipelines.interface import Pipeline, Takes
from tests.faulty_pipelines._whole import bright_part

LEAST = 0.25  #: of the image that must be bright


class OutlinesTheBright(Pipeline):
    takes: ClassVar[Takes] = Takes.IMAGE

    def load(self, device: str) -> Any:
        return None

    def run(self, volume: Volume, model: Any) -> Result:
        result = bright_part(volume)
        [finding] = result.findings
        if (finding.probability or 0.0) >= LEAST:
            return replace(result, label="bright", findings=(replace(finding, probability=None),))
        return replace(result, label="nothing", segments=(), findings=(replace(finding, probability=None, present=False, segment=None),))
