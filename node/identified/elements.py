"""A data set as byte ranges: where each element begins and ends, nothing decoded (PS3.5 section 7).

What the profile does not touch is copied as it came, byte for byte, and a header costs a fraction of a millisecond.
Every length is checked against what is there, so a truncated or invented one is found before anything is written.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import NamedTuple

from pydicom.datadict import DicomDictionary

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
DEEPEST = 16  #: sequences within sequences; real objects stay below 8

#: VRs with a 32-bit length in Explicit VR, PS3.5 Table 7.1-1
LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
SHORT_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI"}
    | {b"UL", b"US"}
)
#: bytes of one value, for VRs of binary numbers
VALUE_SIZE = {b"US": 2, b"SS": 2, b"UL": 4, b"SL": 4, b"FL": 4, b"FD": 8, b"AT": 4, b"OW": 2, b"OF": 4, b"OL": 4, b"OD": 8, b"OV": 8}
VALUE_SIZE |= {b"SV": 8, b"UV": 8}

_HEADER = struct.Struct("<HH")
_HEADER_I = struct.Struct("<HHI")
_HEADER_VR_H = struct.Struct("<HH2sH")
_H = struct.Struct("<H")
_I = struct.Struct("<I")


class Malformed(Exception):
    """The bytes are not a data set. Carries a few words, never a value."""


class Element(NamedTuple):
    """One element: `data[start:end]` is all of it, `data[value:value_end]` its value (of a sequence of undefined length: without delimiter)."""

    tag: int
    vr: bytes  #: as written, or the dictionary's in Implicit VR; b"" when the dictionary has none
    start: int
    value: int
    value_end: int
    end: int
    undefined: bool


@cache
def dictionary_vr(tag: int) -> bytes:
    """The VR that PS3.6 gives a standard attribute; b"" for an unknown one. Of an ambiguous VR, the one that any reader takes."""
    entry = DicomDictionary.get(tag)
    if entry is None:
        return b"UL" if tag & 0xFFFF == 0 else b""
    vr = entry[0]
    if " or " in vr:
        return b"OW" if "OW" in vr and "US" not in vr else b"US"
    return vr.encode() if len(vr) == 2 else b""


def scan(data: bytes, pos: int, end: int, *, explicit: bool, depth: int = 0, item: bool = False) -> tuple[list[Element], int]:
    """The elements between `pos` and `end`, and where they stop.

    With `item` the range is an item of undefined length and stops at its delimiter.

    Raises
    ------
    Malformed
        A length runs over the end, a VR is none, a delimiter is missing, or sequences lie deeper than `DEEPEST`.
    """
    if depth > DEEPEST:
        raise Malformed("sequences lie too deep")
    found: list[Element] = []
    append = found.append
    # the whole header in one call, and elements without the detour over their own constructor: headers are most of what a scan costs
    implicit_header, explicit_header, i, make = _HEADER_I.unpack_from, _HEADER_VR_H.unpack_from, _I.unpack_from, tuple.__new__
    long_vrs, short_vrs = LONG_VRS, SHORT_VRS
    if explicit and pos + 8 <= end and not item and looks_implicit(data, pos):
        explicit = False  # some writers put Implicit VR items into Explicit VR data sets
    while pos < end:
        if pos + 8 > end:
            raise Malformed("it ends within an element's header")
        value = pos + 8
        if explicit:
            group, element, vr, length = explicit_header(data, pos)
            tag = group << 16 | element
            if group == 0xFFFE:
                pass
            elif vr in long_vrs:
                if pos + 12 > end:
                    raise Malformed("it ends within an element's header")
                value, length = pos + 12, i(data, pos + 8)[0]
            elif vr not in short_vrs:
                raise Malformed("an element has no known VR")
        else:
            group, element, length = implicit_header(data, pos)
            tag = group << 16 | element
            vr = dictionary_vr(tag)
        if group == 0xFFFE:
            if item and tag == ITEM_END:
                return found, pos + 8
            raise Malformed("a delimiter stands where an element should")
        if length == UNDEFINED:
            value_end, stop = _skip_undefined(
                data, value, end, explicit=explicit and vr != b"UN", depth=depth + 1, fragments=vr in _FRAGMENT_VRS
            )
            append(Element(tag, vr, pos, value, value_end, stop, True))
        else:
            stop = value + length
            if stop > end:
                raise Malformed("an element is longer than what is left")
            append(make(Element, (tag, vr, pos, value, stop, stop, False)))
        pos = stop
    if item:
        raise Malformed("an item has no end")
    return found, pos


def items(data: bytes, element: Element, *, explicit: bool, depth: int) -> list[tuple[list[Element], bool]]:
    """The items of a sequence, each with whether it is Explicit VR. An unknown VR holds Implicit VR (PS3.5 6.2.2)."""
    explicit = explicit and element.vr != b"UN"
    found = []
    pos, end = element.value, element.value_end
    while pos < end:
        length, pos = _item_header(data, pos, end)
        if length == UNDEFINED:
            here = explicit and not (pos + 8 <= end and looks_implicit(data, pos))
            elements, pos = scan(data, pos, end, explicit=here, depth=depth, item=True)
        else:
            if pos + length > end:
                raise Malformed("an item is longer than its sequence")
            here = explicit and not (length >= 8 and looks_implicit(data, pos))
            elements, pos = scan(data, pos, pos + length, explicit=here, depth=depth)
        found.append((elements, here))
    return found


def whole(data: bytes, element: Element, *, explicit: bool, depth: int = 0) -> bool:
    """A sequence holds what its lengths promise, at every depth; other elements always do once they were scanned."""
    if element.vr != b"SQ":
        return True
    try:
        return all(
            whole(data, inner, explicit=here, depth=depth + 1)
            for elements, here in items(data, element, explicit=explicit, depth=depth + 1)
            for inner in elements
        )
    except Malformed:
        return False


def fragments_end(data: bytes, pos: int, end: int) -> int:
    """Where encapsulated pixel data stops (PS3.5 A.4), delimiter included."""
    while True:
        if pos + 8 > end:
            raise Malformed("the pixel data has no end")
        group, element, length = _HEADER_I.unpack_from(data, pos)
        tag = group << 16 | element
        pos += 8
        if tag == SEQUENCE_END:
            return pos
        if tag != ITEM or length == UNDEFINED or pos + length > end:
            raise Malformed("a fragment of the pixel data is damaged")
        pos += length


def encode(tag: int, vr: bytes, value: bytes, *, explicit: bool) -> bytes:
    """One element of defined length, padded to an even one (PS3.5 6.2)."""
    if len(value) % 2:
        value += b"\0" if vr in _ZERO_PADDED else b" "
    if not explicit:
        return _HEADER_I.pack(tag >> 16, tag & 0xFFFF, len(value)) + value
    if vr in SHORT_VRS and len(value) < 0x10000:
        return _HEADER.pack(tag >> 16, tag & 0xFFFF) + vr + _H.pack(len(value)) + value
    return _HEADER.pack(tag >> 16, tag & 0xFFFF) + (vr if vr in LONG_VRS else b"UN") + b"\0\0" + _I.pack(len(value)) + value


def encode_item(body: bytes) -> bytes:
    """One item of defined length."""
    return _HEADER_I.pack(0xFFFE, 0xE000, len(body)) + body


_FRAGMENT_VRS = frozenset({b"OB", b"OW"})
_ZERO_PADDED = frozenset({b"UI", b"OB", b"UN", b"OW", b"OF", b"OD", b"OL", b"OV"})


def looks_implicit(data: bytes, pos: int) -> bool:
    """Where an element of Explicit VR should begin there is no VR."""
    vr = data[pos + 4 : pos + 6]
    return vr not in SHORT_VRS and vr not in LONG_VRS and data[pos : pos + 2] != b"\xfe\xff"


def _item_header(data: bytes, pos: int, end: int) -> tuple[int, int]:
    if pos + 8 > end:
        raise Malformed("it ends within a sequence")
    group, element, length = _HEADER_I.unpack_from(data, pos)
    if (group << 16 | element) != ITEM:
        raise Malformed("a sequence holds something that is no item")
    return length, pos + 8


def _skip_undefined(data: bytes, pos: int, end: int, *, explicit: bool, depth: int, fragments: bool) -> tuple[int, int]:
    """(end of the value, end of the element) of an element of undefined length."""
    if fragments:
        stop = fragments_end(data, pos, end)
        return stop - 8, stop
    if depth > DEEPEST:
        raise Malformed("sequences lie too deep")
    while True:
        if pos + 8 > end:
            raise Malformed("a sequence has no end")
        group, element, length = _HEADER_I.unpack_from(data, pos)
        tag = group << 16 | element
        if tag == SEQUENCE_END:
            return pos, pos + 8
        if tag != ITEM:
            raise Malformed("a sequence holds something that is no item")
        pos += 8
        if length == UNDEFINED:
            here = explicit and not (pos + 8 <= end and looks_implicit(data, pos))
            _, pos = scan(data, pos, end, explicit=here, depth=depth, item=True)
        elif pos + length > end:
            raise Malformed("an item is longer than what is left")
        else:
            pos += length
