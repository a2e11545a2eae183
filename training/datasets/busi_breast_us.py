"""BUSI breast ultrasound (Al-Dhabyani et al., Data in Brief 28:104863, 2020): pictures, lesion masks, three classes.

There are no patient ids; the `group` of the index joins look-alikes. Two rows whose picture stands in two
classes are left out. Many pictures carry calipers and words burned in, more often beside a lesion.
Licence: CC BY 4.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.datasets import table

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
    for row in table.rows(root, "file", "mask", "split", "label", "group"):
        if row.get("label_conflict_duplicate", "0") not in ("0", ""):
            continue
        grey = table.grey(root / row["file"])
        mask = table.mask(root / row["mask"], grey.shape) if row["mask"] else np.zeros(grey.shape, bool)
        found.append(
            Scan(
                name=Path(row["file"]).stem,
                split=row["split"],
                group=row["group"],
                label=table.label_of(row, LABELS),
                grey=(np.asarray(grey, np.float32) / 255).astype(np.float32),
                mask=mask,
            )
        )
    return found
