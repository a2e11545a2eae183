"""A frame as a person would see it on a screen: 8 bits, in more than one window, since text often stands at the very end of the scale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.imaging.rescale import is_colour, padding_of, rgb_of
from node.imaging.window import told_window

Picture = NDArray[np.uint8]
SAME = 12.0  #: mean difference in grey values below which two windows show the same


def pictures(stored: NDArray[Any], ds: Dataset, photometric: str) -> list[Picture]:
    """What a viewer may show of a frame.

    Parameters
    ----------
    stored : array, (rows, columns) or (rows, columns, 3)
        Stored values as decoded.
    ds
        The Image Pixel module of the image, with its palette, its padding value and its window.
    photometric
        Photometric Interpretation after decoding.

    Returns
    -------
    uint8 arrays, (rows, columns, 3)
        Colour: one. Grey: from the lowest to the highest value; of more than 8 bits also without the outermost percent; and in the window
        that the image proposes; as far as these differ. MONOCHROME1 is turned.
    """
    if is_colour(photometric):
        return [np.ascontiguousarray(rgb_of(stored, ds, photometric))]
    values = np.nan_to_num(stored.astype(np.float32))
    padded = padding_of(stored, ds)
    kept = values[~padded] if padded is not None and not padded.all() else values.ravel()
    found: list[NDArray[np.float32]] = []
    for low, high in _windows(kept, ds):
        shown = np.clip((values - low) * np.float32(255.0 / max(high - low, 1e-6)), 0, 255)
        if not any(float(np.abs(shown - other).mean()) < SAME for other in found):
            found.append(shown)
    turned = photometric == "MONOCHROME1"
    return [_in_three((255 - shown if turned else shown).astype(np.uint8)) for shown in found]


def _windows(kept: NDArray[np.float32], ds: Dataset) -> Iterator[tuple[float, float]]:
    yield float(kept.min()), float(kept.max())
    if int(ds.get("BitsStored") or 16) > 8:
        low, high = np.percentile(kept[:: max(1, kept.size // 500_000)], (1, 99))
        if high > low:
            yield float(low), float(high)
    told = told_window(ds)
    if told is not None:
        slope, intercept = float(ds.get("RescaleSlope") or 1), float(ds.get("RescaleIntercept") or 0)
        ends = sorted(((told[0] + side * told[1] / 2 - intercept) / slope) for side in (-1, 1))
        yield ends[0], ends[1]


def _in_three(grey: Picture) -> Picture:
    return np.repeat(grey[:, :, None], 3, axis=2)
