"""What leaves is searched for what identifies: every planted leak is found, and no clean study is stopped."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_charset_files
from pydicom.dataelem import DataElement
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from node.errors import LeakFound, StudyRefused
from node.identified import deidentifier
from node.identified.clean_uids import CleanUids
from node.identified.cleaning import LeftOut, Opened
from node.identified.elements import Malformed
from node.identified.folders import _open
from node.identified.identifying import TECHNICAL_KEYWORDS, Identifying, Kind
from node.identified.leak_scan import LeakScan, PixelText
from node.identified.needles import date_forms, name_forms, needles
from node.identified.profile import TECHNICAL_KEYWORDS as profile_keeps
from node.identified.profile import Options, Profile
from node.identified.proof import PROOF, Prover, SigningKey
from node.testing import canary_study, write_study
from node.testing.studies import a_study
from tests.rooms.test_deidentifier import Wing, a_slice, as_received

Plant = Callable[[Dataset], None]


class ProvenWing(Wing):
    """The wing, with a leak scan behind the profile."""

    def __init__(self, folder: Path, options: Options | None = None, **more: object) -> None:
        super().__init__(folder, options)
        profile = Profile(options)
        self.prover = Prover(partial(SigningKey, b"s" * 32), edition="2026c", options=profile.options.names, **more)
        self.deidentifier = deidentifier.Deidentifier(profile, self.clean_uids, self.identities, self.volume, prover=self.prover)


@pytest.fixture
def wing(tmp_path: Path) -> ProvenWing:
    return ProvenWing(tmp_path)


def jane(number: int = 1, **more: object) -> Dataset:
    """Jane, with what a hospital and its devices say of her."""
    ds = a_slice(number)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = "Lindqvist-Åkerö^Jane^Marie=林^珍妮"
    ds.PatientAddress, ds.PatientTelephoneNumbers = "Quimbygatan 17, 11452 Solna", "+46 8 555 12 34"
    ds.InstitutionName, ds.InstitutionalDepartmentName = "Karolbarth Hospital", "Radiology"
    ds.InstitutionAddress, ds.StationName, ds.DeviceSerialNumber = "Norrtull 5", "KBCT07", "SN-88213X"
    ds.OperatorsName, ds.PerformingPhysicianName = "Wójcik^Bożena", "O'Brien^Liam"
    ds.PatientComments = "neighbour of Zbigniew, phone 0715551234"
    ds.add(DataElement(0x00290010, "LO", "ACME 1.1"))
    ds.add(DataElement(0x00291001, "LO", "referred by Grzegorz"))
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return ds


def planted(monkeypatch: pytest.MonkeyPatch, plant: Plant | None = None, change: Callable[[bytes], bytes] | None = None) -> None:
    """A cleaner that lets something through: into the data set, or into the bytes."""
    write = deidentifier.write_instance

    def leaky(instance: object, path: Path) -> None:
        write(instance, path)
        if plant:
            ds = dcmread(path)
            plant(ds)
            ds.save_as(path)
        if change:
            path.write_bytes(change(path.read_bytes()))

    monkeypatch.setattr(deidentifier, "write_instance", leaky)


def item(**attributes: object) -> Dataset:
    found = Dataset()
    for keyword, value in attributes.items():
        setattr(found, keyword, value)
    return found


def deep(ds: Dataset) -> None:
    ds.SourceImageSequence = Sequence([item(PurposeOfReferenceCodeSequence=Sequence([item(CodeMeaning="seen by Bozena Wojcik")]))])


def put(tag: int, vr: str, value: object) -> Plant:
    return lambda ds: ds.add(DataElement(tag, vr, value))


LEAKS: dict[str, tuple[Plant, Kind, str]] = {
    "a name as it was": (put(0x00204000, "LT", "Lindqvist"), Kind.NAME, "ImageComments"),
    "in capitals without its ring": (put(0x00204000, "LT", "AKERO"), Kind.NAME, "ImageComments"),
    "given name first, in one word": (put(0x0008103E, "LO", "janelindqvist"), Kind.NAME, "SeriesDescription"),
    "as ideographs, UTF-8": (put(0x00204000, "LT", "林珍妮".encode()), Kind.NAME, "ImageComments"),
    "as ideographs, GB18030": (put(0x00091001, "UN", "珍妮".encode("gb18030") + b"  "), Kind.NAME, "private"),
    "in UTF-16 inside a binary value": (put(0x00091002, "OB", b"\1\2" + "Lindqvist".encode("utf-16-le")), Kind.NAME, "private"),
    "in a coded string": (put(0x00180015, "CS", "LINDQVIST"), Kind.NAME, "BodyPartExamined"),
    "in Manufacturer": (put(0x00080070, "LO", "Lindqvist AB"), Kind.NAME, "Manufacturer"),
    "an operator, two levels deep": (deep, Kind.NAME, "SourceImageSequence > (0040,A170)"),
    "an Irish name with another apostrophe": (put(0x00204000, "LT", "Dr O’Brien"), Kind.NAME, "ImageComments"),
    "the Patient ID without its dash": (put(0x00204000, "LT", "MRN4711"), Kind.IDENTIFIER, "ImageComments"),
    "the Accession Number in a file's meta": (lambda ds: setattr(ds.file_meta, "SourceApplicationEntityTitle", "ACC-99"), Kind.IDENTIFIER, "(0002,0016)"),
    "Study ID, short as it is": (lambda ds: setattr(ds, "StudyID", "77"), Kind.IDENTIFIER, "StudyID"),
    "the birth date, German": (put(0x00204000, "LT", "geb. 12.3.1961"), Kind.BIRTH_DATE, "ImageComments"),
    "the birth date, American, in a description": (put(0x00081030, "LO", "CHEST 03/12/1961"), Kind.BIRTH_DATE, "StudyDescription"),
    "the birth date in words": (put(0x00204000, "LT", "born March 12, 1961"), Kind.BIRTH_DATE, "ImageComments"),
    "the birth date where it stood": (lambda ds: setattr(ds, "PatientBirthDate", "19610312"), Kind.BIRTH_DATE, "PatientBirthDate"),
    "a study date that was not moved": (lambda ds: setattr(ds, "StudyDate", "20240102"), Kind.DATE, "StudyDate"),
    "a date and time that was not moved": (lambda ds: setattr(ds, "AcquisitionDateTime", "20240103000102.5+0100"), Kind.DATE, "AcquisitionDateTime"),
    "a date in ISO form": (put(0x00204000, "LT", "2024-01-02"), Kind.DATE, "ImageComments"),
    "the study's own UID": (put(0x00081150, "UI", "1.2.826.0.1.3680043.2.1.1"), Kind.UID, "ReferencedSOPClassUID"),
    "a UID in a text": (put(0x00204000, "LT", "see 1.2.826.0.1.3680043.2.1.1.5"), Kind.UID, "ImageComments"),
    "the telephone number, digits only": (put(0x00204000, "LT", "call 4685551234"), Kind.CONTACT, "ImageComments"),
    "the address": (put(0x00204000, "LT", "QUIMBYGATAN 17, 11452 SOLNA"), Kind.CONTACT, "ImageComments"),
    "a street": (put(0x00204000, "LT", "Quimbygatan"), Kind.WORD, "ImageComments"),
    "the institution": (put(0x00204000, "LT", "KAROLBARTH_HOSPITAL"), Kind.INSTITUTION, "ImageComments"),
    "the station": (put(0x00081090, "LO", "Scanner KBCT07"), Kind.EQUIPMENT, "ManufacturerModelName"),
    "a serial number": (put(0x00181020, "LO", "VB40 sn88213x"), Kind.EQUIPMENT, "SoftwareVersions"),
    "a word of a comment": (put(0x00081030, "LO", "Chest Zbigniew"), Kind.WORD, "StudyDescription"),
    "a number of a comment": (put(0x00081030, "LO", "0715551234"), Kind.WORD, "StudyDescription"),
    "a word of a private text": (put(0x00204000, "LT", "for GRZEGORZ"), Kind.WORD, "ImageComments"),
    "an identifier as a number": (lambda ds: setattr(ds, "SeriesNumber", "4711001"), Kind.IDENTIFIER, "SeriesNumber"),
}  # fmt: skip


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_is_found_and_stops_the_study(wing: ProvenWing, monkeypatch: pytest.MonkeyPatch, leak: str) -> None:
    plant, kind, where = LEAKS[leak]
    planted(monkeypatch, plant)

    with pytest.raises(LeakFound) as refused:
        wing.deidentify(jane(1, OtherPatientIDs="4711001"), jane(2))

    assert kind.value in str(refused.value)
    assert where in str(refused.value)
    assert refused.value.facts["instance"].startswith("2.25.")
    assert not list(wing.volume.rglob("*.dcm"))
    assert not list(wing.volume.rglob(PROOF))
    for value in ("lindqvist", "jane", "4711", "1961", "quimby", "karol", "zbigniew", "kbct", "88213", "555", "wojcik", "brien", "1.2.826"):
        assert value not in str(refused.value).lower()


@pytest.mark.parametrize(
    ("leak", "change"),
    [
        ("the preamble", lambda data: b"Lindqvist Jane".ljust(128, b"\0") + data[128:]),
        ("behind the pixels", lambda data: data + b"\xfc\xff\xfc\xffOB\0\0\x0a\0\0\0LINDQVIST\0"),
        ("longer pixels than declared", lambda data: _longer_pixels(data, b"LINDQVIST^JANE  ")),
        ("a JPEG comment", lambda data: _compressed(data, b"\xff\xd8\xff\xfe\0\x0b" + b"Lindqvist" + b"\xff\xda" + bytes(40))),
        (
            "a JPEG comment behind fill bytes",
            lambda data: _compressed(data, b"\xff\xd8\xff\xff\xff\xfe\0\x08" + b"Wojcik" + b"\xff\xda" + bytes(40)),
        ),
        ("compressed pixels", lambda data: _compressed(data, b"\xff\xd8\xff\xda" + bytes(9) + b"LINDQVIST" + bytes(40))),
    ],
)
def test_a_leak_around_the_data_set_or_in_the_pixel_stream_is_found(wing, monkeypatch, leak, change) -> None:
    planted(monkeypatch, change=change)

    with pytest.raises(LeakFound, match="names"):
        wing.deidentify(jane())


def test_a_clean_file_that_can_not_be_read_again_goes_nowhere(wing: ProvenWing, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, change=lambda data: data[:-200])

    with pytest.raises(LeakFound, match="read again"):
        wing.deidentify(jane())


def _longer_pixels(data: bytes, more: bytes) -> bytes:
    at = data.rindex(b"\xe0\x7f\x10\0OW\0\0")
    return data[: at + 8] + (128 + len(more)).to_bytes(4, "little") + data[at + 12 :] + more


def _compressed(data: bytes, frame: bytes) -> bytes:
    at = data.rindex(b"\xe0\x7f\x10\0OW\0\0")
    pixels = encapsulate([frame])
    data = data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.50"[:20], 1)
    return data[:at] + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + pixels + b"\xfe\xff\xdd\xe0\0\0\0\0"


def test_what_no_text_says_is_no_leak(wing: ProvenWing) -> None:
    """Numbers that happen to be the patient's stand where numbers stand; words that are names too stand in descriptions."""
    ds = jane(PatientName="Long^Body", PatientID="1024", StudyID="512", AccessionNumber="235900", ReferringPhysicianName="Chest")
    ds.SeriesDescription, ds.SliceThickness, ds.InstanceNumber, ds.SeriesNumber = "CHEST LUNG LONG", 1024, 1024, 512
    ds.Manufacturer, ds.StationName, ds.InstitutionName = "SIEMENS", "SIEMENS", "Siemens"

    study = wing.deidentify(ds)

    assert (study.folder / PROOF).is_file()


def test_a_look_up_table_that_counts_is_no_identifier(wing: ProvenWing) -> None:
    """49, 50, 51 … are `123…` in ASCII; sixteen bits wide they are the same in UTF-16."""
    ds = jane(PatientID="12345678", AccessionNumber="ABCDEFGH")
    table = Dataset()
    table.add(DataElement(0x00283002, "US", [256, 0, 16]))
    table.add(DataElement(0x00283006, "OW", b"".join(n.to_bytes(2, "little") for n in range(256)) + bytes(range(256))))
    ds.VOILUTSequence = Sequence([table])

    study = wing.deidentify(ds)

    assert len(dcmread(study.series[0].instances[0].path).VOILUTSequence[0][0x00283006].value) == 768


@pytest.mark.parametrize(("name", "text"), [("QC^PHANTOM", "QC PHANTOM"), ("T2^FLAIR", "HEAD T2 FLAIR"), ("Head^Phantom^CT", "CT HEAD")])
def test_a_test_object_that_is_called_what_it_is_stops_nothing(wing: ProvenWing, name: str, text: str) -> None:
    assert wing.deidentify(jane(PatientName=name, SeriesDescription=text, StudyDescription=text)).series


def test_a_pseudonym_whose_digits_spell_a_name_stops_nothing(wing: ProvenWing, monkeypatch: pytest.MonkeyPatch) -> None:
    """`P12DEE…`: three letters of sixteen hexadecimal digits are a name by chance, once in some hundred patients."""
    monkeypatch.setattr(CleanUids, "pseudonym", lambda *_: "P12DEE4567890ABCD")

    assert wing.deidentify(jane(OperatorsName="Dee^Aba")).series


@pytest.mark.parametrize("leak", ["Dee", "P12DEE4567890ABCD DEE"])
def test_a_name_beside_a_pseudonym_is_found(wing: ProvenWing, monkeypatch: pytest.MonkeyPatch, leak: str) -> None:
    planted(monkeypatch, lambda ds: setattr(ds, "PatientID", leak))

    with pytest.raises(LeakFound):
        wing.deidentify(jane(OperatorsName="Dee^Aba"))


def test_a_moved_date_that_falls_on_another_original_one_is_no_leak(wing: ProvenWing) -> None:
    ds = jane()
    days = wing.clean_uids.date_shift_days(wing.clean_uids.pseudonym("MRN-4711"))
    ds.SeriesDate = f"{date(2024, 1, 2) + timedelta(days=days):%Y%m%d}"  # the shift takes it to the study's own original date

    study = wing.deidentify(ds)

    assert str(dcmread(study.series[0].instances[0].path).SeriesDate) == "20240102"


@pytest.mark.parametrize(
    ("option", "keyword", "value"),
    [
        ("retain_institution_identity", "InstitutionName", "Karolbarth Hospital"),
        ("retain_device_identity", "DeviceSerialNumber", "SN-88213X"),
    ],
)
def test_what_an_option_lets_stay_is_no_leak(tmp_path: Path, option: str, keyword: str, value: str, monkeypatch) -> None:
    planted(monkeypatch, lambda ds: setattr(ds, keyword, value))
    with pytest.raises(LeakFound):
        ProvenWing(tmp_path / "without").deidentify(jane())

    study = ProvenWing(tmp_path / "with", Options(**{option: True})).deidentify(jane())

    assert dcmread(study.series[0].instances[0].path)[keyword].value == value


def test_a_canary_in_every_attribute_stops_nothing(wing: ProvenWing) -> None:
    canary = canary_study(slices=2, rows=64)

    assert len(wing.deidentify(*canary.datasets).series[0].instances) == 2


def test_synthetic_studies_stop_nothing(wing: ProvenWing) -> None:
    for person in (1, 2, 3, 4, 5):
        assert wing.deidentify(*a_study("CT", slices=2, rows=64, patient=person)).series
    assert wing.deidentify(*a_study("US", patient=1)).series


def alarms_in(folders: list[Path], tmp_path: Path) -> tuple[int, list[str]]:
    """(instances, where something was found) when every study below the folders goes through the profile and the scan."""
    profile, clean_uids = Profile(), CleanUids(b"u" * 32)
    studies: dict[bytes, list[Opened]] = defaultdict(list)
    for path in (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()):
        try:
            opened = _open(path.read_bytes())
        except (Malformed, ValueError):
            continue
        if opened is not None:
            studies[opened.value(0x0020000D)].append(opened)
    instances, where = 0, []
    for members in studies.values():
        found = Identifying()
        cleaner = deidentifier.cleaner_for(members[0], profile, clean_uids, deidentifier.patient_of(members[0]))
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            for number, opened in enumerate(members):
                found.add(opened.data, opened.elements, explicit=opened.explicit)
                try:
                    clean = cleaner.clean(opened)
                except StudyRefused:
                    continue
                if not isinstance(clean, LeftOut):
                    deidentifier.write_instance(clean, Path(folder) / f"{number}.dcm")
            done = LeakScan(found).scan(sorted(Path(folder).iterdir()))
        instances += done.instances
        where += [leak.where for leak in done.leaks]
    return instances, where


def test_no_real_study_is_stopped(shared: Path, tmp_path: Path) -> None:
    instances, where = alarms_in([shared / "data" / "dicom"], tmp_path)

    assert instances > 600
    assert where == []


def test_no_study_in_any_character_set_is_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "charsets"
    folder.mkdir()
    for number, path in enumerate(get_charset_files()):
        ds = dcmread(path, force=True)
        image = a_slice(number, study=f"1.2.3.4.5.6.{number}")
        for keyword in ("SpecificCharacterSet", "PatientName"):
            if keyword in ds:
                image[keyword] = ds[keyword]
        write_study([_saved(image)], folder / str(number))

    instances, where = alarms_in([folder], tmp_path)

    assert instances >= 15
    assert where == []


def _saved(ds: Dataset) -> Dataset:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    return ds


def test_a_name_in_its_own_character_set_is_found(wing: ProvenWing, monkeypatch) -> None:
    """Yamada Tarou as JIS X 0208 with escapes, as a Japanese scanner writes it."""
    source = dcmread(get_charset_files("chrH31.dcm")[0])
    ds = a_slice(1)
    ds.SpecificCharacterSet, ds.PatientName = source.SpecificCharacterSet, source.PatientName
    for value in (
        str(source.PatientName).split("=")[1].replace("^", " ").encode("iso2022_jp"),
        "山田".encode("shift_jis"),
        "山田".encode(),
    ):
        with monkeypatch.context() as patch:
            planted(patch, put(0x00091001, "UN", b"\1\2" + value + bytes(len(value) % 2)))
            with pytest.raises(LeakFound, match="names"):
                wing.deidentify(ds)


def test_a_name_is_written_in_every_order(wing: ProvenWing) -> None:
    forms = {form for form, _ in name_forms("Wu^Li")}

    assert {"Wu^Li", "Li Wu", "Wu, Li"} <= forms
    assert "LiWu" not in forms  # four letters run together are any word
    assert not {"Wu", "Li"} & forms


def test_a_date_is_written_in_many_notations() -> None:
    assert {"19610312", "1961-03-12", "12.03.1961", "3/12/1961", "12 Mar 1961", "March 12, 1961"} <= date_forms("19610312")


def test_what_is_looked_for_is_never_shown() -> None:
    found = Identifying()
    found.values[Kind.NAME].add("DOE^JANE")

    assert "DOE" not in repr(found)
    assert needles(found)


@pytest.mark.parametrize(
    ("text", "leaks"),
    [
        ("LINDQVIST JANE", True),
        ("L1NDQVIST", True),  # a letter mistaken
        ("LINDQVST", True),  # a letter lost
        ("ID: MRN-4711", True),
        ("12.03.1961", True),
        ("SUPINE R", False),
        ("120 kV 55 mA", False),
        ("LINDEN", False),
    ],
)
def test_text_in_pixels_is_compared_as_a_reader_may_mistake_it(tmp_path: Path, text: str, leaks: bool) -> None:
    looked: list[Path] = []

    def read_text(path: Path) -> list[PixelText]:
        looked.append(path)
        return [PixelText(0, text)]

    wing = ProvenWing(tmp_path, read_text=read_text)
    if leaks:
        with pytest.raises(LeakFound, match="pixels of frame 1"):
            wing.deidentify(jane())
    else:
        wing.deidentify(jane())
    assert looked


def test_the_scans_list_of_technical_attributes_holds_the_profiles() -> None:
    """Two lists by two hands: what the profile keeps as a technical text, the scan does not take for somebody's word."""
    assert set(TECHNICAL_KEYWORDS) >= set(profile_keeps)


def test_a_date_and_time_of_an_attribute_nobody_knows_is_a_date(wing: ProvenWing) -> None:
    """(0040,A034) is younger than the library's dictionary; in Implicit VR it comes as bytes."""
    ds = jane()
    ds.add(DataElement(0x0040A034, "UN", b"20240102101112.123456 "))

    assert wing.deidentify(as_received(ds, "1.2.840.10008.1.2"), jane(2)).series
