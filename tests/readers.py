"""Readers' objects as viewers write them: an assessment SR, a report and a SEG that were edited. Made from what was delivered, names and all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ComprehensiveSRStorage, EnhancedSRStorage, ExplicitVRLittleEndian, generate_uid

READER = "Röntgen^Wilma^^Dr."
CORNERSTONE = "Cornerstone3DTools@^0.1.0:PlanarFreehandROI"

IN_WORDS = {  # as a vendor might code it
    "accept": ("AIRA-ACCEPT", "99PACS", "AI Result Accepted"),
    "modify": ("V2", "99VENDOR", "Modified"),
    "reject": ("V3", "99VENDOR", "Rejected by reader"),
}


def tracking_uids(report: Dataset) -> dict[str, str]:
    """Tracking Identifier → Tracking Unique Identifier of every group of a report of ours."""
    found: dict[str, str] = {}
    for group in groups_of(report):
        told = {item.ConceptNameCodeSequence[0].CodeValue: item for item in group.ContentSequence}
        found[str(told["112039"].TextValue)] = str(told["112040"].UID)
    return found


def groups_of(report: Dataset) -> list[Dataset]:
    """Its measurement groups."""
    [measurements] = [i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010"]
    return [i for i in measurements.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "125007"]


def aira_report(
    report: Dataset,
    decision: str,
    *,
    tracking_uid: str = "",
    reason: str = "",
    reader: str = READER,
    codes_of: Mapping[str, Any] = IN_WORDS,
) -> Dataset:
    """An assessment SR: a coded decision about one finding (by its Tracking UID) or, without one, about the whole result."""
    ds = _document(report, EnhancedSRStorage, "AI Result Assessment", reader)
    group = _container("Assessed result")
    if tracking_uid:
        group.ContentSequence.append(_item("UIDREF", ("112040", "DCM", "Tracking Unique Identifier"), UID=tracking_uid))
    else:
        group.ContentSequence.append(_composite(report))
    group.ContentSequence.append(_code(("A1", "99VENDOR", "Assessment decision"), codes_of[decision]))
    if reason:
        group.ContentSequence.append(_item("TEXT", ("A2", "99VENDOR", "Reason for rejection"), TextValue=reason))
    ds.ContentSequence.append(group)
    ds.CurrentRequestedProcedureEvidenceSequence = [_evidence(report)]
    return ds


def ohif_report(report: Dataset, change: Callable[[NDArray[Any]], NDArray[Any]], *, more: Sequence[Dataset] = (), most: int = 1) -> Dataset:
    """As OHIF stores hydrated measurements: its own tool's name, our Tracking UID, the reader's outline, numbers computed anew."""
    ds = _document(report, ComprehensiveSRStorage, "Imaging Measurement Report", "unknown^unknown")
    ds.ConceptNameCodeSequence = [_coded(("126000", "DCM", "Imaging Measurement Report"))]
    ds.Manufacturer, ds.ManufacturerModelName = "OHIF", "OHIF-Viewer"
    measurements = _container("Imaging Measurements", ("126010", "DCM"))
    for group in [*groups_of(report)[:most], *more]:
        measurements.ContentSequence.append(_ohif_group(group, change))
    ds.ContentSequence.append(measurements)
    return ds


def a_new_group(report: Dataset) -> Dataset:
    """A group that we had not: the first of ours under a name of its own."""
    group = deepcopy(groups_of(report)[0])
    for item in group.ContentSequence:
        if item.ConceptNameCodeSequence[0].CodeValue == "112040":
            item.UID = generate_uid()
    return group


def edited_seg(
    ours: Dataset, change: Callable[[NDArray[Any]], NDArray[Any]], images: Sequence[Dataset], *, editor: str, kind: str = "BINARY"
) -> Dataset:
    """Our SEG after a reader's brush: `slicer` keeps Tracking UIDs and names of algorithms, `ohif` writes segments anew."""
    before = ours.pixel_array
    masks = change((before if before.ndim == 3 else before[None]).astype(bool))
    segment = ours.SegmentSequence[0]
    slicer = editor == "slicer"
    description = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=segment.SegmentLabel,
        segmented_property_category=_concept(segment.SegmentedPropertyCategoryCodeSequence[0]) if slicer else codes.SCT.Tissue,
        segmented_property_type=_concept(segment.SegmentedPropertyTypeCodeSequence[0]) if slicer else codes.SCT.Tissue,
        algorithm_type="SEMIAUTOMATIC" if slicer else "MANUAL",
        algorithm_identification=hd.AlgorithmIdentificationSequence("Editor", codes.cid7162.ArtificialIntelligence, "5")
        if slicer
        else None,
        tracking_uid=segment.TrackingUID if slicer else None,
        tracking_id=segment.TrackingID if slicer else None,
    )
    return hd.seg.Segmentation(
        source_images=list(images),
        pixel_array=masks.astype(np.uint8),
        segmentation_type=kind,
        segment_descriptions=[description],
        series_instance_uid=generate_uid(),
        series_number=200,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="QIICR" if slicer else "OHIF",
        manufacturer_model_name="dcmqi" if slicer else "OHIF-Viewer",
        software_versions="1.3",
        device_serial_number="0",
        content_creator_name=READER if slicer else None,
        omit_empty_frames=False,
    )


# --- below ------------------------------------------------------------------------------------------------------------------
def _document(report: Dataset, sop_class: str, title: str, reader: str) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword in ("SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"):
        setattr(ds, keyword, report.get(keyword))
    for keyword in ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"):
        setattr(ds, keyword, report.get(keyword))
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = sop_class, generate_uid(), generate_uid()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = sop_class, ds.SOPInstanceUID
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "SR", 300, 1
    ds.Manufacturer = "Vendor"
    ds.ContentDate, ds.ContentTime = report.ContentDate, report.ContentTime
    ds.ReferencedPerformedProcedureStepSequence, ds.PerformedProcedureCodeSequence = [], []
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = [_coded(("A0", "99VENDOR", title))]
    observer = _item("PNAME", ("121008", "DCM", "Person Observer Name"), PersonName=reader)
    observer.RelationshipType = "HAS OBS CONTEXT"
    ds.ContentSequence = [observer]
    return ds


def _ohif_group(group: Dataset, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Dataset:
    out = deepcopy(group)
    for item in out.ContentSequence:
        if item.ConceptNameCodeSequence[0].CodeValue == "112039":
            item.TextValue = CORNERSTONE
        if item.ValueType == "SCOORD":
            points = np.asarray(item.GraphicData, float).reshape(-1, 2)
            item.GraphicData = [float(v) for v in change(points).ravel()]
    return out


def _container(meaning: str, code: tuple[str, str] = ("A9", "99VENDOR")) -> Dataset:
    item = _item("CONTAINER", (*code, meaning))
    item.ContinuityOfContent, item.ContentSequence = "SEPARATE", []
    return item


def _item(value_type: str, concept: tuple[str, str, str], **value: Any) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", value_type
    item.ConceptNameCodeSequence = [_coded(concept)]
    for keyword, one in value.items():
        setattr(item, keyword, one)
    return item


def _code(concept: tuple[str, str, str], value: tuple[str, str, str]) -> Dataset:
    return _item("CODE", concept, ConceptCodeSequence=[_coded(value)])


def _composite(of: Dataset) -> Dataset:
    return _item("COMPOSITE", ("A3", "99VENDOR", "AI result"), ReferencedSOPSequence=[_reference(of)])


def _evidence(of: Dataset) -> Dataset:
    study, series = Dataset(), Dataset()
    study.StudyInstanceUID, series.SeriesInstanceUID = of.StudyInstanceUID, of.SeriesInstanceUID
    series.ReferencedSOPSequence, study.ReferencedSeriesSequence = [_reference(of)], [series]
    return study


def _reference(of: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = of.SOPClassUID, of.SOPInstanceUID
    return item


def _coded(code: tuple[str, str, str]) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def _concept(item: Dataset) -> CodedConcept:
    return CodedConcept(item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning)
