"""Which side: Image Laterality (0020,0062), or Laterality (0020,0060) of the series."""

from __future__ import annotations

from collections.abc import Sequence

from node.conditions.interface import OneOf, values_in
from node.domain import Series, Study


class Laterality(OneOf):
    """Which side: Image Laterality (0020,0062), or Laterality (0020,0060) of the series."""

    name = "laterality"
    allowed = ("L", "R", "B", "U")
    help = "L, R, B (both) or U (unpaired); one or a list"
    reads = ("ImageLaterality", "Laterality")

    def found(self, study: Study, series: Series) -> Sequence[str]:
        return values_in(series, "ImageLaterality") or values_in(series, "Laterality")
