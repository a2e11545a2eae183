"""A study loses its name, or is refused with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from sqlalchemy import insert

from node.domain import Channel, CleanUid, Origin, Study, StudyRef
from node.errors import BurnedInAnnotation, IdentityConflict, InstanceUnreadable, SopClassRefused, StudyRefused
from node.identified.clean_uids import CleanUids
from node.identified.deidentifier import LEFT_OUT, Deidentifier
from node.identified.identities import Identities
from node.identified.keys import Keyring
from node.identified.named import IdentifiedStudy, ReceivedInstance
from node.identified.profile import Options, Profile
from node.identified.tables import StudyRow
from node.ledger.database import open_identified, sqlite_url

ORIGIN = Origin(channel=Channel.DIMSE, received_at=datetime(2026, 1, 2, tzinfo=UTC), calling_ae="CT01", called_ae="RADNODE")


class Wing:
    """The identified wing as far as it is needed here."""

    def __init__(self, folder: Path, options: Options | None = None) -> None:
        self.engine = open_identified(sqlite_url(folder / "identified.sqlite"))
        self.keyring = Keyring(self.engine, b"m" * 32, lease_s=0)
        self.clean_uids = CleanUids(b"u" * 32)
        self.identities = Identities(self.engine, self.keyring)
        self.volume = folder / "studies"
        self.deidentifier = Deidentifier(Profile(options), self.clean_uids, self.identities, self.volume)

    def study(self, *data_sets: Dataset | ReceivedInstance, revision: int = 1) -> IdentifiedStudy:
        received = [d if isinstance(d, ReceivedInstance) else as_received(d) for d in data_sets]
        study = self.clean_uids.of(next(d.StudyInstanceUID for d in data_sets if isinstance(d, Dataset)))
        self.know(study)

        def instances() -> Iterator[ReceivedInstance]:
            yield from received

        return IdentifiedStudy(ref=StudyRef(study=study, revision=revision), instances=instances, count=len(received))

    def know(self, study: CleanUid) -> None:
        now = datetime.now(UTC)
        with self.engine.begin() as db:
            row = {
                "study": study,
                "state": "SETTLED",
                "first_arrival": now,
                "last_arrival": now,
                "origin": {},
                "revision": 1,
                "settled_reason": "",
            }
            db.execute(insert(StudyRow).prefix_with("OR IGNORE").values(row))

    def deidentify(self, *data_sets: Dataset | ReceivedInstance, revision: int = 1) -> Study:
        return self.deidentifier.deidentify(self.study(*data_sets, revision=revision))


@pytest.fixture
def wing(tmp_path: Path) -> Wing:
    return Wing(tmp_path)


def as_received(ds: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> ReceivedInstance:
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, transfer_syntax == "1.2.840.10008.1.2"
    write_dataset(out, ds)
    return ReceivedInstance(
        sop_class_uid=str(ds.get("SOPClassUID", "")),
        sop_instance_uid=str(ds.get("SOPInstanceUID", "1.2.3")),
        transfer_syntax_uid=transfer_syntax,
        origin=ORIGIN,
        data=out.getvalue(),
    )


def a_slice(number: int = 1, study: str = "1.2.826.0.1.3680043.2.1.1", **changes: object) -> Dataset:
    """One CT slice of Jane Doe."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"{study}.7.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, f"{study}.5", f"{study}.6"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "DOE^JANE", "MRN-4711", "19610312", "F"
    ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = "ACC-99", "77", "HOUSE^GREGORY"
    ds.StudyDate, ds.StudyTime, ds.SeriesDate, ds.AcquisitionDateTime = "20240102", "235900", "20240103", "20240103000102.5+0100"
    ds.Modality, ds.Manufacturer, ds.InstitutionName = "CT", "Siemens", "Saint Elsewhere"
    ds.SeriesDescription, ds.StudyDescription = "CT CHEST LUNG 1.0 B70f Doe", "Chest for Dr House 12.03.1961"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SeriesNumber, ds.InstanceNumber = 3, number
    ds.Rows = ds.Columns = 8
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.PixelData = bytes(range(128))
    for keyword, value in changes.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    return ds


def headers(study: Study) -> list[Dataset]:
    return [dcmread(instance.path) for series in study for instance in series.instances]


def test_a_study_comes_out_without_its_name(wing: Wing) -> None:
    study = wing.deidentify(a_slice(1), a_slice(2))

    first, second = headers(study)
    assert first.PatientName == first.PatientID == study.pseudonym
    assert first.PatientIdentityRemoved == "YES"
    assert first.LongitudinalTemporalInformationModified == "MODIFIED"
    assert not first.AccessionNumber
    assert not first.PatientBirthDate
    assert "InstitutionName" not in first
    assert first.PatientAge == "062Y"
    assert first.SeriesInstanceUID == second.SeriesInstanceUID != "1.2.826.0.1.3680043.2.1.1.5"
    assert first.PixelData == bytes(range(128))
    assert study.ref.study == first.StudyInstanceUID
    assert study.origin == ORIGIN


def test_what_a_rule_reads_is_still_there(wing: Wing) -> None:
    [clean] = headers(wing.deidentify(a_slice()))

    assert clean.SeriesDescription == "CT CHEST LUNG 1.0 B70f"
    assert clean.StudyDescription == "Chest for Dr"
    assert clean.Manufacturer == "Siemens"
    assert clean.PatientSex == "F"


def test_dates_move_together_and_times_stay(wing: Wing) -> None:
    [clean] = headers(wing.deidentify(a_slice()))

    assert clean.StudyDate != "20240102"
    study, series = (datetime.strptime(str(d), "%Y%m%d") for d in (clean.StudyDate, clean.SeriesDate))
    assert (series - study).days == 1
    assert clean.StudyTime == "235900"
    assert str(clean.AcquisitionDateTime).endswith("000102.5+0100")


def test_the_codes_name_the_profile_and_its_options_and_no_others(wing: Wing) -> None:
    [clean] = headers(wing.deidentify(a_slice()))

    codes = [item.CodeValue for item in clean.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113101", "113105", "113107", "113108", "113111"]


def test_a_pixel_promise_is_only_made_where_it_is_known(wing: Wing) -> None:
    unflagged = a_slice(ImageType=["DERIVED", "SECONDARY"])

    [clean] = headers(wing.deidentify(unflagged))

    assert "113101" not in [item.CodeValue for item in clean.DeidentificationMethodCodeSequence]
    assert "BurnedInAnnotation" not in clean


def test_the_file_is_ours_from_the_first_byte(wing: Wing) -> None:
    study = wing.deidentify(a_slice())

    path = study.series[0].instances[0].path
    assert path.read_bytes()[:132] == b"\0" * 128 + b"DICM"
    meta = dcmread(path).file_meta
    assert meta.MediaStorageSOPInstanceUID == dcmread(path).SOPInstanceUID
    assert "SourceApplicationEntityTitle" not in meta


def test_the_same_study_twice_ends_the_same(wing: Wing) -> None:
    first = wing.deidentify(a_slice(1), a_slice(2))
    before = {p: p.read_bytes() for p in wing.volume.rglob("*") if p.is_file()}

    second = wing.deidentify(a_slice(1), a_slice(2))

    assert second == first or second.folder == first.folder
    assert {p: p.read_bytes() for p in wing.volume.rglob("*") if p.is_file()} == before


def test_a_crash_before_the_end_leaves_nothing_that_looks_finished(wing: Wing) -> None:
    study = wing.study(a_slice(1))
    (wing.volume / study.ref.study / ".r1-999").mkdir(parents=True)

    wing.deidentifier.deidentify(study)

    assert [p.name for p in (wing.volume / study.ref.study).iterdir()] == ["r1"]


def test_a_late_image_makes_another_revision_with_the_same_names(wing: Wing) -> None:
    first = wing.deidentify(a_slice(1))
    second = wing.deidentify(a_slice(1), a_slice(2), revision=2)

    assert second.pseudonym == first.pseudonym
    assert {str(h.SOPInstanceUID) for h in headers(first)} < {str(h.SOPInstanceUID) for h in headers(second)}
    assert first.folder.is_dir()


def test_nothing_in_a_sequence_is_overlooked(wing: Wing) -> None:
    ds = a_slice()
    step, deeper = Dataset(), Dataset()
    deeper.PersonName, deeper.PatientID = "ZQXNESTED^WORD", "ZQXNESTEDID"
    deeper.ReferencedSOPInstanceUID, deeper.ReferencedSOPClassUID = "1.2.826.0.1.3680043.2.1.1.7.1", CTImageStorage
    step.ReferencedImageSequence = Sequence([deeper])
    step.ReferencedSOPClassUID, step.ReferencedSOPInstanceUID = CTImageStorage, "1.2.826.0.1.3680043.2.1.1.7.1"
    step.OperatorsName = "ZQXOPERATOR"
    ds.DerivationImageSequence = Sequence([step])

    study = wing.deidentify(ds)

    raw = study.series[0].instances[0].path.read_bytes()
    assert b"ZQX" not in raw
    clean = dcmread(study.series[0].instances[0].path)
    assert clean.DerivationImageSequence[0].ReferencedSOPInstanceUID == clean.SOPInstanceUID


@pytest.mark.parametrize(
    "broken",
    [
        {"PixelData": bytes(126)},
        {"NumberOfFrames": 100_000},
        {"NumberOfFrames": 0},
        {"Modality": None},
        {"SeriesInstanceUID": None},
        {"Rows": 0},
        {"PixelData": None},
    ],
)
def test_an_instance_that_is_not_whole_is_refused_by_its_clean_uid(wing: Wing, broken: dict[str, object]) -> None:
    with pytest.raises(InstanceUnreadable) as refused:
        wing.deidentify(a_slice(1), a_slice(2, **broken))

    assert refused.value.facts["instance"] == wing.clean_uids.of("1.2.826.0.1.3680043.2.1.1.7.2")
    assert "1.2.826" not in str(refused.value)
    assert not list(wing.volume.glob("*/r1"))


def test_truncated_bytes_and_garbage_are_refused(wing: Wing) -> None:
    whole = as_received(a_slice(2))
    for data in (whole.data[:-1], whole.data[:300], whole.data[:301], b"not DICOM at all" * 9, b"\xff" * 64, b"\x08\x00\x16\x00UI"):
        cut = ReceivedInstance(
            sop_class_uid=whole.sop_class_uid,
            sop_instance_uid=whole.sop_instance_uid,
            transfer_syntax_uid=whole.transfer_syntax_uid,
            origin=ORIGIN,
            data=data,
        )
        with pytest.raises(InstanceUnreadable):
            wing.deidentify(a_slice(1), cut)


def test_nesting_is_bounded(wing: Wing) -> None:
    inner = Dataset()
    inner.CodeValue = "1"
    for _ in range(40):
        outer = Dataset()
        outer.AnatomicRegionSequence = Sequence([inner])
        inner = outer
    ds = a_slice()
    ds.AnatomicRegionSequence = Sequence([inner])

    with pytest.raises(InstanceUnreadable, match="deep"):
        wing.deidentify(ds)


def test_two_patients_in_one_study_are_refused(wing: Wing) -> None:
    with pytest.raises(IdentityConflict) as refused:
        wing.deidentify(a_slice(1), a_slice(2, PatientID="MRN-4712"))

    assert "MRN" not in str(refused.value)


def test_a_patient_id_that_comes_late_still_makes_one_pseudonym(wing: Wing) -> None:
    study = wing.deidentify(a_slice(1, PatientID=""), a_slice(2))

    assert {str(h.PatientID) for h in headers(study)} == {wing.clean_uids.pseudonym("MRN-4711")}


def test_a_burned_in_name_is_refused(wing: Wing) -> None:
    with pytest.raises(BurnedInAnnotation):
        wing.deidentify(a_slice(1), a_slice(2, BurnedInAnnotation="YES"))


def test_reports_and_captures_stay_behind_and_are_listed(wing: Wing) -> None:
    report = a_slice(8, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", Modality="SR", SeriesInstanceUID=generate_uid())
    capture = a_slice(9, ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"])

    study = wing.deidentify(a_slice(1), report, capture)

    assert len(headers(study)) == 1
    assert (study.folder / LEFT_OUT).read_text().count('"reason"') == 2


def test_a_study_of_documents_only_is_refused(wing: Wing) -> None:
    document = a_slice(8, SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1", Modality="DOC")

    with pytest.raises(SopClassRefused):
        wing.deidentify(document)


def test_a_uid_with_path_characters_names_no_path(wing: Wing) -> None:
    ds = a_slice(1, SOPInstanceUID="../../etc/passwd", SeriesInstanceUID="/tmp/evil")

    study = wing.deidentify(ds)

    assert all(path.is_relative_to(wing.volume) for path in wing.volume.rglob("*.dcm"))
    assert study.series[0].instances[0].path.name.startswith("2.25.")


def test_an_unknown_character_set_is_no_reason_to_refuse(wing: Wing) -> None:
    ds = a_slice(1, PatientName="DOE^JANE")
    received = as_received(ds)
    raw = received.data.replace(b"DOE^JANE", b"D\xd6E^J\xc4NE")
    raw = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 999" + raw
    odd = ReceivedInstance(
        sop_class_uid=received.sop_class_uid,
        sop_instance_uid=received.sop_instance_uid,
        transfer_syntax_uid=received.transfer_syntax_uid,
        origin=ORIGIN,
        data=raw,
    )

    study = wing.deidentify(odd, a_slice(2))

    assert all("SpecificCharacterSet" not in h for h in headers(study))


def test_an_error_never_quotes_a_value(wing: Wing) -> None:
    for bad in (a_slice(1, Modality=None), a_slice(1, BurnedInAnnotation="YES"), a_slice(1, PixelData=b"")):
        with pytest.raises(StudyRefused) as refused:
            wing.deidentify(bad)
        for value in ("DOE", "MRN", "ACC", "1.2.826", "HOUSE"):
            assert value not in str(refused.value)


def test_implicit_bytes_come_out_implicit_with_their_pixels(wing: Wing) -> None:
    study = wing.deidentify(a_slice(1), as_received(a_slice(2), "1.2.840.10008.1.2"))

    syntaxes = {str(h.file_meta.TransferSyntaxUID) for h in headers(study)}
    assert syntaxes == {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"}
    assert {h.PixelData for h in headers(study)} == {bytes(range(128))}


def test_without_date_option_dates_go(tmp_path: Path) -> None:
    wing = Wing(tmp_path, Options(retain_modified_dates=False, retain_patient_characteristics=False, clean_descriptors=False))

    [clean] = headers(wing.deidentify(a_slice()))

    assert clean.LongitudinalTemporalInformationModified == "REMOVED"
    assert not clean.StudyDate
    assert "SeriesDate" not in clean
    assert "SeriesDescription" not in clean
    assert "PatientAge" not in clean
    assert not clean.PatientSex
    assert [i.CodeValue for i in clean.DeidentificationMethodCodeSequence] == ["113100", "113101", "113111"]
