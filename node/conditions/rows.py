"""How large an image is: Rows (0028,0010)."""

from __future__ import annotations

from node.conditions.interface import Range, numbers_in
from node.domain import Series, Study


class Rows(Range):
    """How large an image is: Rows (0028,0010), of the first image."""

    name = "rows"
    help = "a number, or min and max, as in {min: 256}"
    reads = ("Rows",)

    def measured(self, study: Study, series: Series) -> float | None:
        return next(iter(numbers_in(series.header, "Rows")), None)
