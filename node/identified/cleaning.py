"""One instance loses its name: every element at every depth goes through the profile, pixel data is copied as it came."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache, cached_property, lru_cache
from io import BytesIO
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from pydicom import uid as pydicom_uid
from pydicom.charset import python_encoding
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import correct_ambiguous_vr, write_dataset
from pydicom.sr._concepts_dict import concepts
from pydicom.tag import Tag

from node import __version__
from node.domain import CleanUid, Pseudonym
from node.errors import BurnedInAnnotation, InstanceUnreadable, PixelsNotSeen
from node.identified import codestreams, content_trees, dummies, marks, overlays, pixels, words
from node.identified.account import Account, Look
from node.identified.clean_uids import CleanUids
from node.identified.elements import VALUE_SIZE, Element, Malformed, dictionary_vr, encode, encode_item, items, looks_implicit
from node.identified.flat_values import stands_out
from node.identified.layouts import layout_of
from node.identified.looking import ByHand, Looker, Looks, Seen
from node.identified.objects import why_left_out
from node.identified.profile import (
    CONTENT_ITEMS,
    ENUMERATED_TAGS,
    LABEL_TAGS,
    OVERLAY_ELEMENTS,
    SAFE_PRIVATE,
    Act,
    Profile,
    Rule,
    other_sop_classes,
)

IMPLEMENTATION_CLASS_UID = "2.25.317435850861110966420474364964815608580"
IMPLEMENTATION_VERSION_NAME = f"RADNODE_{__version__}"

IMPLICIT, EXPLICIT = str(pydicom_uid.ImplicitVRLittleEndian), str(pydicom_uid.ExplicitVRLittleEndian)
DEFLATED, BIG_ENDIAN = str(pydicom_uid.DeflatedExplicitVRLittleEndian), str(pydicom_uid.ExplicitVRBigEndian)
INFLATED_AT_MOST = 4 << 30  #: bytes; a deflated data set that grows beyond is no image

#: schemes whose codes and meanings are public, PS3.16 section 8
STANDARD_SCHEMES: Mapping[bytes, re.Pattern[bytes]] = {
    b"SCT": re.compile(rb"\d{6,18}"),
    b"SRT": re.compile(rb"[A-Z0-9]{1,2}-[0-9A-F]{4,6}"),
    b"SNM3": re.compile(rb"[A-Z0-9]{1,2}-[0-9A-F]{4,6}"),
    b"99SDM": re.compile(rb"[A-Z0-9]{1,2}-[0-9A-F]{4,6}"),
    b"DCM": re.compile(rb"\d{6}|[A-Z]{2,9}"),
    b"LN": re.compile(rb"\d{1,7}-\d"),
    b"UCUM": re.compile(rb"[A-Za-z0-9%*/.\[\]{}^_'-]{1,16}"),
    b"RADLEX": re.compile(rb"RID\d{1,7}"),
    b"RADELEMENT": re.compile(rb"RDES?\d{1,7}(\.\d+)?"),
    b"FMA": re.compile(rb"\d{1,7}"),
    b"NCIt": re.compile(rb"C\d{1,7}"),
    b"UMLS": re.compile(rb"C\d{7}"),
    b"RXNORM": re.compile(rb"\d{1,8}"),
    b"MSH": re.compile(rb"[DC]\d{4,9}"),
    b"IBSI": re.compile(rb"[A-Z0-9]{4}"),
    b"I10": re.compile(rb"[A-Z]\d{2}(\.\d{1,2})?"),
    b"NEU": re.compile(rb"\d{1,4}"),
    b"MDC": re.compile(rb"\d{1,7}"),
}
_LOCAL_CODE = re.compile(rb"[A-Za-z]{0,4}-?\d{1,5}")

_PATIENT_NAME, _PATIENT_ID, _ISSUER, _BIRTH_DATE, _AGE = 0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x00101010
_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES, _MODALITY = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00080060
_STUDY_DATES = (0x00080020, 0x00080022, 0x00080021, 0x00080023)
_REMOVED, _METHOD, _METHOD_CODES, _LONGITUDINAL = 0x00120062, 0x00120063, 0x00120064, 0x00280303
_CODE_VALUES, _SCHEME, _MEANING = (0x00080100, 0x00080119, 0x00080120), 0x00080102, 0x00080104
_BODY_PART = 0x00180015
_COMMITTEE, _APPROVAL = 0x00120081, 0x00120082
_CONTENT, _CHARSET = 0x0040A730, 0x00080005
_BURNED_IN = 0x00280301
#: what is needed to see an image, beside group 0028
_TO_SEE = frozenset({0x00080008, 0x00080060, 0x00080070, 0x00081090, 0x00186011})
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_IDENTIFIERS = (0x00080050, 0x00100020, 0x00101000, 0x00101090, 0x00200010, 0x00380010)


#: DS or IS as it must be (PS3.5 Table 6.2-1), and shorter than what numbers persons
_A_NUMBER = re.compile(rb"([+-]?(\d{1,6}(\.\d*)?|\.\d+)([Ee][+-]?\d{1,3})?)?")

OFTEN = 1 << 10  #: bytes of an element that may come again in another instance
MOST_MET = 10_000  #: elements at one place that are remembered

_Done = tuple[bytes | None, bool, tuple[tuple[int, int], ...]]

#: no rule of its own for any element
_NOTHING: Mapping[int, Rule] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanInstance:
    """One instance without a name, ready to be written."""

    sop_class_uid: str
    sop_instance_uid: CleanUid
    series_instance_uid: CleanUid
    study_instance_uid: CleanUid
    transfer_syntax_uid: str
    pixels_clean: bool
    written_uid: str  #: the SOP Instance UID in the object: the clean one, or with Retain UIDs the original
    masked: int = 0  #: boxes painted over
    chunks: tuple[bytes | memoryview, ...]  #: the data set's bytes, in order

    def file(self) -> Iterator[bytes | memoryview]:
        """A whole Part 10 file: zero preamble, our own file meta information (PS3.15 E.1.1), the data set."""
        yield _file_meta(self.sop_class_uid, self.written_uid, self.transfer_syntax_uid)
        yield from self.chunks

    @property
    def pixel_chunk(self) -> bytes | memoryview:
        """The pixel data element as it is written, a view of what came where nothing was painted; empty for an object without."""
        return next((chunk for chunk in reversed(self.chunks) if bytes(chunk[:2]) == b"\xe0\x7f"), b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An instance that does not leave: no image for a model, or nothing that a table of attributes can clean. It stays where it is."""

    sop_class_uid: str
    sop_instance_uid: CleanUid
    reason: str


@dataclass(slots=True)
class Opened:
    """A received data set, scanned. In Little Endian; `whole` when the bytes are those that came."""

    data: bytes
    elements: list[Element]
    explicit: bool
    transfer_syntax_uid: str
    whole: bool
    top: dict[int, Element]
    overlays: bool  #: there is something of a group 60xx

    def value(self, tag: int) -> bytes:
        """A top-level value without padding; empty when absent."""
        element = self.top.get(tag)
        return self.data[element.value : element.value_end].strip(b" \0") if element else b""

    def number(self, tag: int) -> int | None:
        """A top-level US."""
        element = self.top.get(tag)
        if element is None or element.value_end - element.value != 2:
            return None
        return int(struct.unpack_from("<H", self.data, element.value)[0])

    @property
    def pixel_data(self) -> Element | None:
        return next((self.top[tag] for tag in _PIXELS if tag in self.top), None)


def open_data_set(data: bytes, transfer_syntax_uid: str, start: int = 0) -> Opened:
    """Scan a received data set, which begins at `start`.

    Raises
    ------
    Malformed
        In a few words that name no value.
    """
    whole = True
    if transfer_syntax_uid == DEFLATED:
        data, transfer_syntax_uid, whole, start = _inflate(data[start:]), EXPLICIT, False, 0
    elif transfer_syntax_uid == BIG_ENDIAN:
        data, transfer_syntax_uid, whole, start = _little_endian(data[start:]), EXPLICIT, False, 0
    explicit = transfer_syntax_uid != IMPLICIT
    if explicit and len(data) >= start + 8 and looks_implicit(data, start):
        data, whole, start = _explicit(data[start:]), False, 0
    layout = layout_of(data, start, explicit=explicit)
    return Opened(data, layout.elements, explicit, transfer_syntax_uid, whole, layout.top, layout.overlays)


class Cleaner:
    """The profile at work on the instances of one study: one pseudonym, one shift, one map of UIDs."""

    def __init__(
        self,
        profile: Profile,
        clean_uids: CleanUids,
        pseudonym: Pseudonym,
        *,
        banned: frozenset[str] = frozenset(),
        unflagged: pixels.Unflagged = "accept",
        images_only: bool = True,
        looker: Looks | None = None,
        by_hand: Mapping[CleanUid, ByHand] | None = None,
    ) -> None:
        self.profile = profile
        self.pseudonym = pseudonym
        self.shift_days = clean_uids.date_shift_days(pseudonym) if profile.options.retain_modified_dates else 0
        self.original_uid: dict[CleanUid, str] = {}
        self.account = Account()
        self._unflagged = unflagged
        self._images_only = images_only
        self.looker = looker
        self._by_hand = by_hand or {}
        self._banned = banned
        self._clean_uids = clean_uids
        self._uids: dict[bytes, bytes] = {}
        self._dates: dict[bytes, bytes] = {}
        self._texts: dict[bytes, bytes] = {}
        self._marks: dict[tuple[_Earlier, bool, bool], dict[int, bytes]] = {}
        self._met: dict[tuple[str, int, int, bool, bool], dict[bytes, _Done]] = {}

    def ban(self, identifying: frozenset[str]) -> None:
        """Words that may stand in no text from here on."""
        if not identifying <= self._banned:
            self._banned |= identifying
            self._texts.clear()
            self._marks.clear()
            self._met.clear()

    def met(self, sop_class: str, parent: int, depth: int, explicit: bool, same: bool) -> dict[bytes, _Done]:
        """What became of elements at one place before: the instances of a series say most things alike, and a look-up costs less than the rules.

        By their bytes as they came; what is written (None: nothing), whether that is something else, and how many elements each act was done to.
        `same`: in the encoding of the object.
        """
        return self._met.setdefault((sop_class, parent, depth, explicit, same), {})

    def uid(self, original: bytes) -> CleanUid:
        """The clean UID, remembered for the way home."""
        return CleanUid(self._uid(original).decode())

    def clean(self, opened: Opened) -> CleanInstance | LeftOut:
        """One instance through the profile.

        Raises
        ------
        InstanceUnreadable, BurnedInAnnotation, TextDetectorFailed, PixelsNotSeen
            With the clean UID of the instance, and no value.
        """
        sop_class = opened.value(_SOP_CLASS).decode("ascii", "replace")
        instance = self.uid(opened.value(_SOP_INSTANCE)) if opened.value(_SOP_INSTANCE) else CleanUid("")
        try:
            _require_sop(opened)
            reason = why_left_out(sop_class, self.profile.options, images_only=self._images_only, of_a_study=bool(opened.value(_STUDY)))
            if reason:
                known = sop_class in pydicom_uid.UID_dictionary
                return LeftOut(sop_class_uid=sop_class if known else "", sop_instance_uid=instance, reason=reason)
            _require(opened)
            image = not is_other(sop_class)
            detection = self.looker.text_detection if self.looker and image else "off"
            decision = pixels.decide(
                _facts(opened),
                unflagged=self._unflagged if image else "accept",
                text_detection=detection,
                captures="leave out" if self._images_only else "look",
            )
            if decision.verdict is pixels.Verdict.LEAVE_OUT:
                return LeftOut(sop_class_uid=sop_class, sop_instance_uid=instance, reason=decision.reason)
            if decision.verdict is pixels.Verdict.BURNED_IN and not self._by_hand.get(instance, ByHand()).released:
                raise BurnedInAnnotation(decision.reason, instance=instance)
            pixel_chunk = checked_pixels(opened, instance) if image or opened.pixel_data is not None else b""
            seen, look = self._seen(opened, pixel_chunk, decision, instance) if image else (None, Look.NOBODY)
            silent = decision.verdict in (pixels.Verdict.CLEAN, pixels.Verdict.GLANCE)
            pixels_clean = (seen is not None or silent) and self.profile.options.clean_pixel_data
            ours = self._ours(opened, pixels_clean=pixels_clean)
            if seen is not None:
                ours[_BURNED_IN] = encode(_BURNED_IN, b"CS", b"NO", explicit=opened.explicit)
            rewritten = seen.rewritten if seen else None
            if rewritten is not None:
                ours |= rewritten.elements
                pixel_chunk = rewritten.chunk
            chunks = _Walk(self, opened, sop_class, instance).chunks(ours, pixel_chunk)
            if image:
                self.account.saw(instance, look, len(seen.boxes) if seen else 0)
            return CleanInstance(
                sop_class_uid=sop_class,
                sop_instance_uid=instance,
                series_instance_uid=self.uid(opened.value(_SERIES)),
                study_instance_uid=self.uid(opened.value(_STUDY)),
                transfer_syntax_uid=rewritten.transfer_syntax_uid if rewritten else opened.transfer_syntax_uid,
                pixels_clean=pixels_clean,
                written_uid=self._kept_uid(opened.value(_SOP_INSTANCE)).decode() if self.profile.options.retain_uids else instance,
                masked=len(seen.boxes) if seen else 0,
                chunks=chunks,
            )
        except Malformed as why:
            raise InstanceUnreadable(str(why), instance=instance) from None

    def _seen(
        self, opened: Opened, pixel_chunk: bytes | memoryview, decision: pixels.Decision, instance: CleanUid
    ) -> tuple[Seen | None, Look]:
        """What became of the pixels when somebody looked, None when nobody had to; and how they were looked at."""
        by_hand = self._by_hand.get(instance)
        if by_hand is None and decision.verdict not in (pixels.Verdict.LOOK, pixels.Verdict.GLANCE):
            return None, Look.NOBODY
        if by_hand is None and decision.verdict is pixels.Verdict.GLANCE and _measured_only(opened):
            return None, Look.FLAT
        looker = self.looker or Looker(text_detection="off")
        ds = image_of(opened, pixel_chunk, instance)
        try:
            seen = looker.look(ds, opened.transfer_syntax_uid, decision, by_hand or ByHand(), explicit=opened.explicit)
        except PixelsNotSeen:
            if decision.verdict is pixels.Verdict.GLANCE and by_hand is None:
                return None, Look.NOT_SEEN  # measured, says its header; whoever can't decode it can't read text in it either
            raise
        if by_hand is not None and by_hand.released:
            return seen, Look.BY_HAND
        return seen, Look.MASKED if seen.rewritten else Look.CLEAR if seen.searched else Look.FLAT

    # --- what is written in place of what was there ------------------------------------------------------------------------
    def _ours(self, opened: Opened, *, pixels_clean: bool) -> dict[int, bytes]:
        explicit, name = opened.explicit, self.pseudonym.encode()
        before = _earlier(opened)
        said = self._marks.get((before, pixels_clean, explicit))
        if said is None:
            said = self._marks[before, pixels_clean, explicit] = self._said(before, pixels_clean, explicit)
        ours = said | {
            _PATIENT_NAME: encode(_PATIENT_NAME, b"PN", name, explicit=explicit),
            _PATIENT_ID: encode(_PATIENT_ID, b"LO", name, explicit=explicit),
        }
        options = self.profile.options
        if options.retain_patient_characteristics and not _age(opened.value(_AGE), cap=options.cap_ages):
            age = _age_from_dates(opened, cap=options.cap_ages)
            if age or _AGE in opened.top:
                ours[_AGE] = encode(_AGE, b"AS", age, explicit=explicit)
        charset = opened.value(_CHARSET)
        if charset and (options.retain_device_identity or options.retain_institution_identity) and _defined_terms(charset):
            ours[_CHARSET] = encode(_CHARSET, b"CS", charset, explicit=explicit)  # kept names are written in it
        return ours

    def _said(self, before: _Earlier, pixels_clean: bool, explicit: bool) -> dict[int, bytes]:
        """What an object says of its de-identification."""
        codes = marks.method_codes(before.codes, self.profile.codes(pixels_clean=pixels_clean))
        method = marks.method(before.method, lambda text: words.clean(text, self._banned))
        longitudinal = marks.longitudinal(before.longitudinal, self.profile.longitudinal)
        return {
            _REMOVED: encode(_REMOVED, b"CS", b"YES", explicit=explicit),
            _METHOD: encode(_METHOD, b"LO", "\\".join(method).encode(), explicit=explicit),
            _METHOD_CODES: _codes_of(codes, explicit),
            _LONGITUDINAL: encode(_LONGITUDINAL, b"CS", longitudinal.encode(), explicit=explicit),
        }

    def _uid(self, original: bytes) -> bytes:
        clean = self._uids.get(original)
        if clean is None:
            text = original.decode("ascii", "backslashreplace")
            uid = self._clean_uids.of(text)
            self.original_uid[uid] = text
            clean = self._uids[original] = uid.encode()
        return clean

    def _kept_uid(self, original: bytes) -> bytes:
        """The UID itself when it is one; what only stands in a UID's place goes the way of all."""
        return original if original in _WELL_KNOWN or _UID.fullmatch(original) else self._uid(original)

    def _date(self, value: bytes) -> bytes:
        moved = self._dates.get(value)
        if moved is None:
            moved = shifted(value, -self.shift_days)
            moved = self._dates[value] = value if moved and not self.shift_days else moved
        return moved

    def _words(self, value: bytes) -> bytes:
        kept = self._texts.get(value)
        if kept is None:
            kept = b"" if b"\x1b" in value else words.clean(value.decode("latin-1"), self._banned).encode()
            if len(self._texts) < 10_000:
                self._texts[value] = kept
        return kept


class _Walk:
    """One data set, element by element."""

    def __init__(self, cleaner: Cleaner, opened: Opened, sop_class: str, instance: CleanUid) -> None:
        self.cleaner, self.profile = cleaner, cleaner.profile
        self.data, self.explicit, self.sop_class, self.instance = opened.data, opened.explicit, sop_class, instance
        self.opened = opened
        self._options_on = frozenset(self.profile.options.names)
        self._trees = self.profile.options.clean_structured_content
        self.acts = cleaner.account.acts

    def chunks(self, ours: dict[int, bytes], pixel_chunk: bytes | memoryview) -> tuple[bytes | memoryview, ...]:
        planes: Mapping[int, bytes] = {}
        if self.opened.overlays and self.profile.options.clean_graphics:
            planes = overlays.kept_planes(self.data, self.opened.elements, self.cleaner.looker, self.instance)
        apart = {*ours, *_PIXELS}
        top = [e for e in self.opened.elements if e.tag not in apart]
        acts = self.cleaner.account.acts
        acts[Act.DUMMY] += (_PATIENT_NAME in self.opened.top) + (_PATIENT_ID in self.opened.top)
        if self.opened.overlays:
            staying = [e for e in top if e.tag >> 24 != 0x60 or e.tag >> 16 in planes]
            acts[Act.REMOVE] += len(top) - len(staying)
            top = staying
        out: dict[int, bytes | memoryview] = dict(self._data_set(top, self.explicit, 0, 0)[0])
        if _APPROVAL in self.opened.top and not self.profile.options.retain_institution_identity:
            out.pop(_COMMITTEE, None)  # a name that may stand beside the number only, and the number is gone (PS3.3 C.7.1.3)
        for group, plane in planes.items():
            tag = group << 16 | overlays.DATA
            if tag in out and plane != self.data[self.opened.top[tag].value : self.opened.top[tag].value_end]:
                out[tag] = self._encode(tag, b"OW", plane)
        out.update(ours)
        pixel_data = self.opened.pixel_data
        if pixel_data is not None and pixel_chunk:
            out[pixel_data.tag] = pixel_chunk
        return tuple(out[tag] for tag in sorted(out))

    def _data_set(
        self, elements: Iterable[Element], explicit: bool, parent: int, depth: int, instead: Mapping[int, Rule] = _NOTHING
    ) -> tuple[list[tuple[int, bytes]], bool]:
        """The clean elements of one data set or item, and whether anything is different. `instead`: rules for this item alone."""
        data, sop_class = self.data, self.sop_class
        same = explicit == self.explicit
        changed = not same
        known, decide, acts = self.profile.rules(sop_class, parent), self.profile.rule, self.acts
        met = {} if instead else self.cleaner.met(sop_class, parent, depth, explicit, same)
        out: list[tuple[int, bytes]] = []
        coded: list[int] = []
        creators: dict[int, Element] = {}
        for element in elements:
            tag, vr, start, _, _, end, undefined = element
            if tag & 0x10000:
                length = len(out)
                changed = self._private(element, creators, out, explicit) or changed
                acts[Act.KEEP if len(out) > length else Act.REMOVE] += 1
                continue
            came = data[start:end] if end - start <= OFTEN else b""
            done = met.get(came) if came else None
            if done is None:
                rule = known.get((tag, vr)) or decide(tag, vr, parent, sop_class)
                if instead and tag in instead:
                    rule = instead[tag]
                if rule.act == Act.CODED and not undefined:
                    coded.append(len(out))
                self.acts = [0] * len(Act)
                chunk, different = self._element(element, rule, explicit, depth)
                done = chunk, different, tuple((act, count) for act, count in enumerate(self.acts) if count)
                self.acts = acts
                if came and rule.act != Act.CODED and len(met) < MOST_MET and not (rule.act == Act.WALK and self._trees):
                    met[came] = done
            chunk, different, counted = done
            for act, count in counted:
                acts[act] += count
            changed = changed or different
            if chunk is not None:
                out.append((tag, chunk))
        if coded:
            changed = self._code(out, coded) or changed
        if creators:
            out.sort(key=lambda pair: pair[0])
        return out, changed

    def _element(self, element: Element, rule: Rule, explicit: bool, depth: int) -> tuple[bytes | None, bool]:
        """What is written of one element, None for nothing, and whether that is something else than came."""
        tag, vr, start, value, value_end, end, undefined = element
        data, act, same = self.data, rule.act, explicit == self.explicit
        self.acts[act] += 1
        if act == Act.REMOVE or (act == Act.KEEP and (undefined or tag in _PIXELS)):
            self._instead(act, Act.REMOVE)
            return None, True  # pixel data inside a sequence is looked at by nobody
        if act == Act.WALK:
            return self._sequence(element, explicit, depth)
        if undefined:
            return self._placeholder(tag, vr, Act.EMPTY if act == Act.EMPTY else Act.DUMMY), True
        before = data[value:value_end]
        if act in (Act.KEEP, Act.CODED):
            size = VALUE_SIZE.get(vr) if act == Act.KEEP else None
            if size and len(before) % size:
                raise Malformed("a value's length does not fit its VR")
            return data[start:end] if same else self._encode(tag, vr, before), False
        after = self._value(act, tag, vr, before)
        if after is None or (not after and before.strip(b" \0")):
            self._instead(act, rule.otherwise)
            return None if rule.otherwise == Act.REMOVE else self._placeholder(tag, vr, rule.otherwise), True
        if after == before and same:
            return data[start:end], False
        return self._encode(tag, vr, after), True

    def _instead(self, act: Act, other: Act) -> None:
        """Count one act as another."""
        self.acts[act] -= 1
        self.acts[other] += 1

    def _sequence(self, element: Element, explicit: bool, depth: int) -> tuple[bytes, bool]:
        changed = element.vr == b"UN" or explicit != self.explicit
        bodies = []
        tree = element.tag in CONTENT_ITEMS and self._trees
        for elements, here in items(self.data, element, explicit=explicit, depth=depth + 1):
            instead = self._content_item(elements, here, depth) if tree else _NOTHING
            if instead is None:
                changed = True
                continue
            inner, different = self._data_set(elements, here, element.tag, depth + 1, instead)
            changed = changed or different
            bodies.append(b"".join(chunk for _, chunk in inner))
        if tree and changed and not bodies:
            return self._empty_tree(element.tag, depth), True
        if not changed:
            return self.data[element.start : element.end], False
        return self._encode(element.tag, b"SQ", b"".join(encode_item(body) for body in bodies)), True

    def _content_item(self, elements: list[Element], explicit: bool, depth: int) -> Mapping[int, Rule] | None:
        """Rules for the value of a content item, after Table E.3.4-1; None for an item that goes, with all below it."""
        kind, code, scheme = self._concept(elements, explicit, depth)
        value = content_trees.VALUES.get(kind, 0)
        match content_trees.action(kind, code, scheme, self._options_on):
            case "X" if not self._by_reference:
                return None
            case "X" | "D":
                return {value: Rule(Act.UID if kind == b"UIDREF" else Act.DUMMY, Act.DUMMY)} if value else _NOTHING
            case "K" if kind == b"TEXT":
                return {value: Rule(Act.KEEP, Act.DUMMY)}
            case "K" if kind == b"UIDREF":
                return {value: Rule(Act.KEEP_UID, Act.DUMMY)}
            case _:
                return {value: Rule(Act.WORDS, Act.DUMMY)} if kind == b"TEXT" else _NOTHING

    def _concept(self, elements: list[Element], explicit: bool, depth: int) -> tuple[bytes, bytes, bytes]:
        """Value Type, and Code Value and Coding Scheme Designator of the concept name."""
        found = {0x00080100: b"", 0x00080102: b""}
        kind = b""
        for element in elements:
            if element.tag == content_trees.VALUE_TYPE:
                kind = self.data[element.value : element.value_end].strip(b" \0")
            elif element.tag == content_trees.CONCEPT_NAME and element.vr in {b"SQ", b"UN"}:
                for inner, _ in items(self.data, element, explicit=explicit, depth=depth + 2)[:1]:
                    found |= {e.tag: self.data[e.value : e.value_end].strip(b" \0") for e in inner if e.tag in found}
        return kind, found[0x00080100], found[0x00080102]

    @cached_property
    def _by_reference(self) -> bool:
        """Items point to others by their place in the tree (PS3.3 C.17.3.2.5), so none may go: they get a dummy value."""
        return b"\x40\x00\x73\xdb" in self.data

    def _empty_tree(self, tag: int, depth: int) -> bytes:
        """Nothing of a content tree is left: at its root one item that says nothing, below no sequence at all."""
        if tag != _CONTENT:
            return self._encode(tag, b"SQ", b"")
        return self._encode(tag, b"SQ", dummies.sequence(tag, explicit=self.explicit)) if not depth else b""

    def _value(self, act: Act, tag: int, vr: bytes, value: bytes) -> bytes | None:
        """The clean value; None for one that may not stay and has no clean form."""
        cleaner = self.cleaner
        if act == Act.NUMBER:
            return value if _NUMBERS.fullmatch(value) else None
        if act == Act.CODE:
            return self._coded_string(tag, value)
        if act == Act.UID:
            return _each(value, lambda one: one if one in _WELL_KNOWN else cleaner._uid(one))
        if act == Act.KEEP_UID:
            return _each(value, cleaner._kept_uid)
        if act == Act.DATE:
            return _each(value, cleaner._date)
        if act == Act.TIME:
            return value if _TIMES.fullmatch(value) else None
        if act == Act.ZONE:
            return value if _ZONE.fullmatch(value) else None
        if act == Act.TECHNICAL:
            plain = len(value) <= 64 * 8 and not value.translate(None, _PRINTABLE)
            return value if plain and not _holds(value, cleaner._banned) else cleaner._words(value)
        if act == Act.WORDS and tag == _BODY_PART:
            return words.clean(value.decode("latin-1")).encode()  # a coded part of the body, also where a person is called Head
        if act == Act.WORDS:
            return b"\\".join(cleaner._words(part) for part in value.split(b"\\")) if b"\\" in value else cleaner._words(value)
        if act == Act.AGE:
            return _age(value.strip(b" \0"), cap=self.profile.options.cap_ages)
        return None

    def _coded_string(self, tag: int, value: bytes) -> bytes | None:
        if tag in ENUMERATED_TAGS:
            return value if value.strip(b" \0").upper() in ENUMERATED_TAGS[tag] else None
        if tag in LABEL_TAGS and _holds(value.replace(b"_", b" "), self.cleaner._banned):
            return None
        if not value.translate(None, _CODE_CHARACTERS):
            return value
        return b"\\".join(self.cleaner._words(one) if one.translate(None, _CODE_CHARACTERS) else one for one in value.split(b"\\"))

    def _placeholder(self, tag: int, vr: bytes, act: Act) -> bytes:
        vr = vr_of(tag) or vr if vr in {b"UN", b""} else vr
        if act == Act.DUMMY:
            return self._encode(tag, vr, dummies.sequence(tag, explicit=self.explicit) if vr == b"SQ" else dummies.value(vr))
        return self._encode(tag, vr, b"")

    def _encode(self, tag: int, vr: bytes, value: bytes) -> bytes:
        return encode(tag, vr_of(tag) if vr in {b"UN", b""} else vr, value, explicit=self.explicit)

    # --- codes: a public code keeps its value and meaning, a house's own one its shape at most -------------------------------
    def _code(self, out: list[tuple[int, bytes]], coded: list[int]) -> bool:
        values = {out[i][0]: (i, out[i][1][self._head(out[i][1]) :].rstrip(b" \0")) for i in coded}
        scheme = values.get(_SCHEME, (0, b""))[1]
        pattern = STANDARD_SCHEMES.get(scheme)
        code_tag = next((tag for tag in _CODE_VALUES if tag in values), 0)
        code = values[code_tag][1] if code_tag else b""
        public = pattern is not None and pattern.fullmatch(code) is not None
        fresh: dict[int, bytes] = {}
        for tag in _CODE_VALUES:
            if tag in values:
                fresh[tag] = code if tag == code_tag and (public or _LOCAL_CODE.fullmatch(code)) else b"UNKNOWN"
        if _SCHEME in values:
            fresh[_SCHEME] = scheme if pattern is not None else b"99LOCAL"
        if _MEANING in values:
            meaning = values[_MEANING][1]
            known = _meanings().get((scheme.decode("ascii", "replace"), code.decode("ascii", "replace"))) if public else None
            if known is None or meaning.decode("latin-1").casefold() != known.casefold():
                meaning = self.cleaner._words(meaning) or (known or "UNKNOWN").encode("ascii", "ignore")[:64]
            fresh[_MEANING] = meaning
        changed = False
        for tag, (i, before) in values.items():
            if fresh[tag] != before:
                out[i] = (tag, self._encode(tag, dictionary_vr(tag), fresh[tag]))
                changed = True
        return changed

    def _head(self, chunk: bytes) -> int:
        """Length of an encoded element's header."""
        return 12 if self.explicit and chunk[4:6] in {b"UC", b"UR", b"UN", b"UT"} else 8

    # --- private attributes ---------------------------------------------------------------------------------------------------
    def _private(self, element: Element, creators: dict[int, Element], out: list[tuple[int, bytes]], explicit: bool) -> bool:
        """Keep a private element that is known to be safe, with its creator. True when something is left out."""
        if not self.profile.options.retain_safe_private:
            return True
        group, number = element.tag >> 16, element.tag & 0xFFFF
        if 0x10 <= number <= 0xFF:
            creators[group << 8 | number] = element
            return True
        creator = creators.get(group << 8 | number >> 8)
        if creator is None or element.undefined:
            return True
        name = self.data[creator.value : creator.value_end].strip(b" \0").decode("ascii", "replace")
        vr = SAFE_PRIVATE.get((group, name, number & 0xFF))
        if vr is None or element.vr not in {vr, b"UN", b""}:
            return True
        value = self.data[element.value : element.value_end]
        size = VALUE_SIZE.get(vr)
        if (len(value) % size) if size else value.translate(None, _NUMERIC if vr in {b"DS", b"IS"} else _CODE_CHARACTERS):
            return True
        if vr in {b"DS", b"IS"} and not all(_A_NUMBER.fullmatch(one.strip(b" \0")) for one in value.split(b"\\")):
            return True  # a date or a telephone number is written in the same characters
        if _holds(value, self.cleaner._banned) or (vr in {b"FD", b"FL"} and len(value) > 4 and not value.translate(None, _PRINTABLE[:95])):
            return True  # a number of the patient, or a text where a number should be
        written = vr if element.vr == b"" else element.vr
        if not any(tag == creator.tag for tag, _ in out):
            out.append((creator.tag, encode(creator.tag, b"LO", name.encode(), explicit=self.explicit)))
        out.append((element.tag, encode(element.tag, written, value, explicit=self.explicit)))
        return explicit != self.explicit


# --- values -------------------------------------------------------------------------------------------------------------------
_NUMERIC = b"0123456789+-.eE\\ \0"
# possessive throughout: a megabyte of digits and a letter at the end costs one pass
_NUMBER = rb" *+(?:[+-]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?)?+ *+"
_NUMBERS = re.compile(_NUMBER + rb"(?:\\" + _NUMBER + rb")*+\0?")
_TIME = rb" *+(?:\d{2}(?::?\d{2}(?::?\d{2}(?:\.\d{1,6})?)?)?)?+ *+"
_TIMES = re.compile(_TIME + rb"(?:\\" + _TIME + rb")*+\0?")
_ZONE = re.compile(rb"[+-]\d{4} *\0?")
_CODE_CHARACTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_ \\\0" + b"/.-+"  # the last four are not allowed, and usual
_PRINTABLE = bytes(range(0x20, 0x7F)) + b"\0"
_WELL_KNOWN = frozenset(uid.encode() for uid in pydicom_uid.UID_dictionary)
_UID = re.compile(rb"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+")
_DA = re.compile(rb"(\d{4})[.]?(\d{2})[.]?(\d{2})")
_DT = re.compile(rb"(\d{4})(\d{2})?(\d{2})?((?:\d{2}){0,3}(?:\.\d{1,6})?)([+-]\d{4})?")
_AS = re.compile(rb"(\d{3})([DWMY])")


def shifted(value: bytes, days: int) -> bytes:
    """A DA or DT moved by whole days: the time of day stays. Empty for what is no date."""
    match = _DA.fullmatch(value)
    rest = b""
    if match is None:
        match = _DT.fullmatch(value)
        if match is None:
            return b""
        rest = match[4] + (match[5] or b"")
    try:
        moved = date(int(match[1]), int(match[2] or 1), int(match[3] or 1)) + timedelta(days=days)
    except (ValueError, OverflowError):
        return b""
    text = f"{moved.year:04}{moved.month:02}{moved.day:02}".encode()
    return text[: 8 if match[3] else 6 if match[2] else 4] + rest


def _each(value: bytes, change: Any) -> bytes | None:
    """Change each value of a multi-valued one. Padding goes, unless nothing changes."""
    parts = [part.strip(b" \0") for part in value.split(b"\\")]
    done = [change(part) if part else b"" for part in parts]
    if any(part and not new for part, new in zip(parts, done, strict=True)):
        return None
    return value if done == parts and parts == value.rstrip(b" \0").split(b"\\") else b"\\".join(done)


def _holds(value: bytes, banned: frozenset[str]) -> bool:
    return bool(banned) and any(token.upper() in banned for token in value.decode("ascii", "replace").replace("\\", " ").split())


def _age(value: bytes, *, cap: bool) -> bytes:
    """A well-formed age; with `cap` over 89 years all are 090Y (HIPAA Safe Harbor, 45 CFR 164.514(b)(2)). Empty for what is none."""
    match = _AS.fullmatch(value)
    if match is None:
        return b""
    return b"090Y" if cap and match[2] == b"Y" and int(match[1]) > 89 else value


def _age_from_dates(opened: Opened, *, cap: bool) -> bytes:
    """Patient's Age at the study, since the birth date goes."""
    try:
        born = _day(opened.value(_BIRTH_DATE))
        then = next(day for tag in _STUDY_DATES if (day := _day(opened.value(tag))))
    except StopIteration:
        return b""
    if born is None or then < born:
        return b""
    days, months = (then - born).days, (then.year - born.year) * 12 + then.month - born.month - (then.day < born.day)
    if months >= 24:
        return _age(b"%03dY" % min(months // 12, 999), cap=cap)
    return b"%03dM" % months if days > 90 else b"%03dD" % days


def _day(value: bytes) -> date | None:
    match = _DA.fullmatch(value)
    try:
        return date(int(match[1]), int(match[2]), int(match[3])) if match else None
    except ValueError:
        return None


# --- checks ---------------------------------------------------------------------------------------------------------------------
def identifiers(opened: Opened) -> frozenset[str]:
    """The patient's own numbers, and the names of everybody in the data set, in upper case: they stay in no text.

    A vocabulary can't tell Dr. Head from a head, and a number can look like a kernel.
    """
    numbers = tuple(opened.value(tag) for tag in _IDENTIFIERS)
    return _tokens(numbers, tuple(_names(opened.data, opened.elements, opened.explicit, 0)))


@lru_cache(maxsize=1024)
def _tokens(numbers: tuple[bytes, ...], names: tuple[bytes, ...]) -> frozenset[str]:
    """The same for all instances of a series."""
    found = {token.upper() for one in numbers for token in re.findall(r"\w+", one.decode("latin-1")) if len(token) >= 3}
    parts = [b" ".join(group.split(b"^")[:3]) for one in names for group in re.split(rb"[=\\]", one)]  # titles are no names: Mr., Dr.
    found |= {token.upper() for one in parts for token in re.findall(r"[^\W_]+", one.decode("latin-1")) if len(token) >= 2}
    return frozenset(found)


def _names(data: bytes, elements: Iterable[Element], explicit: bool, depth: int) -> Iterator[bytes]:
    """Every PN at every depth. A sequence that can't be read has none: it is found out when it is cleaned."""
    for element in elements:
        if element.vr == b"PN":
            yield data[element.value : element.value_end]
        elif element.vr == b"SQ" and (not explicit or data.find(b"PN", element.value, element.value_end) >= 0):
            try:
                for inner, here in items(data, element, explicit=explicit, depth=depth + 1):
                    yield from _names(data, inner, here, depth + 1)
            except Malformed:
                continue


_REQUIRED_OF_ALL = {_SOP_INSTANCE: "SOP Instance UID", _SOP_CLASS: "SOP Class UID"}
_REQUIRED = {
    _STUDY: "Study Instance UID",
    _SERIES: "Series Instance UID",
    _MODALITY: "Modality",
}


def _require_sop(opened: Opened) -> None:
    _require(opened, _REQUIRED_OF_ALL)


def _require(opened: Opened, required: Mapping[int, str] = _REQUIRED) -> None:
    for tag, name in required.items():
        if not opened.value(tag):
            raise Malformed(f"it has no {name}")


def is_other(sop_class: str) -> bool:
    """No image: its pixels, where it has any, are numbers (a dose, a mask, a map)."""
    return sop_class in other_sop_classes()


class _Earlier(NamedTuple):
    """What the object says of an earlier de-identification; empty where its identity was not removed."""

    method: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    longitudinal: str = ""


def _earlier(opened: Opened) -> _Earlier:
    if opened.value(_REMOVED) != b"YES":
        return _Earlier()
    codes = opened.top.get(_METHOD_CODES)
    values = []
    if codes is not None and codes.vr == b"SQ":
        for inner, _ in items(opened.data, codes, explicit=opened.explicit, depth=1):
            values += [
                opened.data[e.value : e.value_end].strip(b" \0").decode("ascii", "replace") for e in inner if e.tag == _CODE_VALUES[0]
            ]
    method = tuple(text.strip() for text in opened.value(_METHOD).decode("latin-1").split("\\") if text.strip())
    return _Earlier(method, tuple(values), opened.value(_LONGITUDINAL).decode("ascii", "replace"))


def _defined_terms(charset: bytes) -> bool:
    """Every value is a Defined Term of Specific Character Set (PS3.3 C.12.1.1.2)."""
    return all(term.strip().decode("ascii", "replace") in python_encoding for term in charset.split(b"\\"))


@cache
def vr_of(tag: int) -> bytes:
    """The VR of a standard attribute, also of a repeating group and of one that Table E.1-1 knows better than the dictionary."""
    if tag >> 24 == 0x60:
        return OVERLAY_ELEMENTS.get(tag & 0xFFFF, b"")
    return dictionary_vr(tag)


def _facts(opened: Opened) -> dict[str, str]:
    tags = {
        "SOPClassUID": _SOP_CLASS,
        "Modality": _MODALITY,
        "ImageType": 0x00080008,
        "ConversionType": 0x00080064,
        "BurnedInAnnotation": 0x00280301,
        "NumberOfFrames": 0x00280008,
    }
    return {name: opened.value(tag).decode("latin-1") for name, tag in tags.items()}


#: samples a pixel
_SUBSAMPLED: Mapping[bytes, float] = {b"YBR_FULL_422": 2.0, b"YBR_PARTIAL_422": 2.0, b"YBR_PARTIAL_420": 1.5}


def checked_pixels(opened: Opened, instance: CleanUid) -> bytes | memoryview:
    """The pixel data element, found to be as long as the header says; without what it holds beside pixels."""
    element = opened.pixel_data
    if element is None:
        raise Malformed("it has no pixel data")
    rows, columns, bits = opened.number(0x00280010), opened.number(0x00280011), opened.number(0x00280100)
    if not rows or not columns or not bits:
        raise Malformed("its Rows, Columns or Bits Allocated are missing or 0")
    try:
        frames = int(opened.value(0x00280008) or b"1")
    except ValueError:
        frames = 0
    if frames < 1:
        raise Malformed("its Number of Frames is no positive number")
    native, used = opened.transfer_syntax_uid in (IMPLICIT, EXPLICIT), None
    if native == element.undefined:
        raise Malformed("its pixel data does not fit its transfer syntax")
    if native:
        samples = opened.number(0x00280002) or 1
        photometric = opened.value(0x00280004)
        per_pixel = _SUBSAMPLED.get(photometric, float(samples))
        declared = int(rows * columns * per_pixel * frames) * bits
        if (element.value_end - element.value) * 8 < declared:
            raise Malformed("its pixel data is shorter than declared")
        if photometric not in _SUBSAMPLED and opened.number(0x00280002):
            used = (declared + 15) // 16 * 2  # of even length, PS3.5 8.1.1
    elif element.value_end - element.value < 16:
        raise Malformed("its pixel data holds no frame")
    chunk, value = _without_overlay_bits(opened, element, native, instance), element.value - element.start
    if used is not None and len(chunk) > value + used:  # behind the last frame nobody looks
        return encode(element.tag, element.vr, bytes(chunk[value : value + used]), explicit=opened.explicit)
    silent = None if native else codestreams.silenced(opened.data, element.value, element.value_end, frames)
    if silent is not None:
        return opened.data[element.start : element.value] + silent + opened.data[element.value_end : element.end]
    return chunk


def image_of(opened: Opened, pixel_chunk: bytes | memoryview, instance: CleanUid) -> Dataset:
    """What is needed to see an image: its pixel module, its regions, the device; nothing of the person.

    Raises PixelsNotSeen.
    """
    wanted = (e for e in opened.elements if not e.tag & 0x10000 and (e.tag >> 16 == 0x0028 or e.tag in _TO_SEE))
    raw = b"".join(opened.data[e.start : e.end] for e in wanted)
    element = opened.pixel_data
    if element is None:
        raise Malformed("it has no pixel data")
    value = bytes(pixel_chunk[element.value - element.start : element.value_end - element.start])
    try:
        ds = read_dataset(BytesIO(raw), is_implicit_VR=not opened.explicit, is_little_endian=True)
        vr = {0x7FE00008: "OF", 0x7FE00009: "OD"}.get(element.tag, "OB" if element.undefined or opened.number(0x00280100) == 8 else "OW")
        ds.add(DataElement(element.tag, vr, value, is_undefined_length=element.undefined))
        correct_ambiguous_vr(ds, True)
        ds.SOPInstanceUID = str(instance)
    except Exception as why:  # whatever a library says of a broken element; its text may quote it
        raise PixelsNotSeen(f"({type(why).__name__})", instance=instance) from None
    return ds


def _measured_only(opened: Opened) -> bool:
    """No value stands out in any frame. Only of native grey pixels, which need no decoder; False where that can't be told here."""
    rows, columns, element = opened.number(0x00280010) or 0, opened.number(0x00280011) or 0, opened.pixel_data
    dtype = {(8, 0): "u1", (8, 1): "i1", (16, 0): "<u2", (16, 1): "<i2"}.get(
        (opened.number(0x00280100) or 0, opened.number(0x00280103) or 0)
    )
    if element is None or element.undefined or dtype is None or (opened.number(0x00280002) or 1) != 1:
        return False
    count = (element.value_end - element.value) // (rows * columns * np.dtype(dtype).itemsize)
    frames = np.frombuffer(opened.data, dtype, count * rows * columns, element.value).reshape(count, rows, columns)
    return not any(stands_out(frame) for frame in frames)


def _without_overlay_bits(opened: Opened, element: Element, native: bool, instance: CleanUid) -> bytes | memoryview:
    """Overlays once lived in unused high bits of the pixels (PS3.5 8.1.2); with the overlay gone its bits go too."""
    stored, bits = opened.number(0x00280101) or 0, opened.number(0x00280100) or 0
    embedded = opened.overlays and any(
        (e.tag & 0xFF00FFFF) == 0x60000102 and not e.tag & 0x10000 and any(opened.data[e.value : e.value_end]) for e in opened.elements
    )
    whole = memoryview(opened.data)[element.start : element.end]
    if not embedded or stored >= bits or bits not in (8, 16):
        return whole
    if not native:
        raise BurnedInAnnotation("an overlay lies in unused bits of compressed pixels", instance=instance)
    values = np.frombuffer(opened.data, "<u2" if bits == 16 else "u1", (element.value_end - element.value) * 8 // bits, element.value)
    values = values & ((1 << stored) - 1)
    if opened.number(0x00280103):
        sign = 1 << (stored - 1)
        values = ((values.astype(np.int32) ^ sign) - sign).astype("<u2" if bits == 16 else "u1")
    return opened.data[element.start : element.value] + values.tobytes()


# --- pieces that are the same for many instances ---------------------------------------------------------------------------------
@cache
def _codes_of(codes: tuple[Any, ...], explicit: bool) -> bytes:
    body = b""
    for code in codes:
        body += encode_item(
            encode(0x00080100, b"SH", code.value.encode(), explicit=explicit)
            + encode(0x00080102, b"SH", code.scheme_designator.encode(), explicit=explicit)
            + encode(0x00080104, b"LO", code.meaning.encode(), explicit=explicit)
        )
    return encode(_METHOD_CODES, b"SQ", body, explicit=explicit)


def _file_meta(sop_class: str, sop_instance: str, transfer_syntax: str) -> bytes:
    """Preamble, prefix and File Meta Information, PS3.10 7.1."""
    body = (
        encode(0x00020001, b"OB", b"\0\1", explicit=True)
        + encode(0x00020002, b"UI", sop_class.encode(), explicit=True)
        + encode(0x00020003, b"UI", sop_instance.encode(), explicit=True)
        + encode(0x00020010, b"UI", transfer_syntax.encode(), explicit=True)
        + encode(0x00020012, b"UI", IMPLEMENTATION_CLASS_UID.encode(), explicit=True)
        + encode(0x00020013, b"SH", IMPLEMENTATION_VERSION_NAME.encode()[:16], explicit=True)
    )
    return b"\0" * 128 + b"DICM" + encode(0x00020000, b"UL", struct.pack("<I", len(body)), explicit=True) + body


@cache
def _meanings() -> dict[tuple[str, str], str]:
    """Meanings of public codes, from PS3.16 as pydicom carries it."""
    return {
        (scheme, code): meaning
        for scheme, by_keyword in concepts.items()
        for by_code in by_keyword.values()
        for code, (meaning, _) in by_code.items()
    }


# --- transfer syntaxes that are rewritten -------------------------------------------------------------------------------------------
def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(data, INFLATED_AT_MOST)
    except zlib.error:
        raise Malformed("its deflated bytes are damaged") from None
    if inflater.unconsumed_tail or not inflater.eof:
        raise Malformed("its deflated bytes have no end")
    return plain


def _explicit(data: bytes) -> bytes:
    """Implicit VR under the name of an explicit transfer syntax, as some writers leave it, as what it says it is."""
    try:
        data_set = read_dataset(BytesIO(data), is_implicit_VR=True, is_little_endian=True)
        out = DicomBytesIO()
        out.is_little_endian, out.is_implicit_VR = True, False
        if "PixelData" in data_set and data_set["PixelData"].is_undefined_length:
            data_set["PixelData"].VR = "OB"
        write_dataset(out, data_set)
        return bytes(out.getvalue())
    except Exception:
        raise Malformed("it can't be read as Implicit VR") from None


def _little_endian(data: bytes) -> bytes:
    """Explicit VR Big Endian (retired) as Explicit VR Little Endian."""
    try:
        data_set = read_dataset(BytesIO(data), is_implicit_VR=False, is_little_endian=False)
        bits = int(data_set.get("BitsAllocated", 16))
        for element in data_set.iterall():
            if element.VR in {"OW", "OF", "OL", "OD", "OV"} and element.value:
                size = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}[element.VR]
                if element.tag == Tag(0x7FE00010) and bits == 32:
                    size = 4
                element.value = np.frombuffer(element.value, f">u{size}").astype(f"<u{size}").tobytes()
        out = DicomBytesIO()
        out.is_little_endian, out.is_implicit_VR = True, False
        write_dataset(out, data_set)
        return bytes(out.getvalue())
    except Malformed:
        raise
    except Exception:
        raise Malformed("it can't be read as Big Endian") from None
