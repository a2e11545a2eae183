"""What a reader sees: a window of values as 0 to 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.imaging.functional import value_of


def window(values: NDArray[Any], center: float, width: float) -> NDArray[np.float32]:
    """Values as 0 (at or below the window) to 1 (at or above it), float32, same shape.

    Standard: PS3.3 C.11.2.1.3.2, LINEAR_EXACT: `center` ± half of `width`. Raises ValueError when width is not positive.
    """
    if not width > 0:
        raise ValueError("a window has a width above 0")
    low = center - width / 2.0
    return np.asarray(np.clip((values.astype(np.float32) - np.float32(low)) / np.float32(width), 0.0, 1.0), np.float32)


def told_window(ds: Dataset, frame: int = 1) -> tuple[float, float] | None:
    """(center, width) that the image proposes first; None when it proposes none. PS3.3 C.11.2."""
    found = []
    for keyword in ("WindowCenter", "WindowWidth"):
        value: Any = value_of(ds, frame, "FrameVOILUTSequence", keyword)
        try:
            found.append(float(value if isinstance(value, str | float | int) else value[0]))
        except (TypeError, ValueError, IndexError):
            return None
    return (found[0], found[1]) if np.isfinite(found).all() and found[1] > 0 else None
