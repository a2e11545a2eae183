"""Chest films of children of 1 to 5 years: normal, bacterial or viral pneumonia (Kermany et al., Cell 172:1122, 2018).

One hospital (Guangzhou), 8-bit JPEG, 224 px, squeezed to a square from their own aspect: anything that measures shape must undo or ignore
that. Patients are told by the number in the file name (`group`), and no patient stands in two splits. Letters ("R") and arms differ by
label: recipes cut to the lungs. Licence: CC BY 4.0 (Mendeley Data rscbjbr9sj).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.datasets import table

LICENCE = "CC BY 4.0"
LABELS = ("normal", "pneumonia_bacterial", "pneumonia_viral")


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """One film of one child."""

    name: str
    grey: npt.NDArray[np.uint8]  #: (rows, columns), air in the lungs dark
    label: int  #: index into LABELS
    split: str
    group: str  #: the patient


def load(root: Path) -> list[Film]:
    """Every film of the set in `root` (which holds index.csv)."""
    return [
        Film(
            name=Path(row["file"]).stem,
            grey=table.grey(root / row["file"]),
            label=table.label_of(row, LABELS),
            split=row["split"],
            group=row["group"],
        )
        for row in table.rows(root, "file", "split", "label", "group")
    ]
