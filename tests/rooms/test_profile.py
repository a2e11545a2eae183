"""What the profile says of an attribute, and what the vocabulary leaves of a text."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword

from node.domain import Pseudonym
from node.errors import StudyRefused
from node.identified.clean_uids import CleanUids
from node.identified.cleaning import Cleaner, CleanInstance, open_data_set, shifted
from node.identified.elements import Malformed
from node.identified.profile import Act, Options, Profile, Rule, rows, table
from node.identified.words import clean, vocabulary
from tests.rooms.test_deidentifier import a_slice, as_received

CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"


def rule(keyword: str, vr: bytes, sop_class: str = CT, parent: str = "", options: Options | None = None) -> Rule:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return Profile(options).rule(tag, vr, (tag_for_keyword(parent) or 0) if parent else 0, sop_class)


@pytest.mark.parametrize(
    ("keyword", "vr", "act"),
    [
        ("SeriesDescription", b"LO", Act.WORDS),
        ("PatientBirthDate", b"DA", Act.EMPTY),
        ("StudyDate", b"DA", Act.DATE),
        ("AcquisitionDateTime", b"DT", Act.DATE),
        ("StudyTime", b"TM", Act.TIME),
        ("PatientSex", b"CS", Act.CODE),
        ("PatientWeight", b"DS", Act.NUMBER),
        ("FrameOfReferenceUID", b"UI", Act.UID),
        ("SOPClassUID", b"UI", Act.KEEP_UID),
        ("InstitutionName", b"LO", Act.REMOVE),
        ("IconImageSequence", b"SQ", Act.REMOVE),
        ("Manufacturer", b"LO", Act.TECHNICAL),
        ("ConvolutionKernel", b"SH", Act.TECHNICAL),
        ("ReceiveCoilName", b"SH", Act.WORDS),
        ("CTExposureSequence", b"SQ", Act.WALK),
        ("PixelSpacing", b"DS", Act.NUMBER),
        ("Rows", b"US", Act.KEEP),
    ],
)
def test_an_attribute_and_what_becomes_of_it(keyword: str, vr: bytes, act: Act) -> None:
    assert rule(keyword, vr).act is act


def test_an_option_overrides_the_basic_profile() -> None:
    off = Options(clean_descriptors=False, retain_modified_dates=False, retain_patient_characteristics=False)

    assert rule("SeriesDescription", b"LO", options=off).act is Act.REMOVE
    assert rule("StudyDate", b"DA", options=off).act is Act.EMPTY
    assert rule("PatientSex", b"CS", options=off).act is Act.EMPTY
    assert rule("PatientAge", b"AS", options=off).act is Act.REMOVE
    assert rule("DeviceSerialNumber", b"LO", options=Options(retain_device_identity=True)).act is Act.KEEP
    assert rule("InstitutionName", b"LO", options=Options(retain_institution_identity=True)).act is Act.KEEP


def test_the_type_in_the_iod_decides_where_the_table_leaves_a_choice() -> None:
    """Device Serial Number X/Z/D: Type 3 in a CT image, Type 1 in an enhanced one; Retrieve AE Title X, but Type 1 in its sequence."""
    assert rule("DeviceSerialNumber", b"LO", CT).act is Act.REMOVE
    assert rule("DeviceSerialNumber", b"LO", ENHANCED_CT).act is Act.DUMMY
    assert rule("ReferencedImageSequence", b"SQ", CT).act is Act.REMOVE
    assert rule("SourceImageSequence", b"SQ", ENHANCED_CT, "DerivationImageSequence").act is Act.WALK
    assert rule("RetrieveAETitle", b"AE", CT, "DICOMRetrievalSequence").act is Act.DUMMY


def test_dates_are_kept_or_moved_but_not_both() -> None:
    with pytest.raises(ValueError, match="dates"):
        Options(retain_full_dates=True)

    full = Profile(Options(retain_full_dates=True, retain_modified_dates=False))
    assert full.longitudinal == "UNMODIFIED"
    assert full.rule(0x00080020, b"DA").act is Act.DATE


def test_what_is_not_known_goes() -> None:
    profile = Profile()

    assert profile.rule(0x00081FFF, b"LO").act is Act.REMOVE  # not in PS3.6
    assert profile.rule(0x60020010, b"US").act is Act.REMOVE
    assert profile.rule(0x50040010, b"US").act is Act.REMOVE
    assert profile.rule(0x00180000, b"UL").act is Act.REMOVE
    assert profile.rule(0x00200013, b"OB").act is Act.EMPTY  # a number under the cover of bytes
    assert profile.rule(0x00102160, b"OB").act is Act.REMOVE


def test_the_page_names_every_row() -> None:
    page = table()

    assert all(row.name in page for row in rows())
    assert "113107" in page
    assert page.count("\n| (") + page.count("\n| PRIVATE") == len(rows())


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("CT CHEST LUNG 1.0 B70f", "CT CHEST LUNG 1.0 B70f"),
        ("2 Chest C-/Thorax", "2 Chest C-/Thorax"),
        ("CHEST/ABD/PEL 2.5", "CHEST/ABD/PEL 2.5"),
        ("t2_tse_sag_p2", "t2_tse_sag_p2"),
        ("T1 post-contrast", "T1 post-contrast"),
        ("MR brain", "MR brain"),
        ("US breast left", "US breast left"),
        ("Thorax  0.75 Br64 Q3", "Thorax  0.75 Br64"),
        ("CHEST, John Smith, 12/03/1961", "CHEST"),
        ("Doe^Jane", ""),
        ("tel 030 123 456", ""),
        ("555-1234", ""),
        ("born 14.03.1962 10:30", ""),
        ("MRN 0012345 knee", "knee"),
        ("O'Brien", ""),
        ("Müller Lunge", "Lunge"),
        ("L", "L"),
        ("", ""),
        ("J", "J"),
        ("J. D.", ""),
        ("chest J.D.", "chest"),
        ("CT CHEST M U L L E R", "CT CHEST"),
        ("Q\0z\0w\0a\0r\0t\0", ""),
        ("chest W/O contrast A P view of C T L spine, R/L", "chest W/O contrast A P view of C T L spine, R/L"),
        ("chest 555.123.4567", "chest"),
        ("chest 1.2.840.113619.2.1", "chest"),
        ("chest 12 March 1956, Mar-12-56, 31Jan2024", "chest"),
        ("5 mm MAR 2.0", "5 mm MAR 2.0"),
        ("chest 93 years, aged 101", "chest"),
        ("knee 63 slices 95 ms", "knee 63 slices 95 ms"),
        ("T1 tra ohne KM", "T1 tra"),
        ("T1 vor KM", "T1"),
        ("T1 nach KM", "T1 KM"),
        ("T1 avant injection", "T1"),
        ("head " * 3000, ""),
    ],
)
def test_words_of_the_vocabulary_stay(text: str, kept: str) -> None:
    assert clean(text) == kept


def test_a_text_under_the_cover_of_a_coded_string_is_a_text() -> None:
    assert Profile().rule(tag_for_keyword("ReceiveCoilName") or 0, b"CS").act == Act.WORDS
    assert Profile().rule(tag_for_keyword("EvaluatorName") or 0, b"CS").act == Act.EMPTY  # a name, by PS3.6


def test_the_patients_own_number_stays_nowhere() -> None:
    assert clean("chest T12 B70f", frozenset({"T12"})) == "chest B70f"


def test_the_vocabulary_holds_no_common_names() -> None:
    """Family names and given names that are frequent and mean nothing in radiology."""
    names = "smith johnson williams jones miller davis garcia wilson anderson taylor thomas moore martin lee walker young king wright scott"
    names += (
        " green adams baker nelson carter mitchell roberts turner phillips campbell parker evans edwards collins müller schmidt schneider"
    )
    names += " fischer weber meyer wagner becker schulz mary james john patricia robert jennifer michael linda maria anna peter paul jane rose may"
    names += " grace faith hope june april dawn ruby pearl violet daisy lily ivy brook cliff dale glen heath reed rich mark bill white black brown"
    assert not set(names.split()) & vocabulary()


@pytest.mark.parametrize(
    ("value", "days", "moved"),
    [
        (b"20240301", -1, b"20240229"),
        (b"2024.03.01", -1, b"20240229"),
        (b"20240103000102.5+0100", -3, b"20231231000102.5+0100"),
        (b"202401", -1, b"202312"),
        (b"2024", -1, b"2023"),
        (b"20241301", -1, b""),
        (b"yesterday", -1, b""),
        (b"00010101", -1, b""),
    ],
)
def test_dates_move_by_whole_days(value: bytes, days: int, moved: bytes) -> None:
    assert shifted(value, days) == moved


@pytest.mark.parametrize(
    ("birth", "study", "given", "age"),
    [
        ("19610312", "20240102", None, "062Y"),
        ("19610102", "20240102", None, "063Y"),
        ("19230102", "20240102", None, "090Y"),
        ("20230102", "20240102", None, "012M"),
        ("20231220", "20240102", None, "013D"),
        ("19610312", "20240102", "095Y", "090Y"),
        ("19610312", "20240102", "061Y", "061Y"),
        ("19610312", "20240102", "Doe", "062Y"),
        ("", "20240102", None, None),
    ],
)
def test_ages_are_computed_and_capped(birth: str, study: str, given: str | None, age: str | None) -> None:
    ds = a_slice(1, PatientBirthDate=birth, StudyDate=study)
    received = as_received(ds).data
    if given is not None:
        ds.PatientAge = "000Y"
        received = as_received(ds).data.replace(b"000Y", given.ljust(4).encode())

    instance = Cleaner(Profile(), CleanUids(b"k" * 32), Pseudonym("P1")).clean(open_data_set(received, "1.2.840.10008.1.2.1"))

    assert isinstance(instance, CleanInstance)
    raw = b"".join(instance.chunks)
    where = raw.find(b"\x10\x00\x10\x10AS")
    assert (raw[where + 8 : where + 12].decode() if where >= 0 else None) == age


@pytest.mark.parametrize("seed", range(8))
def test_damaged_bytes_are_cleaned_or_refused_and_nothing_else(seed: int) -> None:
    """Flipped, cut and doubled bytes in the header of an image."""
    rng = random.Random(seed)
    told: list[str] = []
    ds = a_slice(1)
    ds.DerivationImageSequence = [a_slice(2, PixelData=None)]
    for transfer_syntax in ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2"):
        whole = as_received(ds, transfer_syntax).data
        for _ in range(250):
            data = bytearray(whole)
            for _ in range(rng.randint(1, 6)):
                at = rng.randrange(len(data))
                kind = rng.random()
                if kind < 0.7:
                    data[at] = rng.randrange(256)
                elif kind < 0.85:
                    del data[at : at + rng.randrange(1, 40)]
                else:
                    data[at:at] = data[at : at + rng.randrange(1, 40)]
                data = data or bytearray(b"\0")
            try:
                Cleaner(Profile(), CleanUids(b"k" * 32), Pseudonym("P1")).clean(open_data_set(bytes(data), transfer_syntax))
            except (StudyRefused, Malformed) as why:
                told.append(str(why))
    assert told
    assert not [text for text in told if "DOE" in text or "MRN" in text]


def test_the_rules_can_still_read_real_descriptions(shared: Path) -> None:
    [series] = {
        str(dcmread(p, stop_before_pixels=True).StudyDescription) for p in (shared / "data" / "dicom" / "wrapped").rglob("us_*.dcm")
    }

    assert clean(series) == series == "US breast"
