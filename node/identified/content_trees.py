"""Clean Structured Content (PS3.15 E.3.4): content trees, item by item, after Table E.3.4-1 as data."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

TABLE = Path(__file__).parent / "ps315_e3_4_1_2020.json"
#: the attribute that carries the value of an item, by Value Type (PS3.3 Table C.17.3-7)
VALUES: Mapping[bytes, int] = {
    b"TEXT": 0x0040A160,
    b"PNAME": 0x0040A123,
    b"DATE": 0x0040A121,
    b"TIME": 0x0040A122,
    b"DATETIME": 0x0040A120,
    b"UIDREF": 0x0040A124,
}
VALUE_TYPE, CONCEPT_NAME, BY_REFERENCE = 0x0040A040, 0x0040A043, 0x0040DB73


@cache
def _listed() -> dict[tuple[bytes, bytes, bytes], tuple[str, dict[str, str]]]:
    rows = json.loads(TABLE.read_text())["rows"]
    return {(kind.encode(), code.encode(), scheme.encode()): (basic, options) for code, scheme, _, kind, basic, options in rows}


def action(value_type: bytes, code: bytes, scheme: bytes, options: Collection[str]) -> str:
    """What the table asks for an item: X, D, C or K; empty for a concept that it does not list.

    Where it leaves a choice the item stays with another value: a template may need it. An option's action overrides the basic one.
    """
    found = _listed().get((value_type, code, scheme))
    if found is None:
        return ""
    basic, by_option = found
    on = {by_option[name] for name in by_option if name in options}
    if on:
        return "K" if "K" in on else "C"
    return "D" if "D" in basic else "X"


def concepts() -> int:
    """How many rows the table has."""
    return len(json.loads(TABLE.read_text())["rows"])
