"""How many images the series has: instances, and frames of multi-frame ones."""

from __future__ import annotations

from node.conditions.interface import Range, numbers_in
from node.domain import Series, Study


class SliceCount(Range):
    """How many images the series has: instances with Rows and Columns, and the frames of multi-frame ones."""

    name = "slice_count"
    help = "a number, or min and max, as in {min: 20}"
    reads = ("Rows", "NumberOfFrames")

    def measured(self, study: Study, series: Series) -> float | None:
        headers = [instance.header for instance in series.instances if "Rows" in instance.header]
        return sum(max(0.0, (numbers_in(ds, "NumberOfFrames") or [1.0])[0]) for ds in headers)
