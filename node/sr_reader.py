"""Structured report → what it says, so that every encoding outside DICOM says the same as the report itself.

The counterpart of `sr_writer.py`: it reads the Imaging Measurement Report (TID 1500) and the text report (TID 2000) that the node writes.
A report that comes here has its names again, so what is read is not for the hall.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from node.codes import PROCESSING_EQUIPMENT, Code
from node.errors import DeliveryRefused
from node.header_text import in_zone

REPORTS = {EnhancedSRStorage, ComprehensiveSRStorage, Comprehensive3DSRStorage}
PRESENCE, PRESENT, ABSENT = "705057003", codes.SCT.Present.value, codes.SCT.Absent.value
FINDING, FINDING_CATEGORY, FINDING_SITE = "121071", "276214006", "363698007"
LATERALITY = {"272741003", "106233006"}  # SCT: laterality; topographical modifier
GROUP, REGION = "125007", "111030"
NOT_ANALYSED = "Not analysed: "  #: how the one finding of a text report begins when the model was not run
MARK = "A finding without a place has a short mark"  #: how the remark begins that says some regions are no outlines
MARK_WIDTH = 0.021  # of the image's columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A NUM item. `value` is written as the report has it (VR DS), so that nothing is rounded twice."""

    name: Code
    value: str
    unit: Code


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A CODE item that says something of the finding, e.g. Presence: Absent."""

    name: Code
    value: Code


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """A closed line on one image: Graphic Data as (column, row, column, row …), PS3.3 C.18.6."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    frame: int | None  #: of a multi-frame image, from 1
    points: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One measurement group (TID 1410): what was looked for, and what is said about it."""

    number: int  #: 1, 2, 3 … in the order of the report
    finding: Code
    site: Code | None
    laterality: Code | None
    tracking_id: str
    tracking_uid: str
    numbers: tuple[Number, ...]
    evaluations: tuple[Evaluation, ...]
    outline: Outline | None  #: None: it has no place

    @property
    def present(self) -> bool | None:
        """What was decided; None when nothing was."""
        said = next((one.value.value for one in self.evaluations if one.name.value == PRESENCE), "")
        return {PRESENT: True, ABSENT: False}.get(said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """Which model, to the byte; on which node."""

    name: str
    version: str
    source: str
    digest: str  #: SHA-256 of the weights
    node_uid: str
    node_name: str
    node_model: str
    node_version: str
    node_serial: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one structured report says. `header` names the patient."""

    header: Dataset = field(repr=False)
    title: Code
    procedure: Code | None
    written_at: datetime  #: with the zone that the report tells, else that of this machine: it is what DICOM's local time means here
    conclusions: tuple[str, ...]
    findings: tuple[str, ...]  #: in words, those without a group too
    comments: tuple[str, ...]
    reason: str  #: why the series was not analysed; empty: it was
    told: tuple[Told, ...]
    maker: Maker
    series: tuple[str, ...]  #: Series Instance UIDs of what the report refers to
    predecessor: str  #: SOP Instance UID of the report this one replaces, or empty
    reading_link: str  #: where the result is read and answered, or empty

    @property
    def uid(self) -> str:
        """SOP Instance UID."""
        return str(self.header.SOPInstanceUID)

    @property
    def study_uid(self) -> str:
        """Study Instance UID."""
        return str(self.header.StudyInstanceUID)


def read_report(part10: bytes) -> Report | None:
    """The report in a DICOM file (PS3.10 bytes); None when the file holds another kind of object.

    Raises
    ------
    DeliveryRefused
        When it is not a DICOM file, or a report that is not in our shape.
    """
    try:
        header = dcmread(BytesIO(part10), specific_tags=["SOPClassUID"], stop_before_pixels=True)
        if header.SOPClassUID not in REPORTS:
            return None
        return _report(dcmread(BytesIO(part10)))
    except (InvalidDicomError, EOFError) as why:
        raise DeliveryRefused("not a DICOM file") from why
    except (AttributeError, KeyError, IndexError, ValueError, TypeError, StopIteration):  # their words may quote the report
        raise DeliveryRefused("not a report of this node's kind") from None


def _report(ds: Dataset) -> Report:
    texts = [(_name(item), str(item.TextValue)) for item in _items(ds) if item.ValueType == "TEXT"]
    evidence = _evidence(ds)
    groups = [item for item in _items(ds) if item.ValueType == "CONTAINER" and _name(item) == GROUP]
    comments = tuple(text for name, text in texts if name == codes.DCM.Comment.value)
    findings = tuple(text for name, text in texts if name == FINDING)
    edge = _columns(ds) * MARK_WIDTH if any(text.startswith(MARK) for text in comments) else 0.0
    return Report(
        header=ds,
        title=_code(ds.ConceptNameCodeSequence[0]),
        procedure=_coded(ds, codes.DCM.ProcedureReported.value),
        written_at=in_zone(datetime.strptime(f"{ds.ContentDate}{str(ds.ContentTime)[:6]}", "%Y%m%d%H%M%S"), ds),  # noqa: DTZ007
        conclusions=tuple(text for name, text in texts if name == codes.DCM.Conclusion.value),
        findings=findings,
        comments=tuple(text for text in comments if not text.startswith(MARK)),  # a word to those who see the image
        reason=next((text.removeprefix(NOT_ANALYSED) for text in findings if text.startswith(NOT_ANALYSED)), ""),
        told=tuple(_told(number, group, evidence, edge) for number, group in enumerate(groups, 1)),
        maker=_maker(ds),
        series=tuple(dict.fromkeys(evidence.values())),
        reading_link=next((text for name, text in texts if name == codes.DCM.URI.value), ""),
        predecessor=next(iter(_referenced(ds.get("PredecessorDocumentsSequence", ()))), ""),
    )


def _told(number: int, group: Dataset, evidence: dict[str, str], edge: float) -> Told:
    finding, site, laterality = None, None, None
    numbers, evaluations, outline = [], [], None
    tracking_id, tracking_uid = "", ""
    for item in group.ContentSequence:
        name = _name(item)
        match item.ValueType:
            case "CODE" if name == FINDING:
                finding = _code(item.ConceptCodeSequence[0])
            case "CODE" if name == FINDING_SITE:
                site = _code(item.ConceptCodeSequence[0])
                laterality = next(
                    (_code(i.ConceptCodeSequence[0]) for i in item.get("ContentSequence", ()) if _name(i) in LATERALITY), None
                )
            case "CODE" if name != FINDING_CATEGORY and item.RelationshipType == "CONTAINS":
                evaluations.append(Evaluation(name=_code(item.ConceptNameCodeSequence[0]), value=_code(item.ConceptCodeSequence[0])))
            case "NUM":
                [measured] = item.MeasuredValueSequence
                unit = _code(measured.MeasurementUnitsCodeSequence[0])
                numbers.append(Number(name=_code(item.ConceptNameCodeSequence[0]), value=str(measured.NumericValue), unit=unit))
            case "SCOORD" if name == REGION:
                outline = _outline(item, evidence, edge)
            case "TEXT" if name == codes.DCM.TrackingIdentifier.value:
                tracking_id = str(item.TextValue)
            case "UIDREF" if name == codes.DCM.TrackingUniqueIdentifier.value:
                tracking_uid = str(item.UID)
    if finding is None:
        raise ValueError("a group without a finding")
    return Told(
        number=number,
        finding=finding,
        site=site,
        laterality=laterality,
        tracking_id=tracking_id,
        tracking_uid=tracking_uid,
        numbers=tuple(numbers),
        evaluations=tuple(evaluations),
        outline=outline,
    )


def _outline(item: Dataset, evidence: dict[str, str], edge: float) -> Outline | None:
    """None for the short bar at the left edge that stands for "no place"."""
    points = tuple(float(value) for value in item.GraphicData)
    if max(points[::2]) <= edge:
        return None
    [image] = item.ContentSequence[0].ReferencedSOPSequence
    frames = image.get("ReferencedFrameNumber")
    return Outline(
        sop_class_uid=str(image.ReferencedSOPClassUID),
        sop_instance_uid=str(image.ReferencedSOPInstanceUID),
        series_instance_uid=evidence.get(str(image.ReferencedSOPInstanceUID), ""),
        frame=int(frames if isinstance(frames, int | str) else frames[0]) if frames is not None else None,
        points=points,
    )


def _maker(ds: Dataset) -> Maker:
    """From Contributing Equipment (PS3.3 C.12.1.5) and General Equipment: both kinds of report have them."""
    by = next(
        item for item in ds.ContributingEquipmentSequence if item.PurposeOfReferenceCodeSequence[0].CodeValue == PROCESSING_EQUIPMENT.value
    )
    versions = by.get("SoftwareVersions") or ""
    digest = re.search(r"SHA-256 ([0-9a-f]{64})", str(by.get("ContributionDescription", "")))
    observer = next(
        (str(item.UID) for item in _items(ds) if item.ValueType == "UIDREF" and _name(item) == codes.DCM.DeviceObserverUID.value), ""
    )
    return Maker(
        name=str(by.get("ManufacturerModelName", "")),
        version=str(versions) if isinstance(versions, str) else str(versions[0]),
        source=str(by.get("Manufacturer", "")),
        digest=digest[1] if digest else "",
        node_uid=observer,
        node_name=str(ds.get("Manufacturer", "")),
        node_model=str(ds.get("ManufacturerModelName", "")),
        node_version=str(ds.get("SoftwareVersions", "")),
        node_serial=str(ds.get("DeviceSerialNumber", "")),
    )


# --- content items --------------------------------------------------------------------------------------------------------------
def _items(ds: Dataset) -> Iterator[Dataset]:
    """Every content item below, in the order of the tree."""
    for item in ds.get("ContentSequence", ()):
        yield item
        yield from _items(item)


def _name(item: Dataset) -> str:
    """The Code Value of an item's concept name; empty for an item without one."""
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""


def _code(item: Dataset) -> Code:
    return Code(str(item.CodeValue), str(item.CodingSchemeDesignator), str(item.CodeMeaning))


def _coded(ds: Dataset, name: str) -> Code | None:
    return next((_code(i.ConceptCodeSequence[0]) for i in _items(ds) if i.ValueType == "CODE" and _name(i) == name), None)


def _columns(ds: Dataset) -> int:
    """Of the images that were analysed: they come first in the image library."""
    named = (i for i in _items(ds) if i.ValueType == "NUM" and _name(i) == codes.DCM.PixelDataColumns.value)
    return next((int(i.MeasuredValueSequence[0].NumericValue) for i in named), 0)


def _evidence(ds: Dataset) -> dict[str, str]:
    """SOP Instance UID → Series Instance UID of everything that the report refers to."""
    return {
        str(sop.ReferencedSOPInstanceUID): str(series.SeriesInstanceUID)
        for study in ds.get("CurrentRequestedProcedureEvidenceSequence", ())
        for series in study.ReferencedSeriesSequence
        for sop in series.ReferencedSOPSequence
    }


def _referenced(studies: list[Dataset]) -> Iterator[str]:
    for study in studies:
        for series in study.ReferencedSeriesSequence:
            for sop in series.ReferencedSOPSequence:
                yield str(sop.ReferencedSOPInstanceUID)
