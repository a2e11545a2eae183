"""Jobs that wait for the night."""

from __future__ import annotations

from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

import pytest

from node.off_peak import Window, next_open

NIGHT = (Window.of("20:00-06:00"),)
BERLIN = ZoneInfo("Europe/Berlin")


def at(hour: int, minute: int = 0, day: int = 10) -> datetime:
    return datetime(2026, 3, day, hour, minute, tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        (at(20), None),
        (at(23, 59), None),
        (at(5, 59), None),
        (at(6), at(20)),
        (at(12), at(20)),
        (at(19, 59), at(20)),
    ],
)
def test_a_job_of_the_night_waits_until_the_evening(now: datetime, opens: datetime | None) -> None:
    assert next_open(now, NIGHT) == opens


def test_the_first_window_to_open_counts_and_one_that_passed_opens_tomorrow() -> None:
    breaks = (Window.of("12:00-13:00"), Window.of("7:30-8:00"))

    assert next_open(at(9), breaks) == at(12)
    assert next_open(at(14), breaks) == at(7, 30, day=11)
    assert next_open(at(14), ()) is None


def test_a_night_in_which_the_clock_is_put_forward_opens_at_the_time_on_the_wall() -> None:
    opens = next_open(datetime(2026, 3, 28, 12, tzinfo=BERLIN), (Window.of("03:30-04:30"),))

    assert opens is not None
    assert (opens.astimezone(UTC).hour, opens.time()) == (1, time(3, 30))


@pytest.mark.parametrize("text", ["", "20:00", "24:00-06:00", "20:00-20:00", "8-9", "20:00-06:00-08:00", "٢٠:٠٠-٠٦:٠٠", "20:00-06:00" * 99])
def test_what_is_no_part_of_a_day_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="times"):
        Window.of(text)
