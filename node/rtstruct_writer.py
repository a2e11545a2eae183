"""Result → RT Structure Set: the segments as closed contours in the patient's coordinates, for planning systems."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage

from node.derived import check_frames, check_geometry, reference_to
from node.domain import Result, Role, Segment, Study
from node.errors import ResultInvalid
from node.imaging.volume import Volume
from node.provenance import RESEARCH, Provenance

if TYPE_CHECKING:
    from node.imaging.contours import Points

STUDY_COMPONENT = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, retired; what RT Referenced Study Sequence has always named


def write_rtstruct(study: Study, volume: Volume, result: Result, provenance: Provenance) -> Dataset | None:
    """One ROI for each segment; None when there is no segment with a voxel, or no frame of reference to draw in.

    Contours run along the edges between pixels, half a pixel outside of the outermost centres. A hole is joined to its contour by a
    keyhole (PS3.3 C.8.8.6.3), since CLOSED_PLANAR knows no holes.

    Raises
    ------
    ResultInvalid
        When a mask or the geometry is not that of the images.

    Standard: PS3.3 A.19, C.8.8.5, C.8.8.6, C.8.8.8.
    """
    header = volume.frames[0].instance.header
    if volume.affine is None or not header.get("FrameOfReferenceUID") or not any(s.mask.any() for s in result.segments):
        return None
    for segment in result.segments:
        if segment.mask.shape != volume.pixels.shape[:3]:
            raise ResultInvalid("A mask is not on the grid of its images.", segment=segment.number)
    check_frames(volume)
    check_geometry(volume)
    ds = provenance.new_object(Role.RTSTRUCT, sop_class_uid=RTStructureSetStorage, modality="RTSTRUCT", source=header)
    ds.OperatorsName = None
    ds.StructureSetLabel, ds.StructureSetDate, ds.StructureSetTime = "AI_SEGMENTS", provenance.date, provenance.time
    ds.StructureSetName = provenance.series_description(Role.RTSTRUCT)
    ds.StructureSetDescription = f"{provenance.maker.name} {provenance.maker.version}. {RESEARCH}."[:1024]
    ds.ApprovalStatus = "UNAPPROVED"
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = str(header.FrameOfReferenceUID), header.get("PositionReferenceIndicator")
    ds.ReferencedFrameOfReferenceSequence = [_frame_of_reference(volume, ds.StudyInstanceUID)]
    shown = [segment for segment in result.segments if segment.mask.any()]
    ds.StructureSetROISequence = [_roi(segment, str(header.FrameOfReferenceUID), result, provenance) for segment in shown]
    ds.ROIContourSequence = [_contours(segment, volume) for segment in shown]
    ds.RTROIObservationsSequence = [_observation(n, segment) for n, segment in enumerate(shown, 1)]
    return ds


def _frame_of_reference(volume: Volume, study_instance_uid: str) -> Dataset:
    """Which images the contours were drawn on."""
    series, of_study, reference = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = volume.series.series_instance_uid
    series.ContourImageSequence = [reference_to(frame, with_frame=True) for frame in volume.frames]
    of_study.ReferencedSOPClassUID, of_study.ReferencedSOPInstanceUID = STUDY_COMPONENT, study_instance_uid
    of_study.RTReferencedSeriesSequence = [series]
    reference.FrameOfReferenceUID = str(volume.frames[0].instance.header.FrameOfReferenceUID)
    reference.RTReferencedStudySequence = [of_study]
    return reference


def _roi(segment: Segment, frame_of_reference: str, result: Result, provenance: Provenance) -> Dataset:
    """What is drawn and by whom, with the tracking id that it shares with the segment and the report."""
    item = Dataset()
    item.ROINumber, item.ROIName = segment.number, segment.label[:64]
    item.ROIDescription = f"Tracking ID {provenance.segment_tracking(result, segment.number)[0]}"[:1024]
    item.ReferencedFrameOfReferenceUID = frame_of_reference
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = f"{provenance.maker.name} {provenance.maker.version}"[:64]
    return item


def _observation(number: int, segment: Segment) -> Dataset:
    """What the ROI is, in the segment's codes."""
    item, code = Dataset(), Dataset()
    item.ObservationNumber, item.ReferencedROINumber = number, segment.number
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = segment.type.value, segment.type.scheme_designator, segment.type.meaning
    item.RTROIIdentificationCodeSequence = [code]
    item.RTROIInterpretedType, item.ROIInterpreter = None, None
    return item


# --- contours -------------------------------------------------------------------------------------------------------------
def _contours(segment: Segment, volume: Volume) -> Dataset:
    from node.imaging.contours import closed_contours  # its libraries take longer to load than all the rest of a gateway

    item = Dataset()
    item.ReferencedROINumber = segment.number
    item.ROIDisplayColor = [int(c) for c in segment.color]
    item.ContourSequence = []
    for at in np.flatnonzero(segment.mask.any(axis=(1, 2))):
        for outline in closed_contours(segment.mask[at]):
            contour = Dataset()
            contour.ContourImageSequence = [reference_to(volume.frames[at], with_frame=True)]
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(outline)
            contour.ContourNumber = len(item.ContourSequence) + 1
            contour.ContourData = [f"{value:.2f}" for value in _in_patient(outline, int(at), volume).ravel()]
            item.ContourSequence.append(contour)
    return item


def _in_patient(outline: Points, at: int, volume: Volume) -> Points:
    """Millimetres in LPS, PS3.3 C.7.6.2.1.1."""
    assert volume.affine is not None
    voxels = np.column_stack([outline, np.full(len(outline), at), np.ones(len(outline))])
    placed: Points = (volume.affine @ voxels.T).T[:, :3]
    return placed
