"""Result → outlines that OHIF takes over as measurements of its own (its *hydration*), so that a reader can drag, rename and store them.

OHIF knows its own by the Tracking Identifier and by a number that is inferred from the shape (TID 300), and computes that number anew. So this
report has outlines and their areas only; every other number of a result stands in the SR, where nobody overwrites it.
"""

from __future__ import annotations

import cv2
import numpy as np
from highdicom import sr
from highdicom.sr import RelationshipTypeValues as Relation
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as standard

from node import codes
from node.domain import Finding, Result, Role, Study
from node.imaging.volume import Frame, Volume
from node.provenance import Provenance
from node.report import context, document, told
from node.sr_writer import comprehensive, drawn_on, number, where

TOOL = "Cornerstone3DTools@^0.1.0:PlanarFreehandROI"  #: OHIF's name for an outline drawn by hand


def write_editable_sr(study: Study, volume: Volume, result: Result, provenance: Provenance) -> Dataset | None:
    """One measurement group for each finding that has a place; None when none has.

    Comprehensive 3D SR where the images have a frame of reference, else Comprehensive SR. The Tracking UIDs are those of the SR and the SEG.

    Raises
    ------
    ResultInvalid
        When a finding's region is not on one of the volume's frames.

    Standard: PS3.16 TID 1500, TID 1501, TID 300.
    """
    groups, images = [], {}
    for finding in told(result):
        if finding.present is False or (place := where(finding, volume, result)) is None:
            continue
        frame, outline = volume.frames[place[0]], place[1]
        groups.append(_group(finding, frame, outline, volume.pixel_spacing_mm, result, provenance))
        images[frame.instance.sop_instance_uid] = frame.instance
    if not groups:
        return None
    header = volume.frames[0].instance.header
    root = sr.ContainerContentItem(standard.DCM.ImagingMeasurementReport, template_id="1500")
    measurements = sr.ContainerContentItem(standard.DCM.ImagingMeasurements, relationship_type=Relation.CONTAINS)
    measurements.ContentSequence = sr.ContentSequence([item for group in groups for item in group])
    root.ContentSequence = sr.ContentSequence([*context(provenance, header), measurements])
    return document(
        root, provenance, role=Role.SR_EDITABLE, sop_class_uid=comprehensive(volume), header=header, images=list(images.values())
    )


def _group(
    finding: Finding,
    frame: Frame,
    outline: np.ndarray,
    spacing_mm: tuple[float, float] | None,
    result: Result,
    provenance: Provenance,
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 with the area within the outline, (column, row) in pixels of the frame."""
    shape = drawn_on(frame, outline, sr.CoordinatesForMeasurement)
    area = float(cv2.contourArea(np.asarray(outline, np.float32))) * (float(np.prod(spacing_mm)) if spacing_mm else 1.0)
    unit = codes.SQUARE_MILLIMETER if spacing_mm else codes.PIXELS
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=provenance.finding_tracking(result, finding)[1], identifier=TOOL),
        finding_type=finding.code,
        algorithm_id=provenance.algorithm_items(),
        measurements=[sr.Measurement(name=codes.AREA, value=number(area), unit=unit, referenced_coordinates=[shape])],
    )
