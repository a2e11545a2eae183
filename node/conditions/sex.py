"""Patient's Sex (0010,0040)."""

from __future__ import annotations

from collections.abc import Sequence

from node.conditions.interface import OneOf
from node.domain import Series, Study
from node.header_text import texts_of


class Sex(OneOf):
    """Patient's Sex (0010,0040). The answer does not repeat it."""

    name = "sex"
    allowed = ("M", "F", "O")
    help = "M, F or O; one or a list"
    reads = ("PatientSex",)

    def found(self, study: Study, series: Series) -> Sequence[str]:
        return texts_of(series.header, "PatientSex")

    def ask(self, study: Study, series: Series) -> tuple[bool, str]:
        there, wanted = self.found(study, series), " or ".join(self.words)
        if not there:
            return False, f"sex is not told; {wanted} is wanted"
        met = there[0].upper() in self.words
        return met, f"sex is {'' if met else 'not '}{wanted}"
