"""The head of a data set: which SOP Class, which instance, which study. Nothing else is looked at."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from struct import unpack_from

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

DEFLATED = frozenset({str(DeflatedExplicitVRLittleEndian), "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})  # PS3.5 A.5, A.7, A.11
LONGEST = 32 << 20  #: bytes of a data set searched for its Study Instance UID
_LONG_VR = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})  # PS3.5 7.1.2
_VR = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split())
_SOP_CLASS, _SOP_INSTANCE, _STUDY = 0x00080016, 0x00080018, 0x0020000D
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_DEEPEST = 64
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Head:
    """The three UIDs that say where an instance belongs; empty where the data set has none."""

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_instance_uid: str = ""


class HeadUnreadable(ValueError):
    """The data set can't be walked. The text says where, without a value."""


class _More(Exception):
    """The walk came to the end of what is there."""


def is_uid(text: str) -> bool:
    """Digits and dots, 64 at most (PS3.5 9.1). A component with a leading zero is let through: archives hold such."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def read_head(data: bytes | bytearray | memoryview, transfer_syntax_uid: str, *, complete: bool) -> Head | None:
    """The head of a data set of which the first bytes are here; None when more bytes are needed.

    Parameters
    ----------
    data
        The first bytes of the data set, in the transfer syntax.
    complete
        There are no more bytes: what is missing now is missing.

    Raises
    ------
    HeadUnreadable
        When the bytes are not a data set, or end inside its head.
    """
    if transfer_syntax_uid in DEFLATED:
        data, ended = _inflated(data)
        complete = complete or ended
    walk = _Walk(data, transfer_syntax_uid)
    try:
        return walk.head()
    except _More:
        pass
    if complete:
        if walk.position == len(data) and len(data):
            return walk.found()
        raise HeadUnreadable("the data set is empty" if not len(data) else "the data set ends inside an element")
    if len(data) > LONGEST:
        raise HeadUnreadable("no Study Instance UID in the first 32 MB")
    return None


def _inflated(data: bytes | bytearray | memoryview) -> tuple[bytes, bool]:
    """The start of a deflated data set (PS3.5 A.5: a raw deflate stream), and whether that is all of it."""
    for wbits in (-zlib.MAX_WBITS, zlib.MAX_WBITS):  # some senders leave the zlib header on
        inflater = zlib.decompressobj(wbits)
        try:
            return inflater.decompress(data, LONGEST), inflater.eof
        except zlib.error:
            continue
    raise HeadUnreadable("not a deflate stream")


class _Walk:
    """Over the top-level elements up to (0020,000D). `position` is the start of the element at hand."""

    def __init__(self, data: bytes | bytearray | memoryview, transfer_syntax_uid: str) -> None:
        self._data = data
        self._end = len(data)
        self._implicit = transfer_syntax_uid == ImplicitVRLittleEndian
        order = ">" if transfer_syntax_uid == ExplicitVRBigEndian else "<"
        self._tag, self._u16, self._u32 = order + "HH", order + "H", order + "L"
        self.position = 0
        self._values: dict[int, str] = {}

    def found(self) -> Head:
        """What the walk has met so far."""
        value = self._values.get
        return Head(sop_class_uid=value(_SOP_CLASS, ""), sop_instance_uid=value(_SOP_INSTANCE, ""), study_instance_uid=value(_STUDY, ""))

    def head(self) -> Head:
        while True:
            tag, vr, length, start = self._element(self.position, self._implicit)
            if tag > _STUDY:
                return self.found()
            if tag in (_SOP_CLASS, _SOP_INSTANCE, _STUDY):
                if length > 1024:
                    raise HeadUnreadable(f"a UID with a length of {length}")
                if start + length > self._end:
                    raise _More
                self._values[tag] = bytes(self._data[start : start + length]).decode("ascii", "replace").strip("\0 ")
                if tag == _STUDY:
                    return self.found()
            self.position = self._after(start, length, vr, self._implicit, 0)

    def _element(self, at: int, implicit: bool) -> tuple[int, bytes, int, int]:
        """Tag, VR, length and start of the value of the element at `at` (PS3.5 7.1)."""
        if at + 8 > self._end:
            raise _More
        group, number = unpack_from(self._tag, self._data, at)
        tag = group << 16 | number
        if implicit or group == 0xFFFE:
            return tag, b"", unpack_from(self._u32, self._data, at + 4)[0], at + 8
        vr = bytes(self._data[at + 4 : at + 6])
        if vr not in _VR:
            raise HeadUnreadable(f"no value representation at byte {at}")
        if vr not in _LONG_VR:
            return tag, vr, unpack_from(self._u16, self._data, at + 6)[0], at + 8
        if at + 12 > self._end:
            raise _More
        return tag, vr, unpack_from(self._u32, self._data, at + 8)[0], at + 12

    def _after(self, start: int, length: int, vr: bytes, implicit: bool, depth: int) -> int:
        """Where the next element starts."""
        if length == _UNDEFINED:
            return self._sequence_end(start, implicit or vr == b"UN", depth)  # UN: implicit VR inside, PS3.5 6.2.2
        if start + length > self._end:
            raise _More
        return start + length

    def _sequence_end(self, at: int, implicit: bool, depth: int) -> int:
        """Past the Sequence Delimitation Item of a sequence of undefined length (PS3.5 7.5)."""
        if depth > _DEEPEST:
            raise HeadUnreadable("sequences nested too deeply")
        while True:
            tag, _, length, start = self._element(at, implicit)
            if tag == _SEQUENCE_END:
                return start
            if tag != _ITEM:
                raise HeadUnreadable(f"no item at byte {at}")
            at = self._item_end(start, implicit, depth) if length == _UNDEFINED else self._after(start, length, b"", implicit, depth)

    def _item_end(self, at: int, implicit: bool, depth: int) -> int:
        while True:
            tag, vr, length, start = self._element(at, implicit)
            if tag == _ITEM_END:
                return start
            at = self._after(start, length, vr, implicit, depth + 1)
