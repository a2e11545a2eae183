"""Who sent the study: the calling AE title of its association."""

from __future__ import annotations

from collections.abc import Sequence

from node.conditions.interface import OneOf
from node.domain import Series, Study


class CallingAe(OneOf):
    """Who sent the study: the calling AE title of its association."""

    name = "calling_ae"
    help = "AE titles; one or a list"
    reads = ()

    def found(self, study: Study, series: Series) -> Sequence[str]:
        return [study.origin.calling_ae]
