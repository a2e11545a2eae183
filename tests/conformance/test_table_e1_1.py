"""PS3.15 Table E.1-1, row by row; and a word in every attribute that can hold one, none of which gets out."""

from __future__ import annotations

import io
import re
import struct
from collections import Counter
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataset import Dataset

from node.domain import Pseudonym
from node.identified.clean_uids import CleanUids
from node.identified.cleaning import Cleaner, CleanInstance, open_data_set
from node.identified.elements import dictionary_vr, encode, encode_item
from node.identified.folders import data_set_of
from node.identified.profile import TECHNICAL_KEYWORDS, Act, Options, Profile, Row, rows

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
NOTHING = Options(
    clean_pixel_data=False,
    clean_descriptors=False,
    retain_patient_characteristics=False,
    retain_modified_dates=False,
    retain_safe_private=False,
)
#: what an image must have: planted values would make it something else
STRUCTURE = {0x00080016, 0x00080060, 0x00280301, 0x00080005, 0x7FE00010}
TEXT_VRS = {"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
ANATOMIC_REGION_SEQUENCE, DERIVATION_CODE_SEQUENCE, VIEW_MODIFIER = 0x00082218, 0x00089215, 0x00540222


def word(tag: int, place: str = "T") -> bytes:
    """An odd word, different for each attribute and place; it fits every text VR."""
    return f"ZQ{place}{tag:08X}XZ".encode()


def planted_value(tag: int, vr: str, place: str) -> bytes | None:
    """A value that can be told from any clean one."""
    if vr in TEXT_VRS or vr == "CS":
        return word(tag, place)
    if vr == "UI":
        return f"1.2.999.{ord(place)}.{tag}".encode()
    if vr == "DA":
        return b"1933%02d%02d" % (tag % 12 + 1, tag % 28 + 1)
    if vr == "DT":
        return b"1934%02d%02d101112.123456" % (tag % 12 + 1, tag % 28 + 1)
    if vr in {"OB", "UN", "OW", "OB or OW"}:
        return word(tag, place)
    return {"TM": b"101112", "AS": b"101Y", "DS": b"31337.25", "IS": b"31337", "US": b"\x69\x7a"}.get(vr)


def tag_of(row: Row) -> int | None:
    return None if row.tag == "PRIVATE" else int(row.tag.replace("XX", "00").replace("X", "0"), 16)


def planted(explicit: bool, place: str) -> dict[int, bytes]:
    """Every row of the table, and every text attribute of PS3.6, as encoded elements."""
    found: dict[int, bytes] = {}
    vrs = {tag: entry[0] for tag, entry in DicomDictionary.items() if entry[0] in TEXT_VRS}
    vrs |= {tag: row.vr or "LO" for row in rows() if (tag := tag_of(row)) is not None}
    technical = {tag for tag in vrs if keyword_for_tag(tag) in TECHNICAL_KEYWORDS}
    for tag, vr in vrs.items():
        if tag in STRUCTURE or tag in technical or tag >> 16 in (0x0000, 0x0002) or tag >> 16 >= 0xFFFA:
            continue
        if vr == "SQ":
            inside = encode(0x00080100, b"SH", word(tag, "C"), explicit=explicit) + encode(
                0x00080102, b"SH", b"99" + word(tag, "S"), explicit=explicit
            )
            inside += encode(0x00080104, b"LO", word(tag, "M"), explicit=explicit) + encode(
                0x0040A123, b"PN", word(tag, "N"), explicit=explicit
            )
            found[tag] = encode(tag, b"SQ", encode_item(inside), explicit=explicit)
            continue
        value = planted_value(tag, vr, place)
        if value is not None:
            found[tag] = encode(tag, (b"OB" if " or " in vr else vr.encode()), value, explicit=explicit)
    return found


def body(elements: dict[int, bytes]) -> bytes:
    return b"".join(elements[tag] for tag in sorted(elements))


def an_image(explicit: bool, changes: dict[int, bytes]) -> bytes:
    """The smallest CT image that is taken, with elements on top."""
    us = struct.Struct("<H").pack

    def e(tag: int, vr: bytes, value: bytes) -> tuple[int, bytes]:
        return tag, encode(tag, vr, value, explicit=explicit)

    elements = dict(
        [
            e(0x00080008, b"CS", b"ORIGINAL\\PRIMARY\\AXIAL"),
            e(0x00080016, b"UI", CT.encode()),
            e(0x00080018, b"UI", b"1.2.999.1.1"),
            e(0x00080060, b"CS", b"CT"),
            e(0x0020000D, b"UI", b"1.2.999.1.2"),
            e(0x0020000E, b"UI", b"1.2.999.1.3"),
            e(0x00280002, b"US", us(1)),
            e(0x00280004, b"CS", b"MONOCHROME2"),
            e(0x00280010, b"US", us(4)),
            e(0x00280011, b"US", us(4)),
            e(0x00280100, b"US", us(16)),
            e(0x00280101, b"US", us(12)),
            e(0x00280102, b"US", us(11)),
            e(0x00280103, b"US", us(0)),
            e(0x7FE00010, b"OW", bytes(32)),
        ]
    )
    return body(elements | changes)


def cleaned(data: bytes, transfer_syntax: str, options: Options | None = None) -> tuple[bytes, Dataset, Cleaner]:
    cleaner = Cleaner(Profile(options), CleanUids(b"k" * 32), Pseudonym("P0123456789ABCDEF"))
    instance = cleaner.clean(open_data_set(data, transfer_syntax))
    assert isinstance(instance, CleanInstance)
    raw = b"".join(instance.file())
    return raw, dcmread(io.BytesIO(raw)), cleaner


def everything(explicit: bool) -> bytes:
    """Words at the top, one and three sequences deep, private, and in unknown VRs."""
    elements = planted(explicit, "T")
    deep = body(planted(explicit, "D"))
    for tag in (ANATOMIC_REGION_SEQUENCE, VIEW_MODIFIER, DERIVATION_CODE_SEQUENCE):
        deep = encode(tag, b"SQ", encode_item(deep), explicit=explicit)
    elements[DERIVATION_CODE_SEQUENCE] = deep
    elements[ANATOMIC_REGION_SEQUENCE] = encode(
        ANATOMIC_REGION_SEQUENCE, b"SQ", encode_item(body(planted(explicit, "O"))), explicit=explicit
    )
    for group in (0x0009, 0x0019, 0x2005, 0x50FF, 0x7FE1):
        elements[group << 16 | 0x10] = encode(group << 16 | 0x10, b"LO", b"ZQ PRIVATE CREATOR", explicit=explicit)
        elements[group << 16 | 0x1001] = encode(group << 16 | 0x1001, b"UN", b"ZQPRIVATEWORD", explicit=explicit)
    elements[0x00190011] = encode(0x00190011, b"LO", b"SIEMENS MR HEADER", explicit=explicit)
    elements[0x0019110C] = encode(0x0019110C, b"IS", b"ZQSAFEPRIVATE", explicit=explicit)
    elements[0x60000022] = encode(0x60000022, b"LO", b"ZQOVERLAYDESCR", explicit=explicit)
    elements[0x60001500] = encode(0x60001500, b"LO", b"ZQOVERLAYLABEL", explicit=explicit)
    elements[0x00092000] = encode(0x00092000, b"LO", b"ZQNOCREATOR", explicit=explicit)
    elements[0x00185100] = encode(0x00185100, b"CS", b"zq lower case", explicit=explicit)
    elements[0x00180050] = encode(0x00180050, b"DS", b"ZQNUMBER", explicit=explicit)
    elements[0x00180015] = encode(0x00180015, b"CS", b"ZQBODYPART", explicit=explicit)
    if explicit:
        elements[0x00200013] = encode(0x00200013, b"OB", b"ZQCOVEREDBYOB", explicit=True)
        elements[0x00104000] = encode(0x00104000, b"UN", b"ZQUNKNOWNVR", explicit=True)
        elements[0x00321060] = encode(0x00321060, b"UN", b"ZQUNKNOWNVR", explicit=True)
        implicit_item = encode_item(encode(0x00100010, b"PN", b"ZQIMPLICITINUN", explicit=False))
        elements[0x00081250] = encode(0x00081250, b"UN", implicit_item, explicit=True)
    return an_image(explicit, {tag: chunk for tag, chunk in elements.items() if tag not in (0x00080018, 0x0020000D, 0x0020000E)})


@pytest.mark.parametrize(
    "options", [None, NOTHING, Options(retain_device_identity=False, retain_institution_identity=False)], ids=["default", "basic", "two"]
)
@pytest.mark.parametrize("transfer_syntax", [EXPLICIT, IMPLICIT], ids=["explicit", "implicit"])
def test_no_word_gets_out_of_any_attribute(transfer_syntax: str, options: Options | None) -> None:
    data = everything(transfer_syntax == EXPLICIT)
    assert data.count(b"ZQ") > 3000  # the words are there

    raw, clean, _ = cleaned(data, transfer_syntax, options)

    left = sorted(set(re.findall(rb"(?i)zq[0-9a-z ]{0,14}", raw)))
    assert left == []
    assert b"1.2.999" not in raw
    dates = [e for e in clean.iterall() if e.VR in {"DA", "DT"} and e.value]
    assert not [e.keyword for e in dates if str(e.value).encode() == planted_value(int(e.tag), e.VR, "T")]
    assert (len(dates) > 300) == (options is None or options.retain_modified_dates)
    assert clean.PatientName == "P0123456789ABCDEF"


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 144", "ISO_IR 192", "GB18030", "\\ISO 2022 IR 87", "\\ISO 2022 IR 149"])
def test_no_name_of_any_character_set_gets_out(charset: str) -> None:
    names = {
        "ISO_IR 100": "Müßig^Jörg".encode("latin-1"),
        "ISO_IR 144": "Люкceмбypг".encode("iso8859-5"),
        "ISO_IR 192": "山田^太郎".encode(),
        "GB18030": "王^小东".encode("gb18030"),
        "\\ISO 2022 IR 87": b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
        "\\ISO 2022 IR 149": b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7",
    }
    name = names[charset]
    text = {
        tag: encode(tag, dictionary_vr(tag), name, explicit=True) for tag in (0x00100010, 0x0008103E, 0x00104000, 0x00081070, 0x00181250)
    }
    text[0x00080005] = encode(0x00080005, b"CS", charset.encode(), explicit=True)

    raw, clean, _ = cleaned(an_image(True, text), EXPLICIT)

    assert not any(part in raw for part in re.split(rb"[\^=]", name) if len(part) > 2)
    assert "SpecificCharacterSet" not in clean


@pytest.mark.parametrize("row", [row for row in rows() if tag_of(row) is not None], ids=lambda row: row.tag)
def test_each_row_without_options(row: Row) -> None:
    """The Basic Profile's own action: X is gone, Z empty, D another value, U the keyed hash."""
    tag = tag_of(row)
    assert tag is not None
    if tag >> 16 in (0x0000, 0x0002, 0x0004, 0xFFFA, 0xFFFC):
        assert Profile(NOTHING).rule(tag, row.vr.encode()).act == Act.REMOVE
        return
    sq = row.vr == "SQ"
    inside = encode_item(encode(0x00081155, b"UI", b"1.2.999.7.7", explicit=True)) if sq else b""
    value = inside if sq else planted_value(tag, row.vr or "LO", "T")
    vr = row.vr.encode() if len(row.vr) == 2 else b"OB"
    element = {tag: encode(tag, vr, value or b"\x69\x7a", explicit=True)}

    raw, clean, cleaner = cleaned(an_image(True, element), EXPLICIT, NOTHING)

    here = clean.get_item(tag)
    actions = set(row.basic.split("/"))
    done = "X" if here is None else "Z" if not clean[tag].value else "D"
    if row.vr == "UI" and done == "D" and "U" in actions | {"U"}:
        assert str(clean[tag].value) in cleaner.original_uid
        return
    if "U*" in actions and done == "D":
        assert clean[tag].value[0].ReferencedSOPInstanceUID in cleaner.original_uid
        return
    if actions == {"D"} and sq:
        done = "D" if done == "Z" else done  # no item says nothing either; no image IOD requires one
    # where the IOD requires the attribute an X would make the object invalid (PS3.15 E.1.1)
    allowed = actions | ({"Z", "D"} if Profile(NOTHING).rule(tag, vr, 0, CT).act in {Act.EMPTY, Act.DUMMY} else set())
    assert done in allowed
    if value and not sq and len(value) > 4:
        assert value not in raw


def test_the_table_is_the_whole_one() -> None:
    assert len(rows()) == 656
    assert Counter(row.basic for row in rows())["X"] == 416


def test_a_code_of_a_public_scheme_stays_and_a_house_code_does_not() -> None:
    def code(value: bytes, scheme: bytes, meaning: bytes) -> bytes:
        return encode_item(
            encode(0x00080100, b"SH", value, explicit=True)
            + encode(0x00080102, b"SH", scheme, explicit=True)
            + encode(0x00080104, b"LO", meaning, explicit=True)
        )

    items = (
        code(b"51185008", b"SCT", b"Chest") + code(b"JANE DOE", b"99HOSPITAL", b"Chest of Doe") + code(b"51185008", b"SCT", b"Doe's chest")
    )
    element = {ANATOMIC_REGION_SEQUENCE: encode(ANATOMIC_REGION_SEQUENCE, b"SQ", items, explicit=True)}

    _, clean, _ = cleaned(an_image(True, element), EXPLICIT)

    public, house, abused = clean.AnatomicRegionSequence
    assert (public.CodeValue, public.CodingSchemeDesignator, public.CodeMeaning) == ("51185008", "SCT", "Chest")
    assert (house.CodeValue, house.CodingSchemeDesignator, house.CodeMeaning) == ("UNKNOWN", "99LOCAL", "Chest of")
    assert (abused.CodeValue, abused.CodeMeaning) == ("51185008", "chest")


def test_safe_private_numbers_stay_with_their_creator() -> None:
    elements = {
        0x00190010: encode(0x00190010, b"LO", b"SIEMENS MR HEADER", explicit=True),
        0x0019100C: encode(0x0019100C, b"IS", b"1000", explicit=True),
        0x00191008: encode(0x00191008, b"CS", b"IMAGE NUM 4", explicit=True),
    }
    _, clean, _ = cleaned(an_image(True, elements), EXPLICIT)
    assert clean.private_block(0x0019, "SIEMENS MR HEADER")[0x0C].value == 1000
    assert len([e for e in clean if e.tag.is_private]) == 2

    _, clean, _ = cleaned(an_image(True, elements), EXPLICIT, NOTHING)
    assert not [e for e in clean if e.tag.is_private]


def test_cleaning_twice_changes_nothing_but_names() -> None:
    """Idempotent: a clean image is valid input, and nothing more is lost."""
    raw, clean, _ = cleaned(everything(True), EXPLICIT)
    start, transfer_syntax, _ = data_set_of(raw)

    _, again, _ = cleaned(raw[start:], transfer_syntax)

    assert {e.tag for e in again} == {e.tag for e in clean}


def test_this_page_says_what_the_code_does() -> None:
    from node.identified.profile import table

    page = Path(__file__).parents[2] / "docs" / "deidentification.md"
    printed, measured = page.read_text().split("\n## Measured\n")
    assert printed == table()
    assert "bench/deidentify_peers.py" in measured
