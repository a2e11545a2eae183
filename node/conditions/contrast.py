"""Whether contrast was given: the Contrast/Bolus module, PS3.3 C.7.6.4; of MR what its description says, where it says so."""

from __future__ import annotations

import re
from typing import Any, Self

from pydicom.dataset import Dataset

from node.conditions.interface import Condition, plain, text_of
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

#: of MR, whose header often says nothing, or says it of every series of the study
BEFORE = re.compile(r"\b(pre(?! ?op)|nativ|native|non|no|without|wo|w o|sans|avant|ohne|vor)\b")
AFTER = re.compile(
    r"\b(gd|gad|gado|gadolinium|ce|km|post(?! ?op)|enhanced|injection|t1(c|ce|gd|km))\b"
    r"|(?<!phase )\bcontrast\b|\bc\+|\+ ?c\b|(?<!\d )\bcm\b"
)


class Contrast(Condition):
    """Whether any image of the series says that contrast was given."""

    help = "true or false; of MR the words of its description count before the header: T1 nativ, T1 +C"
    reads = (*TELLING, "SeriesDescription")

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted

    @classmethod
    def parse(cls, value: Any) -> Self:
        if not isinstance(value, bool):
            raise ValueError("contrast: true or false")
        return cls(value)

    def ask(self, study: Study, series: Series) -> tuple[bool, str]:
        said = _described(series)
        given = any(_says_so(instance.header) for instance in series.instances) if said is None else said
        words = "was given" if given else "is not told" if said is None else "was not given"
        return given is self.wanted, f"contrast {words}; {'with' if self.wanted else 'without'} is wanted"


def _described(series: Series) -> bool | None:
    """None where the description does not say, or it is no MR."""
    if series.modality != "MR":
        return None
    text = plain(text_of(series.header, "SeriesDescription"))
    return False if BEFORE.search(text) else True if AFTER.search(text) else None


def _says_so(ds: Dataset) -> bool:
    for keyword in TELLING:
        texts = texts_of(ds, keyword)
        if texts and texts not in (["0"], ["0.0"], ["NONE"], ["None"]):
            return True
    return False
