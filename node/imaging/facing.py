"""Which way a picture lies in its file, and how it is turned upright and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.imaging.volume import Volume


@dataclass(frozen=True, slots=True)
class Facing:
    """How the rows and columns of a picture are turned so that it hangs as readers hang it; exactly undone."""

    transposed: bool = False
    flip_rows: bool = False
    flip_columns: bool = False
    told: bool = False  #: by the header; else it is taken as readers hang it

    @classmethod
    def of(cls, header: Dataset) -> Facing | None:
        """From Patient Orientation (0020,0020), where rows and columns run to; None when it tells of another view than a frontal one.

        Standard: PS3.3 C.7.6.1.1.1.
        """
        told = header.get("PatientOrientation") or ()
        ends = [str(value)[:1].upper() for value in ([told] if isinstance(told, str) else told)]
        if len(ends) != 2 or not all(ends):
            return cls()
        if set(ends) & {"A", "P"}:
            return None
        transposed = ends[0] in "HF"
        across, down = (ends[1], ends[0]) if transposed else (ends[0], ends[1])
        if across not in "LR" or down not in "HF":
            return cls()
        return cls(transposed, down == "H", across == "R", told=True)

    @classmethod
    def in_space(cls, affine: NDArray[np.float64]) -> Facing:
        """Of a slice with a place in the patient: the patient's left, or the back of a sagittal slice, at the right edge; head or front above.

        Parameters
        ----------
        affine : 4x4, (column, row, frame) → mm in LPS
        """
        column, row = affine[:3, 0], affine[:3, 1]
        normal = int(np.abs(np.cross(column, row)).argmax())
        across, down, to_the_feet = ((1, 2, -1), (0, 2, -1), (0, 1, 1))[normal]  # the way to the back, where the slice is axial
        transposed = bool(abs(column[across]) / np.linalg.norm(column) < abs(row[across]) / np.linalg.norm(row))
        if transposed:
            column, row = row, column
        return cls(transposed, bool(to_the_feet * row[down] < 0), bool(column[across] < 0), told=True)

    @classmethod
    def of_volume(cls, volume: Volume) -> Facing:
        """By its place in the patient, else by its header. An ultrasound picture hangs as it was made."""
        if volume.series.modality == "US":
            return cls()
        if volume.affine is not None:
            return cls.in_space(volume.affine)
        return cls.of(volume.frames[0].instance.header) or cls()

    def aspect(self, aspect: float) -> float:
        """Height of a pixel by its width once the picture is turned, from what it was before."""
        return 1 / aspect if self.transposed else aspect

    def turn(self, plane: NDArray[Any]) -> NDArray[Any]:
        """(rows, columns[, 3]) upright, the patient's right at the left edge."""
        out = plane.swapaxes(0, 1) if self.transposed else plane
        out = out[::-1] if self.flip_rows else out
        return np.ascontiguousarray(out[:, ::-1] if self.flip_columns else out)

    def back(self, plane: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `turn`."""
        out = plane[:, ::-1] if self.flip_columns else plane
        out = out[::-1] if self.flip_rows else out
        return np.ascontiguousarray(out.swapaxes(0, 1) if self.transposed else out)
