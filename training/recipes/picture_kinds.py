"""The kinds of pictures: where the descriptions of each kind's training pictures lie, as they are and changed as other machines would.

Nothing is iterated: a mean and the widest directions of each kind. `--minutes` means nothing here.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from node.imaging.likeness import Kind, described
from training.course import Course
from training.datasets import pictures_of_a_kind as sets
from training.datasets.table import ensure_there
from training.processes import keep

DIRECTIONS = 48
MOST = 500  #: pictures of one set
CHANGED = 2  #: times each picture is shown changed

Picture = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float32]


def run(data: Path, out: Path, course: Course) -> None:
    """Learn every kind and write `weights.pt`."""
    import torch

    del course
    out.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, torch.Tensor] = {}
    for name, of in sets.SETS.items():
        kind = learn(data, of)
        for part in ("mean", "directions", "spread"):
            arrays[f"{name}.{part}"] = torch.from_numpy(np.array(getattr(kind, part), np.float32))
        arrays[f"{name}.residual"] = torch.tensor(kind.residual)
    keep(arrays, out)


def learn(data: Path, of: Sequence[str]) -> Kind:
    """The kind that the training pictures of these sets are of."""
    return Kind.of(np.concatenate([descriptions(data, name, "train", changed=times) for name in of for times in (0, CHANGED)]), DIRECTIONS)


def descriptions(data: Path, name: str, split: str, *, changed: int = 0) -> Floats:
    """Of the pictures of a set, (pictures, features): as they are, or each changed that many times."""
    rng = np.random.default_rng(zlib.crc32(f"{name} {split} {changed}".encode()))
    pictures = list(sets.load(data / "images", name, split))
    ensure_there({f"{split} of {name}": len(pictures)})
    if name == "covid_ct_medseg" and split == "train":
        pictures += list(sets.ct_slices(data))
    if len(pictures) > MOST:
        pictures = [pictures[i] for i in sorted(rng.choice(len(pictures), MOST, replace=False))]
    shown = _changed(pictures, changed, rng, turned=name == "covid_ct_medseg") if changed else iter(pictures)
    return np.stack([described(picture) for picture in shown])


def _changed(pictures: list[Picture], times: int, rng: np.random.Generator, *, turned: bool) -> Iterator[Picture]:
    for picture in pictures:
        for _ in range(times):
            start = np.ascontiguousarray(np.rot90(picture, int(rng.integers(4)))) if turned else picture
            yield _otherwise(start, rng)


def _otherwise(picture: Picture, rng: np.random.Generator) -> Picture:
    """The same from another machine: turned, larger, moved, cut or with a border, another curve of greys, softer."""
    rows, columns = picture.shape
    move = cv2.getRotationMatrix2D((columns / 2, rows / 2), rng.uniform(-12, 12), rng.uniform(0.85, 1.15))
    move[:, 2] += rng.uniform(-0.06, 0.06, 2) * (columns, rows)
    border = cv2.BORDER_CONSTANT if rng.random() < 0.5 else cv2.BORDER_REPLICATE
    moved = np.asarray(cv2.warpAffine(picture, move, (columns, rows), borderMode=border), np.float32)
    edge = rng.uniform(0, 0.15)
    way = rng.integers(4)
    if way == 0:
        moved = moved[:, round(edge * columns) : columns - round(edge * columns)]
    elif way == 1:
        moved = moved[round(edge * rows) : rows - round(edge * rows)]
    elif way == 2:
        moved = np.pad(moved, round(edge * max(rows, columns)))
    top = max(float(moved.max()), 1e-6)
    curved = top * (np.clip(moved, 0, top) / top) ** np.exp(rng.uniform(-0.5, 0.5))
    return np.asarray(cv2.GaussianBlur(curved.astype(np.float32), (0, 0), rng.uniform(0.1, 1.5)), np.float32)
