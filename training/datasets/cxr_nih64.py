"""ChestX-ray14 (NIH) at 64 px: whole chests with the labels mined from reports, age, sex and view, all from one hospital.

Few pixels, so little but large shadows can be seen. One patient may stand in more than one row; splits are by patient. The labels are
read from reports by a program and are wrong in some. RSNA Pneumonia 2018 was drawn from the same hospital.
Licence: NIH, free with citation (Wang et al., CVPR 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from training.datasets import table

LICENCE = "free with citation (NIH ChestX-ray14)"
COLUMNS = ("file", "split", "label", "finding_labels", "patient", "age", "sex", "view")
SIZE = 224  #: drawn to this many pixels, so that every set has films of much the same size

Picture = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """One picture: grey float32 0 to 1, (rows, columns), bones bright."""

    name: str
    split: str
    patient: str
    normal: bool
    findings: frozenset[str]  #: of the fourteen; empty when normal
    grey: Picture
    age_years: float | None
    sex: str
    view: str


def patient_of(row: Mapping[str, str]) -> str:
    """As `cxr_adult224` calls NIH's patients, some of whom are in both: so that nobody stands in two splits by being in two sets."""
    return f"n{row['patient']}"


def load(root: Path) -> list[Film]:
    """All pictures of train and val."""
    found = []
    for row in table.rows(root, *COLUMNS):
        grey = np.asarray(table.grey(root / row["file"]), np.float32) / np.float32(255)
        large = cv2.resize(grey, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        found.append(
            Film(
                name=Path(row["file"]).stem,
                split=row["split"],
                patient=patient_of(row),
                normal=row["label"] == "normal",
                findings=frozenset(row["finding_labels"].split("|")) - {"No Finding"},
                grey=np.clip(np.asarray(large, np.float32), 0, 1),
                age_years=table.years(row),
                sex=row["sex"],
                view=row["view"],
            )
        )
    return found
