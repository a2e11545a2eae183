"""Result → structured report: an overall answer first, then one measurement group for each finding, drawn on an image.

Two shapes. What was found, or looked for and not found, is an Imaging Measurement Report (TID 1500). A series that was not analysed has
nothing to measure, and viewers lose the whole report over a group without coordinates: the reason is a Basic Diagnostic Imaging Report
(TID 2000), which they show as a page of text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import TypeVar

import numpy as np
from highdicom import sr
from highdicom.sr import RelationshipTypeValues as Relation
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as standard
from pydicom.uid import UID, Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from node import codes
from node.codes import Code
from node.derived import class_like
from node.domain import Finding, Instance, Result, Role, Series, Study
from node.errors import ResultInvalid
from node.imaging.decode import frame_count
from node.imaging.volume import Frame, Volume
from node.picture import frame_round, key_frames, outline_of
from node.provenance import Provenance
from node.report import context, document, looked_at, text_report, texts, told

SEGMENTATION = Code("SEG", "DCM", "Segmentation")
SOURCE = Code("260753009", "SCT", "Source")
PRESENCE = Code("705057003", "SCT", "Presence")
PROBABILITY_OF_CANCER = Code("111047", "DCM", "Probability of cancer")
CANCER = {"86049000", "363346000", "1240414004"}  # SCT: malignant neoplasms
MODALITIES = {concept.value: concept for concept in (getattr(standard.cid29, name) for name in standard.cid29.dir())} | {
    "SEG": SEGMENTATION
}
Shape = TypeVar("Shape", sr.ImageRegion, sr.CoordinatesForMeasurement)
FIRST_ROW = 0.12  # below the words that viewers write into the corner
LINE, GAP = 0.028, 0.02  # of the image's height: what a viewer's words beside a region take


def write_sr(
    study: Study,
    volume: Volume | None,
    result: Result,
    provenance: Provenance,
    *,
    seg: Dataset | None,
    sc: Dataset | None,
    series: Series,
    predecessor: tuple[str, str] | None = None,
    role: Role = Role.SR,
) -> Dataset:
    """The report of one Job, unverified.

    Parameters
    ----------
    role : Role.SR or Role.SR_ENHANCED
        Comprehensive 3D SR where the images have a frame of reference, else Comprehensive SR; or Enhanced SR, with the same content.
    volume : Volume or None
        None when the series could not even be opened; then the result is "not analysed".
    seg, sc : Dataset or None
        The other objects of this result; the report refers to them, and a group and its segment share their Tracking UID.
    predecessor : (SOP Class UID, SOP Instance UID) or None
        The report this one replaces.

    Raises
    ------
    ResultInvalid
        When a finding's region is not on one of the volume's frames.

    Standard: PS3.3 A.35.3, A.35.13, A.35.2; PS3.16 TID 1500, TID 2000.
    """
    groups = _groups(volume, result, provenance) if volume is not None and result.analysed else []
    header = volume.frames[0].instance.header if volume is not None else series.header
    images = looked_at(volume, series)
    if groups and volume is not None:
        sop_class = EnhancedSRStorage if role is Role.SR_ENHANCED else comprehensive(volume)
        root = _measurement_report(result, provenance, header, images, groups, seg=seg, sc=sc)
    else:
        sop_class = EnhancedSRStorage
        root = text_report(result, provenance, header)
    return document(
        root,
        provenance,
        role=role,
        sop_class_uid=sop_class,
        header=header,
        images=images,
        objects=[one for one in (seg, sc) if one is not None],
        predecessor=predecessor,
    )


def comprehensive(volume: Volume) -> UID:
    """SOP Class UID: Comprehensive 3D SR where the images have a frame of reference, else Comprehensive SR."""
    in_space = volume.frames[0].instance.header.get("FrameOfReferenceUID") and volume.affine is not None
    return Comprehensive3DSRStorage if in_space else ComprehensiveSRStorage


# --- TID 1500 ---------------------------------------------------------------------------------------------------------------
def _measurement_report(
    result: Result,
    provenance: Provenance,
    header: Dataset,
    images: Sequence[Instance],
    groups: Sequence[sr.PlanarROIMeasurementsAndQualitativeEvaluations],
    *,
    seg: Dataset | None,
    sc: Dataset | None,
) -> Dataset:
    root = sr.ContainerContentItem(standard.DCM.ImagingMeasurementReport, template_id="1500")
    summary = sr.ContainerContentItem(standard.DCM.Summary, relationship_type=Relation.CONTAINS)
    summary.ContentSequence = texts(result, provenance, marks=True)
    measurements = sr.ContainerContentItem(standard.DCM.ImagingMeasurements, relationship_type=Relation.CONTAINS)
    measurements.ContentSequence = sr.ContentSequence([item for group in groups for item in group])
    root.ContentSequence = sr.ContentSequence([*context(provenance, header), summary, _library(images, seg, sc), measurements])
    return root


def _groups(volume: Volume, result: Result, provenance: Provenance) -> list[sr.PlanarROIMeasurementsAndQualitativeEvaluations]:
    """One TID 1410 group for each finding something is said about, each with a region: OHIF loses the report over one without."""
    groups = []
    row = FIRST_ROW
    for finding in sorted(told(result), key=lambda f: f.region is None and f.segment is None):  # the view opens on the first group
        at, outline = where(finding, volume, result) or (None, None)
        if at is None or outline is None:
            at, outline = key_frames(volume, result)[0], _mark(volume, row)
            row += GAP + LINE * (1 + len(finding.measurements) + (finding.site is not None))
        groups.append(_group(finding, volume.frames[at], outline, result, provenance))
    return groups


def where(finding: Finding, volume: Volume, result: Result) -> tuple[int, np.ndarray] | None:
    """Frame of the volume and closed outline: the finding's, or its segment's on the largest slice. None: it has no place."""
    if finding.region is not None:
        if not 0 <= finding.region.frame < len(volume.frames):
            raise ResultInvalid("A finding's region is on a frame that the volume does not have.", frame=finding.region.frame)
        rows, columns = volume.pixels.shape[1:3]
        return finding.region.frame, _closed(finding.region.outline, rows, columns)
    for segment in result.segments:
        if segment.number == finding.segment and segment.mask.any():
            at = int(segment.mask.sum(axis=(1, 2)).argmax())
            return at, outline_of(segment.mask[at])
    return None


def _mark(volume: Volume, row: float) -> np.ndarray:
    """A short bar at the left edge, `row` of the image's height from the top.

    OHIF writes a group's numbers to the right of its region: beside a frame round the whole image nobody can read them, and those of
    several findings cover each other. Bars make a list.
    """
    rows, columns = volume.pixels.shape[1:3]
    row = FIRST_ROW + (row - FIRST_ROW) % (0.9 - FIRST_ROW)
    return frame_round(0.005 * columns, row * rows, 0.02 * columns, (row + LINE) * rows)


def _closed(outline: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Within the image, the last point the first again, and more than five points: viewers take fewer for a shape to be edited."""
    points = np.asarray(outline, np.float32).reshape(-1, 2)
    if len(points) < 3 or not np.isfinite(points).all():
        raise ResultInvalid("A finding's region is not an outline.", points=len(points))
    points = np.clip(points, 0, (columns, rows))
    if not np.array_equal(points[0], points[-1]):
        points = np.vstack([points, points[:1]])
    while len(points) < 7:
        middles = (points[:-1] + points[1:]) / 2
        points = np.vstack([np.stack([points[:-1], middles], axis=1).reshape(-1, 2), points[-1:]])
    return points


def _group(
    finding: Finding, frame: Frame, outline: np.ndarray, result: Result, provenance: Provenance
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """TID 1410. Numbers have no children (OHIF skips those that have): algorithm and method stand at the group."""
    tracking_id, tracking_uid = provenance.finding_tracking(result, finding)
    numbers = []
    if finding.probability is not None:
        numbers.append(sr.Measurement(name=_probability(finding), value=round(100 * finding.probability, 2), unit=codes.PERCENT))
    numbers += [sr.Measurement(name=m.name, value=number(m.value), unit=m.unit) for m in finding.measurements]
    decided = []
    if finding.present is not None:
        value = standard.SCT.Present if finding.present else standard.SCT.Absent
        decided.append(sr.QualitativeEvaluation(name=PRESENCE, value=value))
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=tracking_uid, identifier=tracking_id),
        referenced_region=drawn_on(frame, outline, sr.ImageRegion),
        finding_type=finding.code,
        algorithm_id=provenance.algorithm_items(),
        finding_sites=[sr.FindingSite(finding.site, laterality=finding.laterality)] if finding.site is not None else None,
        measurements=numbers or None,
        qualitative_evaluations=decided or None,
    )


def drawn_on(frame: Frame, outline: np.ndarray, kind: type[Shape]) -> Shape:
    """A closed outline, (column, row), on its image. The constructors know no retired class; the reference has the image's own."""
    header = frame.instance.header
    source = sr.SourceImageForRegion(class_like(header), header.SOPInstanceUID, [frame.number] if frame_count(header) > 1 else None)
    shape = kind(sr.GraphicTypeValues.POLYLINE, np.asarray(outline, np.float64), source)
    shape.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPClassUID = header.SOPClassUID
    return shape


def _probability(finding: Finding) -> Code:
    """The concept of a finding's probability. Its meaning is what OHIF writes beside the region, so it says of what."""
    if finding.code.value in CANCER:
        return PROBABILITY_OF_CANCER
    name = re.sub(r"[^A-Z0-9]+", "_", finding.name.upper()).strip("_")
    if len(name) > 14 or not finding.name.isascii():  # Code Value has 16 characters, and none of most scripts
        name = f"{name[:7]}_{sha256(finding.name.encode()).hexdigest()[:6].upper()}".lstrip("_")
    return codes.private(f"P_{name}", f"Probability of {finding.name}"[:64])


def number(value: float) -> float:
    """VR DS has 16 characters."""
    return float(f"{value:.6g}")


def _library(images: Sequence[Instance], seg: Dataset | None, sc: Dataset | None) -> sr.ContainerContentItem:
    """TID 1600: the images that were analysed, a group for each series, then what was made of them; descriptors once for a group (TID 1602)."""
    library = sr.ContainerContentItem(standard.DCM.ImageLibrary, relationship_type=Relation.CONTAINS)
    by_series: dict[str, list[Dataset]] = {}
    for image in images:
        by_series.setdefault(str(image.header.SeriesInstanceUID), []).append(image.header)
    groups = [_library_group(headers) for headers in by_series.values()]
    groups += [_library_group([o]) for o in (seg, sc) if o is not None and o.SOPClassUID != codes.LABEL_MAP]  # DCMTK loses a report over it
    library.ContentSequence = sr.ContentSequence(groups)
    return library


def _library_group(images: Sequence[Dataset]) -> sr.ContainerContentItem:
    """Images with what they have in common."""
    acquired, first = Relation.HAS_ACQ_CONTEXT, images[0]
    group = sr.ContainerContentItem(standard.DCM.ImageLibraryGroup, relationship_type=Relation.CONTAINS)
    items: list[sr.ContentItem] = []
    modality = MODALITIES.get(str(first.get("Modality") or ""))
    if modality is not None:
        items.append(sr.CodeContentItem(standard.DCM.Modality, modality, acquired))
    if first.get("FrameOfReferenceUID") and len({image.get("FrameOfReferenceUID") for image in images}) == 1:
        items.append(sr.UIDRefContentItem(standard.DCM.FrameOfReferenceUID, str(first.FrameOfReferenceUID), acquired))
    for name, keyword in ((standard.DCM.PixelDataRows, "Rows"), (standard.DCM.PixelDataColumns, "Columns")):
        sizes = {image.get(keyword) for image in images}
        if len(sizes) == 1 and None not in sizes:
            items.append(sr.NumContentItem(name, int(first[keyword].value), codes.PIXELS, relationship_type=acquired))
    for image in images:
        items.append(sr.ImageContentItem(SOURCE, image.SOPClassUID, image.SOPInstanceUID, relationship_type=Relation.CONTAINS))
    group.ContentSequence = sr.ContentSequence(items)
    return group
