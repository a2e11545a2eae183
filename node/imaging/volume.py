"""The volume a pipeline is given: pixels in the reader's units, and where each frame came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.domain import Instance, Series


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame of the volume and the image it came from."""

    instance: Instance
    number: int = 1  #: frame number within the instance, from 1 (PS3.3 C.7.6.6)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Beside:
    """Another series of the study on a volume's grid, for a model that reads several at once."""

    name: str  #: of the channel, e.g. "FLAIR"
    series: Series = field(repr=False)
    pixels: NDArray[np.float32] = field(repr=False)  #: (frames, rows, columns) of the volume


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Volume:
    """One series, or one image of it, ready for a model.

    `pixels` is float32 (frames, rows, columns), or uint8 (frames, rows, columns, 3) for colour; MONOCHROME1 is inverted, the
    modality LUT is applied, frames stand in order along the slice normal.
    """

    series: Series
    pixels: NDArray[np.float32] | NDArray[np.uint8] = field(repr=False)
    unit: str  #: "HU" for CT, else "1"
    frames: tuple[Frame, ...] = field(repr=False)
    affine: NDArray[np.float64] | None = field(
        repr=False
    )  #: 4x4: (column, row, frame) → mm in LPS (PS3.3 C.7.6.2.1.1); None without a frame of reference
    spacing_mm: tuple[float, float, float] | None  #: between frames, rows, columns; None when unknown
    notes: tuple[str, ...] = ()  #: what was repaired or assumed, for the report
    beside: tuple[Beside, ...] = field(default=(), repr=False)  #: in the order of the model's channels; the volume itself is the first
    clinical: Mapping[str, Any] = field(
        default_factory=dict, repr=False
    )  #: what was told of the patient beside the header, e.g. temperature

    @property
    def pixel_spacing_mm(self) -> tuple[float, float] | None:
        """Row and column spacing in the image plane."""
        return None if self.spacing_mm is None else self.spacing_mm[1:]

    @property
    def finite(self) -> bool:
        """Every pixel is a number: not so where Float Pixel Data holds NaN, which a threshold would make "nothing" of."""
        return bool(np.isfinite([self.pixels.min(), self.pixels.max()]).all())

    @property
    def voxel_ml(self) -> float | None:
        """Volume of one voxel in mL; None when the distance between frames is not known."""
        if self.spacing_mm is None or self.affine is None:
            return None
        return float(np.prod(self.spacing_mm)) / 1000.0
