"""Which part of the body: Body Part Examined (0018,0015)."""

from __future__ import annotations

from collections.abc import Sequence

from node.conditions.interface import OneOf, values_in
from node.domain import Series, Study


class BodyPart(OneOf):
    """Which part of the body: Body Part Examined (0018,0015)."""

    name = "body_part"
    help = "CHEST, BREAST, HEAD …; one or a list; * and ? allowed"
    reads = ("BodyPartExamined",)

    def found(self, study: Study, series: Series) -> Sequence[str]:
        return values_in(series, "BodyPartExamined")
