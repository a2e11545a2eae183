"""QIDO-RS search: which attributes were asked for, which objects match (PS3.18 8.3.4, PS3.4 C.2.2.2), and what is answered (10.6.3)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset

from node.web.problems import Problem

MOST = 1000
LONGEST = 200  #: characters of a value
_PLAIN = {"limit", "offset", "includefield", "fuzzymatching", "emptyvaluematching", "multiplevaluematching"}
_WILD = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
_RANGES = {"DA", "TM", "DT"}

#: what every answer holds where the object has it, PS3.18 Tables 10.6.3-3, -4, -5
STUDY = [
    "SpecificCharacterSet",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ModalitiesInStudy",
    "ReferringPhysicianName",
    "TimezoneOffsetFromUTC",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
    "NumberOfStudyRelatedSeries",
    "NumberOfStudyRelatedInstances",
    "RetrieveURL",
]
SERIES = [
    "SpecificCharacterSet",
    "Modality",
    "TimezoneOffsetFromUTC",
    "SeriesDescription",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "NumberOfSeriesRelatedInstances",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "RequestAttributesSequence",
    "RetrieveURL",
]
INSTANCE = [
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "InstanceAvailability",
    "TimezoneOffsetFromUTC",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "InstanceNumber",
    "Rows",
    "Columns",
    "BitsAllocated",
    "NumberOfFrames",
    "Modality",
    "RetrieveURL",
]


@dataclass(frozen=True, slots=True)
class Search:
    """What a client asked: keywords with their values, more attributes, and which part of the list."""

    keys: Sequence[tuple[str, str]]
    include: Sequence[str]
    all_fields: bool
    limit: int
    offset: int

    def finds(self, ds: Dataset) -> bool:
        """Every key matches."""
        return all(_matches(ds, keyword, value) for keyword, value in self.keys)

    def part(self, found: Sequence[Dataset]) -> Sequence[Dataset]:
        """The part of the list that was asked for."""
        return found[self.offset : self.offset + self.limit]

    def shown(self, ds: Dataset, usual: Iterable[str]) -> dict[str, Any]:
        """The object's attributes as the DICOM JSON model has them (PS3.18 Annex F)."""
        answer = Dataset()
        if self.all_fields:
            answer.update(ds)
        for keyword in (*usual, *self.include, *(keyword for keyword, _ in self.keys)):
            if keyword in ds:
                answer[keyword] = ds[keyword]
        shown: dict[str, Any] = answer.to_json_dict(suppress_invalid_tags=True)
        return shown


def search_of(asked: Sequence[tuple[str, str]]) -> Search:
    """The search of a query string. Problem 400 names what can't be searched by."""
    keys: list[tuple[str, str]] = []
    include: list[str] = []
    numbers = {"limit": 100, "offset": 0}
    for name, value in asked:
        if name in numbers:
            numbers[name] = _number(name, value)
        elif name == "includefield":
            include += [part.strip() for part in value.split(",")]
        elif name not in _PLAIN:
            keys.append((_keyword(name), _bounded(value)))
    fields = [_keyword(name, sequences=True) for name in include if name.lower() != "all"]
    every = any(name.lower() == "all" for name in include)
    return Search(keys, fields, every, min(numbers["limit"], MOST), numbers["offset"])


def metadata(ds: Dataset) -> dict[str, Any]:
    """All but the pixels, as the DICOM JSON model has it."""
    shown: dict[str, Any] = ds.to_json_dict(suppress_invalid_tags=True)
    return shown


# --- matching -----------------------------------------------------------------------------------------------------------
def _matches(ds: Dataset, keyword: str, wanted: str) -> bool:
    if wanted in ("", "*"):
        return True
    if keyword not in ds:
        return False
    element = ds[keyword]
    there, vr = [str(one) for one in element.value] if element.VM > 1 else [str(element.value)], element.VR
    if vr in _RANGES and "-" in wanted:
        first, _, last = wanted.partition("-")
        return any((not first or one >= first) and (not last or one[: len(last)] <= last) for one in there)
    wishes = re.split(r"[,\\]", wanted) if vr == "UI" else [wanted]
    return any(_same(one, wish, vr) for one in there for wish in wishes)


def _same(there: str, wanted: str, vr: str) -> bool:
    if vr == "PN":
        there, wanted = there.casefold(), wanted.casefold()
    if vr in _WILD and ("*" in wanted or "?" in wanted):
        return _pattern(wanted).match(there) is not None
    return there == wanted


def _pattern(wanted: str) -> re.Pattern[str]:
    return re.compile(translate(wanted.replace("[", "[[]")))


# --- reading the query --------------------------------------------------------------------------------------------------
def _keyword(name: str, *, sequences: bool = False) -> str:
    """A keyword, given so or as eight hexadecimal digits. `sequences`: it may be shown, though nothing is searched by it."""
    tag = int(name, 16) if re.fullmatch(r"[0-9A-Fa-f]{8}", name) else tag_for_keyword(name) if name.isascii() else None
    keyword = keyword_for_tag(tag) if tag is not None else ""
    if not keyword or (dictionary_VR(keyword) == "SQ" and not sequences):
        raise Problem(
            400, "An attribute is given by its keyword or by eight hexadecimal digits; one in the query is neither, or is a sequence."
        )
    return keyword


def _bounded(value: str) -> str:
    if len(value) > LONGEST:
        raise Problem(400, f"A value to search for has at most {LONGEST} characters.")
    return value


def _number(name: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise Problem(400, f"{name} is a number from 0 on.")
    return int(value)
