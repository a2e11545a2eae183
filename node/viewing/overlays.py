"""A segmentation opened for looking: which segment shows on which slice, and its mask there, pixel by pixel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder

Place = tuple[str, int]  #: SOP Instance UID and frame number, from 1
Mask = NDArray[np.bool_]
INSIDE = 120  #: opacity of a segment within its border, of 255
_GREY = (160, 160, 160)


@dataclass(frozen=True, slots=True)
class Layer:
    """One segment."""

    number: int
    label: str
    color: tuple[int, int, int]
    slices: tuple[int, ...] = ()  #: from 0, where it shows


@dataclass(frozen=True, slots=True)
class Overlays:
    """The segments of one SEG over the slices of its source."""

    layers: tuple[Layer, ...]
    _ds: Dataset = field(repr=False)
    _frames: Mapping[tuple[int, int], int] = field(repr=False)  #: (segment, slice) → frame of the SEG

    def mask(self, segment: int, at: int) -> Mask | None:
        """(rows, columns), or None where the segment has nothing."""
        index = self._frames.get((segment, at))
        return None if index is None else _is_segment(_stored(self._ds, index), self._ds, segment)


def open_overlays(path: Path, slices: Mapping[Place, int]) -> Overlays:
    """Lay the frames of a SEG on slices by the images they were derived from: Source Image Sequence, PS3.3 C.7.6.16.2.6.

    `slices` says at which index (from 0) each frame of the source is shown.
    """
    ds = dcmread(path)
    described = {int(item.SegmentNumber): item for item in ds.SegmentSequence}
    label_map = str(ds.get("SegmentationType", "")) == "LABELMAP"
    frames: dict[tuple[int, int], int] = {}
    shown: dict[int, list[int]] = defaultdict(list)
    for index, item in enumerate(ds.PerFrameFunctionalGroupsSequence):
        at = slices.get(_source(item))
        if at is None:
            continue
        stored = _stored(ds, index)
        for number in described if label_map else [_segment(item, ds)]:
            if _is_segment(stored, ds, number).any():
                frames[number, at] = index
                shown[number].append(at)
    layers = [
        Layer(number, str(item.get("SegmentLabel", "")), color_of(item), tuple(sorted(shown[number])))
        for number, item in described.items()
        if shown[number]
    ]
    return Overlays(tuple(layers), ds, frames)


def painted(mask: Mask, color: tuple[int, int, int]) -> NDArray[np.uint8]:
    """RGBA of a mask, exactly where it is: a solid border, and what is inside lets the image through."""
    out = np.zeros((*mask.shape, 4), np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    out[mask, :3] = color
    out[mask, 3] = 255
    out[inner, 3] = INSIDE
    return out


def color_of(segment: Dataset) -> tuple[int, int, int]:
    """Recommended Display CIELab Value (0062,000D) as RGB; grey when there is none. PS3.3 C.10.7.1.1."""
    value = segment.get("RecommendedDisplayCIELabValue")
    if value is None or len(value) != 3:
        return _GREY
    l_, a, b = (float(v) / 65535 for v in value)
    rgb = cv2.cvtColor(np.array([[[l_ * 100, a * 255 - 128, b * 255 - 128]]], np.float32), cv2.COLOR_Lab2RGB)[0, 0]
    red, green, blue = (round(float(v) * 255) for v in rgb.clip(0, 1))
    return red, green, blue


def _source(item: Dataset) -> Place:
    for derivation in item.get("DerivationImageSequence") or ():
        for image in derivation.get("SourceImageSequence") or ():
            number = image.get("ReferencedFrameNumber") or 1
            return str(image.ReferencedSOPInstanceUID), int(number if isinstance(number, int | str) else number[0])
    return "", 0


def _segment(item: Dataset, ds: Dataset) -> int:
    for group in (item, ds.SharedFunctionalGroupsSequence[0]):
        if named := group.get("SegmentIdentificationSequence"):
            return int(named[0].ReferencedSegmentNumber)
    return 0


def _stored(ds: Dataset, index: int) -> NDArray[np.uint8]:
    return np.asarray(get_decoder(ds.file_meta.TransferSyntaxUID).as_array(ds, index=index)[0], np.uint8)


def _is_segment(stored: NDArray[np.uint8], ds: Dataset, segment: int) -> Mask:
    kind = str(ds.get("SegmentationType", ""))
    if kind == "LABELMAP":
        return np.asarray(stored == segment)
    if kind == "FRACTIONAL":
        return np.asarray(stored >= int(ds.MaximumFractionalValue) / 2)
    return np.asarray(stored > 0)
