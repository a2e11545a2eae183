"""Parts of the day in which a job may start: `20:00-06:00`. Pure; the clock and its time zone are handed in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta

_WINDOW = re.compile(r"([01]?\d|2[0-3]):([0-5]\d) ?- ?([01]?\d|2[0-3]):([0-5]\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` up to `end` of the local day, over midnight where the end comes first."""

    start: time
    end: time

    @classmethod
    def of(cls, text: str) -> Window:
        """From `20:00-06:00`. Raises ValueError."""
        found = _WINDOW.fullmatch(text.strip()) if len(text) <= 20 else None
        if found is None:
            raise ValueError('two times of a day with a hyphen, in quotes, as in "20:00-06:00"')
        hours = [int(part) for part in found.groups()]
        window = cls(time(hours[0], hours[1]), time(hours[2], hours[3]))
        if window.start == window.end:
            raise ValueError("the two times are the same; leave `between` out for a job that may start at any time")
        return window

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"

    def holds(self, at: time) -> bool:
        """Whether that time of the day lies in it."""
        return self.start <= at < self.end if self.start < self.end else at >= self.start or at < self.end


def next_open(now: datetime, windows: Sequence[Window]) -> datetime | None:
    """When a job may start, `now` being local time with its zone; None: at once, as it is without any window."""
    if not windows or any(window.holds(now.timetz().replace(tzinfo=None)) for window in windows):
        return None
    return min(_next(now, window.start) for window in windows)


def _next(now: datetime, start: time) -> datetime:
    """The next time that the clock on the wall shows `start`."""
    today = datetime.combine(now.date(), start, tzinfo=now.tzinfo)
    return today if today > now else datetime.combine(now.date() + timedelta(days=1), start, tzinfo=now.tzinfo)
