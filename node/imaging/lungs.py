"""Where the lungs are on a chest CT, from Hounsfield units alone: left, right, and their box.

Air inside the body, the large connected parts of it, with vessels and dense consolidation closed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]

AIR_HU = -400.0  #: below this a voxel inside the body is lung, airway or gas
AIRWAY_HU = -900.0  #: mean below this, small and near the midline: trachea
GAS_HU = -960.0  #: mean of a part this low is gas in the gut, not lung
CLOSE_MM = 14.0  #: radius that closes vessels and consolidation in
SMALLEST_PART = 0.06  #: of the largest part; anything smaller is not a lung
SMALLEST_SLICE_MM2 = 2500.0  #: lungs on a slice or series with less area than this are not looked at


@dataclass(frozen=True, slots=True)
class Lungs:
    """Boolean masks (slices, rows, columns) of the patient's left and right lung."""

    left: Mask
    right: Mask

    @property
    def both(self) -> Mask:
        return self.left | self.right


def find_lungs(
    hu: npt.NDArray[np.float32],
    spacing_mm: tuple[float, float, float],
    *,
    left_is_high_column: bool = True,
) -> Lungs | None:
    """The lungs of an axial chest CT; None when there are none to be seen.

    Parameters
    ----------
    hu : float array, (slices, rows, columns), Hounsfield units
    spacing_mm : between slices, rows, columns
    left_is_high_column : whether columns run towards the patient's left (row direction +x in LPS)
    """
    body = _body(hu)
    air = (hu < AIR_HU) & body
    pixel_mm2 = spacing_mm[1] * spacing_mm[2]
    air = _without_airways(air, hu, body, pixel_mm2)
    parts = _large_parts(air, hu, pixel_mm2)
    if parts is None:
        return None
    low, high = _two_sides(parts, body)
    radius = max(2, round(CLOSE_MM / float(np.sqrt(pixel_mm2))))
    low, high = _closed(low, radius) & body, _closed(high, radius) & body
    high &= ~low
    return Lungs(left=high, right=low) if left_is_high_column else Lungs(left=low, right=high)


def _body(hu: npt.NDArray[np.float32]) -> Mask:
    """The patient without table and clothes: the largest dense region of each slice, filled."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    out = np.zeros(hu.shape, bool)
    for z in range(hu.shape[0]):
        dense = cv2.morphologyEx((hu[z] > -500).astype(np.uint8), cv2.MORPH_OPEN, kernel)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(dense, connectivity=4)
        if count < 2:
            continue
        best = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
        out[z] = ndimage.binary_fill_holes(labels == best)
    return out


def _without_airways(air: Mask, hu: npt.NDArray[np.float32], body: Mask, pixel_mm2: float) -> Mask:
    """Small, very dark spots near the midline are trachea and main bronchi, not lung."""
    out = air.copy()
    for z in range(air.shape[0]):
        columns = np.flatnonzero(body[z].any(axis=0))
        if columns.size == 0:
            continue
        centre, width = (columns[0] + columns[-1]) / 2, columns[-1] - columns[0] + 1
        count, labels, stats, centres = cv2.connectedComponentsWithStats(air[z].astype(np.uint8))
        for part in range(1, count):
            area = stats[part, cv2.CC_STAT_AREA] * pixel_mm2
            if area > 900.0 or abs(centres[part][0] - centre) > 0.15 * width:
                continue
            where = labels == part
            if hu[z][where].mean() < AIRWAY_HU or area < 60.0:
                out[z][where] = False
    return out


def _large_parts(air: Mask, hu: npt.NDArray[np.float32], pixel_mm2: float) -> Mask | None:
    """The connected parts that are large enough to be lung and not mere gas."""
    labels, count = ndimage.label(air)
    if count == 0:
        return None
    size = np.bincount(labels.ravel())[1:].astype(float)
    mean = ndimage.mean(hu, labels, np.arange(1, count + 1))
    lung = np.asarray(mean) > GAS_HU
    if not lung.any():
        return None
    largest = size[lung].max()
    keep = np.flatnonzero(lung & (size >= SMALLEST_PART * largest)) + 1
    parts: Mask = np.isin(labels, keep)
    if parts.reshape(parts.shape[0], -1).sum(axis=1).max() * pixel_mm2 < SMALLEST_SLICE_MM2:
        return None
    return parts


def _two_sides(parts: Mask, body: Mask) -> tuple[Mask, Mask]:
    """(low columns, high columns): the two lungs, taken apart where they touch."""
    columns = np.arange(parts.shape[2])
    spread = np.flatnonzero(body.any(axis=(0, 1)))
    midline = (spread[0] + spread[-1]) / 2 if spread.size else parts.shape[2] / 2
    for erosion in (0, 1, 2, 4, 6):
        seeds = _eroded(parts, erosion)
        labels, count = ndimage.label(seeds)
        if count < 2:
            continue
        size = np.bincount(labels.ravel())[1:]
        first, second = (np.argsort(size)[::-1][:2] + 1).tolist()
        if size[second - 1] < 0.2 * size[first - 1]:
            continue
        mean_a = float((columns * (labels == first).sum(axis=(0, 1))).sum() / size[first - 1])
        mean_b = float((columns * (labels == second).sum(axis=(0, 1))).sum() / size[second - 1])
        if abs(mean_a - mean_b) < 0.15 * parts.shape[2]:
            continue  # one above the other: not left and right
        wanted = np.where(labels == first, 1, np.where(labels == second, 2, 0))
        if mean_a > mean_b:
            wanted = np.where(wanted > 0, 3 - wanted, 0)
        nearest = ndimage.distance_transform_edt(wanted == 0, return_distances=False, return_indices=True)
        side = wanted[tuple(nearest)]
        return parts & (side == 1), parts & (side == 2)
    low = columns[None, None, :] < midline
    return parts & low, parts & ~low


def _eroded(mask: Mask, pixels: int) -> Mask:
    if pixels == 0:
        return mask
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return np.stack([cv2.erode(s.astype(np.uint8), kernel) for s in mask]).astype(bool)


def _closed(mask: Mask, radius: int) -> Mask:
    """Each slice closed with a disc of `radius` pixels and its holes filled."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    out = np.zeros_like(mask)
    for z in range(mask.shape[0]):
        if mask[z].any():
            padded = np.pad(mask[z].astype(np.uint8), radius)
            closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)
            inner = closed[radius:-radius, radius:-radius].astype(bool)
            out[z] = ndimage.binary_fill_holes(inner)
    return out
