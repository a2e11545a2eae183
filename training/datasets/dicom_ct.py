"""A folder with one axial CT series (DICOM files) as Hounsfield units, ordered from the feet upwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom


@dataclass(frozen=True, slots=True, kw_only=True)
class Ct:
    """hu float32 (slices, rows, columns); spacing between slices, rows, columns in mm."""

    hu: npt.NDArray[np.float32]
    spacing_mm: tuple[float, float, float]


def read(files: list[Path]) -> Ct:
    """The series of these files. HU = slope * stored + intercept (PS3.3 C.11.1)."""
    headers = sorted((pydicom.dcmread(f) for f in files), key=lambda ds: float(ds.ImagePositionPatient[2]))
    hu = np.stack([d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in headers])
    row, column = (float(v) for v in headers[0].PixelSpacing)
    step = float(headers[0].get("SliceThickness", 5.0))
    if len(headers) > 1:
        ends = float(headers[-1].ImagePositionPatient[2]) - float(headers[0].ImagePositionPatient[2])
        step = ends / (len(headers) - 1)
    return Ct(hu=hu.astype(np.float32), spacing_mm=(step, row, column))
