"""A set of files in which every attribute of PS3.15 Table E.1-1 carries something to find again.

Each row of the table at the top level, one and three sequences deep; eight character sets; Explicit and Implicit VR, Big Endian and
Deflated; listed attributes as UN; private blocks; the preamble and the file meta information; attributes that no table lists.
`node.testing.e1_1_grade` tells what became of it.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.testing.e1_1_objects import KINDS, Who
from node.testing.studies import IMPLEMENTATION_UID

#: the root of every planted UID
UID_ROOT = "1.2.826.0.1.3680043.10.9991"
#: commands of a network message (PS3.7 E.1) and entries of a DICOMDIR (PS3.3 F): no object that is sent has them
NEVER_STORED = ("00001000", "00001001", "00041511")
#: an approval number and the name of its committee: the table removes the one and keeps a dummy of the other, although PS3.3 C.7.1.3
#: allows the name beside the number only. So no object has both at its top level
EITHER_OR = ("00120081", "00120082")
#: sequences that no row lists and that any image may have: what is planted below them is deep
CARRIERS = ("DerivationCodeSequence", "AnatomicRegionSequence", "ViewModifierCodeSequence")
#: character set: (Specific Character Set, a few letters that only it holds)
CHARACTER_SETS: dict[str, tuple[str | list[str], str]] = {
    "ascii": ("", ""),
    "latin 1": ("ISO_IR 100", "Müßig"),
    "latin 2": ("ISO_IR 101", "Šťastný"),
    "cyrillic": ("ISO_IR 144", "Люкс"),
    "greek": ("ISO_IR 126", "Διονυσ"),
    "japanese": (["", "ISO 2022 IR 87"], "山田"),
    "korean": (["", "ISO 2022 IR 149"], "김희중"),
    "chinese": ("GB18030", "王小东"),
    "utf-8": ("ISO_IR 192", "Ünïçødé山"),
}


class Row(NamedTuple):
    """One row of the published table."""

    tag: str  #: eight hex digits, X for any; or PRIVATE
    name: str
    vr: str
    basic: str
    options: dict[str, str]


@cache
def published_rows() -> tuple[Row, ...]:
    """Table E.1-1 as published; only the data, not what the node makes of it."""
    text = files("node").joinpath("identified", "ps315_e1_1_2026c.json").read_text(encoding="utf-8")
    return tuple(Row(*row) for row in json.loads(text)["rows"])


@cache
def listed_tags() -> frozenset[str]:
    """Tags of the rows."""
    return frozenset(row.tag for row in published_rows())


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One file of the set."""

    file: str
    number: int  #: Instance Number, and the first pixels of an image
    kind: str  #: a key of `KINDS`
    person: int
    transfer_syntax_uid: str
    character_set: str
    may_be_withheld: bool = False  #: not handing it out is right: a burned-in name, a document
    needs: str = ""  #: nor without this option: a report


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What was planted, and where."""

    instances: tuple[Instance, ...]
    words: dict[str, str] = field(repr=False, default_factory=dict)  #: odd word: row's tag, or where it lies outside the table
    letters: dict[str, str] = field(repr=False, default_factory=dict)  #: letters beyond ASCII that stood beside the words: character set

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """What `to_json` gave."""
        found = json.loads(text)
        return cls(instances=tuple(Instance(**one) for one in found["instances"]), words=found["words"], letters=found["letters"])


#: kind, character set, transfer syntax, (person, study)
_PLAN: Sequence[tuple[str, str, str, Who]] = (
    ("ct", "ascii", ExplicitVRLittleEndian, (1, 1)),
    ("ct", "latin 1", ExplicitVRLittleEndian, (1, 1)),
    ("ct", "utf-8", ImplicitVRLittleEndian, (1, 1)),
    ("ct", "latin 2", ExplicitVRBigEndian, (1, 1)),
    ("ct", "cyrillic", DeflatedExplicitVRLittleEndian, (1, 1)),
    ("ct", "greek", ExplicitVRLittleEndian, (1, 2)),
    ("ct", "japanese", ExplicitVRLittleEndian, (1, 2)),
    ("ct", "korean", ImplicitVRLittleEndian, (1, 2)),
    ("ct", "chinese", ExplicitVRBigEndian, (1, 2)),
    ("mr", "ascii", ExplicitVRLittleEndian, (2, 1)),
    ("mr", "japanese", ImplicitVRLittleEndian, (2, 1)),
    ("mr", "utf-8", DeflatedExplicitVRLittleEndian, (2, 1)),
    ("mr", "latin 1", ExplicitVRBigEndian, (2, 1)),
    ("cr", "latin 1", ExplicitVRLittleEndian, (2, 2)),
    ("cr", "chinese", ImplicitVRLittleEndian, (2, 2)),
    ("us", "utf-8", ExplicitVRLittleEndian, (3, 1)),
    ("us", "cyrillic", ImplicitVRLittleEndian, (3, 1)),
    ("sc", "latin 1", ExplicitVRLittleEndian, (3, 1)),
    ("sc", "korean", DeflatedExplicitVRLittleEndian, (3, 1)),
    ("report", "utf-8", ExplicitVRLittleEndian, (1, 1)),
    ("report", "latin 1", ImplicitVRLittleEndian, (1, 2)),
    ("key objects", "ascii", ExplicitVRLittleEndian, (1, 1)),
    ("presentation state", "japanese", ExplicitVRLittleEndian, (1, 1)),
    ("structure set", "latin 2", ImplicitVRLittleEndian, (1, 1)),
    ("ecg", "utf-8", ExplicitVRLittleEndian, (3, 1)),
    ("burned in", "ascii", ExplicitVRLittleEndian, (3, 1)),
    ("document", "utf-8", ExplicitVRLittleEndian, (3, 1)),
)


def write_set(folder: Path) -> Manifest:
    """Write the files below `folder`, by person and study, and tell what lies in them. The same bytes every time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a library's word on odd values, of which the set is full
        return _written(folder)


def _written(folder: Path) -> Manifest:
    words: dict[str, str] = {}
    instances = []
    for number, (kind, character_set, transfer_syntax, who) in enumerate(_PLAN, 1):
        ds = planted(number, kind, character_set, transfer_syntax, who, words)
        name = f"person{who[0]}/study{who[1]}/{number:04d}.dcm"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        ds.save_as(path, enforce_file_format=True)
        instances.append(
            Instance(
                file=name,
                number=number,
                kind=kind,
                person=who[0],
                transfer_syntax_uid=transfer_syntax,
                character_set=character_set,
                may_be_withheld=kind in {"burned in", "document"},
                needs="clean_structured_content" if kind in {"report", "key objects"} else "",
            )
        )
    letters = {text: name for name, (_, text) in CHARACTER_SETS.items() if text}
    return Manifest(instances=tuple(instances), words=words, letters=letters)


def planted(number: int, kind: str, character_set: str, transfer_syntax: str, who: Who, words: dict[str, str]) -> Dataset:
    """One object with everything planted into it; its words are added to `words`."""
    charset, letters = CHARACTER_SETS[character_set]
    ds = KINDS[kind](number, who)
    if charset:
        ds.SpecificCharacterSet = charset
    if transfer_syntax == ExplicitVRBigEndian and ds.BitsAllocated == 16:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    plant = _Plant(number, who, letters, words, as_unknown=transfer_syntax != ImplicitVRLittleEndian)
    own = {int(element.tag) for element in ds}
    for name in ("PatientName", "PatientID", "AccessionNumber", "StudyID", "DeviceSerialNumber"):
        for word in str(ds[name].value).split("^"):
            words[word] = f"{int(Tag(name)):08X}"
    if letters:
        ds.PatientName = f"{ds.PatientName}={letters}"
    plant.rows(ds, "T", skip=own)
    if kind not in {"burned in", "document"}:
        nested = Dataset()
        plant.rows(nested, "O" if number % 2 else "D", skip=set())
        for keyword in CARRIERS[2:] if number % 2 else CARRIERS[::-1]:  # one deep, or three
            around = Dataset()
            setattr(around, keyword, Items([nested]))
            nested = around
        ds.update(nested)
    plant.elsewhere(ds)
    plant.private(ds)
    ds.preamble = f"{plant.word('preamble', 'preamble')}\n".encode().ljust(128, b"\0")
    meta = ds.file_meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.ImplementationClassUID, meta.ImplementationVersionName = transfer_syntax, IMPLEMENTATION_UID, "ZQVENDOR"
    meta.SourceApplicationEntityTitle = plant.word("file meta", "00020016")
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = f"{UID_ROOT}.2.{number}", plant.word("file meta", "00020102").encode()
    return ds


class _Plant:
    """Fills one object."""

    def __init__(self, number: int, who: Who, letters: str, words: dict[str, str], *, as_unknown: bool) -> None:
        self.number, self.who, self.letters, self.words, self.as_unknown = number, who, letters, words, as_unknown

    def word(self, place: str, where: str) -> str:
        """Twelve odd letters of its own for each place of each file; fits every text VR."""
        digest = hashlib.sha256(f"{self.number} {place} {where}".encode()).hexdigest().upper()
        found = "ZQ" + digest[:10].translate(str.maketrans("0123456789", "GHJKLMNPRS"))
        self.words[found] = where
        return found

    def rows(self, ds: Dataset, place: str, *, skip: set[int]) -> None:
        """Every row of the table that `ds` has not yet."""
        for index, row in enumerate(published_rows()):
            if row.tag in NEVER_STORED or row.tag == "PRIVATE" or row.tag.startswith("0002"):
                continue
            if place == "T" and row.tag == EITHER_OR[self.number % 2]:
                continue
            for tag, vr in _elements(row):
                if tag in skip:
                    continue
                unknown = self.as_unknown and vr in {"LO", "SH", "ST", "PN", "LT"} and (index + self.number) % 7 == 0
                self._one(ds, tag, vr, row.tag, f"{place}{index}", unknown=unknown)

    def _one(self, ds: Dataset, tag: int, vr: str, where: str, place: str, *, unknown: bool) -> None:
        local = f" {self.letters}" if self.letters else ""
        value: object
        match vr:
            case "SQ":
                value = Items([self._item(place, where)])
            case "UI":
                # the same entity in every file and at every depth: a study's references must go on matching
                value = f"{UID_ROOT}.1.{self.who[0]}.{self.who[1]}.{int(where, 16)}"
            case "DA":
                value = _day(place)
            case "DT":
                value = f"{_day(place)}101112.123456"
            case "TM":
                value = "101112.131415"
            case "AS":
                value = "095Y"
            case "DS":
                value = "31.25"
            case "IS":
                value = "3137"
            case "US":
                value = 3
            case "OB" | "OW" | "UN":
                value = self.word(place, where).encode()
            case "UR":
                value = f"http://{self.word(place, where).lower()}.example/"
            case "PN":
                value = f"{self.word(place, where)}^Given" + (f"={self.letters}" if self.letters else "")
            case "LO" | "LT" | "ST" | "UT" | "UC":
                value = f"seen by {self.word(place, where)}{local}"
            case _:
                value = self.word(place, where)
        if unknown:
            ds.add(DataElement(tag, "UN", self.word(place, where).encode()))
        else:
            ds.add(DataElement(tag, vr, value))

    def _item(self, place: str, where: str) -> Dataset:
        """What an item of a listed sequence may tell."""
        item = Dataset()
        for keyword in ("PatientID", "InstitutionName", "CodeValue", "CodeMeaning", "PersonName", "TextValue"):
            own = f"{int(Tag(keyword)):08X}"
            told = own if own in listed_tags() else where
            item.add(DataElement(Tag(keyword), dictionary_VR(Tag(keyword)), self.word(f"{place}/{where}/{keyword}", told)))
        item.CodingSchemeDesignator = "99ZQ"
        item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        item.ReferencedSOPInstanceUID = f"{UID_ROOT}.3.{self.who[0]}.{self.who[1]}.{int(where, 16)}"
        deeper = Dataset()
        deeper.PatientName = self.word(f"{place}/deeper", where)
        item.PurposeOfReferenceCodeSequence = Items([deeper])
        return item

    def private(self, ds: Dataset) -> None:
        """Private blocks that nobody knows and of known makers: texts, bytes, items; one of them without a creator."""
        for group, creator in ((0x0009, "ZQ UNKNOWN MAKER"), (0x0019, "GEMS_ACQU_01"), (0x0029, "SIEMENS CSA HEADER"), (0x2005, "")):
            base = group << 16
            if creator:
                ds.add(DataElement(base | 0x10, "LO", creator))
            for offset, vr in ((0x1001, "LO"), (0x1002, "PN"), (0x1003, "LT"), (0x1004, "UN"), (0x1005, "OB")):
                word = self.word(f"private {group:04X} {offset:04X}", "PRIVATE")
                ds.add(DataElement(base | offset, vr, word.encode() if vr in {"UN", "OB"} else word))
            item = Dataset()
            item.PatientName = self.word(f"private {group:04X} item", "PRIVATE")
            ds.add(DataElement(base | 0x1006, "SQ", Items([item])))
        ds.add(DataElement(0x00190011, "LO", "SIEMENS MR HEADER"))
        ds.add(DataElement(0x0019110C, "IS", "1000"))

    def elsewhere(self, ds: Dataset) -> None:
        """Places that no row lists: overlay texts, unknown even tags, a coil's name, items of codes."""
        for tag, vr in ((0x60000022, "LO"), (0x60001500, "LO"), (0x00100FFE, "LO"), (0x00181250, "SH")):
            ds.add(DataElement(tag, vr, self.word("elsewhere", f"{tag:08X}")))
        ds.add(DataElement(0x00321FFE, "UN", self.word("elsewhere", "00321FFE").encode()))
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator = self.word("code", "00082220"), "99ZQ"
        item.CodeMeaning = self.word("code meaning", "00082220")
        ds.AnatomicRegionModifierSequence = Items([item])


def _day(place: str) -> str:
    """A day long ago, another for every row."""
    return f"{date(1925, 1, 2) + timedelta(days=11 * int(place[1:])):%Y%m%d}"


def _elements(row: Row) -> Iterator[tuple[int, str]]:
    """Tags and VRs that a row stands for."""
    if row.tag.startswith("50XX"):
        yield from ((0x50000022, "LO"), (0x50003000, "OW"))
    elif row.vr == "OB or OW":
        yield int(row.tag.replace("XX", "00"), 16), "OW"
    else:
        yield int(row.tag.replace("X", "0"), 16), row.vr
