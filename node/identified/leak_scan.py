"""What leaves is read back from the disk and searched for everything that identifies, whatever the profile meant to do.

The scan shares no decision with the profile or the cleaner. It searches bytes: every element at every depth, private ones, file meta,
preamble, binary values, and what is between elements. Where a value is found decides only whether it counts: `123456` in Slice Location
is no Patient ID, `Siemens` in Manufacturer no institution.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ahocorasick_rs import BytesAhoCorasick
from pydicom.datadict import keyword_for_tag

from node.errors import StudyRefused
from node.identified.elements import Element, Malformed, items
from node.identified.identifying import DATE_TIME, TECHNICAL_KEYWORDS, Identifying, Kind, common_words, standard_meanings, tokens
from node.identified.layouts import Layout, layout_of
from node.identified.needles import Needle, needles
from node.identified.quick_files import mapped
from node.identified.spoken import Spoken

IMPLICIT = "1.2.840.10008.1.2"
LONG = 8  #: bytes of a pattern that counts also where bytes are numbers or compressed pixels

UNREADABLE = "a clean file that can't be read again"  #: what nobody can search goes nowhere
UNSEEN = "pixels that can't be looked at again"

_TEXT = frozenset({b"LO", b"SH", b"LT", b"ST", b"UT", b"UC", b"PN", b"AE", b"UR", b"CS", b"UN", b""})
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_OUR_OWN = frozenset({0x00120062, 0x00120063, 0x00120064, 0x00280303, 0x00020012, 0x00020013})
_PSEUDONYM, _PSEUDONYM_AT = re.compile(r"P[0-9A-F]{16}"), frozenset({0x00100010, 0x00100020})  #: its digits may spell a short name: `DEE`
_CODE_VALUES, _SCHEME, _MEANING, _CODES = frozenset({0x00080100, 0x00080119, 0x00080120}), 0x00080102, 0x00080104, 0x0008
_PUBLIC = frozenset({b"SCT", b"SRT", b"DCM", b"LN", b"UCUM", b"RADLEX", b"FMA", b"NCIt", b"UMLS", b"SNM3", b"99SDM", b"NEU", b"MDC"})

ReadText = Callable[[Path], Iterable["PixelText"] | None]
"""Recognised text of an instance's frames; None when this kind of image was not looked at."""


class PixelText(NamedTuple):
    """A text that was recognised in a frame."""

    frame: int  #: from 0; below 0: what each pixel becomes over all frames
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A value that should not be there: where it is and what kind it is, never what it says."""

    instance: str  #: clean SOP Instance UID, as the file's name says
    where: str  #: `(0008,1030) StudyDescription`, with the sequences around it
    kind: Kind


@dataclass(slots=True)
class Scanned:
    """What a scan looked at and found."""

    instances: int = 0
    leaks: list[Leak] = field(default_factory=list)
    native: int = 0  #: instances whose pixel bytes were passed over
    compressed: int = 0  #: instances whose compressed pixels were searched for long patterns
    looked_at: set[str] = field(default_factory=set)  #: paths of files whose frames were read as text
    texts: int = 0  #: texts recognised in them
    digests: dict[str, str] = field(default_factory=dict)  #: by path: SHA-256 of the very bytes that were searched

    def merge(self, other: Scanned) -> None:
        """Add what another process scanned."""
        self.instances += other.instances
        self.leaks += other.leaks
        self.native += other.native
        self.compressed += other.compressed
        self.looked_at |= other.looked_at
        self.texts += other.texts
        self.digests |= other.digests


class Sought(NamedTuple):
    """How much a scan searches for: numbers only."""

    counts: dict[Kind, int]
    patterns: int
    overflow: bool  #: a study with more words than are searched for


class _Place(NamedTuple):
    """The element a hit lies in."""

    element: Element
    path: tuple[int, ...]  #: tags from the top, its own last
    siblings: Sequence[Element]


class LeakScan:
    """Searches clean files for what identifies in the study they came from. One pass a file, over everything but pixels."""

    def __init__(self, found: Identifying, *, read_text: ReadText | None = None) -> None:
        self._dates_at, self._whole, self._kept = found.dates_at, found.whole, found.kept_tags
        self._whole_tags = {tag for tag, _ in self._whole}
        self._read_text = read_text
        patterns = needles(found)
        counts = {kind: len(found.values.get(kind, ())) for kind in Kind}
        self.sought = Sought(counts, len(patterns), found.overflow)
        self._bytes, self._needles = list(patterns), list(patterns.values())
        self._machine = BytesAhoCorasick(self._bytes) if self._bytes else None
        self._identifying = found

    def scan(self, files: Iterable[Path | str]) -> Scanned:
        """Every file, as it lies on the disk."""
        done = Scanned()
        for path in files:
            self._one(str(path), done)
        return done

    def _one(self, path: str, done: Scanned) -> None:
        instance, before = path.rpartition("/")[2].removesuffix(".dcm"), len(done.leaks)
        with mapped(path) as data:
            done.digests[path] = sha256(data).hexdigest()
            file = _File(data)
            done.instances += 1
            done.native += file.native
            done.compressed += file.compressed
            seen: set[tuple[str, Kind]] = set()
            if file.broken:
                done.leaks.append(Leak(instance=instance, where=UNREADABLE, kind=Kind.WORD))
            for where, kind in (*self._found(file), *self._unchanged(file)):
                if (where, kind) not in seen:
                    seen.add((where, kind))
                    done.leaks.append(Leak(instance=instance, where=where, kind=kind))
        if len(done.leaks) == before:
            self._look(Path(path), done)

    def _look(self, path: Path, done: Scanned) -> None:
        """What can be read in the pixels, where somebody reads. Nobody can vouch for what can't be looked at again."""
        if self._read_text is None:
            return
        try:
            texts = self._read_text(path)
        except StudyRefused:
            done.leaks.append(Leak(instance=path.stem, where=UNSEEN, kind=Kind.WORD))
            return
        if texts is None:
            return
        done.looked_at.add(str(path))
        for frame, text in texts:
            done.texts += 1
            if kind := self._spoken.says(text):
                where = f"pixels of frame {frame + 1}" if frame >= 0 else "pixels of all frames together"
                done.leaks.append(Leak(instance=path.stem, where=where, kind=kind))
                return

    @cached_property
    def _spoken(self) -> Spoken:
        """Of a study of which somebody reads an image."""
        return Spoken(self._identifying)

    # --- bytes -----------------------------------------------------------------------------------------------------------------
    def _found(self, file: _File) -> Iterator[tuple[str, Kind]]:
        if self._machine is None:
            return
        for begin, piece, compressed in file.pieces():
            low = piece.lower()
            for number, start, end in self._machine.find_matches_as_indexes(low, overlapping=True):
                needle = self._needles[number]
                if compressed:
                    if end - start >= LONG and needle.kind is not Kind.WORD:
                        yield "pixel data", needle.kind
                    continue
                if self._counts(file, needle, begin + start, begin + end):
                    yield file.where(begin + start, begin + end), needle.kind

    def _counts(self, file: _File, needle: Needle, start: int, end: int) -> bool:
        """Whether these bytes say, at this place, what the pattern means."""
        place = file.place(start, end)
        if place is None:  # around the data set, or across elements
            return end - start >= LONG and needle.kind is not Kind.WORD and _stands_alone(file.data, needle, start, end)
        element, vr, keyword = place.element, place.element.vr, keyword_for_tag(place.element.tag)
        if element.tag in _OUR_OWN or (place.path[0] == 0x00120064):
            return False
        if element.tag in _PSEUDONYM_AT and _PSEUDONYM.fullmatch(file.text(element)):
            return False  # if it were the original's own, `_unchanged` would say so
        if element.tag in self._kept and needle.kind in {Kind.WORD, Kind.EQUIPMENT, Kind.INSTITUTION, Kind.CONTACT}:
            return False
        if vr in {b"UN", b""} and needle.digits and DATE_TIME.fullmatch(file.text(element)):
            return (place.path, file.text(element)[:8]) in self._dates_at  # a date of an attribute that nobody knows
        if vr not in _TEXT and vr != b"OB":
            return self._counts_as_number(file, needle, start, end, place)
        if vr in {b"OB", b"UN"} and ((end - start < 6 and vr == b"OB") or _is_ramp(file.data[start : end : needle.width])):
            return False
        if not _stands_alone(file.data, needle, start, end):
            return False
        digit = any(0x30 <= byte <= 0x39 for byte in file.data[start:end])
        weak = needle.kind is Kind.WORD or (needle.kind is Kind.EQUIPMENT and not digit)
        if weak and (vr == b"CS" or keyword in TECHNICAL_KEYWORDS or _is_creator(element.tag)):
            return False
        if needle.digits and end - start < 6 and (vr == b"CS" or keyword in TECHNICAL_KEYWORDS):
            return False
        if element.tag in _CODE_VALUES and needle.digits:
            return file.scheme_of(place) not in _PUBLIC
        return not (element.tag == _MEANING and file.text(element).casefold() in standard_meanings() and needle.alone)

    def _counts_as_number(self, file: _File, needle: Needle, start: int, end: int, place: _Place) -> bool:
        vr = place.element.vr
        if vr in {b"DA", b"DT"}:
            if needle.kind in {Kind.DATE, Kind.BIRTH_DATE} and end - start == 8:
                return (place.path, file.data[start:end].decode("ascii", "replace")) in self._dates_at  # it has not moved
            return not needle.digits
        if vr in {b"TM", b"AS"}:
            return not needle.digits
        if vr in {b"DS", b"IS"}:
            value = [part.strip(b" \0") for part in file.data[place.element.value : place.element.value_end].split(b"\\")]
            strong = needle.kind in {Kind.IDENTIFIER, Kind.NAME, Kind.CONTACT, Kind.BIRTH_DATE}
            return strong and end - start >= 6 and file.data[start:end] in value
        if vr == b"UI":
            if needle.kind is Kind.UID:
                before, after = file.data[start - 1 : start], file.data[end : end + 2]
                return not before.isdigit() and before != b"." and not re.match(rb"\d|\.\d", after)
            return not needle.digits
        # binary numbers; a look-up table counts 49, 50, 51, 52 …, which is `1234` in ASCII
        return end - start >= LONG and needle.kind is not Kind.WORD and not _is_ramp(file.data[start : end : needle.width])

    def _unchanged(self, file: _File) -> Iterator[tuple[str, Kind]]:
        """Names and identifiers too short to search for: not in their own attribute at least."""
        for element in file.elements:
            if element.tag not in self._whole_tags or element.vr not in _TEXT or element.value_end - element.value > 64:
                continue
            value = file.data[element.value : element.value_end].strip(b" \0")
            if (element.tag, value) in self._whole and _is_somebody(file.text(element)):
                yield file.where(element.value, element.value_end), Kind.IDENTIFIER


class _File:
    """A clean file as bytes, with the way from an offset to the element there."""

    def __init__(self, data: Any) -> None:  # bytes, or a file that lies in memory as such
        self.data = data
        self.meta, start, transfer_syntax = _meta(data)
        self.explicit = transfer_syntax != IMPLICIT
        self.broken = False
        try:
            layout = layout_of(data, start, explicit=self.explicit)
        except Malformed:
            layout, self.broken = Layout([], {}, overlays=False), True
        self.elements, self._top = layout.elements, layout.top
        self.pixels = next((self._top[tag] for tag in _PIXELS if tag in self._top), None)
        self.native = self.pixels is not None and not self.pixels.undefined
        self.compressed = self.pixels is not None and self.pixels.undefined

    @cached_property
    def _tops(self) -> list[Element]:
        return [*self.meta, *self.elements]

    @cached_property
    def _starts(self) -> list[int]:
        return [element.start for element in self._tops]

    def pieces(self) -> Iterator[tuple[int, bytes, bool]]:
        """(offset, bytes, whether they are compressed pixels): everything but native pixels, and what stands behind these."""
        if self.pixels is None:
            yield 0, self.data[:], False
            return
        yield 0, self.data[: self.pixels.value], False
        if self.compressed:
            for begin, end in _spoken_segments(self.data, self.pixels.value, self.pixels.value_end):
                yield begin, self.data[begin:end], False
            yield self.pixels.value, self.data[self.pixels.value : self.pixels.end], True
            yield self.pixels.end, self.data[self.pixels.end :], False
        else:
            used = self._declared()
            begin = self.pixels.value + used if 0 < used < self.pixels.value_end - self.pixels.value else self.pixels.value_end
            yield begin, self.data[begin:], False

    def _declared(self) -> int:
        """Bytes of pixels that Rows, Columns and the rest promise; 0 where they do not say."""
        told = self._top.get(0x00280008)
        frames = (self.data[told.value : told.value_end].strip(b" \0") if told else b"") or b"1"
        if not frames.isdigit():
            return 0
        rows, columns, bits = (self._number(tag, 0) for tag in (0x00280010, 0x00280011, 0x00280100))
        return (rows * columns * self._number(0x00280002, 1) * int(frames) * bits + 7) // 8

    def _number(self, tag: int, otherwise: int) -> int:
        """A US at the top."""
        element = self._top.get(tag)
        if element is None or element.value_end - element.value != 2:
            return otherwise
        return int.from_bytes(self.data[element.value : element.value_end], "little")

    def place(self, start: int, end: int) -> _Place | None:
        """The innermost element whose value holds these bytes."""
        number = bisect_right(self._starts, start) - 1
        if number < 0:
            return None
        element, siblings = self._tops[number], self._tops
        explicit = self.explicit or element.tag >> 16 == 0x0002
        path: tuple[int, ...] = (element.tag,)
        while True:
            if not element.value <= start < end <= element.value_end:
                return None
            if element.vr != b"SQ":
                return _Place(element, path, siblings)
            try:
                inner = [(one, here, members) for members, here in items(self.data, element, explicit=explicit, depth=1) for one in members]
            except Malformed:
                return None
            found = next(((one, here, members) for one, here, members in inner if one.start <= start < one.end), None)
            if found is None:
                return None
            element, explicit, siblings = found
            path = (*path, element.tag)

    def where(self, start: int, end: int) -> str:
        """In words that hold no value."""
        place = self.place(start, end)
        if place is None:
            return "outside of every element"
        return " > ".join(_named(tag) for tag in place.path)

    def text(self, element: Element) -> str:
        value: bytes = self.data[element.value : element.value_end]
        return value.strip(b" \0").decode("latin-1")

    def scheme_of(self, place: _Place) -> bytes:
        scheme = next((one for one in place.siblings if one.tag == _SCHEME), None)
        return self.data[scheme.value : scheme.value_end].strip(b" \0") if scheme else b""


def _named(tag: int) -> str:
    keyword = keyword_for_tag(tag)
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})" + (f" {keyword}" if keyword else " private" if tag & 0x10000 else "")


def _is_creator(tag: int) -> bool:
    return bool(tag & 0x10000) and 0x10 <= tag & 0xFFFF <= 0xFF


def _meta(data: Any) -> tuple[list[Element], int, str]:
    """File meta elements, where the data set begins, and its transfer syntax (PS3.10 7.1)."""
    found: list[Element] = []
    pos, transfer_syntax = 132 if data[128:132] == b"DICM" else 0, ""
    while data[pos : pos + 2] == b"\2\0" and pos + 8 <= len(data):
        long = data[pos + 4 : pos + 6] in {b"OB", b"UN", b"UT", b"UC", b"UR", b"SQ", b"OW"}
        value = pos + (12 if long else 8)
        length = struct.unpack_from("<I", data, pos + 8)[0] if long else struct.unpack_from("<H", data, pos + 6)[0]
        element = struct.unpack_from("<H", data, pos + 2)[0]
        found.append(Element(0x00020000 | element, data[pos + 4 : pos + 6], pos, value, value + length, value + length, False))
        if element == 0x0010:
            transfer_syntax = data[value : value + length].strip(b" \0").decode("ascii", "replace")
        pos = value + length
    return found, pos, transfer_syntax


def _spoken_segments(data: bytes, pos: int, end: int) -> Iterator[tuple[int, int]]:
    """Comments and application segments of JPEG, JPEG-LS and JPEG 2000 streams in the fragments: texts, not pixels."""
    while pos + 8 <= end:
        group, element, length = struct.unpack_from("<HHI", data, pos)
        pos += 8
        if (group, element) != (0xFFFE, 0xE000) or pos + length > end:
            return
        at, stop = pos + 2, pos + length
        while at + 4 <= stop and data[at] == 0xFF and data[at + 1] not in {0xDA, 0x93}:  # Start of Scan, Start of Data
            if data[at + 1] == 0xFF:  # fill, ISO/IEC 10918-1 B.1.1.2
                at += 1
                continue
            size = int.from_bytes(data[at + 2 : at + 4], "big")
            if 0xE0 <= data[at + 1] <= 0xEF or data[at + 1] in {0xFE, 0x64}:
                yield at + 4, min(at + 2 + size, stop)
            at += 2 + size
        pos = stop


# --- does it stand alone? ---------------------------------------------------------------------------------------------------------
def _stands_alone(data: bytes, needle: Needle, start: int, end: int) -> bool:
    """A number is not a part of a longer one; a short word is not a part of another one, nor a long one of a common word."""
    before, after = _neighbour(data, start, -needle.width), _neighbour(data, end, needle.width)
    first, last = data[start : start + 1], data[end - needle.width : end - needle.width + 1]
    if (first.isdigit() and before.isdigit()) or (last.isdigit() and after.isdigit()):
        return needle.kind in {Kind.DATE, Kind.BIRTH_DATE} and not before.isdigit()  # a date may be the beginning of a date and time
    if needle.kind is Kind.UID:
        return before != b"." and not (after == b"." and data[end + 1 : end + 2].isdigit())
    if not first.isalpha() or not last.isalpha():
        return True
    joined = (before.isalpha() and not _humps(before, first)) or (after.isalpha() and not _humps(last, after))
    if not joined:
        return True
    if needle.characters < 6:
        return False
    return _word_around(data, start, end, needle.width) not in common_words()


def _is_ramp(values: bytes) -> bool:
    """Each is as much more than the one before."""
    steps = {after - before for before, after in pairwise(values)}
    return len(steps) == 1


def _neighbour(data: bytes, at: int, width: int) -> bytes:
    """The character before (`width` below 0) or behind; empty where there is none that is ASCII."""
    one = data[at + width : at] if width < 0 else data[at : at + width]
    letters = one.replace(b"\0", b"") if abs(width) == 2 else one
    return letters if len(letters) == 1 else b""


def _humps(left: bytes, right: bytes) -> bool:
    """`patDoe`: a new word begins with its capital."""
    return left.islower() and right.isupper()


def _word_around(data: bytes, start: int, end: int, width: int) -> str:
    while _neighbour(data, start, -width).isalpha():
        start -= width
    while _neighbour(data, end, width).isalpha():
        end += width
    return data[start:end].replace(b"\0", b"").decode("ascii", "replace").lower()


def _is_somebody(text: str) -> bool:
    """`NONE`, `0` and the like are no identifiers."""
    return any(len(word) > 1 and word.strip("0") and word not in common_words() for word in tokens(text))
