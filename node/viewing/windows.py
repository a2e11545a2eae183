"""Which windows a series is offered in, by name: a page asks for one of these and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.imaging.window import told_window
from node.picture import CHEST_PARTS, LUNG_WINDOW, SOFT_TISSUE_WINDOW

Values = NDArray[Any]
SAMPLES = 5  #: frames that are looked at for the grey values of a series
HU_WINDOWS = {"lung": LUNG_WINDOW, "soft": SOFT_TISSUE_WINDOW, "bone": (500.0, 2000.0), "brain": (40.0, 80.0)}
_TITLES = {"lung": "Lung", "soft": "Soft tissue", "bone": "Bone", "brain": "Brain", "own": "As acquired", "full": "All grey values"}


@dataclass(frozen=True, slots=True)
class Window:
    """Grey values from `low` (black) to `high` (white)."""

    name: str
    low: float
    high: float

    @property
    def title(self) -> str:
        """For a list of choices, with centre and width."""
        return f"{_TITLES[self.name]} ({(self.low + self.high) / 2:.0f} / {self.high - self.low:.0f})"


def windows_of(header: Dataset, frame: int, unit: str, sample: Callable[[], Sequence[Values]], *, lungs: bool = False) -> dict[str, Window]:
    """The windows of a grey series, the one to begin with first.

    Parameters
    ----------
    header, frame : the first image, and which of its frames
    unit : "HU", or "1"
    sample : some frames of the series in the reader's units, asked for where the header tells no window
    lungs : whether the result is about lungs
    """
    found: dict[str, Window] = {}
    inverted = header.get("PhotometricInterpretation") == "MONOCHROME1"  # its window would be of the values before
    if (told := told_window(header, frame)) and not inverted:
        found["own"] = _window("own", *told)
    if unit == "HU":
        found |= {name: _window(name, *values) for name, values in HU_WINDOWS.items()}
    else:
        found["full"] = Window("full", *full_range(sample(), unit))
    chest = str(header.get("BodyPartExamined") or "").upper() in CHEST_PARTS
    first = "lung" if unit == "HU" and (chest or lungs) else next((name for name in ("own", "soft", "full") if name in found), "full")
    return {first: found[first], **found}


def full_range(frames: Sequence[Values], unit: str) -> tuple[float, float]:
    """From the darkest to the brightest, without the last half percent; an 8-bit picture keeps its brightness."""
    values = np.concatenate([np.asarray(frame).ravel()[:: max(1, frame.size // 65536)] for frame in frames])
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    if unit == "1" and float(values.min()) >= 0 and 64 < float(values.max()) <= 255:
        return 0.0, 255.0
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    return low, max(high, low + 1e-3)


def as_grey(values: Values, window: Window) -> NDArray[np.uint8]:
    """(rows, columns) in the reader's units → 0 to 255. PS3.3 C.11.2.1.3.2, LINEAR_EXACT."""
    grey = (np.nan_to_num(np.asarray(values, np.float32)) - np.float32(window.low)) / np.float32(max(window.high - window.low, 1e-6))
    return np.asarray((grey.clip(0, 1) * 255).round(), np.uint8)


def _window(name: str, center: float, width: float) -> Window:
    return Window(name, center - width / 2, center + width / 2)


def titles(windows: Mapping[str, Window]) -> dict[str, str]:
    """Name → title."""
    return {name: window.title for name, window in windows.items()}
