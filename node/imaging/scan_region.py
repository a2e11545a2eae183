"""The part of an ultrasound screen that shows tissue. PS3.3 C.8.5.5, US Region Calibration."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.imaging.decode import whole
from node.imaging.letterbox import Box
from node.imaging.spacing import TISSUE_2D, region_scale, squared_aspect

TISSUE = 1  #: Region Data Type
SMALLEST = 32  #: pixels of a region's sides

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ScanRegion:
    """The part of the screen that shows tissue, and what a pixel of it measures (None: not calibrated)."""

    box: Box
    pixel_mm: tuple[float, float] | None  #: between rows, columns
    aspect: float  #: height of a pixel by its width
    others: int = 0  #: regions of tissue beside it


def scan_region(grey: Floats, header: Dataset, pixel_spacing_mm: tuple[float, float] | None) -> ScanRegion:
    """Where the tissue is: the 2-D tissue region that the machine names, else what is not black.

    Parameters
    ----------
    grey : (rows, columns), 0 to 1
    pixel_spacing_mm : of the image, for one whose regions are not calibrated
    """
    tissue = named_tissue(header, grey.shape)
    if not tissue:
        return ScanRegion(_not_black(grey), pixel_spacing_mm, squared_aspect(header, pixel_spacing_mm))
    region, box = tissue[0]
    inside = _not_black(grey[box.top : box.bottom, box.left : box.right])
    inside = Box(box.top + inside.top, box.left + inside.left, box.top + inside.bottom, box.left + inside.right)
    elsewhere = any(region_scale(other) for other in header.SequenceOfUltrasoundRegions)  # then the image's spacing is that of another part
    pixel_mm = region_scale(region) or (None if elsewhere else pixel_spacing_mm)
    return ScanRegion(inside, pixel_mm, squared_aspect(header, pixel_mm), others=len({b for _, b in tissue} - {tissue[0][1]}))


def named_tissue(header: Dataset, shape: tuple[int, ...]) -> list[tuple[Dataset, Box]]:
    """The regions of 2-D tissue that the machine names, with their place on a screen of (rows, columns)."""
    rows, columns = shape[:2]
    regions = header.get("SequenceOfUltrasoundRegions", None) or ()
    boxes = [
        Box(
            max(0, whole(region, "RegionLocationMinY0")),
            max(0, whole(region, "RegionLocationMinX0")),
            min(rows, whole(region, "RegionLocationMaxY1", rows - 1) + 1),
            min(columns, whole(region, "RegionLocationMaxX1", columns - 1) + 1),
        )
        for region in regions
    ]
    return [
        (region, box)
        for region, box in zip(regions, boxes, strict=True)
        if region.get("RegionSpatialFormat") == TISSUE_2D
        and region.get("RegionDataType") in (TISSUE, None)
        and min(box.height, box.width) >= SMALLEST
    ]


def _not_black(grey: Floats) -> Box:
    """The box without black margins: rows and columns in which at least one pixel in fifty is lit."""
    lit = cv2.GaussianBlur(grey, (0, 0), 1.0) > 0.03
    rows = np.flatnonzero(lit.mean(axis=1) > 0.02)
    columns = np.flatnonzero(lit.mean(axis=0) > 0.02)
    if rows.size < SMALLEST or columns.size < SMALLEST:
        return Box(0, 0, *grey.shape)
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
