"""Synthetic studies: valid DICOM with whole patient and study modules, made from the phantoms. All persons are invented."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    MRImageStorage,
    UltrasoundImageStorage,
)

from node.testing.phantom_brain_mr import BrainMr, brain_mr
from node.testing.phantom_breast_ultrasound import BreastUltrasound, Kind, breast_ultrasound
from node.testing.phantom_chest_ct import ChestCt, chest_ct
from node.testing.phantom_chest_xray import ChestXray, chest_xray
from node.testing.phantom_ct_head import HeadCt, ct_head

IMPLEMENTATION_UID = "2.25.331187602941873467158223069371418735531"

#: name, identifier, birth date, sex, age on the day of the study
PERSONS = (
    ("Müller-Lüdenscheidt^Jörg^Käthe", "PHANTOM-0001", "19580317", "M", "068Y"),
    ("Åström^Anne-Sofie", "PHANTOM-0002", "19711102", "F", "054Y"),
    ("Özgür^Deniz^^Dr.", "PHANTOM-0003", "19490823", "M", "076Y"),
    ("Nuñez Peña^María José", "PHANTOM-0004", "19860105", "F", "040Y"),
    ("Šťastná^Zdeňka", "PHANTOM-0005", "19660628", "F", "059Y"),
)


def a_study(modality: str = "CT", slices: int = 40, patient: int = 1, **options: Any) -> list[Dataset]:
    """One study of one series, instances in the order in which a scanner sends them.

    Parameters
    ----------
    modality : "CT" (chest), "MR" (head, after contrast), "US" (breast, one image), "DX" (chest film, one image) or "CR" (chest film made
        from the chest CT, one image)
    slices : of the chest CT, or of the head
    patient : 1, 2, 3 …: who it is; the same number is the same person
    options : arguments of the phantom in lower case (`patches`, `rows`, `slice_mm`, `seed`, `noise_hu`; `kind` of breast; `tumor`; `opacity` of the chest film), `study`
        (1, 2 …: another study of the same person), and any DICOM keyword (`SeriesDescription="…"`), set on every instance

    The same arguments give the same bytes, UIDs included.
    """
    keywords = {name: value for name, value in options.items() if tag_for_keyword(name) is not None}
    rest = {name: value for name, value in options.items() if name not in keywords}
    number = int(rest.pop("study", 1))
    name = f"{modality} {slices} {patient} {number} {sorted(rest.items())}"
    match modality:
        case "CT":
            datasets = ct_instances(chest_ct(slices=slices, **rest), patient=patient, study=number, name=name)
        case "MR":
            datasets = mr_instances(brain_mr(slices=slices, **rest), patient=patient, study=number, name=name)
        case "US":
            datasets = [us_instance(breast_ultrasound(**rest), patient=patient, study=number, name=name)]
        case "CR":
            datasets = [cr_instance(chest_ct(slices=slices, **rest), patient=patient, study=number, name=name)]
        case "DX":
            datasets = [dx_instance(chest_xray(**rest), patient=patient, study=number, name=name)]
        case _:
            raise ValueError("modality: one of CT, MR, US, CR, DX")
    for ds in datasets:
        for keyword, value in keywords.items():
            setattr(ds, keyword, value)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    return datasets


def write_study(datasets: Sequence[Dataset], folder: Path) -> list[Path]:
    """One Part 10 file an instance, `0001.dcm` and on, in the order given."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, ds in enumerate(datasets, 1):
        path = folder / f"{number:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def uid_of(*words: object) -> str:
    """A UID that derives from words: 2.25 and 128 bits of their hash (PS3.5 B.2)."""
    return "2.25." + str(int.from_bytes(hashlib.sha256("\x1f".join(map(str, words)).encode()).digest()[:16], "big"))


def ct_instances(phantom: ChestCt | HeadCt, *, patient: int = 1, study: int = 1, name: str = "") -> list[Dataset]:
    """The chest (or another part) as CT Image Storage, the highest slice first."""
    out = []
    for number, k in enumerate(reversed(range(phantom.hu.shape[0])), 1):
        ds = _slice(CTImageStorage, phantom, number, k, patient=patient, study=study, name=name)
        ds.Modality = "CT"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.StudyDescription, ds.SeriesDescription = "CT Thorax nativ", "Thorax nativ 5.0 Lunge"
        ds.ProtocolName, ds.BodyPartExamined, ds.PatientPosition = "Thorax nativ", "CHEST", "HFS"
        ds.KVP, ds.XRayTubeCurrent, ds.ConvolutionKernel, ds.GantryDetectorTilt = 120, 180, "L", 0
        ds.ScanOptions = "HELIX"
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
        ds.WindowCenter, ds.WindowWidth = -600, 1500
        grey(ds, (phantom.hu[k].astype(np.int32) + 1024).astype(np.uint16), stored=12)
        out.append(ds)
    return out


def ct_head_study(patient: int = 1, study: int = 1, **options: Any) -> list[Dataset]:
    """One study of one series of a whole head, as `a_study` makes them; `options`: of the phantom, and DICOM keywords."""
    keywords = {name: value for name, value in options.items() if tag_for_keyword(name) is not None}
    rest = {name: value for name, value in options.items() if name not in keywords}
    datasets = ct_instances(ct_head(**rest), patient=patient, study=study, name=f"CT head {patient} {study} {sorted(rest.items())}")
    usual = {"StudyDescription": "CT Schädel nativ", "SeriesDescription": "CT HEAD", "ProtocolName": "Head", "BodyPartExamined": "HEAD"}
    for ds in datasets:
        for keyword, value in {**usual, "WindowCenter": 40, "WindowWidth": 80, "ConvolutionKernel": "H30s", **keywords}.items():
            setattr(ds, keyword, value)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    return datasets


def mr_instances(phantom: BrainMr, *, patient: int = 1, study: int = 1, name: str = "") -> list[Dataset]:
    """The head as MR Image Storage, T1-weighted spin echo after contrast, the highest slice first."""
    out = []
    for number, k in enumerate(reversed(range(phantom.pixels.shape[0])), 1):
        ds = _slice(MRImageStorage, phantom, number, k, patient=patient, study=study, name=name)
        ds.Modality = "MR"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "SE"]
        ds.StudyDescription, ds.SeriesDescription = "MR Schädel mit KM", "T1 tra KM"
        ds.ProtocolName, ds.BodyPartExamined, ds.PatientPosition = "T1 tra KM", "BRAIN", "HFS"
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "SE", "SK", "", "2D"
        ds.EchoTime, ds.RepetitionTime, ds.EchoTrainLength, ds.FlipAngle = 10, 550, 1, 90
        ds.MagneticFieldStrength, ds.ImagedNucleus, ds.ContrastBolusAgent = "1.5", "1H", "Gadoterate"
        ds.WindowCenter, ds.WindowWidth = 450, 900
        grey(ds, np.asarray(phantom.pixels[k]), stored=12)
        out.append(ds)
    return out


def us_instance(phantom: BreastUltrasound, *, patient: int = 1, study: int = 1, name: str = "") -> Dataset:
    """The breast as Ultrasound Image Storage, calibrated by a region (PS3.3 C.8.5.5)."""
    rows, columns = phantom.pixels.shape
    ds = instance_of(UltrasoundImageStorage, uid_of("instance", name), patient=patient, study=study, name=name)
    ds.Modality = "US"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "BREAST", "0001"]
    ds.StudyDescription, ds.SeriesDescription = "Mammasonographie", "Mamma links"
    ds.BodyPartExamined, ds.Laterality = "BREAST", "L"
    ds.SeriesInstanceUID, ds.SeriesNumber, ds.InstanceNumber = uid_of("series", name), 1, 1
    ds.PatientOrientation = ""
    ds.LossyImageCompression = "00"
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0  # 2D, tissue
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 0, 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = columns - 1, rows - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3  # cm
    region.PhysicalDeltaX = region.PhysicalDeltaY = phantom.spacing_mm / 10.0
    region.TransducerFrequency = 12000
    ds.SequenceOfUltrasoundRegions = Items([region])
    grey(ds, phantom.pixels, stored=8)
    return ds


def cr_instance(phantom: ChestCt, *, patient: int = 1, study: int = 1, name: str = "") -> Dataset:
    """A chest film: the CT summed along the beam (parallel rays, front to back), as MONOCHROME1 Computed Radiography."""
    through = np.clip(phantom.hu.astype(np.float32) + 1000.0, 0.0, None).sum(axis=1) * phantom.spacing_mm[1]  # slices, columns
    film = np.repeat(through[::-1], max(1, round(phantom.spacing_mm[0] / phantom.spacing_mm[2])), axis=0)
    stored = np.clip(4095.0 * (1.0 - film / max(1.0, float(film.max()))), 0, 4095).astype(np.uint16)
    ds = instance_of(ComputedRadiographyImageStorage, uid_of("instance", name), patient=patient, study=study, name=name)
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = "CR", "CHEST", "PA"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.StudyDescription, ds.SeriesDescription = "Thorax p.a.", "Thorax p.a."
    ds.SeriesInstanceUID, ds.SeriesNumber, ds.InstanceNumber = uid_of("series", name), 1, 1
    ds.PatientOrientation = ["L", "F"]
    ds.ImagerPixelSpacing = [decimal(phantom.spacing_mm[2])] * 2
    grey(ds, stored, stored=12)
    ds.PhotometricInterpretation = "MONOCHROME1"
    return ds


def dx_instance(phantom: ChestXray, *, patient: int = 1, study: int = 1, name: str = "") -> Dataset:
    """A drawn chest film as Digital X-Ray Image Storage - For Presentation, PA (PS3.3 A.26)."""
    ds = instance_of(DigitalXRayImageStorageForPresentation, uid_of("instance", name), patient=patient, study=study, name=name)
    ds.Modality, ds.PresentationIntentType = "DX", "FOR PRESENTATION"
    ds.BodyPartExamined, ds.ViewPosition, ds.ImageLaterality = "CHEST", "PA", "U"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.StudyDescription, ds.SeriesDescription = "Thorax p.a.", "Thorax p.a."
    ds.SeriesInstanceUID, ds.SeriesNumber, ds.InstanceNumber = uid_of("series", name), 1, 1
    ds.PatientOrientation = ["L", "F"]
    ds.AcquisitionContextSequence = Items([])
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "51185008", "SCT", "Chest"
    ds.AnatomicRegionSequence = Items([region])
    ds.DetectorType, ds.PositionerType = "SCINTILLATOR", "NONE"
    ds.ImagerPixelSpacing = [decimal(phantom.spacing_mm)] * 2
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.PresentationLUTShape, ds.LossyImageCompression, ds.BurnedInAnnotation = "IDENTITY", "00", "NO"
    ds.WindowCenter, ds.WindowWidth = 2048, 4096
    grey(ds, phantom.pixels, stored=12)
    return ds


def _slice(sop_class: str, phantom: ChestCt | HeadCt | BrainMr, number: int, k: int, *, patient: int, study: int, name: str) -> Dataset:
    """An axial slice of a volume: general series, frame of reference and image plane modules (PS3.3 C.7.3.1, C.7.4.1, C.7.6.2)."""
    ds = instance_of(sop_class, uid_of("instance", name, number), patient=patient, study=study, name=name)
    ds.SeriesInstanceUID, ds.SeriesNumber, ds.AcquisitionNumber = uid_of("series", name), 2, 1
    ds.InstanceNumber = number
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = uid_of("frame", name), ""
    z = phantom.origin_mm[2] + k * phantom.spacing_mm[0]
    ds.ImagePositionPatient = [decimal(phantom.origin_mm[0]), decimal(phantom.origin_mm[1]), decimal(z)]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.SliceLocation = decimal(z)
    ds.PixelSpacing = [decimal(phantom.spacing_mm[1]), decimal(phantom.spacing_mm[2])]
    ds.SliceThickness = decimal(phantom.spacing_mm[0])
    ds.SpacingBetweenSlices = decimal(phantom.spacing_mm[0])
    return ds


def instance_of(sop_class: str, sop_instance: str, *, patient: int, study: int, name: str) -> Dataset:
    """Patient, study, equipment and SOP common modules (PS3.3 C.7.1, C.7.2, C.7.5, C.12.1)."""
    person = PERSONS[(patient - 1) % len(PERSONS)]
    again = "" if patient <= len(PERSONS) else f"-{patient}"
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, sop_instance
    ds.PatientName, ds.PatientID = person[0], person[1] + again
    ds.IssuerOfPatientID = "Klinikum Süd"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = person[2:5]
    ds.PatientSize, ds.PatientWeight = "1.74", "71"
    ds.PatientAddress = "Straße der Attrappen 5, 12345 Phantomstadt"
    ds.StudyInstanceUID = uid_of("study", name)
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = f"202605{10 + study % 20:02d}"
    ds.StudyTime, ds.SeriesTime, ds.AcquisitionTime, ds.ContentTime = "091500", "091630", "091645", "091650"
    ds.AccessionNumber = f"A26{patient:03d}{study:03d}"
    ds.StudyID = f"S{patient:03d}{study:03d}"
    ds.ReferringPhysicianName = "Überweis^Frieda^^Dr."
    ds.OperatorsName, ds.PerformingPhysicianName = "Gerät^Bedient", "Röntgen^Ärztin"
    ds.InstitutionName, ds.InstitutionalDepartmentName = "Klinikum Süd", "Radiologie"
    ds.InstitutionAddress = "Am Prüfstand 1, 12345 Phantomstadt"
    ds.StationName, ds.Manufacturer, ds.ManufacturerModelName = "PHANTOM01", "Radnode", "Phantom"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "4711", "1.0"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = IMPLEMENTATION_UID
    ds.file_meta.ImplementationVersionName = "RADNODE_PHANTOM"
    return ds


def grey(ds: Dataset, pixels: np.ndarray[Any, Any], *, stored: int) -> None:
    """Image Pixel module of one grey frame, (rows, columns)."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8 * pixels.itemsize, stored, stored - 1, 0
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"


def decimal(number: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 Table 6.2-1)."""
    return f"{number:.9g}"


__all__ = [
    "Kind",
    "a_study",
    "cr_instance",
    "ct_head_study",
    "ct_instances",
    "dx_instance",
    "mr_instances",
    "uid_of",
    "us_instance",
    "write_study",
]
