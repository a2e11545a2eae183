"""MedSeg / COVID-SemiSeg slices (Fan et al., IEEE TMI 39:2626, 2020), set upright and in HU-like grey.

As released the slices are 8-bit pictures of a lung window, cropped to the lungs and lying on their side.
Here each is turned so that the spine points down and the patient's left is on the right, and its grey is
mapped so that air-filled lung and soft tissue stand where they stand in Hounsfield units.
Licence: the COVID-SemiSeg release is for research only (non-commercial).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from training.datasets import table

LICENCE = "COVID-SemiSeg release, research use only (NC); MedSeg originals on figshare"
LUNG_HU, SOFT_TISSUE_HU = -865.0, 40.0
LOOK_ALIKE = 0.80  #: correlation at 48 px from which two slices count as one patient


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One slice: hu float32 and mask bool, both (rows, columns), upright."""

    name: str
    split: str  #: train, val or pseudo
    group: str  #: slices of one group may be of one patient
    hu: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]


def upright(picture: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.uint8]:
    """The spine down and the patient's left on the right, as on a film.

    MedSeg and Radiopaedia slices lie with the spine to the right (a transposed array), coronacases
    with the spine to the left (a quarter turn anticlockwise sets it upright). Seen on all sources.
    """
    turned = np.rot90(picture, 1) if "coronacases" in name else picture.T
    return np.ascontiguousarray(turned)


def hu_like(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """8-bit window grey as HU, from two landmarks: the aerated lung's mode and soft tissue's mode."""
    histogram = np.convolve(np.bincount(picture.ravel(), minlength=256), np.ones(7) / 7, "same")
    cut = int(cv2.threshold(picture, 0, 255, cv2.THRESH_OTSU)[0])
    darkest = float(np.percentile(picture, 1))  # air in the trachea
    lung = min(float(histogram[3:cut].argmax() + 3), darkest + 28.0)
    soft = float(histogram[cut:253].argmax() + cut)
    if soft >= 248:  # the window cut soft tissue off at white
        soft = 246.0
    slope = (SOFT_TISSUE_HU - LUNG_HU) / max(40.0, soft - lung)
    return (LUNG_HU + slope * (picture.astype(np.float32) - lung)).astype(np.float32)


def load(root: Path, *, pseudo: bool = True) -> list[Slice]:
    """All slices of train and val (expert masks) and, if wanted, the model-made `pseudo` ones."""
    found: list[Slice] = []
    for row in table.rows(root, "file", "mask", "split"):
        found.append(_slice(root, row["file"], row["mask"], row["split"], ""))
    found = _grouped(found)
    if pseudo:
        for path in sorted((root / "pseudo" / "images").glob("*.jpg")):
            group = path.stem.rsplit("_", 1)[0]
            file = str(path.relative_to(root))
            mask = f"pseudo/masks/{path.stem}.png"
            found.append(_slice(root, file, mask, "pseudo", group))
    return found


def _slice(root: Path, file: str, mask_file: str, split: str, group: str) -> Slice:
    picture = table.grey(root / file)
    mask = table.mask(root / mask_file, picture.shape)
    name = Path(file).stem
    return Slice(
        name=name,
        split=split,
        group=group,
        hu=hu_like(upright(picture, name)),
        mask=upright(mask.astype(np.uint8), name) > 0,
    )


def _grouped(slices: list[Slice]) -> list[Slice]:
    """Slices that look alike get one group: the release has no patient ids, but repeats patients."""
    small = []
    for one in slices:
        a = cv2.resize(np.clip(one.hu, -1100, 200), (48, 48), interpolation=cv2.INTER_AREA).ravel()
        small.append((a - a.mean()) / (a.std() + 1e-6))
    alike = np.stack(small) @ np.stack(small).T / 48 / 48 > LOOK_ALIKE
    group = list(range(len(slices)))
    for i in range(len(slices)):
        for j in range(i):
            if alike[i, j] and group[i] != group[j]:
                old, new = group[i], group[j]
                group = [new if g == old else g for g in group]
    return [Slice(name=s.name, split=s.split, group=f"g{g}", hu=s.hu, mask=s.mask) for s, g in zip(slices, group, strict=True)]
