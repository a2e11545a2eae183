"""A picture into a square canvas of fixed size and back, aspect kept (oblong pixels made square), exactly inverted."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
NO_BLUR = 1e-3  #: pixels; 0 would be "as the other way" to OpenCV


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels: rows [top, bottom), columns [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def grown(self, margin: float, rows: int, columns: int, aspect: float = 1.0) -> Box:
        """Wider by `margin` times its longer side on each side, kept inside rows x columns; `aspect`: height of a pixel by its width."""
        wider = margin * max(self.height * aspect, self.width)
        down, across = round(wider / aspect), round(wider)
        return Box(
            max(0, self.top - down),
            max(0, self.left - across),
            min(rows, self.bottom + down),
            min(columns, self.right + across),
        )


def box_of(mask: npt.NDArray[np.bool_]) -> Box | None:
    """The tight box round the true pixels of `mask` (rows, columns); None when there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


@dataclass(frozen=True, slots=True)
class Letterbox:
    """The map of one box of a source image onto a `size` x `size` canvas."""

    box: Box
    size: int
    aspect: float = 1.0  #: height of a source pixel by its width; the canvas has square ones

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the canvas to a source pixel: down, across."""
        across = self.size / max(self.box.height * self.aspect, self.box.width)
        return across * self.aspect, across

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """2x3 affine, source (column, row) pixel centres to canvas pixel centres."""
        down, across = self.scale
        # pixel centres: canvas = scale * (source + 0.5 - centre) + size / 2 - 0.5
        centre_c = (self.box.left + self.box.right) / 2
        centre_r = (self.box.top + self.box.bottom) / 2
        offset = self.size / 2 - 0.5
        return np.array(
            [
                [across, 0.0, offset + across * (0.5 - centre_c)],
                [0.0, down, offset + down * (0.5 - centre_r)],
            ]
        )

    def forward(self, image: Array, *, fill: float = 0.0) -> Array:
        """The box of `image` (rows, columns) on the canvas; what lies outside the box is `fill`."""
        b = self.box
        cut = np.full_like(image, fill, dtype=np.float32)
        cut[b.top : b.bottom, b.left : b.right] = image[b.top : b.bottom, b.left : b.right]
        if min(self.scale) < 0.8:  # a smaller canvas: smooth first, so that nothing aliases
            down, across = (0.4 / scale if scale < 0.8 else NO_BLUR for scale in self.scale)
            cut = np.asarray(cv2.GaussianBlur(cut, (0, 0), across, sigmaY=down), np.float32)
        canvas = cv2.warpAffine(
            cut, self.matrix, (self.size, self.size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=fill
        )
        return np.asarray(canvas, np.float32)

    def backward(self, canvas: Array, rows: int, columns: int) -> Array:
        """A map on the canvas back on the source grid of rows x columns; zero outside the box."""
        b = self.box
        whole = cv2.warpAffine(
            canvas.astype(np.float32),
            self.matrix,
            (columns, rows),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        out = np.zeros((rows, columns), np.float32)
        out[b.top : b.bottom, b.left : b.right] = whole[b.top : b.bottom, b.left : b.right]
        return out
