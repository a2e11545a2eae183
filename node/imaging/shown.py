"""A picture as a reader sees it: through the VOI LUT that the image proposes first. PS3.3 C.11.2."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.imaging.decode import whole
from node.imaging.functional import value_of
from node.imaging.lut import through
from node.imaging.rescale import turned
from node.imaging.volume import Volume
from node.imaging.window import told_window, window

Pixels = NDArray[Any]
LEAST_SHOWN = 0.25  #: of the pixels must lie inside a window that is believed


def as_shown(volume: Volume, at: int = 0) -> Pixels:
    """One picture of a volume, more is brighter; as it is where the image has no VOI LUT, or one that shows next to nothing."""
    plane: Pixels = volume.pixels[at]
    frame = volume.frames[at]
    if plane.ndim == 3:
        return plane
    header = frame.instance.header
    inverted = header.get("PhotometricInterpretation") == "MONOCHROME1"
    out = _through(turned(0.0, header, frame.number) - plane if inverted else plane, header, frame.number)
    if out is None:
        return plane
    return np.asarray(float(out.max()) - out if inverted else out, np.float32)


def _through(values: Pixels, header: Dataset, frame: int) -> Pixels | None:
    """Through the table, else the window; None where there is neither, or it can't be believed."""
    if tables := value_of(header, frame, "FrameVOILUTSequence", "VOILUTSequence"):
        try:
            out = through(values, tables[0], signed=whole(header, "PixelRepresentation") == 1 or float(values.min()) < 0)
        except Exception:  # whatever a damaged table makes of it: readers' viewers pass over it, too
            return None
    elif told := told_window(header, frame):
        kind = value_of(header, frame, "FrameVOILUTSequence", "VOILUTFunction")
        out = _sigmoid(values, *told) if str(kind or "").upper() == "SIGMOID" else window(values, *told)
    else:
        return None
    within = (out > out.min()) & (out < out.max())
    return out if float(within.mean()) >= LEAST_SHOWN else None


def _sigmoid(values: Pixels, center: float, width: float) -> Pixels:
    """PS3.3 C.11.2.1.3.1."""
    return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -50, 50))), np.float32)
