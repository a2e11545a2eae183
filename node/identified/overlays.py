"""Overlay planes (60xx, PS3.3 C.9.2): which of them may stay when graphics are cleaned (PS3.15 E.3.3)."""

from __future__ import annotations

from collections.abc import Iterable

from node.identified.elements import Element

TYPE, DATA, BIT_POSITION = 0x0040, 0x3000, 0x0102


def kept_groups(data: bytes, elements: Iterable[Element]) -> frozenset[int]:
    """Groups of the planes that mark a region of interest (Overlay Type R) and carry their own data.

    A plane of type G may be writing, and one that lies in unused bits of the pixels is not looked at: both go.
    """
    types: dict[int, bytes] = {}
    own: set[int] = set()
    for element in elements:
        group, number = element.tag >> 16, element.tag & 0xFFFF
        if group & 0xFF01 != 0x6000:
            continue
        if number == TYPE:
            types[group] = data[element.value : element.value_end].strip(b" \0")
        elif number == DATA and not element.undefined:
            own.add(group)
    return frozenset(group for group, type_ in types.items() if type_ == b"R" and group in own)
