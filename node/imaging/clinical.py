"""What is known of a patient beside the image: from the header, and from whoever asks. Missing values stay missing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from node.errors import UploadRefused

Told = dict[str, float | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A field that is a number, and what it may be: anything else counts as a mistake of the keyboard and is left out."""

    keyword: str  #: of the DICOM element that holds it; empty: no image header does
    low: float
    high: float


NUMBERS = {
    "age_years": Number(keyword="PatientAge", low=0, high=120),
    "weight_kg": Number(keyword="PatientWeight", low=20, high=350),
    "height_m": Number(keyword="PatientSize", low=0.8, high=2.5),
    "temperature_c": Number(keyword="", low=30, high=44),
    "spo2_percent": Number(keyword="", low=30, high=100),
}
ALIASES = {"age": "age_years", "weight": "weight_kg", "height": "height_m", "temperature": "temperature_c", "spo2": "spo2_percent"}
WORDS = {"sex": "PatientSex", "view": "ViewPosition"}
KNOWN = {*NUMBERS, "sex", "view"}
EXAMPLE = '{"age": 61, "sex": "F", "temperature": 38.4}'
SEXES = {"M": "M", "F": "F", "MALE": "M", "FEMALE": "F"}


def clinical_of(header: Dataset, told: Mapping[str, Any] | None = None) -> Told:
    """Fields that are known, by the names of `NUMBERS`, and `sex` ("F", "M"), `view` ("PA", "AP").

    Parameters
    ----------
    header : of the image
    told : what was said beside the image, e.g. `{"age": 61, "temperature": 38.4}`; it goes before the header

    Standard: PS3.3 C.7.2.2 Patient Study, C.8.1.3 and C.8.11.5 View Position.
    """
    words = {ALIASES.get(str(key).lower(), str(key).lower()): value for key, value in (told or {}).items()}
    found: Told = {}
    for name, number in NUMBERS.items():
        stored = header.get(number.keyword) if number.keyword else None
        for value in (words.get(name), stored):
            read = years_of(value) if name == "age_years" else _number(value)
            if read is not None and number.low <= read <= number.high:
                found[name] = read
                break
    for value in (words.get("sex"), header.get("PatientSex")):
        if str(value or "").strip().upper() in SEXES:
            found["sex"] = SEXES[str(value).strip().upper()]
            break
    for value in (words.get("view"), header.get("ViewPosition")):
        if view := view_of(str(value or "")):
            found["view"] = view
            break
    return found


def validated(told: Any) -> Told:
    """What was said beside an image, under our names. Nothing that can't be understood is passed over in silence.

    Raises UploadRefused, which names the key, what it may be, and the keys that are known; never the value.
    """
    if not isinstance(told, dict):
        raise UploadRefused(f"`clinical` is an object of JSON, such as {EXAMPLE}.", known=sorted(KNOWN))
    found: Told = {}
    for key, value in told.items():
        name = ALIASES.get(str(key).lower(), str(key).lower())
        if name not in KNOWN:
            raise UploadRefused("`clinical` has a key that is not known.", known=sorted(KNOWN))
        if value is None:
            continue
        if name in found:
            raise UploadRefused(f"`clinical` tells {name} twice.")
        found[name] = _understood(name, value)
    return found


def _understood(name: str, value: Any) -> float | str:
    if name in NUMBERS:
        number = NUMBERS[name]
        read = None if isinstance(value, bool) else years_of(value) if name == "age_years" else _number(value)
        if name == "age_years" and value == 0 and not isinstance(value, bool):
            read = 0.0
        if read is None or not number.low <= read <= number.high:
            raise UploadRefused(f"`clinical`: {name} is a number from {number.low:g} to {number.high:g}.")
        return read
    word = str(value).strip().upper()
    if name == "sex" and word not in SEXES:
        raise UploadRefused(f"`clinical`: sex is one of {', '.join(SEXES)}.")
    if name == "view" and not re.fullmatch(r"[A-Z0-9][A-Z0-9 _-]{0,15}", word):
        raise UploadRefused("`clinical`: view is a View Position (0018,5101), such as PA, AP or LATERAL.")
    return SEXES[word] if name == "sex" else word


def tell(header: Dataset, told: Mapping[str, float | str]) -> None:
    """Put into a header what was said beside the image, where an element can hold it: for whoever asks the header only."""
    for name, number in NUMBERS.items():
        if number.keyword and name in told:
            header[number.keyword] = DataElement(number.keyword, *_as_element(name, float(told[name])))
    for name, keyword in WORDS.items():
        if name in told:
            header[keyword] = DataElement(keyword, "CS", str(told[name]))


def _as_element(name: str, value: float) -> tuple[str, str]:
    """VR and value: an age under two years is told in months (VR AS has no fractions), all else is VR DS."""
    if name != "age_years":
        return "DS", f"{value:.6g}"
    return "AS", f"{max(1, round(value * 12)):03d}M" if value < 2 else f"{int(value):03d}Y"


def view_of(position: str) -> str:
    """ "PA" or "AP" from a View Position as people write it ("AP supine"); empty when it is neither."""
    match = re.match(r"\s*(PA|AP)\b", position.upper().replace("_", " "))
    return match[1] if match else ""


def row_of(told: Told, fields: Sequence[Mapping[str, Any]]) -> list[float]:
    """The network's clinical input: a number a field in the order of `fields`, NaN where it is not known."""
    row = []
    for one in fields:
        value = told.get(str(one["name"]))
        if "values" in one:
            row.append(float(one["values"].index(value)) if value in one["values"] else math.nan)
        else:
            row.append(float(value) if value is not None else math.nan)
    return row


def years_of(value: Any) -> float | None:
    """An age as DICOM writes it (VR AS) or as people and tables do, in years: `061Y`, `006M`, `61`, `0.5`; none for `000Y`, which is what anonymizers write."""
    match = re.fullmatch(r"\s*(\d{1,3}(?:\.\d+)?)\s*([DWMY]?)\s*", str(value or ""))
    if match is None or float(match[1]) == 0:
        return None
    return float(match[1]) / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0, "": 1.0}[match[2]]


def _number(value: Any) -> float | None:
    try:
        read = float(value)
    except (TypeError, ValueError):
        return None
    return read if math.isfinite(read) else None
