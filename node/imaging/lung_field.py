"""The lungs of a chest radiograph as a network sees them: cut out, put on a canvas, equalised, all else black."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from node.imaging.letterbox import Box, Letterbox, box_of
from node.imaging.radiograph import equalised

MARGIN = 0.03  #: round the lungs, of the longer side of their box

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


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
