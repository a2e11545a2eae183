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

AIR_HU = -350.0  #: below this a voxel inside the body is lung, airway or gas
AIRWAY_HU = -900.0  #: mean below this, small and near the midline: trachea
GAS_HU = -960.0  #: mean of a part this low is gas in the gut, not lung
CLOSE_MM = 14.0  #: radius that closes vessels and consolidation in
SMALLEST_PART = 0.06  #: of the largest part; anything smaller is not a lung
MOST_LUNG = 0.75  #: of a slice; more is air or noise
HALVE_FROM = 400  #: rows and columns from which half the resolution is enough
SMALLEST_SLICE_MM2 = 4000.0  #: lungs on a slice or series with less area than this are not looked at


@dataclass(frozen=True, slots=True)
class Lungs:
    """Boolean masks (slices, rows, columns) of the patient's left and right lung."""

    left: Mask
    right: Mask

    @property
    def both(self) -> Mask:
        return self.left | self.right


def hull_of(lung: Mask) -> Mask:
    """The convex hull of one lung on every slice: where it would reach if nothing in it were dense."""
    out = np.zeros(lung.shape, bool)
    for z in range(lung.shape[0]):
        points = cv2.findNonZero(lung[z].astype(np.uint8))
        if points is not None:
            filled = cv2.fillConvexPoly(np.zeros(lung.shape[1:], np.uint8), cv2.convexHull(points), 1)
            out[z] = np.asarray(filled, bool)
    return out


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
    small, step = _halved(hu) if min(hu.shape[1:]) >= HALVE_FROM else (hu, 1)
    pixel_mm2 = spacing_mm[1] * spacing_mm[2] * step**2
    body = _body(small)
    parts = _large_parts(_without_airways((small < AIR_HU) & body, small, body, pixel_mm2), small, pixel_mm2)
    if parts is None and _close_up(small):
        body = _body(small, framed=True)
        parts = _large_parts(_without_airways((small < AIR_HU) & body, small, body, pixel_mm2), small, pixel_mm2)
    if parts is None or float(parts.mean(axis=(1, 2)).max()) > MOST_LUNG:
        return None
    low, high = _two_sides(parts, body)
    radius = max(2, round(CLOSE_MM / float(np.sqrt(pixel_mm2))))
    low, high = _closed(low, radius) & body, _closed(high, radius) & body
    if step > 1:
        low, high = _enlarged(low, hu.shape), _enlarged(high, hu.shape)
    high &= ~low
    return Lungs(left=high, right=low) if left_is_high_column else Lungs(left=low, right=high)


def _close_up(hu: npt.NDArray[np.float32]) -> bool:
    """Whether the picture is cut so close that its edge is chest wall (and some lung), and not the air round a patient."""
    edge = np.concatenate([hu[:, 0], hu[:, -1], hu[:, :, 0], hu[:, :, -1]], axis=1)
    return float((edge > -300).mean()) > 0.5


def _halved(hu: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], int]:
    """Half the rows and columns, by area: fine enough for an organ, and four times as fast."""
    size = (hu.shape[2] // 2, hu.shape[1] // 2)
    return np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in hu]), 2


def _enlarged(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """Back to full rows and columns with a smooth edge."""
    out = np.zeros(shape, bool)
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        out[z] = cv2.resize(mask[z].astype(np.float32), (shape[2], shape[1]), interpolation=cv2.INTER_LINEAR) > 0.5
    return out


def _body(hu: npt.NDArray[np.float32], *, framed: bool = False) -> Mask:
    """The patient without table and clothes: the largest dense region of each slice, filled.

    `framed`: the edge of the picture counts as dense, for pictures cut so close that lung touches it.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    out = np.zeros(hu.shape, bool)
    for z in range(hu.shape[0]):
        dense = cv2.morphologyEx((hu[z] > -500).astype(np.uint8), cv2.MORPH_OPEN, kernel)
        if framed:
            dense[[0, -1]] = dense[:, [0, -1]] = 1
        count, labels, stats, _ = cv2.connectedComponentsWithStats(dense, connectivity=4)
        if count < 2:
            continue
        best = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
        out[z] = _filled((labels == best).astype(np.uint8))
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
    total = np.bincount(labels.ravel(), weights=np.where(air, hu, 0).ravel())[1:]
    lung = total / np.maximum(size, 1) > GAS_HU
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
    spread = np.flatnonzero(body.any(axis=(0, 1)))
    midline = float(spread[0] + spread[-1]) / 2 if spread.size else parts.shape[2] / 2
    for erosion in (0, 1, 2, 4, 6):
        labels, count = ndimage.label(_eroded(parts, erosion))
        if count < 2:
            continue
        size = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        first, second = (int(i) for i in np.argsort(size)[::-1][:2])
        centres = _mean_columns(labels, size)
        if size[second] < 0.2 * size[first] or abs(centres[first] - centres[second]) < 0.15 * parts.shape[2]:
            continue  # one lung and a small part, or one above the other: not left and right
        middle = (centres[first] + centres[second]) / 2
        side = np.concatenate([[0], np.where(centres < middle, 1, 2)]).astype(np.uint8)
        side[first + 1], side[second + 1] = (1, 2) if centres[first] < centres[second] else (2, 1)
        sided = side[labels]
        if erosion > 0:
            sided = _spread(sided, parts)
        return parts & (sided == 1), parts & (sided == 2)
    low = np.arange(parts.shape[2])[None, None, :] < midline
    return parts & low, parts & ~low


def _mean_columns(labels: npt.NDArray[np.int32], size: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The mean column of each labelled part."""
    where = np.nonzero(labels)
    sums = np.bincount(labels[where] - 1, weights=where[2].astype(float), minlength=size.size)
    return np.asarray(sums / np.maximum(size, 1))


def _spread(sided: npt.NDArray[np.uint8], parts: Mask) -> npt.NDArray[np.uint8]:
    """Every voxel of `parts` takes the side of the nearest voxel that has one (at half resolution in the plane)."""
    coarse = sided[:, ::2, ::2]
    nearest = ndimage.distance_transform_edt(coarse == 0, return_distances=False, return_indices=True)
    fine = coarse[tuple(nearest)].repeat(2, axis=1).repeat(2, axis=2)
    fine = fine[:, : parts.shape[1], : parts.shape[2]]
    return np.where(sided > 0, sided, fine).astype(np.uint8)


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
            out[z] = _filled(np.asarray(closed[radius:-radius, radius:-radius], np.uint8))
    return out


def _filled(mask: npt.NDArray[np.uint8]) -> Mask:
    """One slice with its holes filled: all that can't be reached from outside."""
    padded = np.pad(mask, 1)
    cv2.floodFill(padded, None, (0, 0), 2)
    return np.asarray(padded[1:-1, 1:-1] != 2)
