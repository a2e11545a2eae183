"""Figure 1 COVID-19 chest X-rays: photographs and exports, up to 512 px, 40 films of which 35 are COVID-19. All stand in `train`.

One collection holds both COVID-19 and others, which the large sets don't; but five others are few, so an interval says little.
Ages are as people wrote them ("67+", "early 40s"). Burned-in words and markers are common.
Licence: research only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.datasets import table

LICENCE = "research only (Figure 1)"
LABELS = ("covid", "normal", "pneumonia")

Picture = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """One picture: grey float32 0 to 1, (rows, columns), bones bright."""

    name: str
    split: str
    group: str
    label: str  #: covid, normal or pneumonia
    grey: Picture
    age_years: float | None
    sex: str
    view: str
    spo2_percent: float | None


def load(root: Path) -> list[Film]:
    """All pictures."""
    found = []
    for row in table.rows(root, "file", "split", "label", "group", "age", "sex", "view", "pO2_saturation"):
        found.append(
            Film(
                name=Path(row["file"]).stem,
                split=row["split"],
                group=row["group"],
                label=LABELS[table.label_of(row, LABELS)],
                grey=np.asarray(table.grey(root / row["file"]), np.float32) / np.float32(255),
                age_years=_first_number(row["age"]),
                sex=row["sex"],
                view=row["view"],
                spo2_percent=_first_number(row["pO2_saturation"]),
            )
        )
    return found


def _first_number(words: str) -> float | None:
    """67 of "67+", 40 of "early 40s", 91 of "91-92"."""
    match = re.search(r"\d+", words)
    return float(match[0]) if match else None
