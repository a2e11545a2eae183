"""A result comes home: right patient, right study, right references, and nothing else changed."""

from __future__ import annotations

import io
import os
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from highdicom import sr
from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from node.domain import Result, Study
from node.errors import KeyMissing
from node.identified.folders import REPORT, Folders
from node.identified.profile import Profile
from node.identified.reidentifier import CleanUidLeft, Reidentifier
from node.sr_reader import read_report
from node.sr_writer import write_sr
from tests.conformance import cases
from tests.rooms.test_deidentifier import Wing, a_slice

MAKER = {"manufacturer": "Example", "manufacturer_model_name": "node", "software_versions": "1", "device_serial_number": "1"}


@pytest.fixture
def wing(tmp_path: Path) -> Wing:
    return Wing(tmp_path)


def slices(**changes: object) -> list[Dataset]:
    made = []
    for number in range(1, 4):
        ds = a_slice(number, **changes)
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, float(number)]
        ds.PixelSpacing, ds.SliceThickness, ds.PositionReferenceIndicator = [1, 1], 1, None
        made.append(ds)
    return made


def results(study: Study) -> dict[str, bytes]:
    """A SEG, a Secondary Capture and a report, written in the hall from the clean headers."""
    images = [dcmread(instance.path) for series in study for instance in series.instances]
    algorithm = hd.AlgorithmIdentificationSequence(name="lesion", version="1", family=codes.cid7162.ArtificialIntelligence)
    mask = np.zeros((len(images), 8, 8), np.uint8)
    mask[1, 2:5, 2:5] = 1
    segment = hd.seg.SegmentDescription(
        1,
        "lesion",
        codes.SCT.MorphologicallyAbnormalStructure,
        codes.SCT.Lesion,
        "AUTOMATIC",
        algorithm,
        tracking_id="L1",
        tracking_uid=generate_uid(),
    )
    seg = hd.seg.Segmentation(
        source_images=images,
        pixel_array=mask,
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        series_instance_uid=generate_uid(),
        series_number=900,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        **MAKER,
    )
    sc = hd.sc.SCImage.from_ref_dataset(
        images[0],
        np.zeros((8, 8, 3), np.uint8),
        "RGB",
        8,
        "PATIENT",
        generate_uid(),
        901,
        generate_uid(),
        1,
        patient_orientation=["L", "P"],
        **MAKER,
    )
    observer = sr.ObserverContext(codes.DCM.Device, sr.DeviceObserverIdentifyingAttributes(uid=generate_uid(), name="node"))
    group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=generate_uid(), identifier="L1"),
        referenced_segment=sr.ReferencedSegment(
            seg.SOPClassUID, seg.SOPInstanceUID, 1, source_series=sr.SourceSeriesForSegmentation(images[0].SeriesInstanceUID)
        ),
        finding_type=codes.SCT.Lesion,
        measurements=[sr.Measurement(name=codes.SCT.Volume, value=1.23, unit=codes.UCUM.CubicMillimeter)],
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=Code("25045-6", "LN", "CT unspecified body region"),
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )
    written = sr.Comprehensive3DSR(
        evidence=[seg, *images],
        content=report[0],
        series_instance_uid=generate_uid(),
        series_number=902,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        is_complete=True,
        is_final=False,
        is_verified=False,
        **MAKER,
    )
    out = {}
    for role, ds in (("SEG", seg), ("SC", sc), ("SR", written)):
        buffer = io.BytesIO()
        ds.save_as(buffer)
        out[role] = buffer.getvalue()
    return out


@pytest.mark.parametrize("role", ["SEG", "SC", "SR"])
def test_a_result_comes_home_to_its_patient(wing: Wing, role: str) -> None:
    originals = slices()
    study = wing.deidentify(*originals)
    made = results(study)
    nameless = made[role]
    assert b"DOE" not in nameless
    assert b"1.2.826.0.1.3680043.2.1.1" not in nameless

    home = dcmread(io.BytesIO(Reidentifier(wing.identities).name_again(nameless, study.ref.study)))

    source, before = originals[0], dcmread(io.BytesIO(nameless))
    for keyword in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID"),
        *("AccessionNumber", "ReferringPhysicianName", "StudyDescription"),
    ):
        assert home[keyword].value == source[keyword].value, keyword
    assert "PatientAge" not in home  # ours, computed for the models; the source had none
    assert (home.SOPInstanceUID, home.SeriesInstanceUID) == (before.SOPInstanceUID, before.SeriesInstanceUID)
    assert home.file_meta.MediaStorageSOPInstanceUID == home.SOPInstanceUID
    assert home.get("ContentDate") == before.get("ContentDate")
    references = {str(e.value) for e in home.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
    own = {str(dcmread(io.BytesIO(other)).SOPInstanceUID) for other in made.values()}
    assert references <= own | {str(ds.SOPInstanceUID) for ds in originals}
    assert references or role == "SC"
    assert not [e for e in home.iterall() if e.keyword.startswith("Deidentification")]
    assert "PatientIdentityRemoved" not in home


def test_the_hall_keeps_its_nameless_copy(wing: Wing) -> None:
    study = wing.deidentify(*slices())
    nameless = results(study)["SEG"]
    before = bytes(nameless)

    Reidentifier(wing.identities).name_again(nameless, study.ref.study)

    assert nameless == before


def test_a_name_in_three_scripts_comes_home_whole(wing: Wing) -> None:
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    study = wing.deidentify(*slices(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=name))

    home = dcmread(io.BytesIO(Reidentifier(wing.identities).name_again(results(study)["SC"], study.ref.study)))

    assert home.SpecificCharacterSet == "ISO_IR 192"
    assert str(home.PatientName) == name


def test_a_date_that_a_result_took_over_is_the_real_one_again(wing: Wing) -> None:
    study = wing.deidentify(*slices(AcquisitionDate="20240103"))
    result = dcmread(io.BytesIO(results(study)["SC"]))
    result.AcquisitionDate = dcmread(study.series[0].instances[0].path).AcquisitionDate
    buffer = io.BytesIO()
    result.save_as(buffer)

    home = dcmread(io.BytesIO(Reidentifier(wing.identities).name_again(buffer.getvalue(), study.ref.study)))

    assert result.AcquisitionDate != "20240103"
    assert home.AcquisitionDate == "20240103"


def test_what_is_broken_in_the_source_does_not_break_the_result(wing: Wing) -> None:
    half, whole, half_a_code, dog = Dataset(), Dataset(), Dataset(), Dataset()
    half_a_code.CodeValue, half_a_code.CodeMeaning = "CT1", "CT thorax"
    dog.CodeValue, dog.CodingSchemeDesignator, dog.CodeMeaning = "448771007", "SCT", "Canis lupus subspecies familiaris"
    half.ReferencedSOPInstanceUID = "1.2.3.4"
    whole.ReferencedSOPClassUID, whole.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", "1.2.3.5"
    with config.disable_value_validation():
        changes = {"PatientAge": "0Y", "PatientComments": "as she said", "ReferencedStudySequence": [half, whole]}
        study = wing.deidentify(*slices(**changes, ProcedureCodeSequence=[half_a_code], PatientSpeciesCodeSequence=[dog]))

        home = dcmread(io.BytesIO(Reidentifier(wing.identities).name_again(results(study)["SC"], study.ref.study)))

    assert "PatientAge" not in home
    assert home.PatientComments == "as she said"
    assert "ProcedureCodeSequence" not in home
    assert home.PatientSpeciesCodeSequence[0].CodeValue == "448771007"
    assert [str(item.ReferencedSOPInstanceUID) for item in home.ReferencedStudySequence] == ["1.2.3.5"]


@pytest.mark.parametrize(
    ("code", "comes_home"),
    [
        (("CTTHX", "99KIS", "CT Thorax mit KM"), ("CTTHX", "99KIS", "CT Thorax mit KM")),
        (("CT101", "L", "Thorax 胸部"), ("CT101", "L", "Thorax 胸部")),
        (("24627-2", "LN", "CT Chest"), ("24627-2", "LN", "CT Chest")),
        (("CT1", "99KIS", 80 * "x"), ("CT1", "99KIS", 64 * "x")),
        (("CTTHX", "", "CT Thorax"), ("363679005", "SCT", "Imaging")),
        (None, ("25045-6", "LN", "CT unspecified body region")),
    ],
)
def test_a_report_names_the_procedure_as_the_study_does(
    wing: Wing, code: tuple[str, str, str] | None, comes_home: tuple[str, str, str]
) -> None:
    """In the hall a house's own code has neither its value nor its scheme; a record system that reads UNKNOWN finds no order."""
    procedure = Dataset()
    with config.disable_value_validation():
        if code:
            procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = code
        study = wing.deidentify(*slices(SpecificCharacterSet="ISO_IR 192", ProcedureCodeSequence=[procedure] if code else []))
        result = Result(analysed=False, reason="too few slices")
        report = write_sr(study, None, result, cases.provenance(study), seg=None, sc=None, series=study.series[0])

        home = Reidentifier(wing.identities).name_again(cases.bytes_of(report), study.ref.study)

    told = read_report(home)
    assert told is not None
    assert told.procedure == Code(*comes_home)


def test_what_the_source_left_out_is_there_and_empty(wing: Wing) -> None:
    """Type 2 of the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1): scanners leave them out, an object of ours may not."""
    nameless = results(wing.deidentify(*slices()))["SC"]
    originals = slices(PatientIdentityRemoved="YES")  # and not how, so that it can't be said
    for ds in originals:
        for keyword in ("PatientSex", "AccessionNumber", "ReferringPhysicianName"):
            del ds[keyword]
    study = wing.deidentify(*originals, revision=2)

    home = dcmread(io.BytesIO(Reidentifier(wing.identities).name_again(nameless, study.ref.study)))

    assert [home.get(keyword) for keyword in ("PatientSex", "AccessionNumber", "ReferringPhysicianName")] == ["", "", ""]
    assert "PatientIdentityRemoved" not in home


@pytest.mark.parametrize(
    ("keyword", "came", "comes_home"),
    [
        ("PatientBirthDate", "00000000", ""),
        ("PatientBirthDate", "1950.02.01", "19500201"),
        ("PatientBirthDate", "19500201", "19500201"),
        ("StudyTime", "10:20:30", "102030"),
        ("StudyTime", "102030.125", "102030.125"),
    ],
)
def test_a_date_that_is_none_is_empty_and_an_old_one_is_written_as_today(wing: Wing, keyword: str, came: str, comes_home: str) -> None:
    nameless = results(wing.deidentify(*slices()))["SC"]
    with config.disable_value_validation():
        study = wing.deidentify(*slices(**{keyword: came}), revision=2)

    home = dcmread(io.BytesIO(Reidentifier(wing.identities).name_again(nameless, study.ref.study)))

    assert home[keyword].value == comes_home


def test_an_object_that_hides_a_clean_uid_does_not_go_out(wing: Wing, monkeypatch: pytest.MonkeyPatch) -> None:
    study = wing.deidentify(*slices())
    nameless = results(study)["SEG"]
    monkeypatch.setattr("node.identified.reidentifier._uids_back", lambda *_: None)

    with pytest.raises(CleanUidLeft):
        Reidentifier(wing.identities).name_again(nameless, study.ref.study)


def test_without_its_key_a_study_has_no_name_any_more(wing: Wing) -> None:
    study = wing.deidentify(*slices())
    nameless = results(study)["SC"]

    wing.keyring.shred(study.ref.study)

    with pytest.raises(KeyMissing):
        Reidentifier(wing.identities).name_again(nameless, study.ref.study)


# --- folders --------------------------------------------------------------------------------------------------------------
def folders(wing: Wing, tmp_path: Path, workers: int = 1) -> Folders:
    return Folders(
        wing.engine,
        wing.identities,
        wing.keyring,
        tmp_path / "sealed",
        profile=Profile(),
        clean_uids=wing.clean_uids,
        workers=workers,
    )


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != REPORT}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_comes_home_byte_for_byte(wing: Wing, tmp_path: Path, workers: int) -> None:
    source = tmp_path / "in"
    (source / "DOE JANE" / "CT").mkdir(parents=True)
    for ds in slices():
        ds.ensure_file_meta()
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        ds.file_meta.SourceApplicationEntityTitle = "DOES_SCANNER"
        ds.preamble = b"DOE JANE".ljust(128, b"\0")
        ds.save_as(source / "DOE JANE" / "CT" / f"doe_{ds.InstanceNumber}.dcm", enforce_file_format=True)
    (source / "notes about doe.txt").write_text("not DICOM")

    report = folders(wing, tmp_path, workers).deidentify(source, tmp_path / "clean")
    clean = tree(tmp_path / "clean")
    home = folders(wing, tmp_path).reidentify(tmp_path / "clean", tmp_path / "home")

    assert (report["deidentified"], report["not_dicom"], report["studies"], report["patients"]) == (3, 1, 1, 1)
    assert not any(b"DOE" in data or "DOE" in path or "doe" in path for path, data in clean.items())
    assert b"DOE" not in (tmp_path / "clean" / REPORT).read_bytes().upper()
    assert home["restored"] == 3
    expected = {path: data for path, data in tree(source).items() if path.endswith(".dcm")}
    assert tree(tmp_path / "home") == expected
    assert not any(b"DOE" in p.read_bytes() for p in (tmp_path / "sealed").rglob("*.sealed"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_named_in_an_old_encoding_comes_home_too(wing: Wing, tmp_path: Path, workers: int) -> None:
    """A disc written before UTF-8: its names are bytes of Latin-1, which no text can hold."""
    source = tmp_path / "in" / os.fsdecode(b"M\xfcller")
    source.mkdir(parents=True)
    for ds in slices():
        ds.ensure_file_meta()
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        ds.save_as(source / os.fsdecode(b"M\xfcller %d.dcm" % ds.InstanceNumber), enforce_file_format=True)

    report = folders(wing, tmp_path, workers).deidentify(tmp_path / "in", tmp_path / "clean")
    home = folders(wing, tmp_path).reidentify(tmp_path / "clean", tmp_path / "home")

    assert (report["deidentified"], home["restored"]) == (3, 3)
    assert not any("ller" in path for path in tree(tmp_path / "clean"))
    assert tree(tmp_path / "home") == tree(tmp_path / "in")


def test_rubbish_in_a_clean_folder_keeps_nobody_from_coming_home(wing: Wing, tmp_path: Path) -> None:
    """File meta with nothing behind it, a damaged result that no library reads, a file that can't be read: each has its reason, the others come home."""
    source, clean = tmp_path / "in", tmp_path / "clean"
    source.mkdir()
    for ds in slices():
        ds.ensure_file_meta()
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        ds.save_as(source / f"{ds.InstanceNumber}.dcm", enforce_file_format=True)
    folders(wing, tmp_path).deidentify(source, clean)
    whole = next(path for path in sorted(clean.rglob("*.dcm"))).read_bytes()
    (clean / "a.dcm").write_bytes(whole[: whole.index(b"\x08\0\x08\0")])
    result = results(wing.deidentify(*slices()))["SR"]
    (clean / "b.dcm").write_bytes(result.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.\xc5.1\0"))
    (clean / "c.dcm").symlink_to("/proc/self/mem")  # a file that whoever runs this can't read

    home = folders(wing, tmp_path).reidentify(clean, tmp_path / "home")

    assert (home["restored"], home["refused"]) == (3, 3)
    assert all(one["reason"] for one in home["outcomes"] if one["outcome"] == "refused")


def test_a_result_added_to_a_clean_folder_comes_home_too(wing: Wing, tmp_path: Path) -> None:
    source, clean = tmp_path / "in", tmp_path / "clean"
    source.mkdir()
    originals = slices()
    for ds in originals:
        ds.ensure_file_meta()
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        ds.save_as(source / f"{ds.InstanceNumber}.dcm", enforce_file_format=True)
    folders(wing, tmp_path).deidentify(source, clean)
    study = wing.deidentify(*originals)
    (clean / "result.dcm").write_bytes(results(study)["SR"])

    home = folders(wing, tmp_path).reidentify(clean, tmp_path / "home")

    assert home["named"] == 1
    assert dcmread(tmp_path / "home" / "result.dcm").PatientName == "DOE^JANE"
