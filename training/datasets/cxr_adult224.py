"""Whole chest radiographs of adults, COVID-19 (ieee8023) or no finding (NIH ChestX-ray14), 224 px; lung outlines for 113 COVID-19 images.

Every picture is the middle 80 % of a film, so shoulders and abdomen are mostly cut away. The two labels come from two sources: a model
that tells them apart may tell the sources apart. The outlines (v7) are drawn by people as polygons and cover lung behind the heart.
Licence: ieee8023 images mixed CC BY and CC BY-NC-SA; NIH free with citation; outlines CC BY 4.0. Together non-commercial.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from training.datasets import table

LICENCE = "non-commercial (ieee8023 images), free with citation (NIH), CC BY 4.0 (v7 outlines)"
LABELS = ("normal", "covid")
COLUMNS = ("file", "split", "label", "group", "age", "sex", "view", "icu", "lung_mask", "original")

Picture = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """One picture: grey float32 0 to 1, bones bright, and the lungs if a person outlined them, both (rows, columns)."""

    name: str
    split: str
    group: str  #: the patient, prefixed so that the two COVID-19 sets share it
    label: int  #: index into LABELS
    grey: Picture
    lungs: Mask | None
    age_years: float | None
    sex: str  #: "F", "M" or empty
    view: str  #: "PA" or empty
    icu: bool | None  #: treated in intensive care; None: not told
    original: str  #: file name at the source, without its ending


def load(root: Path) -> list[Film]:
    """All pictures of train and val."""
    found = []
    for row in table.rows(root, *COLUMNS):
        grey = table.grey(root / row["file"])
        found.append(
            Film(
                name=Path(row["file"]).stem,
                split=row["split"],
                group=row["group"],
                label=table.label_of(row, LABELS),
                grey=np.asarray(grey, np.float32) / np.float32(255),
                lungs=table.mask(root / row["lung_mask"], grey.shape) if row["lung_mask"] else None,
                age_years=table.years(row),
                sex=row["sex"],
                view=row["view"],
                icu={"Y": True, "N": False}.get(row["icu"]),
                original=Path(row["original"]).stem,
            )
        )
    return found


def sides(lungs: Mask) -> tuple[Mask, Mask]:
    """(lung at the image's left edge, lung at its right edge), taken apart where they touch."""
    mask = lungs.astype(np.uint8)
    for size in (0, 3, 7, 11):
        core = mask if size == 0 else cv2.erode(mask, np.ones((size, size), np.uint8))
        count, parts, stats, centres = cv2.connectedComponentsWithStats(core, connectivity=4)
        large = [i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] > 0.15 * core.sum()]
        if len(large) == 2:
            first, second = sorted(large, key=lambda i: centres[i][0])
            away = [cv2.distanceTransform((parts != i).astype(np.uint8), cv2.DIST_L2, 3) for i in (first, second)]
            left = np.asarray(away[0] <= away[1])
            return lungs & left, lungs & ~left
    middle = np.arange(lungs.shape[1]) < np.flatnonzero(lungs.any(axis=0)).mean()
    return lungs & middle, lungs & ~middle
