"""The lungs of a chest radiograph as a network sees them: cut out, put on a canvas, equalised, all else black."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from node.imaging.letterbox import Box, Letterbox, box_of
from node.imaging.radiograph import equalised

MARGIN = 0.03  #: round the lungs, of the longer side of their box
BETWEEN = 0.95  #: from the mean of the darker pixels (0) to that of the brighter ones (1): what is brighter counts as no air
SMALLEST_PART = 0.1  #: of the largest part of what holds air
LEAST_AIR = 0.4  #: of the lungs; where less is left, dense disease fills them and they are taken whole

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


def aerated(grey: Floats, lungs: Mask, *, between: float = BETWEEN) -> Mask:
    """The part of the lungs that holds air: without the heart's shadow, and without what is as dense.

    Public lung fields were cut without the heart, so a network that has learned from them looks at this part.

    Parameters
    ----------
    grey : float32 (rows, columns), 0 to 1, bones bright
    lungs : bool (rows, columns), with what lies behind the heart
    """
    pixels = int(lungs.sum())
    if pixels == 0:
        return lungs
    smooth = cv2.GaussianBlur(grey, (0, 0), max(1.0, float(np.sqrt(pixels)) / 40))
    values = smooth[lungs]
    level, _ = cv2.threshold((np.clip(values, 0, 1) * 255).astype(np.uint8)[None], 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    dark = values <= level / 255
    if dark.all() or not dark.any():
        return lungs
    low, high = float(values[dark].mean()), float(values[~dark].mean())
    air = lungs & (smooth <= low + between * (high - low))
    air = _large_parts(cv2.morphologyEx(air.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0)
    return air if air.sum() > LEAST_AIR * pixels else lungs


def field_of(grey: Floats, lungs: Mask, size: int) -> tuple[Letterbox, Floats]:
    """The lungs on a `size` x `size` canvas: the way back, and the equalised picture.

    Parameters
    ----------
    grey : float32 (rows, columns), 0 to 1, bones bright
    lungs : bool (rows, columns), not empty
    """
    box = (box_of(lungs) or Box(0, 0, *grey.shape)).grown(MARGIN, *grey.shape)
    frame = Letterbox(box, size)
    return frame, equalised(frame.forward(grey), inner(frame.forward(lungs.astype(np.float32)) > 0.5))


def inner(mask: Mask) -> Mask:
    """Without its outermost pixels: they are mixed with what lies outside."""
    return np.asarray(cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)


def _large_parts(mask: Mask) -> Mask:
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return np.asarray(np.isin(parts, 1 + np.flatnonzero(areas >= SMALLEST_PART * areas.max())) if count > 1 else np.zeros_like(mask))
