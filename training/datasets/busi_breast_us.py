"""BUSI breast ultrasound (Al-Dhabyani et al., Data in Brief 28:104863, 2020): pictures, lesion masks, three classes.

There are no patient ids; the `group` of the index joins look-alikes. Two rows whose picture stands in two
classes are left out. Many pictures carry calipers and words burned in, more often beside a lesion.
Licence: CC BY 4.0.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

LICENCE = "CC BY 4.0"
LABELS = ("normal", "benign", "malignant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One picture: grey float32 0 to 1 and lesion mask bool, both (rows, columns)."""

    name: str
    split: str
    group: str
    label: int  #: index into LABELS
    grey: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]


def load(root: Path) -> list[Scan]:
    """All pictures of train and val, those with two labels left out."""
    found = []
    with (root / "index.csv").open() as index:
        for row in csv.DictReader(index):
            if row["label_conflict_duplicate"] != "0":
                continue
            grey = cv2.imread(str(root / row["file"]), cv2.IMREAD_GRAYSCALE)
            mask = cv2.imread(str(root / row["mask"]), cv2.IMREAD_GRAYSCALE) if row["mask"] else None
            if grey is None:
                raise FileNotFoundError(root / row["file"])
            if mask is None:
                mask = np.zeros_like(grey)
            if mask.shape != grey.shape:
                mask = cv2.resize(mask, grey.shape[::-1], interpolation=cv2.INTER_NEAREST)
            found.append(
                Scan(
                    name=Path(row["file"]).stem,
                    split=row["split"],
                    group=row["group"],
                    label=LABELS.index(row["label"]),
                    grey=(np.asarray(grey, np.float32) / 255).astype(np.float32),
                    mask=np.asarray(mask) > 127,
                )
            )
    return found
