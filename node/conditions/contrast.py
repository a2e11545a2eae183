"""Whether contrast was given: the Contrast/Bolus module, PS3.3 C.7.6.4."""

from __future__ import annotations

from typing import Any, Self

from pydicom.dataset import Dataset

from node.conditions.interface import Condition
from node.domain import Series, Study
from node.header_text import texts_of

#: an empty agent says nothing (it is type 2, and the de-identifier may have emptied it), so its dose and way count as well
TELLING = (
    "ContrastBolusAgent",
    "ContrastBolusAgentSequence",
    "ContrastBolusRoute",
    "ContrastBolusVolume",
    "ContrastBolusTotalDose",
    "ContrastBolusIngredient",
    "ContrastFlowRate",
    "ContrastBolusIngredientConcentration",
)


class Contrast(Condition):
    """Whether any image of the series says that contrast was given."""

    help = "true or false"
    reads = TELLING

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted

    @classmethod
    def parse(cls, value: Any) -> Self:
        if not isinstance(value, bool):
            raise ValueError("contrast: true or false")
        return cls(value)

    def ask(self, study: Study, series: Series) -> tuple[bool, str]:
        given = any(_says_so(instance.header) for instance in series.instances)
        return given is self.wanted, f"contrast {'was given' if given else 'is not told'}; {'with' if self.wanted else 'without'} is wanted"


def _says_so(ds: Dataset) -> bool:
    for keyword in TELLING:
        texts = texts_of(ds, keyword)
        if texts and texts not in (["0"], ["0.0"], ["NONE"], ["None"]):
            return True
    return False
