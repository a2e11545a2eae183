"""Each option of PS3.15 E.3: what stays with it, what goes without it, and its code exactly where it was applied."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence

from config import DeidentificationSettings, Settings, load
from node.assembly import House
from node.domain import Pseudonym
from node.errors import SettingsInvalid
from node.identified.clean_uids import CleanUids
from node.identified.cleaning import Cleaner, CleanInstance, LeftOut, identifiers, open_data_set
from node.identified.folders import Folders
from node.identified.profile import OPTION_CODES, Options, Profile
from node.testing.e1_1_objects import KINDS, code
from tests.rooms.test_deidentifier import Wing, a_slice, as_received

EXPLICIT = "1.2.840.10008.1.2.1"
OFF = dict.fromkeys(OPTION_CODES, False)
Change = Callable[[Dataset], Any]


def cleaned(ds: Dataset, options: Options) -> Dataset:
    opened = open_data_set(as_received(ds).data, EXPLICIT)
    cleaner = Cleaner(Profile(options), CleanUids(b"k" * 32), Pseudonym("P1"), banned=identifiers(opened), images_only=False)
    instance = cleaner.clean(opened)
    assert isinstance(instance, CleanInstance)
    return dcmread(io.BytesIO(b"".join(instance.file())))


def codes(ds: Dataset) -> set[str]:
    return {str(item.CodeValue) for item in ds.DeidentificationMethodCodeSequence}


def with_overlay(kind: str) -> Dataset:
    ds = a_slice(1)
    for element, vr, value in (
        (0x10, "US", 8),
        (0x11, "US", 8),
        (0x40, "CS", kind),
        (0x50, "SS", [1, 1]),
        (0x100, "US", 1),
        (0x102, "US", 0),
    ):
        ds.add_new(0x60000000 | element, vr, value)
    ds.add_new(0x60000022, "LO", "lung of Doe")
    ds.add_new(0x60003000, "OW", b"\x0f\xf0" * 4)
    return ds


def with_institution() -> Dataset:
    ds = a_slice(1, InstitutionAddress="Elm Street 1", SpecificCharacterSet="ISO_IR 100")
    ds.InstitutionName = "Hôpital Saint Elsewhere"
    ds.InstitutionCodeSequence = Sequence([code("HSE-77", "99HSE", "Saint Elsewhere")])
    return ds


CASES: list[tuple[str, Callable[[], Dataset], Change, Any, Any]] = [
    ("clean_pixel_data", lambda: a_slice(1, BurnedInAnnotation="NO"), lambda ds: ds.BurnedInAnnotation, "NO", "NO"),
    ("clean_graphics", lambda: with_overlay("R"), lambda ds: ds.get((0x6000, 0x3000)) and ds[0x60003000].value, b"\x0f\xf0" * 4, None),
    ("clean_graphics", lambda: with_overlay("R"), lambda ds: ds.get((0x6000, 0x0022)) and ds[0x60000022].value, "lung of", None),
    ("clean_graphics", lambda: with_overlay("G"), lambda ds: ds.get((0x6000, 0x3000)), None, None),
    (
        "clean_graphics",
        lambda: KINDS["presentation state"](1, (1, 1)),
        lambda ds: ds.GraphicAnnotationSequence[0].GraphicObjectSequence[0].GraphicType,
        "POLYLINE",
        "POINT",
    ),
    ("clean_descriptors", lambda: a_slice(1), lambda ds: ds.get("SeriesDescription"), "CT CHEST LUNG 1.0 B70f", None),
    ("retain_full_dates", lambda: a_slice(1), lambda ds: ds.StudyDate, "20240102", ""),
    ("retain_modified_dates", lambda: a_slice(1), lambda ds: ds.StudyDate not in {"", "20240102"}, True, False),
    (
        "retain_patient_characteristics",
        lambda: a_slice(1, PatientWeight="71"),
        lambda ds: (ds.PatientSex, ds.get("PatientWeight")),
        ("F", 71),
        ("", None),
    ),
    ("retain_device_identity", lambda: a_slice(1, DeviceSerialNumber="SN 12"), lambda ds: ds.get("DeviceSerialNumber"), "SN 12", None),
    ("retain_uids", lambda: a_slice(1), lambda ds: ds.SOPInstanceUID == "1.2.826.0.1.3680043.2.1.1.7.1", True, False),
    ("retain_institution_identity", with_institution, lambda ds: ds.get("InstitutionName"), "Hôpital Saint Elsewhere", None),
    (
        "retain_institution_identity",
        with_institution,
        lambda ds: [item.CodeValue for item in ds.get("InstitutionCodeSequence", [])],
        ["HSE-77"],
        [],
    ),
]


@pytest.mark.parametrize(("option", "made", "look", "on", "off"), CASES)
def test_an_option_does_what_it_says_and_claims_it(option: str, made: Callable[[], Dataset], look: Change, on: Any, off: Any) -> None:
    with_it = cleaned(made(), Options(**(OFF | {option: True})))
    without = cleaned(made(), Options(**OFF))

    assert look(with_it) == on
    assert look(without) == off
    assert codes(with_it) == {"113100", OPTION_CODES[option].value}
    assert codes(without) == {"113100"}


def test_faces_are_claimed_only_where_they_were_removed() -> None:
    profile = Profile(Options(clean_recognizable_visual_features=True))

    assert "113102" not in {one.value for one in profile.codes(pixels_clean=True)}
    assert "113102" in {one.value for one in profile.codes(pixels_clean=True, features_clean=True)}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(), "MODIFIED"),
        (Options(retain_modified_dates=False), "REMOVED"),
        (Options(retain_modified_dates=False, retain_full_dates=True), "UNMODIFIED"),
    ],
)
def test_the_dates_say_what_was_done_to_them(options: Options, says: str) -> None:
    assert cleaned(a_slice(1), options).LongitudinalTemporalInformationModified == says


def test_what_was_done_before_stays_said() -> None:
    """A study that another tool cleaned before: its cleaning counts, its retaining does not, and moved dates are never unmodified."""
    ds = a_slice(1, PatientIdentityRemoved="YES", DeidentificationMethod=["CTP Default Doe", "Radnode 0.0.1"])
    ds.LongitudinalTemporalInformationModified = "MODIFIED"
    ds.DeidentificationMethodCodeSequence = Sequence([code("113104", "DCM", "x"), code("113106", "DCM", "x"), code("113100", "DCM", "x")])

    clean = cleaned(ds, Options(retain_modified_dates=False, retain_full_dates=True))

    assert codes(clean) == {"113100", "113101", "113104", "113105", "113106", "113108", "113111"}
    assert clean.LongitudinalTemporalInformationModified == "MODIFIED"
    assert "Doe" not in str(clean.DeidentificationMethod)
    assert [text for text in clean.DeidentificationMethod if text.startswith("Radnode")] == [clean.DeidentificationMethod[-2]]


@pytest.mark.parametrize(("cap", "age"), [(True, "090Y"), (False, "095Y")])
def test_the_cap_of_ages_is_a_switch(cap: bool, age: str) -> None:
    assert cleaned(a_slice(1, PatientAge="095Y"), Options(cap_ages=cap)).PatientAge == age
    assert cleaned(a_slice(1, PatientBirthDate="19281231"), Options(cap_ages=cap)).PatientAge == age


def test_nobody_in_the_study_is_a_word() -> None:
    """Dr. Head refers Mrs. Long, who is treated by White: their names are words of radiology, and go all the same."""
    ds = a_slice(1, PatientName="LONG^LUNG", ReferringPhysicianName="HEAD^WHITE", SeriesDescription="Long head CT chest white")
    request = Dataset()
    request.RequestingPhysician = "Chest^Young"
    ds.DerivationCodeSequence = Sequence([request])

    assert cleaned(ds, Options()).SeriesDescription == "CT"


def test_a_title_is_no_name() -> None:
    ds = a_slice(1, PatientName="DOE^JOHN^^Mr^MD", SeriesDescription="MR head Doe")

    assert cleaned(ds, Options()).SeriesDescription == "MR head"


# --- reports ----------------------------------------------------------------------------------------------------------------
def test_a_report_keeps_codes_and_numbers_and_loses_who_said_it() -> None:
    ds = KINDS["report"](7, (1, 1))
    ds.ContentSequence[2].TextValue = "lesion in the left lung, seen by Dr. Zqhouse"

    clean = cleaned(ds, Options(clean_structured_content=True))

    kinds = [item.ValueType for item in clean.ContentSequence]
    assert kinds == ["PNAME", "TEXT", "DATETIME", "IMAGE", "CONTAINER"]  # Subject Birth Date is X
    assert clean.ContentSequence[0].PersonName == "ANONYMIZED"
    assert clean.ContentSequence[1].TextValue == "lesion in the left lung by Dr"
    group = clean.ContentSequence[-1].ContentSequence
    assert [item.ValueType for item in group][-2:] == ["CODE", "NUM"]
    assert group[-1].MeasuredValueSequence[0].NumericValue == 7
    assert "113104" in codes(clean)


def test_where_items_point_to_each_other_none_is_removed() -> None:
    ds = KINDS["report"](7, (1, 1))
    pointer = Dataset()
    pointer.RelationshipType, pointer.ReferencedContentItemIdentifier = "INFERRED FROM", [1, 6]
    ds.ContentSequence[0].ContentSequence = Sequence([pointer])

    clean = cleaned(ds, Options(clean_structured_content=True))

    assert len(clean.ContentSequence) == len(ds.ContentSequence)
    assert clean.ContentSequence[1].Date == "19000101"


@pytest.mark.parametrize(
    ("kind", "reason"), [("report", "clean_structured_content"), ("key objects", "clean_structured_content"), ("document", "encapsulated")]
)
def test_what_no_table_cleans_is_left_out_with_the_reason(kind: str, reason: str) -> None:
    opened = open_data_set(as_received(KINDS[kind](1, (1, 1))).data, EXPLICIT)

    outcome = Cleaner(Profile(), CleanUids(b"k" * 32), Pseudonym("P1"), images_only=False).clean(opened)

    assert isinstance(outcome, LeftOut)
    assert reason in outcome.reason


@pytest.mark.parametrize("kind", ["structure set", "presentation state", "ecg"])
def test_other_objects_keep_what_they_are_about(kind: str) -> None:
    clean = cleaned(KINDS[kind](5, (1, 1)), Options())

    uids = {str(e.value) for e in clean.iterall() if e.VR == "UI" and e.value}
    assert clean.PatientName == "P1"
    if kind == "ecg":
        assert len(clean.WaveformSequence[0].WaveformData) == 16
    else:
        frame_or_image = CleanUids(b"k" * 32).of(str(KINDS["ct"](1, (1, 1)).SOPInstanceUID))
        assert frame_or_image in uids


# --- settings ---------------------------------------------------------------------------------------------------------------
def test_every_option_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"retain_full_dates": "full_dates", "retain_modified_dates": "modified_dates"}
    for option in set(OPTION_CODES) - {"clean_recognizable_visual_features"}:
        key = names.get(option, option)
        wanted = not DeidentificationSettings().model_dump()[key]
        chosen = {key: wanted, **({"modified_dates": False} if key == "full_dates" else {})}

        options = House(Settings(deidentification=DeidentificationSettings(**chosen))).profile.options

        assert getattr(options, option) is wanted, option
    assert not House(Settings(deidentification=DeidentificationSettings(cap_ages=False))).profile.options.cap_ages


def test_two_kinds_of_dates_are_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADNODE_DEIDENTIFICATION__FULL_DATES", "true")

    with pytest.raises(SettingsInvalid, match="set modified_dates to false"):
        load()


def test_a_node_does_not_start_with_original_uids(tmp_path: Path) -> None:
    """Rules, jobs, results and the way home know a study by its clean UID; folders don't."""
    house = House(Settings(data_dir=tmp_path, deidentification=DeidentificationSettings(retain_uids=True)))

    with pytest.raises(SettingsInvalid, match="radnode deidentify"):
        house.check()
    with pytest.raises(SettingsInvalid, match="retain_uids"):
        _ = house.deidentifier
    assert house.folders()


# --- the way home and consistency -------------------------------------------------------------------------------------------
def a_folder(place: Path, *studies: Dataset) -> Path:
    place.mkdir(parents=True)
    for number, ds in enumerate(studies):
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = EXPLICIT
        ds.save_as(place / f"{number}.dcm", enforce_file_format=True)
    return place


def folders(wing: Wing, sealed: Path, options: Options) -> Folders:
    return Folders(wing.engine, wing.identities, wing.keyring, sealed, profile=Profile(options), clean_uids=wing.clean_uids)


def test_with_original_uids_a_folder_comes_home_too(tmp_path: Path) -> None:
    wing, options = Wing(tmp_path), Options(retain_uids=True, clean_structured_content=True)
    source = a_folder(tmp_path / "in", a_slice(1), KINDS["report"](3, (1, 1)), KINDS["ecg"](4, (2, 1)))

    report = folders(wing, tmp_path / "sealed", options).deidentify(source, tmp_path / "clean")
    clean = {str(dcmread(p).StudyInstanceUID) for p in (tmp_path / "clean").glob("*.dcm")}
    home = folders(wing, tmp_path / "sealed", options).reidentify(tmp_path / "clean", tmp_path / "home")

    assert report["deidentified"] == home["restored"] == 3
    assert "1.2.826.0.1.3680043.2.1.1" in clean
    assert {p.name: p.read_bytes() for p in (tmp_path / "home").glob("*.dcm")} == {p.name: p.read_bytes() for p in source.glob("*.dcm")}


def test_a_clean_report_that_was_changed_is_not_taken_for_the_original(tmp_path: Path) -> None:
    wing, options = Wing(tmp_path), Options(clean_structured_content=True)
    source = a_folder(tmp_path / "in", KINDS["report"](3, (1, 1)))
    folders(wing, tmp_path / "sealed", options).deidentify(source, tmp_path / "clean")
    [path] = (tmp_path / "clean").glob("*.dcm")
    changed = dcmread(path)
    changed.CompletionFlag = "COMPLETE"
    changed.save_as(path)

    home = folders(wing, tmp_path / "sealed", options).reidentify(tmp_path / "clean", tmp_path / "home")

    assert (home["restored"], home["named"]) == (0, 1)
    [named] = (tmp_path / "home").glob("*.dcm")
    assert dcmread(named).CompletionFlag == "COMPLETE"
    assert str(dcmread(named).PatientName).startswith("Zqfamily")


PROGRAM = """
from node.identified.clean_uids import CleanUids
uids = CleanUids(b"k" * 32)
name = uids.pseudonym("MRN-4711", "H")
print(name, uids.of("1.2.3"), uids.date_shift_days(name))
"""


def test_names_uids_and_shifts_are_the_same_in_every_process_and_day() -> None:
    def told(seed: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout

    uids = CleanUids(b"k" * 32)
    name = uids.pseudonym("MRN-4711", "H")

    assert told("1") == told("2") == f"{name} {uids.of('1.2.3')} {uids.date_shift_days(name)}\n"


def test_without_the_key_nothing_can_be_linked() -> None:
    one, other = CleanUids(b"k" * 32), CleanUids(b"l" * 32)

    assert one.pseudonym("MRN-4711") != other.pseudonym("MRN-4711")
    assert one.of("1.2.3") != other.of("1.2.3")
    shifts = {(CleanUids(bytes([k]) * 32)).date_shift_days(Pseudonym("P1")) for k in range(64)}
    assert len(shifts) > 55
    assert all(1 <= days <= 3650 for days in shifts)


def test_a_patient_keeps_name_and_shift_across_studies_and_intervals_stay(tmp_path: Path) -> None:
    wing = Wing(tmp_path)
    first = wing.deidentify(a_slice(1, study="1.2.826.0.1.3680043.2.1.1", StudyDate="20240102"))
    later = Wing(tmp_path).deidentify(a_slice(1, study="1.2.826.0.1.3680043.2.1.2", StudyDate="20240301", PatientName="DOE-SMITH^JANE"))

    one, two = (dcmread(study.series[0].instances[0].path) for study in (first, later))

    assert first.pseudonym == later.pseudonym
    assert days(two.StudyDate) - days(one.StudyDate) == days("20240301") - days("20240102")
    assert one.StudyTime == two.StudyTime == "235900"


def days(text: str) -> int:
    from datetime import date

    return date(int(text[:4]), int(text[4:6]), int(text[6:8])).toordinal()
