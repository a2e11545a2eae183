"""Where a header says that text stands, or that none does: ultrasound regions, and devices that are known to write in fixed places."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from node.identified.boxes import Box, around

KNOWN = Path(__file__).parent / "device_regions.json"
SMALLEST = 0.05  #: of the image; regions that cover less are not the scan


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRegion:
    """A device and the boxes in which it writes. An empty text and a 0 match everything."""

    boxes: tuple[Box, ...]
    modality: str = ""
    manufacturer: str = ""
    model: str = ""
    rows: int = 0
    columns: int = 0
    image_type: str = ""  #: a value of Image Type (0008,0008)

    def meets(self, ds: Dataset) -> bool:
        """Whether this image comes from that device, at that size."""
        texts = (("Modality", self.modality), ("Manufacturer", self.manufacturer), ("ManufacturerModelName", self.model))
        numbers = (("Rows", self.rows), ("Columns", self.columns))
        return (
            all(not asked or _plain(ds.get(keyword)) == _plain(asked) for keyword, asked in texts)
            and all(not asked or ds.get(keyword) == asked for keyword, asked in numbers)
            and (not self.image_type or self.image_type.upper() in {_plain(one) for one in _each(ds.get("ImageType"))})
        )


@cache
def known_devices() -> tuple[DeviceRegion, ...]:
    """The table that comes with the node."""
    found = json.loads(KNOWN.read_text())["devices"]
    return tuple(DeviceRegion(**{**one, "boxes": boxes_of(one["boxes"])}) for one in found)


def boxes_of(written: Iterable[Sequence[int]]) -> tuple[Box, ...]:
    """Boxes from `[left, top, width, height]`, as tables and settings write them."""
    return tuple(Box(x, y, x + width, y + height) for x, y, width, height in written)


def boxes_in(ds: Dataset, devices: Iterable[DeviceRegion]) -> list[Box]:
    """What is blanked unseen: the places of known devices, and in ultrasound all that lies outside of its regions.

    Standard: Sequence of Ultrasound Regions (0018,6011), PS3.3 C.8.5.5. Of regions that overlap the union stays; regions that do not lie in
    the image, or are so small that they can't be the scan, say nothing.
    """
    rows, columns = int(ds.Rows), int(ds.Columns)
    found = [box.clipped(rows, columns) for device in devices if device.meets(ds) for box in device.boxes]
    kept = [box for region in _items(ds.get("SequenceOfUltrasoundRegions")) if (box := _region(region, rows, columns)) is not None]
    if sum(box.area for box in kept) >= SMALLEST * rows * columns:
        found += around(kept, rows, columns)
    return [box for box in found if box.area]


def _region(item: Dataset, rows: int, columns: int) -> Box | None:
    keywords = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")
    try:
        left, top, right, bottom = (int(item[keyword].value) for keyword in keywords)
    except (KeyError, TypeError, ValueError):
        return None
    box = Box(left, top, right + 1, bottom + 1).clipped(rows, columns)
    return box if box.area else None


def _items(value: Any) -> list[Dataset]:
    return [item for item in value if isinstance(item, Dataset)] if value and not isinstance(value, bytes | str) else []


def _each(value: Any) -> list[Any]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _plain(value: Any) -> str:
    return str(value or "").strip().upper()
