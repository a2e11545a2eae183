"""Boxes painted into frames, black as displayed. What lies outside of them keeps its values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut

from node.identified.boxes import Box
from node.imaging.rescale import padding_of

Fill = int | float | tuple[int, int, int]


def black(photometric: str, frames: Sequence[NDArray[Any]], ds: Dataset) -> Fill:
    """The stored value that is shown black.

    Grey: the lowest value of these frames, or the highest in MONOCHROME1, padding apart; so a window that is taken from the values stays
    what it was. Palette: the entry with the least light. PS3.3 C.7.6.3.1.2.
    """
    if photometric == "RGB":
        return (0, 0, 0)
    if photometric.startswith("YBR"):
        middle = 1 << (int(ds.get("BitsStored") or 8) - 1)
        return (0, middle, middle)
    if photometric == "PALETTE COLOR":
        return _darkest_entry(ds)
    ends = [end for frame in frames if (end := _ends(frame, ds)) is not None]
    if not ends:
        return 0
    value = max(high for _, high in ends) if photometric == "MONOCHROME1" else min(low for low, _ in ends)
    return float(value) if isinstance(value, np.floating) else int(value)


def painted(frame: NDArray[Any], boxes: Iterable[Box], fill: Fill) -> NDArray[Any]:
    """A copy with the boxes filled."""
    out = frame.copy()
    for box in boxes:
        out[box.top : box.bottom, box.left : box.right] = fill
    return out


def _ends(frame: NDArray[Any], ds: Dataset) -> tuple[Any, Any] | None:
    padded = padding_of(frame, ds)
    kept = frame if padded is None else frame[~padded]
    return (kept.min(), kept.max()) if kept.size else None


def _darkest_entry(ds: Dataset) -> int:
    """The stored value whose colour has the least light. The palette's first stored value may be other than 0, PS3.3 C.7.6.3.1.5."""
    entries, first = (int(value) for value in ds.RedPaletteColorLookupTableDescriptor[:2])
    count = min(entries or 1 << 16, 1 << int(ds.get("BitsStored") or 8))
    dtype = np.uint8 if count <= 256 and first < 256 else np.uint16
    stored = np.arange(count, dtype=dtype)[None, :]
    light = np.asarray(apply_color_lut(stored, ds), np.float64)[0, :, :3].sum(axis=1)
    return int(np.argmin(light))
