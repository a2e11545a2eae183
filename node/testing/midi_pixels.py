"""Can a text that was burned in still be read? Told by the truth, not by a reader: how much of the edges of its letters is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array

KEPT_EDGE = 0.5  #: an edge is there while it has half of its contrast, in its direction
WINDOW = 2.4  #: times the height of a capital: three to four letters
LEGIBLE = 0.5  #: they can be read while half of their edges are there: two letters, not one
CHANGED = 0.02  #: of the displayed range: less is rounding
ASIDE, ABOVE = 1.6, 0.75  #: times the height of a capital: a mask may reach so far beyond its text


class Looked(NamedTuple):
    """What became of the pixels of one instance."""

    legible: list[bool]  #: for each text: some of it can be read in some frame
    outside: float  #: share of the picture that changed and is not near a text
    same_shape: bool


def look(original: Path, clean: Path, texts: list[dict[str, Any]], glyphs: Path) -> Looked:
    """Compare the pixels of a clean copy with those that it was made from."""
    before = _frames(original)
    try:
        after = _frames(clean)
    except Exception:  # an image that nobody can open was not kept
        return Looked([False] * len(texts), 1.0, False)
    if before.shape[:3] != after.shape[:3] or before.shape[3] > after.shape[3]:
        return Looked([True] * len(texts), 1.0, False)
    after = after[..., : before.shape[3]]
    ink = cv2.imread(str(glyphs), cv2.IMREAD_GRAYSCALE) if texts else np.zeros(before.shape[1:3], np.uint8)
    spread = float(np.percentile(before, 99.8) - np.percentile(before, 0.2)) or 1.0
    legible = [
        any(readable(old, new, np.asarray(ink == number), text["height_px"], spread) for old, new in zip(before, after, strict=True))
        for number, text in enumerate(texts, 1)
    ]
    return Looked(legible, _outside(before, after, texts, CHANGED * spread), True)


def readable(before: NDArray[Any], after: NDArray[Any], ink: NDArray[np.bool_], height_px: int, spread: float) -> bool:
    """Somewhere along the text, half of the letters' edges are left.

    Parameters
    ----------
    before, after : (rows, columns, samples)
    ink : (rows, columns)
        The pixels of the text.
    spread : float
        The displayed range; edges below a twentieth of it could not be seen before either.
    """
    rows, columns = np.nonzero(ink)
    top, bottom = max(1, rows.min() - 1), min(ink.shape[0] - 1, rows.max() + 2)
    left, right = max(1, columns.min() - 1), min(ink.shape[1] - 1, columns.max() + 2)
    here = ink[top:bottom, left:right]
    there = np.zeros(here.shape[1])
    kept = np.zeros(here.shape[1])
    for down, over in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        beside = (slice(top + down, bottom + down), slice(left + over, right + over))
        edge = here & ~ink[beside]
        old = before[top:bottom, left:right] - before[beside]
        new = after[top:bottom, left:right] - after[beside]
        sample = np.abs(old).argmax(axis=2)[..., None]
        old, new = np.take_along_axis(old, sample, 2)[..., 0], np.take_along_axis(new, sample, 2)[..., 0]
        edge &= np.abs(old) > 0.05 * spread
        there += edge.sum(axis=0)
        kept += (edge & (old * new > 0) & (np.abs(new) >= KEPT_EDGE * np.abs(old))).sum(axis=0)
    wide = min(len(there), max(3, round(WINDOW * height_px)))
    window = np.ones(wide)
    all_edges, left_edges = np.convolve(there, window, "valid"), np.convolve(kept, window, "valid")
    return bool(((all_edges >= height_px) & (left_edges > LEGIBLE * all_edges)).any())


def _outside(before: NDArray[Any], after: NDArray[Any], texts: list[dict[str, Any]], tolerance: float) -> float:
    far = np.ones(before.shape[1:3], bool)
    for text in texts:
        top, left, bottom, right = text["box"]
        above, aside = (round(share * text["height_px"]) + 4 for share in (ABOVE, ASIDE))
        far[max(0, top - above) : bottom + above, max(0, left - aside) : right + aside] = False
    changed = (np.abs(after - before) > tolerance).any(axis=(0, 3))
    return float((changed & far).mean())


def _frames(path: Path) -> NDArray[np.float32]:
    """(frames, rows, columns, samples), colours as red, green, blue."""
    ds: Dataset = dcmread(path, force=True)
    pixels = pixel_array(ds)
    if ds.SamplesPerPixel == 1:
        pixels = pixels[..., None]
    return np.asarray(pixels[None] if pixels.ndim == 3 else pixels, np.float32)
