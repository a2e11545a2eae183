"""One page of a list and the mark where the next one begins: key-set paging, so that page 1000 costs what page 1 costs."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, literal, tuple_

from node.errors import CursorInvalid

T = TypeVar("T")
MOST = 200  #: rows of a page
LARGEST = 2**31 - 1  #: number of a row that a database can be asked for (INTEGER in PostgreSQL)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows, and the cursor of those after them; empty when there are none."""

    items: Sequence[T]
    next: str = ""


def cursor_of(*key: str | int | datetime) -> str:
    """The key of a row as an opaque word."""
    facts = [part.isoformat() if isinstance(part, datetime) else part for part in key]
    return base64.urlsafe_b64encode(json.dumps(facts, separators=(",", ":")).encode()).decode().rstrip("=")


def by_time(cursor: str) -> tuple[datetime, str]:
    """A key of time and name. Raises CursorInvalid."""
    try:
        at, name = _facts(cursor)
        moment = datetime.fromisoformat(at)
        if not isinstance(name, str) or moment.tzinfo is None:
            raise ValueError
        return moment.astimezone(UTC), name
    except (ValueError, TypeError, OverflowError):
        raise CursorInvalid from None


def by_number(cursor: str) -> int:
    """A key that is a number. Raises CursorInvalid."""
    try:
        (number,) = _facts(cursor)
        if not isinstance(number, int) or not 0 <= number <= LARGEST:
            raise ValueError
    except (ValueError, TypeError):
        raise CursorInvalid from None
    return number


def older(at: Any, name: Any, than: tuple[datetime, str]) -> ColumnElement[bool]:
    """Rows after that key in a list with the newest first."""
    return tuple_(at, name) < tuple_(literal(than[0], at.type), literal(than[1], name.type))


def page(rows: Sequence[T], limit: int, key: Callable[[T], tuple[str | int | datetime, ...]]) -> Page[T]:
    """Of `limit + 1` rows that were asked for: a page, and where the next one begins when there was one row too many."""
    if len(rows) <= limit:
        return Page(rows)
    shown = rows[:limit]
    return Page(shown, cursor_of(*key(shown[-1])))


def _facts(cursor: str) -> list[str]:
    try:
        facts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        raise CursorInvalid from None
    if not isinstance(facts, list):
        raise CursorInvalid
    return facts
