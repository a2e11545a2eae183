"""Which scanner: Manufacturer's Model Name (0008,1090)."""

from __future__ import annotations

from collections.abc import Sequence

from node.conditions.interface import OneOf, values_in
from node.domain import Series, Study


class ModelName(OneOf):
    """Which scanner: Manufacturer's Model Name (0008,1090)."""

    name = "model_name"
    help = "names; one or a list; * and ? allowed"
    reads = ("ManufacturerModelName",)

    def found(self, study: Study, series: Series) -> Sequence[str]:
        return values_in(series, "ManufacturerModelName")
