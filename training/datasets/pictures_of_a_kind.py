"""Every picture of every set by what kind it is of, whatever it shows: for telling kinds of pictures apart, not diseases.

Licence: of each set (its own file here tells); what is learned keeps the strictest, non-commercial.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom

from training.datasets import table

Picture = npt.NDArray[np.float32]

LICENCE = "non-commercial (of the strictest set)"
SETS = {
    "chest_radiograph": ("cxr_adult224", "cxr_pediatric224", "cxr_nih64", "cxr_figure1"),
    "breast_ultrasound": ("busi_breast_us",),
    "brain_mr": ("brain_tumor_mri",),
    "chest_ct": ("covid_ct_medseg",),
}
CT_FILES = "dicom/ct_chest_lungpetctdx/*/*.dcm"
LUNG_WINDOW = (-1350.0, 150.0)  #: HU

#: Real DICOM that was never learned from, by what it is, and the kind that it is of, if any.
APART = {
    "hand": ("dicom/transfer_syntaxes/wg04_RG3_hand_CR/RG3_J2KR*", ""),
    "mammogram": ("dicom/mg/*", ""),
    "chest CR": ("dicom/cr_chest/*", "chest_radiograph"),
    "head MR after contrast": ("dicom/mr_brain_tumor_btp/PGBM_0?_pre_T1post/*.dcm", "brain_mr"),
}


def load(images: Path, name: str, split: str) -> Iterator[Picture]:
    """The pictures of one set as grey float32 (rows, columns), 0 to 255."""
    for row in table.rows(images / name, "file", "split"):
        if row["split"] == split:
            yield np.asarray(table.grey(images / name / row["file"]), np.float32)


def ct_slices(data: Path, step: int = 3) -> Iterator[Picture]:
    """Every `step`-th slice of the whole chest CT, as a reader sees lungs."""
    low, high = LUNG_WINDOW
    for path in sorted(data.glob(CT_FILES))[::step]:
        header = pydicom.dcmread(path)
        hu = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
        yield np.clip((hu - low) / (high - low), 0, 1).astype(np.float32)


def apart(data: Path, what: str) -> Iterator[Picture]:
    """The images of `APART[what]`, bright as a reader sees them."""
    for path in sorted(data.glob(APART[what][0])):
        header = pydicom.dcmread(path)
        stored = header.pixel_array.astype(np.float32)
        yield stored.max() - stored if header.PhotometricInterpretation == "MONOCHROME1" else stored
