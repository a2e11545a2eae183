"""How the beam went: View Position (0018,5101)."""

from __future__ import annotations

from collections.abc import Sequence

from node.conditions.interface import OneOf, values_in
from node.domain import Series, Study


class ViewPosition(OneOf):
    """How the beam went: View Position (0018,5101)."""

    name = "view_position"
    help = "PA, AP, LL, MLO, CC …; one or a list"
    reads = ("ViewPosition",)

    def found(self, study: Study, series: Series) -> Sequence[str]:
        return values_in(series, "ViewPosition")
