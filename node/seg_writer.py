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
from pydicom.uid import SegmentationStorage

from node.codes import LABEL_MAP
from node.derived import Place, check_frames, check_geometry, dimensions, frame_groups, lossy, references, shared_groups
from node.domain import Result, Role, Segment, Study
from node.errors import ResultInvalid
from node.imaging.volume import Volume
from node.provenance import Provenance

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


#: what each kind of object stores; the plain SEG is BINARY where viewers cut it right
STORED = {Role.SEG: None, Role.SEG_LABELMAP: Storage.LABELMAP, Role.SEG_FRACTIONAL: Storage.FRACTIONAL}


def write_seg(
    study: Study,
    volume: Volume,
    result: Result,
    provenance: Provenance,
    *,
    role: Role = Role.SEG,
) -> Dataset | None:
    """The segments of a result as one SEG instance; None when no segment has a voxel (the report says what was looked for).

    Parameters
    ----------
    role : Role.SEG, Role.SEG_LABELMAP or Role.SEG_FRACTIONAL
        BINARY (8 bits where viewers cut bits wrongly); one label a pixel; or fractions: the probability where the heat map is that of
        the only segment, else the mask as 0 and maximum.

    Raises
    ------
    ResultInvalid
        When a mask does not lie on the volume's frames, or the volume's geometry is not that of its images: viewers draw without
        checking either. Also when segments overlap and a label map is asked for: a pixel has one label there.

    Notes
    -----
    Explicit VR Little Endian, which every viewer reads; `seg_syntax` packs it for a destination that takes less.

    Standard: PS3.3 A.51 and A.94 (label map), C.8.20.
    """
    if not result.segments or not any(segment.mask.any() for segment in result.segments):
        return None
    _check_masks(volume, result.segments)
    check_geometry(volume)
    chance = _chance(result) if role is Role.SEG_FRACTIONAL else None
    storage, frames = _asked(STORED[role], result.segments, chance)
    source = volume.frames[0].instance.header
    sop_class = LABEL_MAP if storage is Storage.LABELMAP else SegmentationStorage
    ds = provenance.new_object(role, sop_class_uid=sop_class, modality="SEG", source=source)

    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.ContentLabel = "AI_SEGMENTATION"
    ds.ContentDescription = provenance.series_description(role)
    ds.ContentCreatorName = None
    ds.BurnedInAnnotation = "NO"
    _image_pixel(ds, volume, storage)
    lossy(ds, volume)
    ds.SegmentationType = storage.value
    ds.SegmentsOverlap = "YES" if overlap(result.segments) else "NO"
    if storage is Storage.LABELMAP:
        ds.PixelPaddingValue = 0  # background is not described: OHIF would give each segment the colour of the one before
    if storage is Storage.FRACTIONAL:
        ds.SegmentationFractionalType = "OCCUPANCY" if chance is None else "PROBABILITY"
        ds.MaximumFractionalValue = MAX_FRACTION
    ds.SegmentSequence = [_description(segment, result, provenance) for segment in result.segments]

    references(ds, volume)
    dimensions(ds, volume, provenance.uid(role, "dimensions"), by_segment=storage is not Storage.LABELMAP)
    ds.NumberOfFrames = len(frames)
    ds.SharedFunctionalGroupsSequence = [shared_groups(volume)]
    rank = {at: i for i, at in enumerate(sorted({frame.at for frame in frames}), 1)}
    places = (Place(frame.at, rank[frame.at], frame.segment) for frame in frames)
    ds.PerFrameFunctionalGroupsSequence = frame_groups(volume, places)
    ds.PixelData = (
        _bits(result.segments, frames) if storage is Storage.BINARY else _bytes(_stored(storage, result.segments, frames, chance))
    )
    ds["PixelData"].VR = "OB"
    return ds


# --- does it fit? ---------------------------------------------------------------------------------------------------------
def _check_masks(volume: Volume, segments: Items[Segment]) -> None:
    if [segment.number for segment in segments] != list(range(1, len(segments) + 1)):
        raise ResultInvalid("Segment numbers must run 1, 2, 3 …")
    for segment in segments:
        if segment.mask.shape != volume.pixels.shape[:3] or len(volume.frames) != len(segment.mask):
            raise ResultInvalid("A mask is not on the grid of its images.", segment=segment.number, mask=segment.mask.shape)
    check_frames(volume)


def overlap(segments: Items[Segment]) -> bool:
    """Whether a voxel belongs to two segments."""
    taken: NDArray[np.bool_] | None = None
    for segment in segments:
        if taken is not None and (taken & segment.mask).any():
            return True
        taken = segment.mask if taken is None else taken | segment.mask
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
    if overlap(segments):
        return Storage.FRACTIONAL, filled  # values 0 and maximum only
    return Storage.LABELMAP, [SegFrame(None, at) for at in sorted({frame.at for frame in filled})]


def _asked(storage: Storage | None, segments: Items[Segment], chance: NDArray[np.uint8] | None) -> tuple[Storage, list[SegFrame]]:
    """What was asked for, or what viewers draw best; without the frames that are empty."""
    if storage is None:
        return _plan(segments)
    if storage is Storage.LABELMAP:
        if overlap(segments):
            raise ResultInvalid("Segments overlap, so they have no label map.")
        return storage, [SegFrame(None, int(at)) for at in np.flatnonzero(sum(s.mask.any(axis=(1, 2)) for s in segments))]
    if chance is not None:
        return storage, [SegFrame(segments[0].number, int(at)) for at in np.flatnonzero(chance.any(axis=(1, 2)))]
    return storage, [SegFrame(s.number, int(at)) for s in segments for at in np.flatnonzero(s.mask.any(axis=(1, 2)))]


def _chance(result: Result) -> NDArray[np.uint8] | None:
    """The heat map in steps of 1/255 where it is the probability of the only segment; None: it says something else."""
    heat = result.heatmap
    if heat is None or heat.segment is None or [segment.number for segment in result.segments] != [heat.segment]:
        return None
    if heat.values.shape != result.segments[0].mask.shape or not np.isfinite(heat.values).all():
        raise ResultInvalid("The heat map is not on the grid of its images, or has values that are no numbers.", shape=heat.values.shape)
    return np.asarray((heat.values.clip(0, 1) * MAX_FRACTION).round(), np.uint8)


def _stored(storage: Storage, segments: Items[Segment], frames: Items[SegFrame], chance: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Values of 8 bits as they are stored, (frames, rows, columns)."""
    if chance is not None:
        return chance[[frame.at for frame in frames]]
    stored = np.zeros((len(frames), *segments[0].mask.shape[1:]), np.uint8)
    for plane, frame in zip(stored, frames, strict=True):
        if frame.segment is None:
            for segment in segments:
                plane[segment.mask[frame.at]] = segment.number
        else:
            plane[segments[frame.segment - 1].mask[frame.at]] = MAX_FRACTION
    return stored


def _bytes(stored: NDArray[np.uint8]) -> bytes:
    return stored.tobytes() + b"\0" * (stored.size % 2)


def _bits(segments: Items[Segment], frames: Items[SegFrame]) -> bytes:
    """One bit a pixel, packed across frame borders (PS3.5 8.1.1)."""
    masks = [segments[(frame.segment or 1) - 1].mask[frame.at] for frame in frames]
    if masks[0].size % 8 == 0:
        data = b"".join(np.packbits(mask, bitorder="little").tobytes() for mask in masks)
    else:
        data = np.packbits(np.concatenate([mask.ravel() for mask in masks]), bitorder="little").tobytes()
    return data + b"\0" * (len(data) % 2)


def _image_pixel(ds: Dataset, volume: Volume, storage: Storage) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.Rows, ds.Columns = (int(n) for n in volume.pixels.shape[1:3])
    ds.BitsAllocated = ds.BitsStored = 1 if storage is Storage.BINARY else 8
    ds.HighBit = ds.BitsStored - 1


# --- segments -------------------------------------------------------------------------------------------------------------
def _description(segment: Segment, result: Result, provenance: Provenance) -> SegmentDescription:
    tracking_id, tracking_uid = provenance.segment_tracking(result, segment.number)
    placed = [finding for finding in result.findings if finding.segment == segment.number and finding.site is not None]
    sites = [finding.site for finding in placed if finding.site is not None]
    description = SegmentDescription(
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
    if placed and (side := placed[0].laterality) is not None:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [CodedConcept.from_code(side)]
        if segment.type == sites[0]:  # an organ by itself: the left kidney
            kind = description.SegmentedPropertyTypeCodeSequence[0]
            kind.SegmentedPropertyTypeModifierCodeSequence = [CodedConcept.from_code(side)]
    return description
