"""Which values of a study identify somebody or something: collected from what came, for the leak scan.

This file knows nothing of the profile, and decides nothing of what is removed: it reads what came with pydicom, and sorts every value
by what it is. So what the profile overlooks is searched for all the same.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.charset import convert_encodings
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.filereader import read_dataset
from pydicom.sr._concepts_dict import concepts
from pydicom.uid import UID_dictionary

from node.identified.elements import Element

WORDS_AT_MOST = 50_000  #: words of free text that are searched for; a study with more says so in its report
LONGEST_TEXT = 1 << 20  #: bytes of one text that are looked into for words
LONGEST_BINARY = 1 << 10  #: bytes of an OB or UN value that is looked into for words


class Kind(StrEnum):
    """What a value tells. The order is that of their weight: what is two of them counts as the first."""

    NAME = "names"
    IDENTIFIER = "identifiers"
    UID = "uids"
    BIRTH_DATE = "birth dates"
    DATE = "dates"
    CONTACT = "addresses and telephone numbers"
    INSTITUTION = "institutions"
    EQUIPMENT = "single devices"
    WORD = "words of free text"


_CHARSET, _BIRTH_DATE = 0x00080005, 0x00100030
_TEXT = frozenset({"LO", "SH", "LT", "ST", "UT", "UC"})
_BINARY = frozenset({"OB", "UN"})
#: nothing in them is collected, so nobody needs to read them
_NUMBERS = frozenset(vr.encode() for vr in ("AS", "AT", "DS", "FD", "FL", "IS", "SL", "SS", "SV", "TM", "UL", "US", "UV"))
_WIDE_NUMBERS = frozenset({b"OD", b"OF", b"OL", b"OV", b"OW"})
#: they say what kind of thing or technique it is; any two sites have them in common
TECHNICAL_KEYWORDS = frozenset(
    {
        *("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "ConvolutionKernel", "SequenceName", "PulseSequenceName"),
        *("FilterType", "FilterMaterial", "ImagedNucleus", "ResonantNucleus", "RescaleType", "StackID", "CodingSchemeVersion"),
        *("TransducerType", "ModalityLUTType", "LossyImageCompressionMethod", "ReceiveCoilName", "TransmitCoilName", "UnitName"),
        *(
            "CodeValue",
            "LongCodeValue",
            "URNCodeValue",
            "CodingSchemeDesignator",
            "CodeMeaning",
            "CodingSchemeName",
            "UniversalEntityIDType",
        ),
        "DeidentificationMethod",
    }
)
_EQUIPMENT = re.compile(r"Device|Station|Gantry|Detector|Plate|Cassette|Generator|Serial|Transducer|Grid|Tube|AETitle|Scanner|Equipment")
_CONTACT = re.compile(r"Address|Telephone|Telecom|Residence|Email|Phone")
_INSTITUTION = re.compile(r"Institution|Organization|Department|Hospital|Location|Issuer|Sponsor|SiteName|RequestingService|AssigningFac")
_IDENTIFIER = re.compile(r"(ID|IDs|Identifier|Number|Numbers|Locator|Barcode\w*|Label\w*|Identification|UDI)$")
#: numbers of a patient, a visit or an order: they identify however short they are
PATIENT_KEYWORDS = frozenset(
    {
        *("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "AdmissionID", "ServiceEpisodeID", "MedicalRecordLocator"),
        *("RequestedProcedureID", "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest"),
    }
)
SHORTEST_OTHER = 6  #: characters of any other identifier: `AX12` may be an image's place as well
_NO_THING = re.compile(r"Class|TransferSyntax|CodingScheme|ContextUID|MappingResource|TemplateExtension")
_TELLING = re.compile(r"[a-z]{4}|\d{5}")
_PRINTABLE = re.compile(rb"[\x20-\x7e]{4,}")
#: DA and DT, PS3.5 Table 6.2-1
DATE_TIME = re.compile(r"\d{8}(\d{2}){0,3}(\.\d{1,6})?([+-]\d{4})?")
_DATE = re.compile(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})")
#: dates that stand for "none"
_NO_DATES = frozenset({"19000101", "00010101", "19700101", "20000101", "18581117", "99991231", "00000000", "19010101", "11111111"})

Path_ = tuple[int, ...]  #: tags from the top to the element


@dataclass(slots=True)
class Identifying:
    """What identifies in one study. Never printed, never written down: it lives in memory while the study is looked at."""

    values: dict[Kind, set[str]] = field(default_factory=lambda: defaultdict(set))
    codecs: set[str] = field(default_factory=set)  #: Python's names of the study's character sets
    raw: set[bytes] = field(default_factory=set)  #: names as they came, in a character set other than ASCII
    dates_at: set[tuple[Path_, str]] = field(default_factory=set)  #: which date stood where
    whole: set[tuple[int, bytes]] = field(default_factory=set)  #: (tag, value) of names and identifiers, however short
    retained: frozenset[Kind] = frozenset()  #: kinds that an option of the profile lets stay: they are not collected
    kept_tags: frozenset[int] = frozenset()  #: attributes that an option of the profile keeps as they are
    overflow: bool = False  #: there were more words than are searched for
    _seen: set[bytes] = field(default_factory=set)

    def __repr__(self) -> str:
        return "<Identifying>"

    def add(self, data: bytes, elements: Iterable[Element], *, explicit: bool) -> None:
        """Take in one instance as it came: its top-level elements, pixel data left out.

        Many instances of a study say the same; each different element is read once.
        """
        charset = b""
        for element in elements:
            if element.tag >> 16 == 0x7FE0 or element.vr in _NUMBERS:
                continue
            if element.vr in _WIDE_NUMBERS and element.value_end - element.value > LONGEST_BINARY:
                continue
            chunk = bytes(data[element.start : element.end])
            if element.tag == _CHARSET:
                charset = chunk
            seen = chunk if len(chunk) <= 64 else hashlib.blake2b(chunk, digest_size=16).digest()
            if seen in self._seen:
                continue
            self._seen.add(seen)
            if element.vr == b"UI" and not element.undefined:
                self._uids(chunk[element.value - element.start :], element.tag)
            else:
                self._read(chunk, element, charset, explicit=explicit)

    def add_bytes(self, data: bytes) -> None:
        """Texts around a data set, such as a preamble: words only."""
        self._words(_runs(data))

    def finish(self) -> None:
        """Nothing more comes: what was kept to read each element once goes, before all this goes to another process."""
        self._seen = set()

    def merge(self, other: Identifying) -> None:
        """Take in what another process has collected of the same study."""
        for kind, values in other.values.items():
            self.values[kind] |= values
        self.codecs |= other.codecs
        self.raw |= other.raw
        self.dates_at |= other.dates_at
        self.whole |= other.whole
        self.overflow = self.overflow or other.overflow

    # --- reading ---------------------------------------------------------------------------------------------------------------
    def _uids(self, value: bytes, tag: int) -> None:
        """A UI needs no library to be read (PS3.5 6.2), and is what every instance says anew."""
        private_creator = tag & 0x10000 and 0x10 <= tag & 0xFFFF <= 0xFF
        if tag not in self.kept_tags and not private_creator:
            for text in value.rstrip(b"\0 ").decode("latin-1").split("\\"):
                self._uid(text, keyword_for_tag(tag))

    def _read(self, chunk: bytes, element: Element, charset: bytes, *, explicit: bool) -> None:
        encoded = (charset + chunk) if charset and element.tag > _CHARSET else chunk
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                data_set = read_dataset(BytesIO(encoded), is_implicit_VR=not explicit, is_little_endian=True)
                for found, path in _walked(data_set, ()):
                    if found.tag == _CHARSET:
                        self._character_sets(found.value)
                    elif charset and not path and found.tag != element.tag:
                        continue
                    else:
                        self._sort(found, (*path, int(found.tag)))
        except Exception:  # a library's word about a broken element; its text may quote it
            self._words(_runs(chunk))
        value = chunk[element.value - element.start : element.value_end - element.start]
        if element.vr == b"PN" and (not value.isascii() or b"\x1b" in value):
            self.raw |= {part for part in re.split(rb"[\^=\\ ]|\x1b[ -/]+[0-~]", value) if len(part) >= 4 and not part.isascii()}
            self.raw |= {part for part in value.strip(b" \0").split(b"=") if b"\x1b" in part and len(part) >= 8}

    def _character_sets(self, value: Any) -> None:
        names = [value] if isinstance(value, str) else list(value or [])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.codecs |= {codec for codec in convert_encodings(names) if codec}
        except (LookupError, ValueError):
            pass

    def _sort(self, element: Any, path: Path_) -> None:
        """One element of any depth: which kind each of its values is."""
        vr, keyword, tag = str(element.VR), keyword_for_tag(element.tag), int(element.tag)
        if element.value is None or vr == "SQ" or tag in self.kept_tags:
            return
        if vr in _BINARY or isinstance(element.value, bytes):
            if isinstance(element.value, bytes) and len(element.value) <= LONGEST_BINARY:
                self._unknown(element.value, tag, path)
            return
        private = bool(tag & 0x10000)
        if private and 0x10 <= tag & 0xFFFF <= 0xFF:
            return  # a private creator: it names a maker
        for text in _texts(element.value):
            match vr:
                case "PN":
                    self._put(Kind.NAME, text)
                    self.whole.add((tag, text.encode("utf-8", "replace")))
                case "UI":
                    self._uid(text, keyword)
                case "DA" | "DT":
                    self._date(text, tag, path)
                case "AE":
                    self._put(Kind.EQUIPMENT, text)
                case "UR":
                    self._put(Kind.CONTACT, text)
                    self._words([text])
                case _ if vr in _TEXT:
                    self._text(text, keyword, tag)

    def _uid(self, text: str, keyword: str) -> None:
        if text not in UID_dictionary and not _NO_THING.search(keyword):
            self._put(Kind.UID, text)

    def _unknown(self, value: bytes, tag: int, path: Path_) -> None:
        """Of an attribute that the library does not know, or bytes: a date and time when it looks like one, else its words."""
        text = value.strip(b" \0").decode("latin-1")
        if DATE_TIME.fullmatch(text):
            self._date(text, tag, path)
        else:
            self._words(_runs(value))

    def _date(self, text: str, tag: int, path: Path_) -> None:
        match = _DATE.match(text)
        if match is None or not ("1850" <= match[1] <= "2150" and "01" <= match[2] <= "12" and "01" <= match[3] <= "31"):
            return
        day = "".join(match.groups())
        if day in _NO_DATES:
            return
        self._put(Kind.BIRTH_DATE if tag == _BIRTH_DATE else Kind.DATE, day)
        self.dates_at.add((path, day))

    def _text(self, text: str, keyword: str, tag: int) -> None:
        if keyword in TECHNICAL_KEYWORDS:
            return
        if _INSTITUTION.search(keyword):
            self._put(Kind.INSTITUTION, text)
            self._words([text])
        elif _CONTACT.search(keyword):
            self._put(Kind.CONTACT, text)
            self._words([text])
        elif _EQUIPMENT.search(keyword):
            self._put(Kind.EQUIPMENT, text)
        elif keyword in PATIENT_KEYWORDS:
            self._put(Kind.IDENTIFIER, text)
            self.whole.add((tag, text.encode("utf-8", "replace")))
        elif _IDENTIFIER.search(keyword):
            if len(text.strip()) >= SHORTEST_OTHER:
                self._put(Kind.IDENTIFIER, text)
            self._words([text])
        else:
            self._words([text])

    def _put(self, kind: Kind, text: str) -> None:
        text = text.strip(" \0\t\r\n")
        if text and kind not in self.retained:
            self.values[kind].add(text)

    def _words(self, texts: Iterable[str]) -> None:
        """Words that are in no list of common words, and longer numbers."""
        words = self.values[Kind.WORD]
        for text in texts:
            for word in tokens(text[:LONGEST_TEXT]):
                if is_telling(word) and word not in words:
                    if len(words) >= WORDS_AT_MOST:
                        self.overflow = True
                        return
                    words.add(word)


@cache
def kept_by(options: tuple[str, ...]) -> frozenset[int]:
    """Attributes that Table E.1-1 of PS3.15 keeps (K) with one of these options, as its columns are named in the file beside this one."""
    rows = json.loads((Path(__file__).parent / "ps315_e1_1_2026c.json").read_text())["rows"]
    on = {"retain_device_identity", "retain_institution_identity", "retain_full_dates"} & set(options)
    return frozenset(int(tag, 16) for tag, _, _, _, by_option in rows if "X" not in tag and any(by_option.get(name) == "K" for name in on))


def tokens(text: str) -> list[str]:
    """Runs of letters and digits, in lower case."""
    return re.findall(r"[^\W_]+", text.casefold())


def is_telling(word: str) -> bool:
    """A word of free text that may name somebody: four letters in a row that are no common word, or five digits in a row."""
    telling = bool(_TELLING.search(word)) if word.isascii() else len(word) >= (2 if max(word) > "⺀" else 4)
    return telling and word not in common_words() and word not in standard_words()


@cache
def common_words() -> frozenset[str]:
    """Words of radiology and of hospitals: in a text they name nobody."""
    found: set[str] = set()
    for name in ("vocabulary.txt", "common_words.txt"):
        lines = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
        found |= {word for line in lines if not line.startswith("#") for word in line.split()}
    return frozenset(found)


@cache
def standard_words() -> frozenset[str]:
    """Words of PS3.6 and PS3.16: attribute names, UID names, code meanings."""
    texts = [entry[2] for entry in DicomDictionary.values()] + [entry[0] for entry in UID_dictionary.values()]
    return frozenset(tokens(" ".join((*texts, *standard_meanings()))))


@cache
def standard_meanings() -> frozenset[str]:
    """Code Meanings of PS3.16, in lower case."""
    return frozenset(
        meaning.casefold() for by_keyword in concepts.values() for by_code in by_keyword.values() for meaning, _ in by_code.values()
    )


def _walked(data_set: Any, path: Path_) -> Iterator[tuple[Any, Path_]]:
    """Every element at every depth, with the tags of the sequences around it."""
    for element in data_set:
        if element.VR == "SQ":
            for item in element.value:
                yield from _walked(item, (*path, int(element.tag)))
        else:
            yield element, path


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    try:
        return [str(one) for one in value] if not hasattr(value, "components") else [str(value)]
    except TypeError:
        return [str(value)]


def _runs(data: bytes) -> list[str]:
    """Printable runs of a binary value, as ASCII and as UTF-16."""
    found = [run.decode("ascii") for run in _PRINTABLE.findall(data)]
    return found + [run[::2].decode("ascii") for run in re.findall(rb"(?:[\x20-\x7e]\0){4,}", data)]
