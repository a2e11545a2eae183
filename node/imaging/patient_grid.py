"""A series on a coarse grid along the patient's own axes: fine enough to find a head and a brain, small enough for any series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy  # which loads ndimage when it is first used
from numpy.typing import NDArray

from node.errors import GeometryRefused
from node.imaging.order import Slice, Stack

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

STEP_MM = 2.0
MOST_VOXELS = 150_000_000  #: of a grid: 1.2 m³ of patient


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatientGrid:
    """`values` is float32 (z, y, x): z grows to the head, y to the back, x to the patient's left (LPS), `STEP_MM` apart."""

    values: Floats = field(repr=False)
    covered: Mask = field(repr=False)  #: where the series has voxels
    origin_mm: NDArray[np.float64]  #: LPS (x, y, z) of the centre of voxel (0, 0, 0)

    def spread(self, mask: Mask, s: Slice) -> Mask:
        """A mask of this grid on one slice, (rows, columns): each pixel takes the voxel that it lies in. False beyond the grid."""
        assert s.position is not None
        assert s.orientation is not None
        assert s.spacing is not None
        rows, columns = s.shape
        start = (s.position - self.origin_mm) / STEP_MM
        down, right = s.orientation[1] * s.spacing[0] / STEP_MM, s.orientation[0] * s.spacing[1] / STEP_MM
        inside: Mask = np.ones((rows, columns), bool)
        index = []
        for axis, size in zip((2, 1, 0), mask.shape, strict=True):
            here = np.rint(
                start[axis] + down[axis] * np.arange(rows, dtype=np.float32)[:, None] + right[axis] * np.arange(columns, dtype=np.float32)
            ).astype(np.int32)
            inside &= (here >= 0) & (here < size)
            index.append(np.clip(here, 0, size - 1))
        return np.asarray(mask[tuple(index)] & inside)


def grid_of(stack: Stack, plane: Callable[[Slice], Floats]) -> PatientGrid:
    """The stack, averaged down and turned to the patient's axes.

    Parameters
    ----------
    plane : gives one slice, float32 (rows, columns), in the reader's units; asked once for each slice, in order

    Raises
    ------
    GeometryRefused
        When the series would need a grid beyond all patients.
    """
    small, factors = _averaged(stack, plane)
    lowest, shape = _box(stack)
    # grid index (z, y, x) → mm → index of `small` (slice, row, column)
    steps = stack.affine[:3, :3] * np.array([factors[2], factors[1], factors[0]])  # columns of: column, row, slice
    first = stack.affine[:3, 3] + stack.affine[:3, :3] @ np.array([(factors[2] - 1) / 2, (factors[1] - 1) / 2, (factors[0] - 1) / 2])
    to_small = np.linalg.inv(steps)[::-1]  # rows: slice, row, column; columns: x, y, z
    matrix, offset = to_small[:, ::-1] * STEP_MM, to_small @ (lowest - first)
    # one more voxel all round: a voxel's half that sticks out is covered too
    padded = np.pad(small, 1, mode="edge")
    values = scipy.ndimage.affine_transform(padded, matrix, offset=offset + 1.0, output_shape=shape, order=1, mode="constant", cval=np.nan)
    covered = np.isfinite(values)
    values[~covered] = np.nanmin(values) if covered.any() else 0.0
    return PatientGrid(values=values.astype(np.float32, copy=False), covered=covered, origin_mm=lowest)


def _averaged(stack: Stack, plane: Callable[[Slice], Floats]) -> tuple[Floats, tuple[int, int, int]]:
    """Blocks of voxels averaged so that none is finer than needed, a slice in memory at a time; how many went into one."""
    fz, fy, fx = (max(1, int(STEP_MM / mm)) for mm in stack.spacing_mm)
    rows, columns = stack.slices[0].shape
    fz, fy, fx = min(fz, len(stack.slices)), min(fy, rows), min(fx, columns)
    out = np.zeros((len(stack.slices) // fz, rows // fy, columns // fx), np.float32)
    for number, s in enumerate(stack.slices):
        layer = number // fz
        if layer < len(out):
            whole = plane(s)[: rows // fy * fy, : columns // fx * fx]
            out[layer] += whole.reshape(rows // fy, fy, columns // fx, fx).mean(axis=(1, 3)) / np.float32(fz)
    return out, (fz, fy, fx)


def _box(stack: Stack) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """The smallest box along the patient's axes that holds the stack: its lowest corner in mm, and (z, y, x) voxels."""
    rows, columns = stack.slices[0].shape
    ends = np.array([(c, r, k) for c in (-0.5, columns - 0.5) for r in (-0.5, rows - 0.5) for k in (-0.5, len(stack.slices) - 0.5)])
    corners = ends @ stack.affine[:3, :3].T + stack.affine[:3, 3]
    lowest = corners.min(axis=0) + STEP_MM / 2
    x, y, z = (max(1, int(np.ceil(size / STEP_MM))) for size in np.ptp(corners, axis=0))
    if x * y * z > MOST_VOXELS:
        raise GeometryRefused("the slices span more than a patient")
    return lowest, (z, y, x)


def grown(mask: Mask, mm: float) -> Mask:
    """Everything within `mm` of the mask."""
    if not mask.any():
        return mask.copy()
    reach = int(mm / STEP_MM) + 1
    near = tuple(
        slice(max(0, int(where.min()) - reach), int(where.max()) + reach + 1) for where in np.nonzero(mask)
    )  # distances are dear: only where they can matter
    out = np.zeros(mask.shape, bool)
    out[near] = scipy.ndimage.distance_transform_edt(~mask[near], sampling=STEP_MM) <= mm
    return out


def largest(mask: Mask) -> Mask:
    """Its largest connected part."""
    labels, count = scipy.ndimage.label(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())


def millilitres(mask: Mask) -> float:
    return float(mask.sum()) * STEP_MM**3 / 1000.0
