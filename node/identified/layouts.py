"""The same layout again: the instances of a series say other things in the same places.

Where elements begin and end follows from their headers alone (PS3.5 7.1). So a data set with the very headers of an earlier one, each where it
was there, needs no scan of its own: all headers are compared at once, which takes a twentieth of the time.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from node.identified.elements import Element, scan

SAME_LENGTH = 4  #: layouts of data sets of one length that are compared with
LENGTHS = 256  #: lengths that are remembered
MOST_ELEMENTS = 1000  #: of a data set that is remembered


class Layout(NamedTuple):
    """Where the elements of a data set lie. Shared by all data sets of that layout: not to be changed."""

    elements: list[Element]
    top: dict[int, Element]  #: by tag
    overlays: bool  #: there is something of a group 60xx


class _Known(NamedTuple):
    headers: struct.Struct  #: reads every element's header and passes over its value
    said: tuple[bytes, ...]
    layout: Layout


_known: dict[tuple[int, int, bool], list[_Known]] = {}


def layout_of(data: Any, pos: int, *, explicit: bool) -> Layout:
    """The elements from `pos` to the end of `data`, as `elements.scan` finds them, and with what it raises."""
    where = pos, len(data), explicit
    alike = _known.get(where, ())
    for known in alike:
        if known.headers.unpack_from(data, pos) == known.said:
            return known.layout
    elements, _ = scan(data, pos, len(data), explicit=explicit)
    layout = Layout(elements, {element.tag: element for element in elements}, any(element.tag >> 24 == 0x60 for element in elements))
    if 0 < len(elements) <= MOST_ELEMENTS and not any(element.undefined for element in elements):  # the length of these lies within
        headers = struct.Struct("".join(f"{e.value - e.start}s{e.end - e.value}x" for e in elements))
        if len(_known) >= LENGTHS:
            _known.clear()
        _known[where] = [_Known(headers, headers.unpack_from(data, pos), layout), *alike[: SAME_LENGTH - 1]]
    return layout
