"""Another series of the study on a volume's grid, by the positions of both: for a model that reads several series at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.errors import GeometryRefused, OutsideIntendedUse
from node.imaging.volume import Beside, Volume

LEAST = 0.5  #: share of the volume that the other series must show
WHOLE = 0.98  #: below it the report says how much


def beside(volume: Volume, name: str, other: Volume) -> tuple[Beside, tuple[str, ...]]:
    """`other` on the grid of `volume`, linear between voxels, and what a reader should know of it.

    Where it has no voxels it is as dark as it gets. Nothing is registered: the positions (PS3.3 C.7.6.2.1.1) are believed.

    Raises
    ------
    GeometryRefused
        One of them has no place in the patient.
    OutsideIntendedUse
        The other shows less than half of the volume, is in colour, or holds nothing.
    """
    if volume.affine is None or other.affine is None:
        raise GeometryRefused("it can't be laid over the first series: images do not say where they lie in the patient")
    if other.pixels.ndim != 3:
        raise OutsideIntendedUse(f"{name} is in colour")
    if not other.finite:
        raise OutsideIntendedUse(f"some pixels of {name} are no numbers")
    lowest = float(other.pixels.min())
    if lowest == float(other.pixels.max()):
        raise OutsideIntendedUse(f"nothing is on the images of {name}: every pixel has the same value")
    moved = _moved(other, volume)
    there = np.isfinite(moved)
    share = float(there.mean())
    if share < LEAST:
        raise OutsideIntendedUse(f"{name} shows only {100 * share:.0f} % of what the first series shows")
    moved[~there] = lowest
    notes = [f"{name}: {note}" for note in other.notes]
    if share < WHOLE:
        notes.append(f"{name} shows {100 * share:.0f} % of what the first series shows; the rest was dark to the model.")
    return Beside(name=name, series=other.series, pixels=moved), tuple(notes)


def _moved(other: Volume, volume: Volume) -> NDArray[np.float32]:
    """NaN where it has no voxels; voxels reach half a voxel beyond their centres."""
    assert volume.affine is not None
    assert other.affine is not None
    shape = volume.pixels.shape[:3]
    there = np.linalg.inv(other.affine) @ volume.affine  # (column, row, frame) → (column, row, frame)
    if other.pixels.shape == shape and np.allclose(there, np.eye(4), atol=1e-3):
        return np.array(other.pixels, np.float32)
    matrix, offset = there[:3, :3][::-1, ::-1], there[:3, 3][::-1]
    source = np.asarray(other.pixels, np.float32)
    moved = ndimage.affine_transform(source, matrix, offset=offset, output_shape=shape, order=1, mode="nearest")
    moved[~_within(matrix, offset, shape, source.shape)] = np.nan
    return np.asarray(moved, np.float32)


def _within(matrix: NDArray[np.float64], offset: NDArray[np.float64], shape: tuple[int, ...], source: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which voxels of the grid lie in the other series."""
    inside = np.ones(shape, bool)
    steps = [step.astype(np.float32) for step in np.ogrid[tuple(slice(0, n) for n in shape)]]
    for axis, size in enumerate(source):
        place = np.float32(offset[axis]) + sum(np.float32(matrix[axis, i]) * steps[i] for i in range(3))
        inside &= (place >= -0.51) & (place <= size - 0.49)
    return inside
