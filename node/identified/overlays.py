"""Overlay planes (60xx, PS3.3 C.9.2): which of them may stay when graphics are cleaned (PS3.15 E.3.3).

A plane of type R marks a region of interest and stays. One of type G may be writing as well as arrows: it is looked at like an image,
what is written in it is blanked, and it stays when nothing more is found. Planes in unused bits of the pixels are not looked at and go.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from pydicom.dataset import Dataset

from node.errors import StudyRefused
from node.identified.elements import Element
from node.identified.looking import ByHand, Looks
from node.identified.pixels import Decision, Verdict

ROWS, COLUMNS, FRAMES, TYPE, BITS, BIT_POSITION, DATA = 0x0010, 0x0011, 0x0015, 0x0040, 0x0100, 0x0102, 0x3000
LOOKS = 3  #: what is still found in the last one takes the whole plane away
EXPLICIT = "1.2.840.10008.1.2.1"
_GRAPHICS = Decision(Verdict.LOOK, "a plane of graphics")


@dataclass(slots=True)
class _Plane:
    """One group's elements."""

    values: dict[int, bytes] = field(default_factory=dict)  #: by element number; not the data
    data: bytes | None = None

    def number(self, element: int) -> int:
        """A US, or an IS; 0 where there is none."""
        value = self.values.get(element, b"")
        if element == FRAMES:
            frames = value.strip(b" \0") or b"1"
            return int(frames) if frames.isdigit() else 0
        return int(struct.unpack("<H", value)[0]) if len(value) == 2 else 0

    def image(self, instance: str) -> Dataset | None:
        """The plane as an image of eight bits; None for one that is not as it should be."""
        rows, columns, frames = (self.number(element) for element in (ROWS, COLUMNS, FRAMES))
        if self.data is None or self.number(BITS) != 1 or self.number(BIT_POSITION) or not rows or not columns or frames < 1:
            return None
        count = rows * columns * frames
        if len(self.data) * 8 < count:
            return None
        ds = Dataset()
        ds.SOPInstanceUID, ds.Rows, ds.Columns, ds.NumberOfFrames = instance, rows, columns, frames
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
        ds.PixelData = (np.unpackbits(np.frombuffer(self.data, np.uint8), count=count, bitorder="little") * 255).tobytes()
        ds["PixelData"].VR = "OB"
        return ds


def kept_planes(data: bytes, elements: Iterable[Element], looker: Looks | None, instance: str) -> Mapping[int, bytes]:
    """Groups of the planes that stay, each with its Overlay Data.

    Parameters
    ----------
    looker
        Looks for text in planes of graphics; without one, or when it is switched off, they all go.
    instance
        Clean SOP Instance UID.
    """
    planes: dict[int, _Plane] = {}
    for element in elements:
        group, number = element.tag >> 16, element.tag & 0xFFFF
        if group & 0xFF01 != 0x6000:
            continue
        plane = planes.setdefault(group, _Plane())
        value = data[element.value : element.value_end]
        if number != DATA:
            plane.values[number] = bytes(value)
        elif not element.undefined:
            plane.data = bytes(value)
    kept: dict[int, bytes] = {}
    for group, plane in planes.items():
        kind = plane.values.get(TYPE, b"").strip(b" \0")
        if plane.data is None:
            continue
        if kind == b"R":
            kept[group] = plane.data
        elif kind == b"G" and looker is not None and looker.text_detection != "off":
            blanked = _blanked(plane, looker, instance)
            if blanked is not None:
                kept[group] = blanked
    return kept


def _blanked(plane: _Plane, looker: Looks, instance: str) -> bytes | None:
    """The plane's data with its writing blanked; None when it can't be looked at, or when something is still found afterwards."""
    image = plane.image(instance)
    if image is None:
        return None
    try:
        for _ in range(LOOKS):
            seen = looker.look(image, EXPLICIT, _GRAPHICS, ByHand(), explicit=True)
            if seen.rewritten is None:
                return _packed(image.PixelData, plane)
            image.PixelData = seen.rewritten.chunk[12:]  # behind the header of Explicit VR OB, PS3.5 7.1.2
    except StudyRefused:
        return None
    return None


def _packed(values: bytes, plane: _Plane) -> bytes:
    """Bits again, and zeros behind the last frame (PS3.5 8.1.1: bits of a plane follow each other, the first is the lowest)."""
    bits = np.packbits(
        np.frombuffer(values, np.uint8)[: plane.number(ROWS) * plane.number(COLUMNS) * plane.number(FRAMES)] > 0, bitorder="little"
    )
    return bits.tobytes() + b"\0" * (len(plane.data or b"") - bits.size)
