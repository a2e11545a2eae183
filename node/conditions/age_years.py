"""How old the patient was: Patient's Age (0010,1010)."""

from __future__ import annotations

from node.conditions.interface import Range, text_of
from node.domain import Series, Study

PER_YEAR = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}  #: VR AS, PS3.5 Table 6.2-1


class AgeYears(Range):
    """How old the patient was: Patient's Age (0010,1010), in years. The answer does not repeat it."""

    name = "age_years"
    told = False
    help = "a number, or min and max, as in {min: 18}"
    reads = ("PatientAge",)

    def measured(self, study: Study, series: Series) -> float | None:
        text = text_of(series.header, "PatientAge").upper()
        number, unit = (text[:-1], text[-1]) if text[-1:] in PER_YEAR else (text, "Y")  # some write 42 for 042Y
        return int(number) / PER_YEAR[unit] if number.isdecimal() and len(number) <= 3 else None
