"""Values through a lookup table of the image: Modality LUT, VOI LUT. PS3.3 C.11.1.1.1, C.11.2.1.1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset


def through(values: NDArray[Any], item: Dataset, *, signed: bool) -> NDArray[np.float32]:
    """`values` as the table has them, float32, same shape; what lies before its first or behind its last entry has theirs.

    Parameters
    ----------
    item : of Modality or VOI LUT Sequence
    signed : whether values below 0 can be meant by the first value mapped: a file tells its sign by Pixel Representation only

    Raises ValueError (or what a damaged item makes of it) when the table contradicts itself.
    """
    count, first, bits = (int(v) for v in item.LUTDescriptor)
    count = count or 1 << 16
    if signed and first >= 1 << 15:
        first -= 1 << 16
    told = item.LUTData
    if isinstance(told, bytes):
        entries = np.frombuffer(told, "<u2" if len(told) >= 2 * count else np.uint8)
    else:
        entries = np.atleast_1d(np.asarray(told, np.int64))
    if not 8 <= bits <= 16 or entries.size < count:
        raise ValueError("a lookup table has fewer entries than it tells")
    at = np.clip(np.rint(values).astype(np.int64) - first, 0, count - 1)
    return np.asarray(entries[:count].astype(np.float32)[at], np.float32)
