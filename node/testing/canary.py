"""A study in which every attribute that can carry identity carries an odd word of its own: found elsewhere, it tells where it leaked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache
from importlib.resources import files
from typing import Any

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag

from node.testing.studies import a_study, uid_of

#: these make the study one study and the instance an instance; their values are watched, not replaced
STRUCTURE = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
#: no word fits without making the object invalid, or the option "retain patient characteristics" keeps them
LEFT = ("PatientSex", "PatientSexNeutered", "SmokingStatus", "DigitalSignaturesSequence", "EncapsulatedDocument", "IconImageSequence")
CLINICAL = {"StudyDescription": "CT Thorax", "SeriesDescription": "Thorax Lunge", "ProtocolName": "Thorax"}  #: so that rules still match
SHORT = {"SH": 16, "CS": 16, "AE": 16}  #: PS3.5 Table 6.2-1
CONSONANTS, VOWELS = "BDFGKLMNPRTVXZ", "AEIOU"


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """The study, and what may be found nowhere on the clean side. Keys say where a value was planted."""

    datasets: list[Dataset] = field(repr=False)
    words: dict[str, str]  #: odd words; the search should ignore case
    uids: dict[str, str]
    dates: dict[str, str]  #: DA, in attributes that the profile removes or moves


def canary_study(*, slices: int = 12, rows: int = 512, **options: Any) -> Canary:
    """A chest CT with an odd word in every text attribute of PS3.15 Table E.1-1, in nested items, private elements, unknown VRs,
    unknown tags, overlays, the preamble, the file meta information and the trailing padding. Patient and study attributes are the
    same on every instance, as they must be."""
    datasets = a_study("CT", slices=slices, rows=rows, **options)
    canary = Canary(datasets=datasets, words={}, uids={}, dates={})
    for keyword in STRUCTURE:
        for ds in datasets:
            canary.uids[f"{keyword} {ds.InstanceNumber}" if keyword == "SOPInstanceUID" else keyword] = str(ds[keyword].value)
    for tag, vr, name in attributes():
        for ds in datasets:
            _plant(canary, ds, tag, vr, name)
    for ds in datasets:
        _private(canary, ds)
        _elsewhere(canary, ds)
    return canary


@cache
def word(where: str) -> str:
    """Ten odd letters that derive from the place they stand in: no word of any language, and its own."""
    digest = hashlib.sha256(where.encode()).digest()
    letters = [CONSONANTS[b % len(CONSONANTS)] if i % 2 == 0 else VOWELS[b % len(VOWELS)] for i, b in enumerate(digest[:8])]
    return "QX" + "".join(letters)


@cache
def attributes() -> tuple[tuple[int, str, str], ...]:
    """Tag, VR and name of the attributes of Table E.1-1 that can hold a word, a UID or a date."""
    lines = (files("node.testing") / "canary_attributes.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.split() for line in lines if not line.startswith("#"))
    return tuple((int(tag, 16), vr, name) for tag, vr, name in rows if name not in (*STRUCTURE, *LEFT))


def _plant(canary: Canary, ds: Dataset, tag: int, vr: str, name: str) -> None:
    if tag >> 16 < 0x0008:  # command, file meta and directory groups: not in a data set
        return
    match vr:
        case "SQ":
            ds.add(DataElement(tag, "SQ", Items([_item(canary, name)])))
        case "UI":
            ds.add(DataElement(tag, "UI", canary.uids.setdefault(name, uid_of("canary", name))))
        case "DA":
            ds.add(DataElement(tag, "DA", _date(canary, name)))
        case "DT":
            ds.add(DataElement(tag, "DT", _date(canary, name) + "101112"))
        case "OB" | "UN":
            ds.add(DataElement(tag, vr, (_word(canary, name) + " ").encode() + b"\x00"))
        case "PN":
            family, given = _word(canary, f"{name} family"), _word(canary, f"{name} given")
            ds.add(DataElement(tag, "PN", f"{family}^{given}"))
        case "UR":
            ds.add(DataElement(tag, "UR", f"https://{_word(canary, name).lower()}.example/"))
        case "CS" | "AE" | "SH":
            ds.add(DataElement(tag, vr, _word(canary, name)[: SHORT[vr]]))
        case _:
            ds.add(DataElement(tag, vr, f"{CLINICAL.get(name, 'see')} {_word(canary, name)} again"))


def _item(canary: Canary, where: str) -> Dataset:
    """What a nested item may tell: a name, an identifier, a text, a UID, a code meaning, and an item in the item."""
    item = Dataset()
    for keyword in ("PatientName", "PatientID", "InstitutionName", "CodeMeaning", "LongCodeValue", "TextValue", "PersonName"):
        value = _word(canary, f"{where}/{keyword}")
        long = "-LONG-CODE" if keyword == "LongCodeValue" else ""  # more than 16 letters, PS3.3 8.1
        item.add(DataElement(Tag(keyword), dictionary_VR(Tag(keyword)), value + long))
    item.ReferencedSOPInstanceUID = canary.uids.setdefault(where, uid_of("canary", where))
    deeper = Dataset()
    deeper.PatientName = _word(canary, f"{where}/item/PatientName")
    deeper.add(DataElement(0x00091001, "LO", _word(canary, f"{where}/item/private")))
    deeper.add(DataElement(0x00090010, "LO", _word(canary, f"{where}/item/private creator")))
    item.PersonIdentificationCodeSequence = Items([deeper])
    return item


def _private(canary: Canary, ds: Dataset) -> None:
    """Private blocks: one that nobody knows, one of a known maker; texts, bytes, unknown VRs and items."""
    for group, creator in ((0x0009, "QX CANARY"), (0x0019, "GEMS_ACQU_01"), (0x0029, "SIEMENS CSA HEADER"), (0x0099, "")):
        where = f"private {group:04x}"
        name = creator if creator else _word(canary, f"{where} creator")
        ds.add(DataElement(group << 16 | 0x0010, "LO", name))
        for element, vr in ((0x1001, "LO"), (0x1002, "PN"), (0x1003, "LT"), (0x10EE, "SH")):
            ds.add(DataElement(group << 16 | element, vr, _word(canary, f"{where} {vr}")))
        for element, vr in ((0x1004, "UN"), (0x1005, "OB")):
            ds.add(DataElement(group << 16 | element, vr, b"\x01\x00" + _word(canary, f"{where} {vr}").encode() + b"\x00\x00"))
        ds.add(DataElement(group << 16 | 0x1006, "SQ", Items([_item(canary, f"{where} SQ")])))
        ds.add(DataElement(group << 16 | 0x1007, "UN", _implicit_item(_word(canary, f"{where} UN item"))))


def _implicit_item(name: str) -> bytes:
    """A sequence in an element of unknown VR: implicit little endian inside, PS3.5 6.2.2 note 2."""
    value = name.encode() + b" " * (len(name) % 2)
    element = b"\x10\x00\x10\x00" + len(value).to_bytes(4, "little") + value
    return b"\xfe\xff\x00\xe0" + len(element).to_bytes(4, "little") + element


def _elsewhere(canary: Canary, ds: Dataset) -> None:
    """Places that no table lists: an unknown tag of an even group, a listed attribute as UN, an overlay, and around the data set."""
    ds.add(DataElement(0x00100FFF, "LO", _word(canary, "unknown even tag")))
    ds.add(DataElement(0x00321FFE, "UN", _word(canary, "unknown even tag, UN").encode()))
    ds.add(DataElement(0x60004000, "LT", _word(canary, "OverlayComments")))
    ds.add(DataElement(0x60000022, "LO", _word(canary, "OverlayDescription")))
    ds.add(DataElement(0x60001500, "LO", _word(canary, "OverlayLabel")))
    ds.DataSetTrailingPadding = _word(canary, "DataSetTrailingPadding").encode() * 2
    ds.preamble = _word(canary, "preamble").encode().ljust(128, b"\x00")
    ds.file_meta.SourceApplicationEntityTitle = _word(canary, "SourceApplicationEntityTitle")
    ds.file_meta.PrivateInformationCreatorUID = canary.uids.setdefault("PrivateInformationCreatorUID", uid_of("canary", "meta"))
    ds.file_meta.PrivateInformation = _word(canary, "PrivateInformation").encode()


def _word(canary: Canary, where: str) -> str:
    return canary.words.setdefault(where, word(where))


def _date(canary: Canary, name: str) -> str:
    """A day long ago, another for every attribute."""
    day = date(1911, 1, 3) + timedelta(days=61 * len(canary.dates))
    return canary.dates.setdefault(name, f"{day:%Y%m%d}")


def planted(canary: Canary) -> Iterator[tuple[str, bytes]]:
    """(where, what to look for in bytes): every word and UID."""
    for where, value in (*canary.words.items(), *canary.uids.items()):
        yield where, value.encode()
