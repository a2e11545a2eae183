"""Who built the scanner: Manufacturer (0008,0070)."""

from __future__ import annotations

from collections.abc import Sequence

from node.conditions.interface import OneOf, values_in
from node.domain import Series, Study


class Manufacturer(OneOf):
    """Who built the scanner: Manufacturer (0008,0070)."""

    name = "manufacturer"
    help = "names; one or a list; * and ? allowed, as in GE*"
    reads = ("Manufacturer",)

    def found(self, study: Study, series: Series) -> Sequence[str]:
        return values_in(series, "Manufacturer")
