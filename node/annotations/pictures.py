"""An example's image as a picture file: the frame as a reader sees it, at its own size."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from node.annotations.examples import Example, Mask
from node.domain import Result
from node.imaging.build import images_of
from node.picture import window_of


class Box(NamedTuple):
    """Columns and rows from 0; the right and lower ends excluded."""

    left: int
    top: int
    right: int
    bottom: int


def rendered(example: Example) -> NDArray[np.uint8]:
    """(rows, columns) grey or (rows, columns, 3) RGB, 8 bits. Raises NotAnalysed when the pixels can't be read."""
    volume = next(one for one in images_of(example.series) if one.frames[0].number == example.frame)
    plane = volume.pixels[0]
    if plane.ndim == 3:
        return np.asarray(plane, np.uint8)
    window = window_of(volume, Result(analysed=True))
    if window is not None:
        low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    elif float(plane.min()) >= 0 and 64 < float(plane.max()) <= 255:
        low, high = 0.0, 255.0  # an 8-bit picture keeps its brightness
    else:
        low, high = (float(v) for v in np.percentile(plane, (0.5, 99.5)))
    return np.asarray(((plane - low) / max(high - low, 1e-6)).clip(0, 1) * 255 + 0.5, np.uint8)


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Grey or RGB, without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    assert done
    path.write_bytes(data.tobytes())


def parts_of(mask: Mask) -> list[Mask]:
    """The connected parts of a mask, from the top: each is an object of its own to a detector."""
    count, numbered = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return [np.asarray(numbered == number) for number in range(1, count)]


def box_of(mask: Mask) -> Box:
    """The smallest box round a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
