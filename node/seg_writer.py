"""Result → DICOM SEG on the source's own grid: coded segments, only the frames that show something.

The frame lists are written here and not by highdicom: it builds 300 slices several times slower, and refuses a multi-frame source
without a frame of reference (ultrasound). What viewers need beyond the Standard is said where it is done.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import SegmentDescription
from highdicom.sr.coding import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    RLELossless,
    SegmentationStorage,
)

from node.domain import Result, Role, Segment, Study
from node.errors import ResultInvalid
from node.imaging.functional import number_of, numbers_of
from node.imaging.volume import Frame, Volume
from node.provenance import Provenance

LABEL_MAP = UID("1.2.840.10008.5.1.4.1.1.66.7")  # Label Map Segmentation Storage, Supplement 243; pydicom 3.0 does not know it
UNCOMPRESSED = ExplicitVRLittleEndian  # OHIF reads no 1-bit RLE and, before 2026, no compressed SEG; Orthanc 1.10 no JPEG 2000
POSITION_TOLERANCE = 0.1  # of the distance between frames
MAX_FRACTION = 255


class Storage(StrEnum):
    """Segmentation Type (0062,0001)."""

    BINARY = "BINARY"
    LABELMAP = "LABELMAP"
    FRACTIONAL = "FRACTIONAL"


class SegFrame(NamedTuple):
    """One frame of the SEG: of which segment (None in a label map), on which frame of the volume (from 0)."""

    segment: int | None
    at: int


def write_seg(
    study: Study, volume: Volume, result: Result, provenance: Provenance, *, transfer_syntax: str = UNCOMPRESSED
) -> Dataset | None:
    """The segments of a result as one SEG instance; None when no segment has a voxel (the report says what was looked for).

    Parameters
    ----------
    transfer_syntax : UID
        Explicit VR Little Endian, which every viewer reads; Deflated Explicit VR Little Endian (about 1 % of the size, for archives
        that inflate); RLE Lossless where a pixel has 8 bits.

    Raises
    ------
    ResultInvalid
        When a mask does not lie on the volume's frames, or the volume's geometry is not that of its images: viewers draw without
        checking either.
    ValueError
        For another transfer syntax.

    Standard: PS3.3 A.51 and A.94 (label map), C.8.20.
    """
    if not result.segments or not any(segment.mask.any() for segment in result.segments):
        return None
    _check_masks(volume, result.segments)
    _check_geometry(volume)
    storage, frames = _plan(result.segments)
    source = volume.frames[0].instance.header
    sop_class = LABEL_MAP if storage is Storage.LABELMAP else SegmentationStorage
    ds = provenance.new_object(Role.SEG, sop_class_uid=sop_class, modality="SEG", source=source)

    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.ContentLabel = "AI_SEGMENTATION"
    ds.ContentDescription = provenance.series_description(Role.SEG)
    ds.ContentCreatorName = None
    ds.BurnedInAnnotation = "NO"
    _image_pixel(ds, volume, storage)
    _lossy(ds, volume)
    ds.SegmentationType = storage.value
    ds.SegmentsOverlap = "YES" if _overlap(result.segments) else "NO"
    if storage is Storage.LABELMAP:
        ds.PixelPaddingValue = 0  # background is not described: OHIF would give each segment the colour of the one before
    if storage is Storage.FRACTIONAL:
        ds.SegmentationFractionalType, ds.MaximumFractionalValue = "OCCUPANCY", MAX_FRACTION
    ds.SegmentSequence = [_description(segment, result, provenance) for segment in result.segments]

    _references(ds, volume)
    _dimensions(ds, volume, storage, provenance)
    ds.NumberOfFrames = len(frames)
    ds.SharedFunctionalGroupsSequence = [_shared(volume)]
    rank = {at: i for i, at in enumerate(sorted({frame.at for frame in frames}), 1)}
    ds.PerFrameFunctionalGroupsSequence = [_per_frame(volume, frame, rank[frame.at]) for frame in frames]
    _pixel_data(ds, storage, _stored(storage, result.segments, frames), transfer_syntax)
    return ds


# --- does it fit? ---------------------------------------------------------------------------------------------------------
def _check_masks(volume: Volume, segments: Items[Segment]) -> None:
    if [segment.number for segment in segments] != list(range(1, len(segments) + 1)):
        raise ResultInvalid("Segment numbers must run 1, 2, 3 …")
    for segment in segments:
        if segment.mask.shape != volume.pixels.shape[:3] or len(volume.frames) != len(segment.mask):
            raise ResultInvalid("A mask is not on the grid of its images.", segment=segment.number, mask=segment.mask.shape)
    for frame in volume.frames:
        header = frame.instance.header
        if (header.Rows, header.Columns) != volume.pixels.shape[1:3]:
            raise ResultInvalid("The volume does not have the rows and columns of its images.")
        if not 1 <= frame.number <= _frame_count(header):
            raise ResultInvalid("The volume names a frame that its image does not have.", frame=frame.number)


def _check_geometry(volume: Volume) -> None:
    """Position and orientation in the headers are those of the affine."""
    if volume.affine is None:
        return
    step = max(float(np.linalg.norm(volume.affine[:3, 2])), 1.0)
    for at, frame in enumerate(volume.frames):
        position, orientation, spacing = _plane(frame)
        if position is None or orientation is None or spacing is None:
            raise ResultInvalid("The volume has a geometry and its images have none.")
        if np.linalg.norm((volume.affine @ [0, 0, at, 1])[:3] - position) > POSITION_TOLERANCE * step:
            raise ResultInvalid("The volume's frames do not lie where their images lie.", frame=at)
        axes = np.stack([orientation[:3] * spacing[1], orientation[3:] * spacing[0]], axis=1)
        if not np.allclose(volume.affine[:3, :2], axes, rtol=0.01, atol=0.01 * float(spacing.max())):
            raise ResultInvalid("The volume's rows and columns do not run as those of its images.", frame=at)


def _overlap(segments: Items[Segment]) -> bool:
    taken = np.zeros(segments[0].mask.shape, bool)
    for segment in segments:
        if (taken & segment.mask).any():
            return True
        taken |= segment.mask
    return False


# --- which frames, stored how ------------------------------------------------------------------------------------------------
def _plan(segments: Items[Segment]) -> tuple[Storage, list[SegFrame]]:
    """BINARY where viewers cut it right, else 8 bits a pixel.

    OHIF 3.13 and Weasis cut 1-bit frames at whole bytes: with Rows x Columns not divisible by 8 they draw shifted masks without a word,
    and Pixel Data padded to an even length is refused. A single frame of any size is exact.
    """
    filled = [SegFrame(s.number, int(at)) for s in segments for at in np.flatnonzero(s.mask.any(axis=(1, 2)))]
    bits = segments[0].mask[0].size
    if len(filled) == 1:
        return Storage.BINARY, filled
    if bits % 8 == 0:
        if len(filled) * bits // 8 % 2 == 0:
            return Storage.BINARY, filled
        spare = next((f for s in segments for at in range(len(s.mask)) if (f := SegFrame(s.number, at)) not in set(filled)), None)
        if spare:  # an empty frame makes the length even
            return Storage.BINARY, sorted([*filled, spare])
    if _overlap(segments):
        return Storage.FRACTIONAL, filled  # values 0 and maximum only
    return Storage.LABELMAP, [SegFrame(None, at) for at in sorted({frame.at for frame in filled})]


def _stored(storage: Storage, segments: Items[Segment], frames: Items[SegFrame]) -> NDArray[np.uint8]:
    """Values as they are stored, (frames, rows, columns); 0 and 1 for BINARY."""
    stored = np.zeros((len(frames), *segments[0].mask.shape[1:]), np.uint8)
    for plane, frame in zip(stored, frames, strict=True):
        if frame.segment is None:
            for segment in segments:
                plane[segment.mask[frame.at]] = segment.number
        else:
            plane[segments[frame.segment - 1].mask[frame.at]] = MAX_FRACTION if storage is Storage.FRACTIONAL else 1
    return stored


def _pixel_data(ds: Dataset, storage: Storage, stored: NDArray[np.uint8], transfer_syntax: str) -> None:
    """Pixel Data, and the transfer syntax it is in. BINARY is packed across frame borders, PS3.5 8.1.1."""
    if transfer_syntax == RLELossless and storage is not Storage.BINARY:
        planes = [RLELosslessEncoder.encode(plane, **_encoding(ds)) for plane in stored]
        ds.PixelData = encapsulate(planes)
        ds["PixelData"].is_undefined_length = True
    elif transfer_syntax in (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        data = (np.packbits(stored.ravel(), bitorder="little") if storage is Storage.BINARY else stored).tobytes()
        ds.PixelData = data + b"\0" * (len(data) % 2)
    else:
        raise ValueError(f"a {storage} segmentation can't be written in {transfer_syntax}")
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = transfer_syntax


def _encoding(ds: Dataset) -> dict[str, int | str]:
    return {
        "rows": ds.Rows,
        "columns": ds.Columns,
        "samples_per_pixel": 1,
        "bits_allocated": 8,
        "bits_stored": 8,
        "pixel_representation": 0,
        "photometric_interpretation": "MONOCHROME2",
        "number_of_frames": 1,
    }


def _image_pixel(ds: Dataset, volume: Volume, storage: Storage) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.Rows, ds.Columns = (int(n) for n in volume.pixels.shape[1:3])
    ds.BitsAllocated = ds.BitsStored = 1 if storage is Storage.BINARY else 8
    ds.HighBit = ds.BitsStored - 1


def _lossy(ds: Dataset, volume: Volume) -> None:
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


# --- segments -------------------------------------------------------------------------------------------------------------
def _description(segment: Segment, result: Result, provenance: Provenance) -> SegmentDescription:
    tracking_id, tracking_uid = provenance.segment_tracking(result, segment.number)
    sites = [finding.site for finding in result.findings if finding.segment == segment.number and finding.site is not None]
    return SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.label[:64],
        segmented_property_category=segment.category,
        segmented_property_type=segment.type,
        algorithm_type="AUTOMATIC",
        algorithm_identification=provenance.algorithm(),
        tracking_id=tracking_id,
        tracking_uid=tracking_uid,
        anatomic_regions=sites[:1] or None,
        display_color=CIELabColor.from_rgb(*segment.color),
    )


# --- where it comes from, where it lies ------------------------------------------------------------------------------------
def _references(ds: Dataset, volume: Volume) -> None:
    """Common Instance Reference, PS3.3 C.12.2. OHIF drops a SEG without a Referenced Series Sequence."""
    seen: dict[str, Dataset] = {}
    for frame in volume.frames:
        if frame.instance.sop_instance_uid not in seen:
            seen[frame.instance.sop_instance_uid] = _reference(frame, with_frame=False)
    series = Dataset()
    series.ReferencedInstanceSequence = list(seen.values())
    series.SeriesInstanceUID = volume.series.series_instance_uid
    ds.ReferencedSeriesSequence = [series]


def _dimensions(ds: Dataset, volume: Volume, storage: Storage, provenance: Provenance) -> None:
    """Multi-frame Dimension, PS3.3 C.7.6.17: by segment, then by place. And the Frame of Reference."""
    organization = Dataset()
    organization.DimensionOrganizationUID = provenance.uid(Role.SEG, "dimensions")
    ds.DimensionOrganizationSequence = [organization]
    place = (
        ("ImagePositionPatient", "PlanePositionSequence")
        if volume.affine is not None
        else ("InStackPositionNumber", "FrameContentSequence")
    )
    pointers = [place] if storage is Storage.LABELMAP else [("ReferencedSegmentNumber", "SegmentIdentificationSequence"), place]
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


def _shared(volume: Volume) -> Dataset:
    """Pixel Measures and Plane Orientation, always: OHIF goes black without them, also where the Standard asks for none."""
    measures, plane, shared = Dataset(), Dataset(), Dataset()
    between = volume.spacing_mm[0] if volume.spacing_mm else 0.0
    known = volume.pixel_spacing_mm
    row, column = known if known and min(known) > 0 else (1.0, 1.0)
    measures.PixelSpacing = [_ds(row), _ds(column)]
    measures.SliceThickness = measures.SpacingBetweenSlices = _ds(between if volume.affine is not None and between > 0 else 1.0)
    header = volume.frames[0].instance.header
    if volume.affine is None:
        plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]  # flat, invented; there is no frame of reference to be wrong in
    else:
        plane.ImageOrientationPatient = [_ds(v) for v in _required(_plane(volume.frames[0])[1])]
        thickness = number_of(header, volume.frames[0].number, "PixelMeasuresSequence", "SliceThickness", 0.0)
        if thickness > 0:
            measures.SliceThickness = _ds(thickness)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    return shared


def _per_frame(volume: Volume, frame: SegFrame, rank: int) -> Dataset:
    source = volume.frames[frame.at]
    image = _reference(source, with_frame=True)
    image.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)]
    derivation, content, position, item = Dataset(), Dataset(), Dataset(), Dataset()
    derivation.SourceImageSequence = [image]
    derivation.DerivationCodeSequence = [CodedConcept.from_code(codes.DCM.Segmentation)]
    content.DimensionIndexValues = [rank] if frame.segment is None else [frame.segment, rank]
    if volume.affine is None:
        content.StackID, content.InStackPositionNumber = "1", rank
        position.ImagePositionPatient = [0, 0, 0]
    else:
        # as the source has it: a rounded position is a gap to some readers
        position.ImagePositionPatient = [_ds(v) for v in _required(_plane(source)[0])]
    item.DerivationImageSequence, item.FrameContentSequence, item.PlanePositionSequence = [derivation], [content], [position]
    if frame.segment is not None:
        segment = Dataset()
        segment.ReferencedSegmentNumber = frame.segment
        item.SegmentIdentificationSequence = [segment]
    return item


def _reference(frame: Frame, *, with_frame: bool) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = frame.instance.sop_class_uid, frame.instance.sop_instance_uid
    if with_frame and _frame_count(frame.instance.header) > 1:
        item.ReferencedFrameNumber = frame.number
    return item


def _frame_count(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def _plane(frame: Frame) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None, NDArray[np.float64] | None]:
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


def _ds(value: float) -> str:
    """VR DS: at most 16 characters, the shortest that gives the value back where there is room."""
    text = repr(round(float(value), 10))
    return text if len(text) <= 16 else f"{float(value):.9g}"[:16]
