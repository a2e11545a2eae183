"""How pixels stand for light: Photometric Interpretation (0028,0004)."""

from __future__ import annotations

from collections.abc import Sequence

from node.conditions.interface import OneOf, values_in
from node.domain import Series, Study


class Photometric(OneOf):
    """How pixels stand for light: Photometric Interpretation (0028,0004)."""

    name = "photometric"
    help = "MONOCHROME1, MONOCHROME2, RGB …; one or a list"
    reads = ("PhotometricInterpretation",)

    def found(self, study: Study, series: Series) -> Sequence[str]:
        return values_in(series, "PhotometricInterpretation")
