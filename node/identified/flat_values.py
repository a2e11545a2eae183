"""Does one value stand out? Measured tissue spreads over many values; what is written into an image has one value of its own, hundreds of times."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

EVERY = 2  #: one row and one column in so many are counted: letters of ten rows meet five of them
NEIGHBOURS = 4  #: values on each side that a value is compared with
MORE_THAN = 4.0  #: times the mean of its neighbours, and
LEAST = 8  #: that many pixels more, of those that are counted
MOST_VALUES = 1 << 16
STROKES, LINES = 5, 5  #: so many strokes side by side, in so many rows


def stands_out(frame: NDArray[Any]) -> bool:
    """Whether something seems to be written into a measured image, at a value of its own; True also for what can't be told."""
    values = _often(frame)
    return values is None or (values.size > 0 and looks_written(np.isin(frame, values)))


def standing_out(frame: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where a value other than the two lowest is far more frequent than its neighbours.

    Parameters
    ----------
    frame : integer array, (rows, columns)
        Stored values. The lowest is padding or air, the next one air that was cut off where padding lies below it.

    Returns
    -------
    bool array, (rows, columns); None for what can't be told: colour, floating point.
    """
    values = _often(frame)
    return None if values is None else np.isin(frame, values)


def _often(frame: NDArray[Any]) -> NDArray[np.int64] | None:
    """The values that stand out; None for what can't be told."""
    if frame.ndim != 2 or frame.dtype.kind not in "iu":
        return None
    counted = frame[::EVERY, ::EVERY].astype(np.intp).ravel()  # what bincount counts without a copy of its own
    low = int(counted.min(initial=0)) if frame.dtype.kind == "i" or frame.dtype.itemsize > 2 else 0
    if low or frame.dtype.itemsize > 2:
        counted -= low
        if int(counted.max(initial=0)) >= MOST_VALUES:
            return None
    counts = np.bincount(counted)
    values = np.flatnonzero(counts)[2:]  # values that occur: a scaled image leaves gaps
    often = counts[values].astype(np.float64)
    if often.size == 0:
        return values
    sums = np.convolve(often, _WINDOW, "same")[: often.size] - often
    chosen = values[often > MORE_THAN * sums / _beside(often.size) + LEAST]
    return np.asarray(chosen + low, np.int64)


_WINDOW = np.ones(2 * NEIGHBOURS + 1)


@lru_cache(maxsize=64)
def _beside(size: int) -> NDArray[np.float64]:
    """How many neighbours each of so many values has, at least 1."""
    return np.maximum(np.convolve(np.ones(size), _WINDOW, "same")[:size] - 1, 1)


def looks_written(found: NDArray[np.bool_]) -> bool:
    """Strokes side by side, as in a line of letters, along or across: metal, which is cut off at one value too, makes a few broad runs."""
    return any(int((_runs(part) >= STROKES).sum()) >= LINES for part in (found, found.T))


def _runs(found: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How often each row begins to be true."""
    return np.asarray(found[:, :1].sum(axis=1) + (found[:, 1:] & ~found[:, :-1]).sum(axis=1))
