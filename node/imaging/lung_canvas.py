"""The box round both lungs squeezed into a square of fixed size: every chest, large or small, lies on it alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from node.imaging.letterbox import Box

MARGIN = 0.06  #: round the lungs, of the box's height and width
CLIP, TILES = 2.0, 5  #: of the equalisation: contrast limit, tiles across

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LungCanvas:
    """The map of a box of a film onto a `size` x `size` canvas; its aspect is not kept."""

    box: Box
    size: int

    @classmethod
    def round(cls, lungs: Box, size: int, rows: int, columns: int) -> LungCanvas:
        """With a margin round the box of both lungs, inside rows x columns."""
        down, across = round(MARGIN * lungs.height), round(MARGIN * lungs.width)
        box = Box(max(0, lungs.top - down), max(0, lungs.left - across), min(rows, lungs.bottom + down), min(columns, lungs.right + across))
        return cls(box, size)

    def forward(self, image: NDArray[Any]) -> Floats:
        """The box of `image` (rows, columns) on the canvas."""
        b = self.box
        cut = np.ascontiguousarray(image[b.top : b.bottom, b.left : b.right], np.float32)
        how = cv2.INTER_AREA if min(b.height, b.width) > self.size else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(cut, (self.size, self.size), interpolation=how), np.float32)

    def backward(self, canvas: NDArray[Any], rows: int, columns: int) -> Floats:
        """A map on the canvas (of any size) back on rows x columns; zero outside the box."""
        b = self.box
        out = np.zeros((rows, columns), np.float32)
        out[b.top : b.bottom, b.left : b.right] = cv2.resize(canvas.astype(np.float32), (b.width, b.height), interpolation=cv2.INTER_CUBIC)
        return out


def equalised(grey: Floats) -> Floats:
    """0 to 1 between the 0.5th and 99.5th percentile, contrast evened out locally (CLAHE): exposure and window play no part any more."""
    low, high = (float(v) for v in np.percentile(grey, [0.5, 99.5]))
    scaled = np.clip((grey - low) / max(high - low, 1e-6), 0, 1)
    evened = cv2.createCLAHE(CLIP, (TILES, TILES)).apply((scaled * 255).astype(np.uint8))
    return np.asarray(evened, np.float32) / np.float32(255)
