"""What holds for every data set: it is cleaned without a fuss, nothing of it leaks, and cleaning twice changes nothing more."""

from __future__ import annotations

import io
import re
import warnings
from datetime import date
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.charset import convert_encodings
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.domain import Pseudonym
from node.identified.clean_uids import CleanUids
from node.identified.cleaning import Cleaner, CleanInstance, identifiers, open_data_set
from node.identified.content_trees import _listed as listed_concepts
from node.identified.folders import data_set_of
from node.identified.profile import CLASS_UID_KEYWORDS, TECHNICAL_KEYWORDS, Options, Profile
from node.testing.e1_1_objects import code, report
from tests.rooms.test_deidentifier import a_slice
from tests.same_examples import bounded

BOUNDED = bounded(30)
CLEANING = Options(clean_graphics=True, clean_structured_content=True)
UID_ROOT = "1.2.826.0.1.3680043.10.9991"
#: a name, a number, a telephone number, a date: each in its own spelling, none of them a word of any vocabulary
SECRETS = ("Zqwarner", "ZQ4711X", "030-5558675", "12.03.1961", "zqstreet 12b", "Quzzlewood", "00471199")
CHARSETS: dict[str, tuple[str | list[str], str]] = {
    "ascii": ("", "x"),
    "latin 1": ("ISO_IR 100", "Müßig"),
    "cyrillic": ("ISO_IR 144", "Люкс"),
    "utf-8": ("ISO_IR 192", "山Ü"),
    "chinese": ("GB18030", "王小东"),
    "japanese": (["", "ISO 2022 IR 87"], "山田"),
}
#: what makes the object an image, and what holds codes or techniques by definition
LEFT = {0x00080005, 0x00080008, 0x00080016, 0x00080060, 0x00080018, 0x0020000D, 0x0020000E, 0x00280301, 0x00280302, 0x00100040}
TEXT = {"LO", "LT", "SH", "ST", "UC", "UT"}
POOL = sorted(
    tag
    for tag, entry in DicomDictionary.items()
    if tag >> 16 >= 0x0008
    and tag >> 16 not in {0x0028, 0x7FE0, 0xFFFA, 0xFFFC, 0xFFFE}
    and tag & 0xFFFF
    and tag not in LEFT
    and len(entry[0]) == 2
    and entry[4] not in (*TECHNICAL_KEYWORDS, *CLASS_UID_KEYWORDS)
)
SEQUENCES = [tag for tag in POOL if DicomDictionary[tag][0] == "SQ"]

secret = st.sampled_from(SECRETS)
day = st.dates(date(1940, 1, 1), date(2026, 1, 1)).map(lambda d: f"{d:%Y%m%d}")
uid = st.integers(1, 40).map(lambda n: f"{UID_ROOT}.{n}")


def value(draw: Any, vr: str, letters: str) -> Any:
    """A valid value of a VR that says who it is where the VR can."""
    match vr:
        case "PN":
            return f"{draw(secret)[:40]}^Zqgiven" + draw(st.sampled_from(["", f"={letters}"]))
        case "LO" | "LT" | "ST" | "UT" | "UC":
            words = draw(st.lists(st.one_of(secret, st.sampled_from(["chest", "head", letters, "1.0", "T2"])), min_size=1, max_size=4))
            return " ".join(words)[:60]
        case "SH":
            return draw(secret)[:16]
        case "AE":
            return "ZQ4711X"
        case "UR":
            return "http://zqwarner.example/"
        case "CS":
            return draw(st.sampled_from(["AXIAL", "YES", "HFS", ["A", "B"]]))
        case "UI":
            return draw(st.one_of(uid, st.lists(uid, min_size=2, max_size=3)))
        case "DA":
            return draw(day)
        case "DT":
            return draw(day) + draw(st.sampled_from(["", "101112", "101112.25+0100"]))
        case "TM":
            return draw(st.sampled_from(["101112", "1011", "10", "235959.999999", ""]))
        case "AS":
            return draw(st.sampled_from(["095Y", "012M", "003D", ""]))
        case "DS" | "IS":
            return draw(st.sampled_from(["1", "-3", ["1", "2"], ""]))
        case "US" | "UL" | "UV":
            return draw(st.integers(0, 60000))
        case "SS" | "SL" | "SV":
            return draw(st.integers(-30000, 30000))
        case "FL" | "FD":
            return draw(st.sampled_from([0.0, -1.5, 1e6]))
        case "AT":
            return 0x00100010
        case "UN":
            return draw(secret).encode()
        case _:
            return bytes(draw(st.integers(0, 4)) * 8)


@st.composite
def filled(draw: Any, ds: Dataset, letters: str, depth: int) -> Dataset:
    """`ds` with random elements on top, also private and unknown ones, and items in items."""
    for tag in draw(st.lists(st.sampled_from(POOL), min_size=1, max_size=10, unique=True)):
        vr = DicomDictionary[tag][0]
        if vr == "SQ":
            continue
        content = value(draw, vr, letters)
        unknown = vr in TEXT | {"PN"} and draw(st.integers(0, 9)) == 0
        ds.add(DataElement(tag, "UN", b"Zqwarner") if unknown else DataElement(tag, vr, content))
    if depth:
        for tag in draw(st.lists(st.sampled_from(SEQUENCES), max_size=3, unique=True)):
            count = draw(st.integers(0, 2))
            ds.add(DataElement(tag, "SQ", Sequence([draw(filled(Dataset(), letters, depth - 1)) for _ in range(count)])))
    if draw(st.booleans()):
        group = draw(st.sampled_from([0x0009, 0x0019, 0x2005, 0x7053])) << 16
        ds.add(DataElement(group | 0x10, "LO", draw(st.sampled_from(["ZQ4711X", "SIEMENS MR HEADER", "GEMS_PARM_01"]))))
        ds.add(DataElement(group | 0x100C, draw(st.sampled_from(["LO", "SH"])), draw(secret)[:16]))
        ds.add(DataElement(group | 0x1027, "UN", b"Zqwarner"))
    if draw(st.integers(0, 4)) == 0:
        ds.add(DataElement(0x00100FFE, "LO", draw(secret)))
    return ds


@st.composite
def images(draw: Any) -> tuple[bytes, str]:
    """A whole file and its letters beyond ASCII."""
    charset, letters = CHARSETS[draw(st.sampled_from(sorted(CHARSETS)))]
    ds = a_slice(1, PatientName="Zqwarner^Quzzlewood", PatientID="00471199", AccessionNumber="ZQ4711X")
    for keyword in ("ReferringPhysicianName", "InstitutionName", "SeriesDescription", "StudyDescription"):
        del ds[keyword]
    if charset:
        ds.SpecificCharacterSet = charset
    ds = draw(filled(ds, letters, 3))
    syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian]
    return file_of(ds, draw(st.sampled_from(syntaxes))), letters


@st.composite
def reports(draw: Any) -> tuple[bytes, str]:
    """A content tree of listed and unlisted concepts, three deep."""
    concepts = [(v.decode(), c.decode(), s.decode()) for v, c, s in sorted(listed_concepts())]
    concepts += [("TEXT", "999999", "99ZQ"), ("PNAME", "999999", "99ZQ"), ("CODE", "121071", "DCM"), ("NUM", "118565006", "SCT")]

    def item(depth: int) -> Dataset:
        kind, code_value, scheme = draw(st.sampled_from(concepts))
        one = Dataset()
        one.RelationshipType, one.ValueType = "CONTAINS", kind
        one.ConceptNameCodeSequence = Sequence([code(code_value, scheme, draw(st.sampled_from(["Finding", "Zqwarner"])))])
        match kind:
            case "TEXT":
                one.TextValue = " ".join(draw(st.lists(secret, min_size=1, max_size=3))) + " chest"
            case "PNAME":
                one.PersonName = "Zqwarner^Zqgiven"
            case "UIDREF":
                one.UID = draw(uid)
            case "DATE":
                one.Date = draw(day)
            case "TIME":
                one.Time = "101112"
            case "DATETIME":
                one.DateTime = draw(day) + "101112"
            case "CODE":
                one.ConceptCodeSequence = Sequence([code("52988006", "SCT", "Lesion")])
            case "IMAGE" | "COMPOSITE" | "WAVEFORM":
                reference = Dataset()
                reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", draw(uid)
                one.ReferencedSOPSequence = Sequence([reference])
        if depth and draw(st.booleans()):
            one.ContentSequence = Sequence([item(depth - 1) for _ in range(draw(st.integers(1, 3)))])
        return one

    ds = report(1, (1, 1))
    ds.PatientName, ds.PatientID, ds.ReferringPhysicianName = "Zqwarner^Quzzlewood", "00471199", ""
    ds.ContentSequence = Sequence([item(2) for _ in range(draw(st.integers(1, 5)))])
    return file_of(ds, draw(st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]))), "x"


def file_of(ds: Dataset, transfer_syntax: str) -> bytes:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


# --- what a hunt once found -------------------------------------------------------------------------------------------------------
def an_image_with(*elements: tuple[int, str, object], syntax: str = ExplicitVRLittleEndian) -> tuple[bytes, str]:
    ds = a_slice(1, PatientName="Zqwarner^Quzzlewood", PatientID="00471199", AccessionNumber="ZQ4711X")
    for keyword in ("ReferringPhysicianName", "InstitutionName", "SeriesDescription", "StudyDescription"):
        del ds[keyword]
    for tag, vr, content in elements:
        ds.add(DataElement(tag, vr, content))
    return file_of(ds, syntax), "x"


def siemens(content: str, syntax: str = ExplicitVRLittleEndian) -> tuple[bytes, str]:
    """In the place of a safe B Value, which is an IS."""
    return an_image_with((0x00190010, "LO", "SIEMENS MR HEADER"), (0x0019100C, "UN", content.encode()), syntax=syntax)


NUMBER_IN_A_SAFE_PLACE = siemens("00471199", ImplicitVRLittleEndian)
PHONE_IN_A_SAFE_PLACE = siemens("030-5558675 ")
DATE_IN_A_SAFE_PLACE = siemens("12.03.1961")
UNKNOWN_BY_DEFINITION = an_image_with((0x0072006D, "UN", b"Zqwarner"))


def cleaned(data: bytes, options: Options) -> tuple[bytes, Dataset, Cleaner]:
    start, transfer_syntax, _ = data_set_of(data)
    opened = open_data_set(data, transfer_syntax, start)
    cleaner = Cleaner(Profile(options), CleanUids(b"k" * 32), Pseudonym("P0123456789ABCDEF"), banned=identifiers(opened), images_only=False)
    instance = cleaner.clean(opened)
    assert isinstance(instance, CleanInstance)
    raw = b"".join(instance.file())
    return raw, dcmread(io.BytesIO(raw)), cleaner


def leaks(raw: bytes, letters: str) -> list[bytes]:
    """Planted values in the bytes, in any case, in ASCII, UTF-8, UTF-16 and the character sets that were used."""
    text = raw.lower()
    found = [one.lower().encode() for one in SECRETS if one.lower().encode() in text or one.lower().encode("utf-16-le") in text]
    found += re.findall(rb"zq[a-z0-9]+|quzzle\w*", text)
    found += re.findall(re.escape(UID_ROOT.encode()) + rb"\.\d+", raw)
    if not letters.isascii():
        for charset, own in CHARSETS.values():
            if own == letters:
                encoded = {letters.encode(), letters.encode(convert_encodings(charset)[-1], "ignore")}
                found += [form for form in encoded if len(form) >= 4 and form in raw]
    return found


@pytest.mark.parametrize("options", [Options(), CLEANING], ids=["default", "cleaning"])
@BOUNDED
@given(made=images())
@example(made=NUMBER_IN_A_SAFE_PLACE)
@example(made=PHONE_IN_A_SAFE_PLACE)
@example(made=DATE_IN_A_SAFE_PLACE)
@example(made=UNKNOWN_BY_DEFINITION)
def test_any_valid_image_is_cleaned_and_leaks_nothing(options: Options, made: tuple[bytes, str]) -> None:
    data, letters = made

    raw, clean, _ = cleaned(data, options)

    assert leaks(raw, letters) == []
    assert clean.PatientName == clean.PatientID == "P0123456789ABCDEF"
    unknown = [int(element.tag) for element in clean.iterall() if element.VR == "UN" and element.tag.group % 2 == 0]
    assert set(unknown) <= {0x0072006D}  # Selector UN Value is UN by definition


@BOUNDED
@given(made=reports())
def test_any_report_is_cleaned_and_leaks_nothing(made: tuple[bytes, str]) -> None:
    raw, clean, _ = cleaned(made[0], CLEANING)

    assert leaks(raw, "x") == []
    assert clean.ContentSequence
    assert all(item.ValueType and item.RelationshipType for item in clean.ContentSequence)


@BOUNDED
@given(made=st.one_of(images(), reports()))
def test_cleaning_what_is_clean_changes_nothing_but_uids_and_dates(made: tuple[bytes, str]) -> None:
    raw, first, _ = cleaned(made[0], CLEANING)

    _, second, _ = cleaned(raw, CLEANING)

    assert left(second) == left(first)


def left(ds: Dataset) -> list[tuple[str, str]]:
    return [(str(e.tag), "" if e.VR in {"UI", "DA", "DT", "SQ"} else str(e.value)) for e in ds.iterall()]


@BOUNDED
@given(made=st.one_of(images(), reports()))
def test_uids_and_dates_stay_consistent(made: tuple[bytes, str]) -> None:
    """One clean UID for one original wherever it stands; all dates move by one number of days."""
    data, _ = made
    before = dcmread(io.BytesIO(data))

    _, after, cleaner = cleaned(data, CLEANING)

    assert len(set(cleaner.original_uid.values())) == len(cleaner.original_uid)
    for clean in {u for e in after.iterall() if e.VR == "UI" for u in many(e) if u.startswith("2.25.") and u != "2.25.0"}:
        assert clean in cleaner.original_uid
    shifts = set()
    for element in before:
        moved = str(after[element.tag].value) if element.tag in after else ""
        if element.VR in {"DA", "DT"} and element.value and moved and not moved.startswith("19000101"):
            shifts.add(ordinal(str(element.value)) - ordinal(moved))
            assert str(element.value)[8:] == moved[8:]
    assert len(shifts) <= 1


def many(element: DataElement) -> list[str]:
    return [str(element.value)] if element.VM == 1 else [str(one) for one in element.value or []]


def ordinal(text: str) -> int:
    return date(int(text[:4]), int(text[4:6]), int(text[6:8])).toordinal()
