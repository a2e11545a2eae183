"""Attributes of one frame: per-frame functional groups, then shared ones, then the instance itself. PS3.3 C.7.6.16."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset


def value_of(ds: Dataset, frame: int, group: str, keyword: str) -> Any:
    """The value that holds for a frame (counted from 1); None when it is absent or empty."""
    for functional in (_item(ds, "PerFrameFunctionalGroupsSequence", frame - 1), _item(ds, "SharedFunctionalGroupsSequence", 0)):
        if functional is not None:
            macro = _item(functional, group, 0)
            if macro is not None and macro.get(keyword) not in (None, ""):
                return macro.get(keyword)
    try:
        value = ds.get(keyword)
    except (ValueError, TypeError):  # a number that isn't one
        return None
    return None if value == "" else value


def numbers_of(ds: Dataset, frame: int, group: str, keyword: str, count: int) -> NDArray[np.float64] | None:
    """`count` finite numbers; None when absent, too few, or not numbers."""
    try:
        value = value_of(ds, frame, group, keyword)
        if value is None or isinstance(value, str):
            return None
        out = np.array([float(v) for v in value], np.float64)
    except (TypeError, ValueError):
        return None
    return out if out.shape == (count,) and np.isfinite(out).all() else None


def number_of(ds: Dataset, frame: int, group: str, keyword: str, default: float) -> float:
    """One number; `default` when it is absent, NaN when it is there and no number."""
    value = value_of(ds, frame, group, keyword)
    if value is None:
        return default
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _item(ds: Dataset, sequence: str, index: int) -> Dataset | None:
    try:
        items = ds.get(sequence)
        return items[index] if items and index < len(items) else None
    except (TypeError, IndexError, AttributeError):
        return None
