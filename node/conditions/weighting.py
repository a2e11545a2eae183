"""What an MR image shows bright: T1, T2, FLAIR and so on, as the maker or the times of the sequence say."""

from __future__ import annotations

from collections.abc import Sequence

from node.conditions.interface import OneOf
from node.domain import Series, Study
from node.weighting import NAMES, READS, weighting_of


class Weighting(OneOf):
    """T1, T2, FLAIR and so on, as the maker or the times of the sequence say."""

    name = "weighting"
    allowed = NAMES
    help = "of MR: T1, T2, T2*, FLAIR, PD, DWI, ADC or SWI; one or a list"
    reads = READS

    def ask(self, study: Study, series: Series) -> tuple[bool, str]:
        """By equality: the `*` of T2* stands for itself."""
        wanted = ", ".join(self.words)
        told = next(iter(self.found(study, series)), "")
        if not told:
            return False, f"weighting is not told; {wanted} is wanted"
        met = told in self.words
        return met, f"weighting {told} is {'one' if met else 'none'} of {wanted}"

    def found(self, study: Study, series: Series) -> Sequence[str]:
        told = weighting_of(series.header) if series.modality == "MR" else ""
        return [told] if told else []
