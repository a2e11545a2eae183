"""Which modality made the series: Modality (0008,0060)."""

from __future__ import annotations

from collections.abc import Sequence

from node.conditions.interface import OneOf
from node.domain import Series, Study


class Modality(OneOf):
    """Which modality made the series: Modality (0008,0060)."""

    name = "modality"
    help = "CT, MR, US, DX, CR, MG …; one or a list"
    reads = ()

    def found(self, study: Study, series: Series) -> Sequence[str]:
        return [series.modality]
