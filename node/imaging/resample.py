"""A volume on another spacing, and an answer back on the grid it came from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def resampled(values: NDArray[Any], shape: tuple[int, int, int], *, order: int = 1) -> NDArray[Any]:
    """`values` (frames, rows, columns) stretched to `shape`, outer edges of the outer voxels kept in place.

    With `order` 0 (nearest) masks and labels stay what they are; 1 is linear. A call with the first shape brings an answer back.
    """
    if values.shape == shape:
        return values
    scale = [old / new for old, new in zip(values.shape, shape, strict=True)]
    offset = [0.5 * s - 0.5 for s in scale]  # voxel centres: the edges of both grids lie on each other
    source = values.astype(np.uint8) if values.dtype == np.bool_ else values
    out = ndimage.affine_transform(source, scale, offset=offset, output_shape=shape, order=order, mode="nearest")
    return np.asarray(out.astype(values.dtype))


def shape_at(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], wanted_mm: tuple[float, float, float]
) -> tuple[int, int, int]:
    """How many voxels `wanted_mm` apart fill the same space; at least one each way."""
    frames, rows, columns = (max(1, round(n * s / w)) for n, s, w in zip(shape, spacing_mm, wanted_mm, strict=True))
    return frames, rows, columns
