"""How thick a slice is: Slice Thickness (0018,0050)."""

from __future__ import annotations

from node.conditions.interface import Range, numbers_in
from node.domain import Series, Study


class SliceThickness(Range):
    """How thick a slice is: Slice Thickness (0018,0050), in mm."""

    name = "slice_thickness_mm"
    help = "a number, or min and max, as in {max: 3}"
    reads = ("PixelMeasuresSequence", "SliceThickness")

    def measured(self, study: Study, series: Series) -> float | None:
        return next(iter(numbers_in(series.header, "SliceThickness", "PixelMeasuresSequence")), None)
