"""A header's values as text: dates of the calendar, times of day, and the zone they are told in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

from pydicom import Dataset
from pydicom.multival import MultiValue

LONGEST_TEXT = 1024  #: letters of an attribute that are read; more is no description, and matching takes word × text steps
_ZONE = re.compile(r"([+-])(0\d|1[0-4])([0-5]\d)")


def text_of(header: Dataset, keyword: str) -> str:
    """A text as it was written: where DICOM reads two values, an ID holds a backslash. Empty where there is none."""
    value = header.get(keyword)
    return "\\".join(str(one) for one in value) if isinstance(value, MultiValue) else str(value or "")


def texts_of(ds: Dataset, keyword: str) -> list[str]:
    """The values of an attribute as stripped texts; empty when it is absent or unreadable."""
    try:
        value = ds.get(keyword)
    except (ValueError, TypeError, AttributeError):
        return []
    if value is None:
        return []
    values: Iterable[Any] = value if isinstance(value, Iterable) and not isinstance(value, str | bytes) else [value]
    return [text for text in (str(v).strip()[:LONGEST_TEXT] for v in values) if text]


def day_of(header: Dataset, keyword: str) -> str:
    """A date of the calendar (VR DA); empty where it is none: real headers hold the 30th of February, and the year 1 for "not known"."""
    day = _part_of(text_of(header, keyword), "%Y%m%d", 8)
    return "" if day.startswith("0") else day


def study_time(header: Dataset) -> str:
    """Study Date and Study Time, YYYYMMDDHHMMSS; the date alone where the time is none, or not told to the second."""
    day = day_of(header, "StudyDate")
    return day + _part_of(text_of(header, "StudyTime")[:6], "%H%M%S", 6) if day else ""


def zone_of(header: Dataset) -> tzinfo | None:
    """The zone in which an object tells its dates and times (PS3.3 C.12.1.1.8); None where it does not say."""
    told = _ZONE.fullmatch(text_of(header, "TimezoneOffsetFromUTC").strip())
    return timezone(timedelta(hours=int(told[1] + told[2]), minutes=int(told[1] + told[3]))) if told else None


def in_zone(local: datetime, header: Dataset) -> datetime:
    """A date and time of an object, with the zone in which it is told. Raises OverflowError at the ends of time."""
    zone = zone_of(header)
    return local.replace(tzinfo=zone) if zone else local.astimezone()


def _part_of(text: str, form: str, digits: int) -> str:
    try:
        datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError:
        return ""
    return text if len(text) == digits and text.isdigit() else ""
