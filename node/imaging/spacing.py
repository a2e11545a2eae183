"""How large a pixel of a single image is: Pixel Spacing, ultrasound calibration, or the detector's own spacing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.imaging.functional import number_of, numbers_of

CENTIMETRES = 3  #: Physical Units X Direction, PS3.3 C.8.5.5.1.15
MOST_OBLONG = 5.0  #: a pixel that is told to be longer than this many times its width is not believed
MOST_MM = 100.0  #: a pixel of an ultrasound picture that is told to be larger is not believed
ALIKE = 0.02  #: sides that differ by less make a square
TISSUE_2D = 1  #: Region Spatial Format 2D, PS3.3 C.8.5.5.1.1


def image_spacing(ds: Dataset, told: tuple[float, float] | None, notes: list[str]) -> tuple[float, float] | None:
    """(between rows, between columns) in mm; None when the image is not calibrated, with a note that says so."""
    if told is not None:
        return told
    region = _ultrasound(ds, notes)
    if region is not None:
        return region
    for keyword, remark in (
        ("ImagerPixelSpacing", "sizes are measured at the detector and not corrected for magnification"),
        ("NominalScannedPixelSpacing", "sizes are those of the scanned film"),
    ):
        spacing = numbers_of(ds, 1, "", keyword, 2)
        if spacing is not None and (spacing > 0).all():
            notes.append(remark)
            return float(spacing[0]), float(spacing[1])
    notes.append("the image is not calibrated: sizes in mm are not known")
    return None


def aspect_ratio(ds: Dataset) -> tuple[int, int]:
    """Height and width of a pixel where only their ratio is told, PS3.3 C.7.6.3.1.7; 1 and 1 where it is not."""
    told = numbers_of(ds, 1, "", "PixelAspectRatio", 2)
    return (1, 1) if told is None or (told < 1).any() else (int(told[0]), int(told[1]))


def pixel_aspect(ds: Dataset, spacing: Sequence[float] | None) -> float:
    """Height of a pixel by its width: by its size (between rows, between columns), else by the ratio that the image tells."""
    height, width = spacing if spacing is not None and min(spacing) > 0 else aspect_ratio(ds)
    return float(height / width)


def squared_aspect(ds: Dataset, spacing: Sequence[float] | None) -> float:
    """`pixel_aspect` where it changes what is seen and can be believed, else 1."""
    told = pixel_aspect(ds, spacing)
    return told if 1 / MOST_OBLONG <= told <= MOST_OBLONG and abs(told - 1) > ALIKE else 1.0


def squared(plane: NDArray[Any], aspect: float) -> NDArray[Any]:
    """A picture, (rows, columns[, 3]), with square pixels: the longer side of each is cut into more of them."""
    if aspect == 1.0:
        return plane
    rows, columns = plane.shape[:2]
    return np.asarray(
        cv2.resize(plane, (round(columns / min(1.0, aspect)), round(rows * max(1.0, aspect))), interpolation=cv2.INTER_LINEAR)
    )


def region_scale(region: Dataset) -> tuple[float, float] | None:
    """(between rows, between columns) in mm of an ultrasound region that is measured in centimetres both ways. PS3.3 C.8.5.5.1.15."""
    if {region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")} != {CENTIMETRES}:
        return None
    across, down = (abs(number_of(region, 1, "", f"PhysicalDelta{axis}", 0.0)) * 10.0 for axis in "XY")
    return (down, across) if 0 < down < MOST_MM and 0 < across < MOST_MM else None


def _ultrasound(ds: Dataset, notes: list[str]) -> tuple[float, float] | None:
    """From the largest 2-D region that is measured in centimetres."""
    best: tuple[float, tuple[float, float]] | None = None
    found = set()
    for region in ds.get("SequenceOfUltrasoundRegions") or ():
        scale = region_scale(region)
        if region.get("RegionSpatialFormat") != TISSUE_2D or scale is None:
            continue
        width, height = (
            number_of(region, 1, "", f"RegionLocationMax{axis}1", 0.0) - number_of(region, 1, "", f"RegionLocationMin{axis}0", 0.0)
            for axis in "XY"
        )
        found.add((round(scale[0], 6), round(scale[1], 6)))
        if best is None or width * height > best[0]:
            best = (width * height, scale)
    if len(found) > 1:
        notes.append("parts of the screen are calibrated differently: sizes are those of the largest part")
    return None if best is None else best[1]
