"""Masks of a SEG, each on the frame of the image that it was drawn on. PS3.3 C.8.20."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders import RLELosslessDecoder
from pydicom.uid import RLELossless

from node.codes import LABEL_MAP
from node.imaging.functional import numbers_of

Place = tuple[str, int]  #: SOP Instance UID of the image, and frame within it, from 1
Planes = dict[Place, NDArray[np.bool_]]  #: (rows, columns) each
Positions = Mapping[tuple[float, float, float], Place]  #: where the images lie, in 1/100 mm


def planes_of(ds: Dataset, positions: Positions | None = None) -> dict[int, Planes]:
    """Segment number → its planes, empty ones left out. A frame that names no image is placed by its position.

    Raises ValueError when pixels and frames do not fit each other.
    """
    stored = _stored(ds)
    groups = list(ds.get("PerFrameFunctionalGroupsSequence") or ())
    if len(groups) != len(stored):
        raise ValueError("a SEG has one functional group a frame")
    found: dict[int, Planes] = {}
    half = int(ds.get("MaximumFractionalValue") or 1) / 2
    for number, (group, plane) in enumerate(zip(groups, stored, strict=True), 1):
        place = _place(ds, group, number, positions or {})
        if place is None:
            continue
        if ds.SOPClassUID == LABEL_MAP or ds.get("SegmentationType") == "LABELMAP":
            masks = {int(value): plane == value for value in np.unique(plane) if value}
        else:
            named = list(group.get("SegmentIdentificationSequence") or ()) or _shared_items(ds, "SegmentIdentificationSequence")
            if not named:
                raise ValueError("a frame of a SEG names its segment")
            masks = {int(named[0].ReferencedSegmentNumber): plane > half if half > 0.5 else plane > 0}
        for value, mask in masks.items():
            if mask.any():
                planes = found.setdefault(value, {})
                planes[place] = planes[place] | mask if place in planes else mask
    return found


def _stored(ds: Dataset) -> NDArray[Any]:
    """The pixels as (frames, rows, columns).

    Single bits in RLE (CP-2301) are what OHIF writes where it is told to compress, and pydicom reads none: a frame's bytes are decoded as
    bytes, eight pixels in each.
    """
    if ds.BitsAllocated == 1 and ds.file_meta.TransferSyntaxUID == RLELossless:
        pixels = int(ds.Rows) * int(ds.Columns)
        of = {
            "rows": 1,
            "columns": -(-pixels // 8),
            "samples_per_pixel": 1,
            "bits_allocated": 8,
            "bits_stored": 8,
            "pixel_representation": 0,
        }
        kind = {"photometric_interpretation": "MONOCHROME2", "pixel_keyword": "PixelData", "number_of_frames": int(ds.NumberOfFrames)}
        packed = [plane for plane, _ in RLELosslessDecoder.iter_array(ds.PixelData, decoding_plugin="pydicom", **of, **kind)]
        bits = np.unpackbits(np.stack(packed).reshape(len(packed), -1), axis=1, count=pixels, bitorder="little")
        return bits.reshape(len(packed), int(ds.Rows), int(ds.Columns))
    stored: NDArray[Any] = ds.pixel_array
    return stored[None] if stored.ndim == 2 else stored


def dice_of(one: Planes, other: Planes) -> float | None:
    """Twice the common voxels by the sum of both, over all planes; None when nothing can be compared."""
    common = total = 0
    for place in one.keys() | other.keys():
        a, b = one.get(place), other.get(place)
        if a is not None and b is not None:
            if a.shape != b.shape:
                return None
            common += int((a & b).sum())
        total += sum(int(mask.sum()) for mask in (a, b) if mask is not None)
    return 2 * common / total if total else None


def position_key(position: NDArray[np.float64]) -> tuple[float, float, float]:
    """A place in space, to be looked up: rounded to 1/100 mm."""
    x, y, z = (round(float(v), 2) + 0.0 for v in position)
    return x, y, z


def _place(ds: Dataset, group: Dataset, number: int, positions: Positions) -> Place | None:
    for derivation in group.get("DerivationImageSequence") or _shared_items(ds, "DerivationImageSequence"):
        for source in derivation.get("SourceImageSequence") or ():
            frame: Any = source.get("ReferencedFrameNumber") or 1
            return str(source.ReferencedSOPInstanceUID), int(frame if isinstance(frame, int) else frame[0])
    position = numbers_of(ds, number, "PlanePositionSequence", "ImagePositionPatient", 3)
    return positions.get(position_key(position)) if position is not None else None


def _shared_items(ds: Dataset, keyword: str) -> list[Dataset]:
    shared = list(ds.get("SharedFunctionalGroupsSequence") or ())
    return list(shared[0].get(keyword) or ()) if shared else []
