"""An object made of a volume's frames: its geometry, its references, its functional groups. PS3.3 C.7.6.16, C.12.2.

What viewers need beyond the Standard is said where it is done.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from highdicom.sr.coding import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import UID, UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

from node.codes import Code
from node.errors import ResultInvalid
from node.imaging.decode import frame_count
from node.imaging.functional import number_of, numbers_of
from node.imaging.volume import Frame, Volume

CODE_STRING = re.compile("[A-Z0-9_ ]+")  #: VR CS; people write "CHEST/ABD" into it
POSITION_TOLERANCE = 0.1  # of the distance between frames


#: parts that a body has once, PS3.16 Annex L
UNPAIRED = frozenset(
    (
        *("ABDOMEN", "ABDOMENPELVIS", "AORTA", "BLADDER", "BRAIN", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "COCCYX"),
        *("COLON", "CSPINE", "CTSPINE", "ESOPHAGUS", "HEAD", "HEADNECK", "HEART", "JAW", "LIVER"),
        *("LSPINE", "LSSPINE", "MEDIASTINUM", "NECK", "NECKCHEST", "NECKCHESTABDOMEN", "NECKCHESTABDPELV", "NOSE", "PANCREAS"),
        *("PELVIS", "PROSTATE", "SKULL", "SPINE", "SPLEEN", "SSPINE", "STERNUM", "STOMACH", "THYROID"),
        *("TLSPINE", "TRACHEA", "TSPINE", "UTERUS", "WHOLEBODY"),
    )
)


# --- does it fit? ---------------------------------------------------------------------------------------------------------
def check_frames(volume: Volume) -> None:
    """Every frame of the volume is one of its image, of the volume's size."""
    for frame in volume.frames:
        header = frame.instance.header
        if (header.Rows, header.Columns) != volume.pixels.shape[1:3]:
            raise ResultInvalid("The volume does not have the rows and columns of its images.")
        if not 1 <= frame.number <= frame_count(header):
            raise ResultInvalid("The volume names a frame that its image does not have.", frame=frame.number)


def body_part(ds: Dataset, header: Dataset) -> None:
    """Body Part Examined, and Laterality (Type 2C, PS3.3 C.7.3.1): absent for an unpaired part, empty when the side is not known."""
    part = str(header.get("BodyPartExamined") or "").strip().upper()
    if CODE_STRING.fullmatch(part):
        ds.BodyPartExamined = part[:16]
    if part not in UNPAIRED:
        ds.Laterality = header.get("Laterality") if header.get("Laterality") in ("L", "R") else None


def class_like(header: Dataset) -> UID:
    """A SOP Class that highdicom knows, for an image with as many frames: it looks classes up, and old archives hold retired ones. The image's
    own has to be put back into what is written.
    """
    return UltrasoundMultiFrameImageStorage if frame_count(header) > 1 else UltrasoundImageStorage


def lossy(ds: Dataset, volume: Volume) -> None:
    """What was lost in the images stays lost in what is derived from them, PS3.3 C.7.6.1.1.5."""
    ds.LossyImageCompression = "00"
    for frame in volume.frames:
        header = frame.instance.header
        if header.get("LossyImageCompression") == "01":
            ds.LossyImageCompression = "01"
            for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
                if header.get(keyword):
                    setattr(ds, keyword, header.get(keyword))
            return


def check_geometry(volume: Volume) -> None:
    """Position and orientation in the headers are those of the affine."""
    if volume.affine is None:
        return
    step = max(float(np.linalg.norm(volume.affine[:3, 2])), 1.0)
    for at, frame in enumerate(volume.frames):
        position, orientation, spacing = plane_of(frame)
        if position is None or orientation is None or spacing is None:
            raise ResultInvalid("The volume has a geometry and its images have none.")
        if np.linalg.norm((volume.affine @ [0, 0, at, 1])[:3] - position) > POSITION_TOLERANCE * step:
            raise ResultInvalid("The volume's frames do not lie where their images lie.", frame=at)
        axes = np.stack([orientation[:3] * spacing[1], orientation[3:] * spacing[0]], axis=1)
        if not np.allclose(volume.affine[:3, :2], axes, rtol=0.01, atol=0.01 * float(spacing.max())):
            raise ResultInvalid("The volume's rows and columns do not run as those of its images.", frame=at)


# --- where it comes from, where it lies ------------------------------------------------------------------------------------
def references(ds: Dataset, volume: Volume) -> None:
    """Common Instance Reference, PS3.3 C.12.2. OHIF drops a SEG without a Referenced Series Sequence."""
    seen: dict[str, Dataset] = {}
    for frame in volume.frames:
        if frame.instance.sop_instance_uid not in seen:
            seen[frame.instance.sop_instance_uid] = reference_to(frame, with_frame=False)
    series = Dataset()
    series.ReferencedInstanceSequence = list(seen.values())
    series.SeriesInstanceUID = volume.series.series_instance_uid
    ds.ReferencedSeriesSequence = [series]


def dimensions(ds: Dataset, volume: Volume, uid: str, *, by_segment: bool) -> None:
    """Multi-frame Dimension, PS3.3 C.7.6.17: by segment where there are any, then by place. And the Frame of Reference."""
    organization = Dataset()
    organization.DimensionOrganizationUID = uid
    ds.DimensionOrganizationSequence = [organization]
    place = (
        ("ImagePositionPatient", "PlanePositionSequence")
        if volume.affine is not None
        else ("InStackPositionNumber", "FrameContentSequence")
    )
    pointers = [("ReferencedSegmentNumber", "SegmentIdentificationSequence"), place] if by_segment else [place]
    ds.DimensionIndexSequence = []
    for attribute, group in pointers:
        index = Dataset()
        index.DimensionIndexPointer, index.FunctionalGroupPointer = Tag(attribute), Tag(group)
        index.DimensionOrganizationUID = organization.DimensionOrganizationUID
        index.DimensionDescriptionLabel = attribute
        ds.DimensionIndexSequence.append(index)
    header = volume.frames[0].instance.header
    if volume.affine is not None and header.get("FrameOfReferenceUID"):
        ds.FrameOfReferenceUID = str(header.FrameOfReferenceUID)
        ds.PositionReferenceIndicator = header.get("PositionReferenceIndicator")


def shared_groups(volume: Volume) -> Dataset:
    """Pixel Measures and Plane Orientation, always: OHIF goes black without them, also where the Standard asks for none."""
    measures, plane, shared = Dataset(), Dataset(), Dataset()
    between = volume.spacing_mm[0] if volume.spacing_mm else 0.0
    known = volume.pixel_spacing_mm
    row, column = known if known and min(known) > 0 else (1.0, 1.0)
    measures.PixelSpacing = [decimal(row), decimal(column)]
    measures.SliceThickness = measures.SpacingBetweenSlices = decimal(between if volume.affine is not None and between > 0 else 1.0)
    header = volume.frames[0].instance.header
    if volume.affine is None:
        plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]  # flat, invented; there is no frame of reference to be wrong in
    else:
        plane.ImageOrientationPatient = [decimal(v) for v in _required(plane_of(volume.frames[0])[1])]
        thickness = number_of(header, volume.frames[0].number, "PixelMeasuresSequence", "SliceThickness", 0.0)
        if thickness > 0:
            measures.SliceThickness = decimal(thickness)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    return shared


class Place(NamedTuple):
    """One frame of the object: made of the volume's frame `at` (from 0), its place in the stack `rank` (from 1), of which segment."""

    at: int
    rank: int
    segment: int | None = None


def frame_groups(volume: Volume, places: Iterable[Place], derivation: Code = codes.DCM.Segmentation) -> list[Dataset]:
    """Per-frame functional groups. What segments have in common on one frame of the volume is built once: a hundred segments are quick."""
    common: dict[int, Dataset] = {}
    items = []
    for place in places:
        if place.at not in common:
            common[place.at] = _common(volume, place.at, derivation)
        item, content = Dataset(), Dataset()
        for element in common[place.at]:
            item[element.tag] = element
        content.DimensionIndexValues = [place.rank] if place.segment is None else [place.segment, place.rank]
        if volume.affine is None:
            content.StackID, content.InStackPositionNumber = "1", place.rank
        item.FrameContentSequence = [content]
        if place.segment is not None:
            named = Dataset()
            named.ReferencedSegmentNumber = place.segment
            item.SegmentIdentificationSequence = [named]
        items.append(item)
    return items


def _common(volume: Volume, at: int, derivation: Code) -> Dataset:
    """Where a frame lies and what it is made of."""
    source = volume.frames[at]
    image = reference_to(source, with_frame=True)
    image.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)]
    derived, position, item = Dataset(), Dataset(), Dataset()
    derived.SourceImageSequence = [image]
    derived.DerivationCodeSequence = [CodedConcept.from_code(derivation)]
    if volume.affine is None:
        position.ImagePositionPatient = [0, 0, 0]
    else:
        # as the source has it: a rounded position is a gap to some readers
        position.ImagePositionPatient = [decimal(v) for v in _required(plane_of(source)[0])]
    item.DerivationImageSequence, item.PlanePositionSequence = [derived], [position]
    return item


def reference_to(frame: Frame, *, with_frame: bool) -> Dataset:
    """Image SOP Instance Reference Macro, PS3.3 Table 10-3; the frame's number where its image has several."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = frame.instance.sop_class_uid, frame.instance.sop_instance_uid
    if with_frame and frame_count(frame.instance.header) > 1:
        item.ReferencedFrameNumber = frame.number
    return item


def plane_of(frame: Frame) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Image Position, Image Orientation and Pixel Spacing of a frame, as its header says."""
    header, number = frame.instance.header, frame.number
    return (
        numbers_of(header, number, "PlanePositionSequence", "ImagePositionPatient", 3),
        numbers_of(header, number, "PlaneOrientationSequence", "ImageOrientationPatient", 6),
        numbers_of(header, number, "PixelMeasuresSequence", "PixelSpacing", 2),
    )


def _required(values: NDArray[np.float64] | None) -> NDArray[np.float64]:
    if values is None:
        raise ResultInvalid("The volume has a geometry and its images have none.")
    return values


def decimal(value: float) -> str:
    """VR DS: at most 16 characters, the shortest that gives the value back where there is room."""
    text = repr(round(float(value), 10))
    return text if len(text) <= 16 else f"{float(value):.9g}"[:16]
