"""Lung fields cut out of chest radiographs, 256 px, all else black: RSNA Pneumonia 2018 (adults of NIH ChestX-ray14) and COVID-19.

**The files are inverted**: aerated lung is bright and opacity dark (correlation -0.93 with the same films in `cxr_adult224`). They are
turned here, so that bones and opacities are bright as in every other set. The fields were cut by a U-Net of other authors, without the
heart; it drops dense consolidation, leaves holes and sometimes adds spots of the abdomen, so small parts are taken away here.

`opacity` holds radiologists' boxes round pneumonia, clipped to the field: weak masks, all pneumonia and not COVID-19 alone.
Age is told for every RSNA image and about half of the COVID-19 ones: a missing age gives the label away.
Licence: RSNA 2018 terms (attribution), ieee8023 per-image licences, the cut fields have none. Together non-commercial.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from training.datasets import table

LICENCE = "non-commercial (RSNA 2018 terms, ieee8023 per-image licences)"
LABELS = ("normal", "pneumonia_opacity", "other_abnormal", "covid")
COLUMNS = ("file", "split", "label", "group", "source", "age", "sex", "view", "icu", "intubated", "survival", "opacity_mask", "original")
LATERAL = "Lateral"
SMALLEST_PART = 0.1  #: of the larger lung

Picture = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One picture: grey float32 0 to 1 inside the field with opacities bright, 0 outside; masks bool; all (rows, columns)."""

    name: str
    split: str
    group: str
    label: int  #: index into LABELS
    rsna: bool  #: of RSNA Pneumonia 2018, else a COVID-19 collection
    grey: Picture
    field: Mask
    opacity: Mask | None  #: boxes of pneumonia; None where nobody drew any and there may be some (COVID-19)
    age_years: float | None
    sex: str
    view: str  #: PA, AP, AP_Supine, Lateral or empty
    icu: bool | None
    intubated: bool | None
    survival: bool | None
    original: str  #: file name at the source, without its ending


def load(root: Path) -> list[Field]:
    """All pictures of train and val; lateral ones are left to the caller."""
    found = []
    for row in table.rows(root, *COLUMNS):
        stored = table.grey(root / row["file"])
        boxes = table.mask(root / row["opacity_mask"], stored.shape) if row["opacity_mask"] else None
        label = table.label_of(row, LABELS)
        field = _field_of(stored)
        opacity = None
        if row["label"] != "covid":
            opacity = np.zeros(field.shape, bool) if boxes is None else boxes
        yes = {"Y": True, "N": False}
        found.append(
            Field(
                name=Path(row["file"]).stem,
                split=row["split"],
                group=row["group"],
                label=label,
                rsna=row["source"].startswith("RSNA"),
                grey=np.where(field, np.float32(1) - np.asarray(stored, np.float32) / np.float32(255), np.float32(0)).astype(np.float32),
                field=field,
                opacity=None if opacity is None else opacity & field,
                age_years=table.years(row),
                sex=row["sex"],
                view=row["view"],
                icu=yes.get(row["icu"]),
                intubated=yes.get(row["intubated"]),
                survival=yes.get(row["survival"]),
                original=Path(row["original"]).stem,
            )
        )
    return found


def _field_of(stored: npt.NDArray[np.uint8]) -> Mask:
    """What is not black, without small parts."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats((stored > 8).astype(np.uint8), connectivity=8)
    if count < 2:
        return np.zeros(stored.shape, bool)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return np.isin(parts, 1 + np.flatnonzero(areas >= SMALLEST_PART * areas.max()))
