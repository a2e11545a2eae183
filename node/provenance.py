"""Who made this, from what, with what: the maker's mark and the names that all writers share."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from highdicom import AlgorithmIdentificationSequence, ContributingEquipment
from highdicom.sr import AlgorithmIdentification, DeviceObserverIdentifyingAttributes, ObserverContext
from pydicom.config import RAISE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import validate_value

from node import __version__
from node.codes import PROCESSING_EQUIPMENT
from node.domain import Algorithm, Finding, Job, ReadingLink, Result, Role
from node.header_text import zone_of

MANUFACTURER = "Radnode"
MODEL = "Radnode DICOM inference node"
RESEARCH = "RESEARCH USE ONLY - not for diagnosis"

#: the space of our names (RFC 9562, 5.5): changing it renames every result
NAMES = uuid.UUID("0f6ad3f5-5c0b-5d6e-9c51-6f5d0f1f7f0e")
FIRST_SERIES_NUMBER = 9001  # OHIF opens a study with its lowest Series Number, so results stand above every original
SLOTS = 900  # pipelines share this many places of twenty numbers
NUMBERS = 20  # Series Numbers of one pipeline on one series, one for each kind of object
CONTENT = {
    Role.SEG: "segmentation",
    Role.SC: "heat map",
    Role.SR: "report",
    Role.PR: "outlines",
    Role.KO: "key images",
    Role.PDF: "page to print",
    Role.PM: "heat map values",
    Role.RTSTRUCT: "contours",
    Role.TEXT: "report in words",
    Role.KEYS: "summary page",
    Role.SEG_LABELMAP: "label map",
    Role.SEG_FRACTIONAL: "fractions",
    Role.SR_ENHANCED: "enhanced report",
    Role.SR_EDITABLE: "outlines to edit",
}

#: their IODs have no Content Date: Presentation Creation Date (PS3.3 C.11.10) and Structure Set Date (C.8.8.5) say it
DATED_OTHERWISE = {Role.PR, Role.RTSTRUCT}

# What every instance of a study has in common; the way home puts the originals back. Sequences stay with the images: real ones often
# break the Standard, and what we write must not. (0012,0062) and its method stay too: a result that is named again must not say it has none.
PATIENT = (  # PS3.3 C.7.1.1
    *("PatientName", "PatientID", "IssuerOfPatientID", "TypeOfPatientID", "PatientBirthDate", "PatientBirthTime", "PatientSex"),
    *("OtherPatientNames", "QualityControlSubject", "PatientComments", "PatientSpeciesDescription"),
    *("PatientBreedDescription", "ResponsiblePerson", "ResponsiblePersonRole", "ResponsibleOrganization"),
)
STUDY = (  # PS3.3 C.7.2.1 and C.7.2.2
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "ConsultingPhysicianName"),
    *("PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "StudyDescription", "ProcedureCodeSequence", "RequestingService"),
    *("AdmittingDiagnosesDescription", "PatientAge", "PatientSize", "PatientWeight", "MedicalAlerts", "Allergies", "SmokingStatus"),
    *("PregnancyStatus", "LastMenstrualDate", "PatientState", "PatientSexNeutered", "Occupation", "AdditionalPatientHistory"),
    *("AdmissionID", "ServiceEpisodeID", "ServiceEpisodeDescription", "ReasonForVisit"),
)
TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """One Job's maker's mark. Asked by every writer, so that all objects of a result say the same.

    Equal values give equal bytes: `written_at` belongs to the Job (not the clock of a retry), and `used_series_numbers` are those of
    the originals, without this node's results. Dates and times are written as `written_at` shows them.
    """

    job: Job
    node_uid: str  #: this installation, as a UID; the device observer of the reports
    written_at: datetime
    used_series_numbers: Collection[int]
    part: str = ""  #: SOP Instance UID when a series has one result an image; empty for the series as a whole

    # --- maker -----------------------------------------------------------------------------------------------------------
    def equipment(self) -> dict[str, Any]:
        """Enhanced General Equipment (PS3.3 C.7.5.2) and Contributing Equipment, as highdicom's constructors take them."""
        made_by = self.job.algorithm
        return {
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": MODEL,
            "software_versions": __version__,
            "device_serial_number": self.serial_number,
            "contributing_equipment": [
                ContributingEquipment(
                    made_by.source[:64],
                    PROCESSING_EQUIPMENT,
                    manufacturer_model_name=made_by.name[:64],
                    software_versions=[made_by.version[:64], f"sha256:{made_by.digest[:56]}"],
                    contribution_datetime=self.written_at.replace(tzinfo=None),
                    contribution_description=f"Model {made_by.name} {made_by.version}, weights SHA-256 {made_by.digest}. {RESEARCH}.",
                )
            ],
        }

    @property
    def serial_number(self) -> str:
        """Device Serial Number: which installation, short enough for VR LO."""
        return sha256(self.node_uid.encode()).hexdigest()[:16]

    # --- algorithm ---------------------------------------------------------------------------------------------------------
    def algorithm(self) -> AlgorithmIdentificationSequence:
        """Algorithm Identification Macro, PS3.3 Table 10-19: for a segment."""
        made_by = self.job.algorithm
        return AlgorithmIdentificationSequence(
            name=made_by.name[:64],
            family=made_by.family,
            version=made_by.version[:64],
            source=made_by.source[:64],
            parameters={"pipeline": self.job.route.pipeline, "weights_sha256": made_by.digest},
        )

    def algorithm_items(self) -> AlgorithmIdentification:
        """TID 4019: for a measurement group."""
        made_by = self.job.algorithm
        return AlgorithmIdentification(
            name=made_by.name, version=made_by.version, parameters=[f"weights SHA-256 {made_by.digest}"], manufacturer=made_by.source
        )

    def observer(self) -> ObserverContext:
        """TID 1004: the node as the device that observed."""
        return ObserverContext(
            codes.DCM.Device,
            DeviceObserverIdentifyingAttributes(
                uid=self.node_uid, name=MANUFACTURER, manufacturer_name=MANUFACTURER, model_name=MODEL, serial_number=self.serial_number
            ),
        )

    # --- names -------------------------------------------------------------------------------------------------------------
    def uid(self, role: Role | str, part: str = "") -> UID:
        """Same work, same name: 2.25 (PS3.5 B.2) and a UUID of version 5 over what went in and what was done with it."""
        made_by = self.job.algorithm
        work = (
            *("study", self.job.study.study, "inputs", *sorted(self.job.inputs)),
            *("pipeline", self.job.route.pipeline, made_by.name, made_by.version, made_by.digest),
            *("role", str(role), self.part, part),
        )
        name = "\n".join(work)
        return UID(f"2.25.{uuid.uuid5(NAMES, name).int}")

    @staticmethod
    def series_uid(sop_instance_uid: str) -> UID:
        """The series of one of our objects: one object, one series, so its name follows from the object's."""
        return UID(f"2.25.{uuid.uuid5(NAMES, f'series of {sop_instance_uid}').int}")

    def series_number(self, role: Role) -> int:
        """Above every original, one for each pipeline and role; the same on every run over the same originals."""
        slot = int.from_bytes(sha256(f"{self.job.route.pipeline}\n{self.job.route.series}\n{self.part}".encode()).digest()[:4]) % SLOTS
        lowest = FIRST_SERIES_NUMBER
        highest = max((n for n in self.used_series_numbers if n < 2**31 - 2 * NUMBERS * SLOTS), default=0)
        if highest >= lowest:
            lowest = highest - highest % NUMBERS + NUMBERS + 1
        return lowest + NUMBERS * slot + list(Role).index(role)

    def series_description(self, role: Role) -> str:
        """What the reader's list shows. At most 64 characters, VR LO."""
        who = f"AI {self.job.route.pipeline[:20]} {self.job.algorithm.version[:10]}"
        return f"{who} {CONTENT[role]} - RESEARCH"[:64]

    def tracking_uid(self, finding: Finding) -> UID:
        """Tracking UID: the same in the segment and in the measurement group."""
        frame = "" if finding.region is None else str(finding.region.frame)
        return self.uid("TRACKING", f"{finding.name}\n{finding.segment or ''}\n{frame}")

    def tracking_id(self, finding: Finding) -> str:
        """Tracking ID: the same finding in words."""
        number = "" if finding.segment is None else f" {finding.segment}"
        return f"{self.job.route.pipeline} {finding.name}{number}"[:64]

    def segment_tracking(self, result: Result, number: int) -> tuple[str, UID]:
        """Tracking ID and UID of a segment: those of the finding it shows, or its own."""
        for finding in result.findings:
            if finding.segment == number:
                return self.tracking_id(finding), self.tracking_uid(finding)
        return f"{self.job.route.pipeline} segment {number}"[:64], self.uid("TRACKING", f"segment\n{number}")

    def finding_tracking(self, result: Result, finding: Finding) -> tuple[str, UID]:
        """Tracking ID and UID of a finding: those of the segment that shows it."""
        if finding.segment is not None:
            return self.segment_tracking(result, finding.segment)
        return self.tracking_id(finding), self.tracking_uid(finding)

    # --- the frame of every object -------------------------------------------------------------------------------------------
    def new_object(self, role: Role, *, sop_class_uid: str, modality: str, source: Dataset) -> Dataset:
        """An object of the source's patient and study, in a series of its own, marked as ours. Shares nothing with `source`.

        Patient, General Study, Patient Study, General Series, General and Enhanced General Equipment, SOP Common modules.
        """
        ds = Dataset()
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, self.uid(role)
        ds.InstanceCreationDate, ds.InstanceCreationTime = self.date, self.time
        if (zone := zone_of(source)) and self.written_at.tzinfo and self.written_at.utcoffset() == zone.utcoffset(None):
            ds.TimezoneOffsetFromUTC = f"{self.written_at:%z}"  # of the Study Time too, which is the images' own
        for keyword in TYPE_2:
            setattr(ds, keyword, None)
        _copy_text(source, ds, (*PATIENT, *STUDY))
        ds.Modality = modality
        ds.SeriesInstanceUID, ds.SeriesNumber = self.series_uid(ds.SOPInstanceUID), self.series_number(role)
        ds.SeriesDescription = self.series_description(role)
        ds.SeriesDate, ds.SeriesTime = self.date, self.time
        ds.InstanceNumber = 1
        if role not in DATED_OTHERWISE:
            ds.ContentDate, ds.ContentTime = self.date, self.time
        maker = self.equipment()
        ds.Manufacturer, ds.ManufacturerModelName = maker["manufacturer"], maker["manufacturer_model_name"]
        ds.SoftwareVersions, ds.DeviceSerialNumber = maker["software_versions"], maker["device_serial_number"]
        ds.ContributingEquipmentSequence = maker["contributing_equipment"]
        ds.file_meta = FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = sop_class_uid, ds.SOPInstanceUID
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        return ds

    @property
    def date(self) -> str:
        """VR DA."""
        return self.written_at.strftime("%Y%m%d")

    @property
    def time(self) -> str:
        """VR TM."""
        return self.written_at.strftime("%H%M%S")

    def link_said(self, link: ReadingLink) -> str:
        """What a report says beside its link; the time is that of the clock that the object carries."""
        until = f"{link.until.astimezone(self.written_at.tzinfo):%Y-%m-%d %H:%M}"
        return f"The reading page shows this result and takes answers to it, without a password, until {until}."

    @property
    def maker(self) -> Algorithm:
        """Who computed it."""
        return self.job.algorithm


def role_said(series_description: str) -> Role | None:
    """What an object of ours is for, from the words of its Series Description; None when it is none of ours."""
    return next((role for role, words in CONTENT.items() if series_description.endswith(f" {words} - RESEARCH")), None)


def _copy_text(source: Dataset, target: Dataset, keywords: Collection[str]) -> None:
    """Copy attributes as decoded text, so that the target may be written in another character set. Invalid values stay behind."""
    found = Dataset()
    for keyword in keywords:
        if keyword in source:
            found[keyword] = deepcopy(source[keyword])
    if "SpecificCharacterSet" in source:
        found.SpecificCharacterSet = source.SpecificCharacterSet
    found.decode()
    for keyword in keywords:
        if keyword not in found or not _valid(found[keyword]):
            continue
        value = found[keyword].value
        if found[keyword].VR == "PN":  # a PersonName remembers the bytes it was read from; a new one does not
            value = str(value) if found[keyword].VM <= 1 else [str(name) for name in value]
        target.add_new(found[keyword].tag, found[keyword].VR, value)


def _valid(element: DataElement) -> bool:
    """The values are such as their VR allows (PS3.5 6.2): real headers hold an age of "0Y"."""
    if element.VR == "SQ":
        return bool(element.value) and all("CodeValue" in item and "CodeMeaning" in item for item in element.value)
    try:
        for value in element.value if element.VM > 1 else [element.value]:
            if value is not None:
                validate_value(element.VR, str(value), RAISE)
    except ValueError:
        return False
    return True
