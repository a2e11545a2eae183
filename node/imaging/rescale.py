"""Stored values in the reader's units: modality LUT, padding, MONOCHROME1, and colour as RGB."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, convert_color_space

from node.errors import PixelsUnreadable
from node.imaging.decode import whole
from node.imaging.functional import number_of
from node.imaging.lut import through
from node.imaging.window import told_window

Floats = NDArray[np.float32]
CT_AIR_HU = -1024.0  #: what padding outside the reconstructed circle becomes


def is_colour(photometric: str) -> bool:
    return photometric.startswith(("RGB", "YBR", "PALETTE"))


def hounsfield(stored: NDArray[Any], *, slope: float, intercept: float) -> Floats:
    """Stored values in output units, float32.

    Standard: PS3.3 C.11.1.1.2 — output = slope × stored + intercept.
    """
    out = stored.astype(np.float32)
    if slope != 1.0:
        out *= np.float32(slope)
    if intercept != 0.0:
        out += np.float32(intercept)
    return out


def grey_of(stored: NDArray[Any], ds: Dataset, frame: int, photometric: str) -> Floats:
    """One grey frame, (rows, columns), after modality LUT and padding; MONOCHROME1 turned so that more is brighter.

    Raises PixelsUnreadable when Rescale Slope is 0 or not a number: PS3.3 C.11.1.
    """
    out: Floats
    if ds.get("ModalityLUTSequence"):
        out = np.asarray(_looked_up(_through_modality_lut, stored, ds), np.float32)
        slope, intercept = 1.0, 0.0
    else:
        slope, intercept = _rescale(ds, frame)
        if slope == 0.0 or not np.isfinite([slope, intercept]).all():
            raise PixelsUnreadable(f"Rescale Slope of {ds.SOPInstanceUID} is 0 or not a number")
        out = hounsfield(stored, slope=slope, intercept=intercept)
    padded = padding_of(stored, ds)
    if photometric == "MONOCHROME1":
        out = np.float32(_ends(ds, slope, intercept)) - out
    if padded is not None and padded.any():
        kept = out[~padded]
        is_ct = str(ds.get("Modality", "")) == "CT"
        out[padded] = CT_AIR_HU if is_ct else (kept.min() if kept.size else 0.0)
    return out


def turned_window(ds: Dataset, frame: int = 1) -> tuple[float, float] | None:
    """(center, width) that the image proposes first, of values as `grey_of` gives them: turned with a MONOCHROME1 image. None without."""
    told = told_window(ds, frame)
    if told is None or ds.get("PhotometricInterpretation") != "MONOCHROME1":
        return told
    return turned(told[0], ds, frame), told[1]


def turned(value: float, ds: Dataset, frame: int = 1) -> float:
    """A value of a MONOCHROME1 image as `grey_of` gives it, from what it was before; and the other way round."""
    slope, intercept = (1.0, 0.0) if ds.get("ModalityLUTSequence") else _rescale(ds, frame)
    return _ends(ds, slope, intercept) - value


def _rescale(ds: Dataset, frame: int) -> tuple[float, float]:
    """Slope and intercept of a frame; NaN for what is there and no number."""
    slope = number_of(ds, frame, "PixelValueTransformationSequence", "RescaleSlope", 1.0)
    return slope, number_of(ds, frame, "PixelValueTransformationSequence", "RescaleIntercept", 0.0)


def _ends(ds: Dataset, slope: float, intercept: float) -> float:
    """What a value and its negative add up to: the lowest is shown white, so all turn about the middle of what can be stored. PS3.3 C.7.6.3.1.2."""
    low, high = stored_range(ds)
    return slope * (low + high) + 2.0 * intercept


def stored_range(ds: Dataset) -> tuple[int, int]:
    """The smallest and largest value that Bits Stored and Pixel Representation allow."""
    bits = whole(ds, "BitsStored", 16)
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if whole(ds, "PixelRepresentation") == 1 else (0, (1 << bits) - 1)


def padding_of(stored: NDArray[Any], ds: Dataset) -> NDArray[np.bool_] | None:
    """Which pixels are padding: Pixel Padding Value (0028,0120), up to the Range Limit (0028,0121). PS3.3 C.7.5.1.1.2."""
    if ds.get("PixelPaddingValue") in (None, ""):
        return None
    value = _as_stored(whole(ds, "PixelPaddingValue"), ds)
    limit = value if ds.get("PixelPaddingRangeLimit") in (None, "") else _as_stored(whole(ds, "PixelPaddingRangeLimit"), ds)
    low, high = min(value, limit), max(value, limit)
    return np.asarray((stored >= low) & (stored <= high)) if low != high else np.asarray(stored == value)


def _as_stored(value: int, ds: Dataset) -> int:
    """A padding value that was written with the other sign: 63536 stands for -2000 where pixels are signed."""
    if whole(ds, "PixelRepresentation") == 1 and value >= 1 << 15:
        return value - (1 << 16)
    return value if whole(ds, "PixelRepresentation") == 1 or value >= 0 else value + (1 << 16)


def _through_modality_lut(stored: NDArray[Any], ds: Dataset) -> Floats:
    return through(stored, ds.ModalityLUTSequence[0], signed=whole(ds, "PixelRepresentation") == 1)


def _looked_up(look_up: Callable[[NDArray[Any], Dataset], Any], stored: NDArray[Any], ds: Dataset) -> Any:
    """Through a table of the image. One that contradicts itself is refused, without repeating what stands in it."""
    try:
        return look_up(stored, ds)
    except Exception as why:
        raise PixelsUnreadable(f"a lookup table of {ds.SOPInstanceUID} can't be used ({type(why).__name__})") from None


def _of_bytes(ds: Dataset) -> bool:
    """Whether a palette of 16 bits holds bytes only: some machines write it so, and their pictures are not black."""
    tables = (ds.get(f"{colour}PaletteColorLookupTableData") for colour in ("Red", "Green", "Blue"))
    return all(isinstance(one, bytes) and max(one[1::2], default=1) == 0 for one in tables)


def rgb_of(stored: NDArray[Any], ds: Dataset, photometric: str) -> NDArray[np.uint8]:
    """One colour frame as RGB, uint8 (rows, columns, 3)."""
    if photometric == "PALETTE COLOR":
        if "RedPaletteColorLookupTableDescriptor" not in ds:
            raise PixelsUnreadable(f"the palette of {ds.SOPInstanceUID} is missing")
        out = np.asarray(_looked_up(apply_color_lut, stored, ds))[..., :3]
        return np.asarray(out >> 8 if out.dtype == np.uint16 and not _of_bytes(ds) else out, np.uint8)
    if photometric.startswith("YBR_FULL"):
        stored = convert_color_space(stored, photometric, "RGB")
    if stored.dtype != np.uint8:
        shift = max(0, whole(ds, "BitsStored", 8) - 8)
        stored = np.clip(stored.astype(np.int64) >> shift, 0, 255)
    return np.asarray(stored, np.uint8)
