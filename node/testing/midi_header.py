"""The header of an instance of the set: identity in the usual places, in free text, in nested items, in private attributes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from random import Random

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from node.testing.midi_answers import Do, Expected, Planter
from node.testing.midi_people import Person
from node.testing.studies import IMPLEMENTATION_UID, uid_of

SOP_CLASSES = {
    "CT": CTImageStorage,
    "MR": MRImageStorage,
    "US": UltrasoundImageStorage,
    "US LOOP": UltrasoundMultiFrameImageStorage,
    "CR": ComputedRadiographyImageStorage,
    "DX": DigitalXRayImageStorageForPresentation,
    "MG": DigitalMammographyXRayImageStorageForPresentation,
    "SC": SecondaryCaptureImageStorage,
}

#: study and series descriptions as they are written, and the body part
DESCRIPTIONS = {
    "CT": (
        ("CT CHEST W CONTRAST", "LUNG 1.0 B70f", "CHEST"),
        ("CT THORAX LOW DOSE", "AXIAL HRCT 1mm INSPIRATION", "CHEST"),
        ("CT CHEST WITHOUT", "MEDIASTINUM 5.0 B30s", "CHEST"),
        ("CT ANGIO CHEST PE PROTOCOL", "CTPA 0.75 Bv40", "CHEST"),
        ("CT ABDOMEN PELVIS W IV CONTRAST", "PORTAL VENOUS 3.0 COR", "ABDOMEN"),
        ("Thorax nativ", "Thorax 1.5 Br40 axial", "CHEST"),
    ),
    "MR": (
        ("MR BRAIN W WO CONTRAST", "AX T2 FLAIR", "BRAIN"),
        ("MRI HEAD", "SAG T1 MPRAGE", "HEAD"),
        ("MR BRAIN WITHOUT", "t2 tse tra 320", "BRAIN"),
        ("MR HEAD STROKE", "DWI b1000 ADC MAP", "BRAIN"),
        ("Schaedel nativ", "AX T1 SE POST CONTRAST", "HEAD"),
    ),
    "US": (
        ("US BREAST LEFT LIMITED", "BREAST LEFT", "BREAST"),
        ("ULTRASOUND BREAST BILATERAL", "RIGHT BREAST TRANS", "BREAST"),
        ("US ABDOMEN COMPLETE", "LIVER LONG", "ABDOMEN"),
        ("CAROTID DUPLEX BILATERAL", "COLOR DOPPLER", "NECK"),
        ("US THYROID", "THYROID RIGHT LOBE", "NECK"),
    ),
    "CR": (
        ("XR CHEST 2 VIEWS", "CHEST PA", "CHEST"),
        ("CHEST PA AND LATERAL", "CHEST PORTABLE AP", "CHEST"),
        ("XR KNEE 3 VIEWS RIGHT", "KNEE LATERAL", "KNEE"),
        ("Thorax p.a.", "Thorax PA erect", "CHEST"),
    ),
    "MG": (
        ("MAMMO SCREENING BILATERAL", "L CC", "BREAST"),
        ("MAMMOGRAM DIAGNOSTIC", "R MLO", "BREAST"),
        ("MAMMO IMPLANT", "R CC IMPLANT DISPLACED", "BREAST"),
    ),
    "SC": (("CT CHEST W CONTRAST", "KEY IMAGES", "CHEST"), ("US BREAST LEFT LIMITED", "MEASUREMENTS", "BREAST")),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which instance of whom."""

    person: Person
    kind: str  #: a key of `SOP_CLASSES`
    study: int  #: of the patient, from 1
    number: int  #: of the instance in the whole set, from 1: its Instance Number, by which a clean copy is recognised
    first: int  #: the instance that its series begins with
    day: date


def header(place: Place, random: Random) -> Planter:
    """Everything but the pixels."""
    planter = Planter(Dataset())
    ds, person = planter.ds, place.person
    ds.file_meta = FileMetaDataset()
    ds.file_meta.ImplementationClassUID = IMPLEMENTATION_UID
    ds.SpecificCharacterSet = person.name.charset
    ds.InstanceNumber = place.number
    _uids(planter, place)
    _person(planter, person, random)
    _study(planter, place, random)
    _texts(planter, place, random)
    _equipment(planter, place, random)
    _nested(planter, place, random)
    _private(planter, place, random)
    return planter


def sop_instance(number: int) -> str:
    return uid_of("midi instance", number)


def _uids(planter: Planter, place: Place) -> None:
    sop_class = SOP_CLASSES[place.kind]
    planter.keep("SOPClassUID", sop_class)
    planter.uid("SOPInstanceUID", sop_instance(place.number))
    planter.uid("StudyInstanceUID", uid_of("midi study", place.person.key, place.study))
    planter.uid("SeriesInstanceUID", uid_of("midi series", place.first))
    if place.kind in {"CT", "MR"}:
        planter.uid("FrameOfReferenceUID", uid_of("midi frame", place.person.key, place.study))
    source = planter.item("SourceImageSequence")
    source.ds.ReferencedSOPClassUID = sop_class
    source.uid("ReferencedSOPInstanceUID", sop_instance(place.first), may_go=True)  # Table E.1-1: X/Z/U*


def _person(planter: Planter, person: Person, random: Random) -> None:
    planter.remove("PatientName", person.name.value, *person.name.parts)
    planter.remove("PatientID", person.patient_id)
    planter.key.append(Expected(do=Do.PATIENT_CONSISTENT, at="PatientID", words=(person.key,)))
    planter.remove("PatientBirthDate", f"{person.born:%Y%m%d}")
    planter.keep("PatientSex", person.sex)
    planter.remove("PatientAddress", person.address, person.address.split(",")[0])
    planter.remove("PatientTelephoneNumbers", person.telephone)
    planter.remove("OtherPatientIDs", f"{person.patient_id}-OLD", person.patient_id)
    planter.keep("PatientSize", f"1.{random.randrange(50, 95)}")
    planter.keep("PatientWeight", str(random.randrange(48, 110)))
    planter.remove("PatientComments", f"Call {person.telephone}, MRN {person.patient_id}", person.telephone, person.patient_id)


def _study(planter: Planter, place: Place, random: Random) -> None:
    day, person = place.day, place.person
    planter.shift("StudyDate", day)
    planter.shift("SeriesDate", day)
    planter.shift("AcquisitionDate", day)
    planter.shift("ContentDate", day)
    planter.shift("AcquisitionDateTime", datetime.combine(day, time(9, 15, 30)))
    planter.ds.StudyTime, planter.ds.SeriesTime, planter.ds.ContentTime = "091500", "091510", "091530"
    planter.remove("AccessionNumber", f"A{random.randrange(10**7, 10**8)}")
    planter.remove("StudyID", f"S{random.randrange(10**5, 10**6)}")
    planter.remove("ReferringPhysicianName", f"{person.referrer}^A.^^Dr.", person.referrer)
    planter.remove("PerformingPhysicianName", f"{person.operator}^M.", person.operator)
    planter.remove("OperatorsName", person.operator)
    planter.remove("InstitutionName", person.hospital[0], person.hospital[1])
    planter.remove("InstitutionAddress", person.hospital[2], person.hospital[2].split(",")[0])
    age = (day - person.born).days // 365
    if age > 90:
        planter.remove("PatientAge", f"{age:03d}Y")
    elif age == 90:
        planter.keep("PatientAge", "090Y")  # what every age over 89 becomes
    else:
        planter.keep("PatientAge", f"{age:03d}Y")


def _texts(planter: Planter, place: Place, random: Random) -> None:
    person, day = place.person, place.day
    kind = {"US LOOP": "US", "DX": "CR"}.get(place.kind, place.kind)
    study, series, body_part = random.choice(DESCRIPTIONS[kind])
    study_words, series_words = (tuple(word.rstrip(".") for word in text.split()) for text in (study, series))
    family, given = person.name.parts[:2]
    dirty = (
        (f" for {family}", (family,)),
        (f" {given} {family}", (given, family)),
        (f" ({person.hospital[1]} {day:%d.%m.%Y})", (person.hospital[1], f"{day:%d.%m.%Y}")),
        (f" MRN {person.patient_id}", (person.patient_id,)),
        (f" Dr. {person.referrer} {person.telephone}", (person.referrer, person.telephone)),
    )
    more, remove = random.choice((("", ()), *dirty))
    planter.clean("StudyDescription", study + more, keep=study_words, remove=remove)
    more, remove = random.choice((("", ()), ("", ()), dirty[0], dirty[2], dirty[3]))
    planter.clean("SeriesDescription", series + more, keep=series_words, remove=remove)
    planter.clean("ProtocolName", series, keep=series_words)
    planter.keep("BodyPartExamined", body_part)
    planter.remove(
        "ImageComments",
        random.choice(
            (
                f"Patient {given} {family} born {person.born:%d.%m.%Y} arrived late",
                f"Discussed with Dr. {person.referrer} on {day:%m/%d/%Y}, call back {person.telephone}",
                f"{person.operator} repeated the acquisition; ID {person.patient_id}",
            )
        ),
        *(word for word in person.identifiers if len(word) > 3),
    )
    planter.remove("AdditionalPatientHistory", f"{family}, fell on {day - timedelta(days=3):%d.%m.%Y} at {person.address}", family, person.address.split(",")[0])  # fmt: skip
    planter.remove("RequestingPhysician", person.referrer)
    planter.ds.RequestedProcedureDescription = study
    planter.key.append(Expected(do=Do.TEXT_RETAINED, at="RequestedProcedureDescription", words=study_words))


def _equipment(planter: Planter, place: Place, random: Random) -> None:
    kind = {"US LOOP": "US"}.get(place.kind, place.kind)
    planter.keep("Modality", {"SC": "OT"}.get(kind, kind))
    planter.keep("Manufacturer", random.choice(("SIEMENS", "GE MEDICAL SYSTEMS", "Philips Medical Systems")))
    planter.keep("ManufacturerModelName", "SOMATOM Force" if kind == "CT" else "Model 9")
    planter.remove("StationName", f"{place.person.hospital[1][:8].upper()}01")
    planter.remove("DeviceSerialNumber", place.person.serial)
    planter.keep("SoftwareVersions", "VE11C")
    match kind:
        case "CT":
            planter.keep("KVP", "120")
            planter.keep("SliceThickness", "5")
            planter.keep("ConvolutionKernel", "B70f")
            planter.keep("ImagePositionPatient", ["-175", "-175", str(-5 * place.number)])
            planter.keep("ImageOrientationPatient", ["1", "0", "0", "0", "1", "0"])
            planter.keep("PixelSpacing", ["0.7", "0.7"])
            planter.keep("RescaleSlope", "1")
            planter.keep("RescaleIntercept", "-1024")
            planter.clean(
                "ContrastBolusAgent", f"Omnipaque 300 {place.person.operator}", keep=("Omnipaque",), remove=(place.person.operator,)
            )
        case "MR":
            planter.keep("ScanningSequence", "SE")
            planter.keep("SequenceVariant", "SK")
            planter.keep("ScanOptions", "FS")
            planter.keep("MRAcquisitionType", "2D")
            planter.keep("EchoTime", "92")
            planter.keep("RepetitionTime", "4500")
            planter.keep("MagneticFieldStrength", "3")
            planter.keep("PixelSpacing", ["0.9", "0.9"])
        case "MG":
            planter.keep("ImageLaterality", "LR"[place.number % 2])
            planter.keep("PresentationIntentType", "FOR PRESENTATION")
            planter.keep("CompressionForce", "98")
        case "CR" | "DX":
            planter.keep("ViewPosition", "PA")
            planter.keep("KVP", "117")
        case "SC":
            planter.keep("ConversionType", "WSD")
        case _:
            planter.keep("TransducerType", "LINEAR")


def _nested(planter: Planter, place: Place, random: Random) -> None:
    person = place.person
    request = planter.item("RequestAttributesSequence")
    request.remove("RequestedProcedureID", f"R{random.randrange(10**6, 10**7)}")
    request.remove("ScheduledProcedureStepID", f"P{random.randrange(10**6, 10**7)}")
    request.remove("ScheduledProcedureStepDescription", f"{person.name.parts[0]} {person.patient_id}")
    before = planter.item("OriginalAttributesSequence")
    before.remove("SourceOfPreviousValues", person.hospital[0], person.hospital[1])
    modified = before.item("ModifiedAttributesSequence")
    modified.remove("PatientID", f"{person.patient_id}-TEMP", person.patient_id)
    modified.remove("PatientName", person.name.value, *person.name.parts)
    region = planter.item("AnatomicRegionSequence")
    region.keep("CodeValue", "51185008")
    region.keep("CodingSchemeDesignator", "SCT")
    region.keep("CodeMeaning", "Chest")
    study = planter.item("ReferencedStudySequence")
    study.ds.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.uid("ReferencedSOPInstanceUID", uid_of("midi study", person.key, place.study), may_go=True)  # Table E.1-1: X/Z


def _private(planter: Planter, place: Place, random: Random) -> None:
    person = place.person
    planter.private(0x0009, "HOUSE ARCHIVE 1.0", 0x01, "LO", f"{person.name.latin[1]} {person.name.latin[0]}", keep=False)
    planter.private(0x0009, "HOUSE ARCHIVE 1.0", 0x02, "UN", person.patient_id.encode(), keep=False)
    planter.private(0x0009, "HOUSE ARCHIVE 1.0", 0x03, "DA", f"{person.born:%Y%m%d}", keep=False)
    planter.private(0x0029, "SIEMENS CSA HEADER", 0x10, "OB", f"PatientName={person.name.latin[0]};".encode(), keep=False)
    if place.kind in {"CT", "MR"}:
        planter.private(0x0043, "GEMS_PARM_01", 0x6F, "DS", ["1.5", "2", "0"], keep=True)
        planter.private(0x0043, "GEMS_PARM_01", 0x28, "OB", person.name.latin[0].encode() + b"\0", keep=False)
    if place.kind == "MR":
        planter.private(0x0019, "HOUSE ARCHIVE 1.0", 0x0C, "LO", person.name.latin[0], keep=False)  # the safe block lies beside it
        planter.private(0x0019, "SIEMENS MR HEADER", 0x0C, "IS", str(random.choice((0, 500, 1000))), keep=True)
        planter.private(0x0019, "SIEMENS MR HEADER", 0x0D, "CS", "DIRECTIONAL", keep=True)
        planter.private(0x0019, "SIEMENS MR HEADER", 0x08, "LO", f"{person.operator} {person.patient_id}", keep=False)
        planter.private(0x2005, "Philips MR Imaging DD 001", 0x0E, "FL", 0.5, keep=True)
    mother = person.name.latin[0].encode() + b"^Ada"
    planter.ds.add(DataElement(0x00101060, "UN", mother))  # Patient's Mother's Birth Name through a gateway that did not know it
    planter.key.append(Expected(do=Do.TEXT_REMOVED, at="PatientMotherBirthName", words=(person.name.latin[0],)))
