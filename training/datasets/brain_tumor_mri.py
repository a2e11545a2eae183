"""Brain MR slices with glioma, meningioma, pituitary tumour or none (Sartaj's collection; tumours from Cheng 2017, figshare).

8-bit pictures of single slices in mixed planes. There are no patient ids; the `group` of the index joins look-alikes. The pictures
without a tumour come from other sources than those with one, so margins, windows and sequences differ by label: recipes must hide that.
Licence: CC BY 4.0 (Cheng), MIT as released on Kaggle (the rest).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom

from training.datasets import table

LICENCE = "CC BY 4.0 and MIT"
LABELS = ("no_tumor", "glioma", "meningioma", "pituitary")

Picture = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One picture: grey float32 0 to 1, (rows, columns)."""

    name: str
    split: str
    group: str
    label: int  #: index into LABELS
    grey: Picture


def load(root: Path) -> list[Slice]:
    """All pictures of train and val."""
    found = []
    for row in table.rows(root, "file", "split", "group", "label"):
        found.append(
            Slice(
                name=Path(row["file"]).stem,
                split=row["split"],
                group=row["group"],
                label=table.label_of(row, LABELS),
                grey=np.asarray(table.grey(root / row["file"]), np.float32) / np.float32(255),
            )
        )
    return found


def healthy_planes(folder: Path, *, step: int = 5) -> list[Picture]:
    """Every `step`-th axial, coronal and sagittal plane, as readers see them, through a head without a tumour (isotropic voxels)."""
    headers = sorted((pydicom.dcmread(f) for f in folder.rglob("*.dcm")), key=_place)
    table.ensure_there({f"DICOM files under {folder}": len(headers)})
    volume = np.stack([ds.pixel_array.astype(np.float32) for ds in headers])
    volume = _towards_lps(volume, headers[0]) / max(1.0, float(np.percentile(volume, 99.9)))
    planes = []
    for turned in (
        volume,  # axial: rows to the back, columns to the left of the patient
        volume.transpose(1, 0, 2)[:, ::-1],  # coronal: rows to the feet
        volume.transpose(2, 0, 1)[:, ::-1],  # sagittal: rows to the feet, columns to the back
    ):
        inside = np.flatnonzero((turned > 0.1).mean(axis=(1, 2)) > 0.15)
        planes += [np.ascontiguousarray(np.clip(turned[z], 0, 1)) for z in range(int(inside[0]), int(inside[-1]), step)]
    return planes


def slices_with_truth(folder: Path, masks: Path) -> list[tuple[Picture, bool]]:
    """(slice in its stored values, holds tumour) of a series with a mask picture for each slice, in the order of file names."""
    found = []
    for path, mask in zip(sorted(folder.glob("*.dcm")), sorted(masks.glob("*.png")), strict=True):
        found.append((pydicom.dcmread(path).pixel_array.astype(np.float32), bool(table.mask(mask).any())))
    return found


def _directions(header: pydicom.Dataset) -> npt.NDArray[np.float64]:
    """Where slices, rows and columns count up to, (3, 3) in LPS."""
    along_row, along_column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    return np.stack([np.cross(along_row, along_column), along_column, along_row])


def _place(header: pydicom.Dataset) -> float:
    """Along the slice normal, PS3.3 C.7.6.2.1.1."""
    return float(np.dot(_directions(header)[0], np.array(header.ImagePositionPatient, float)))


def _towards_lps(volume: Picture, header: pydicom.Dataset) -> Picture:
    """(slices, rows, columns) turned so that the axes count up towards the head, the back and the left."""
    directions = _directions(header)
    nearest = np.abs(directions).argmax(axis=1)  # of each axis: 0 left, 1 back, 2 head
    order = [int(np.flatnonzero(nearest == axis)[0]) for axis in (2, 1, 0)]
    turned = volume.transpose(order)
    for place, axis in enumerate(order):
        if directions[axis, nearest[axis]] < 0:
            turned = np.flip(turned, place)
    return turned
