"""How large an image is: Columns (0028,0011)."""

from __future__ import annotations

from node.conditions.interface import Range, numbers_in
from node.domain import Series, Study


class Columns(Range):
    """How large an image is: Columns (0028,0011), of the first image."""

    name = "columns"
    help = "a number, or min and max, as in {min: 256}"
    reads = ("Columns",)

    def measured(self, study: Study, series: Series) -> float | None:
        return next(iter(numbers_in(series.header, "Columns")), None)
