"""The index of a set and the pictures that it names, as tables and image tools write them. What is wrong is named before anything is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from node.evaluation.images import INDEX, rows_in
from node.imaging.clinical import years_of


class DataRefused(ValueError):
    """Nothing can be learned from the data as they are; the message says what is wrong, and where."""


def rows(root: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of the set in `root`; every one of `columns` is there, an empty cell is "".

    Raises
    ------
    DataRefused
        When there is no index, it is no UTF-8 text, or lacks a column.
    """
    try:
        found = rows_in((root / INDEX).read_text(encoding="utf-8-sig"))
    except OSError as why:
        raise DataRefused(f"{root / INDEX} can't be read: {why.strerror}") from None
    except UnicodeDecodeError:
        raise DataRefused(f"{root / INDEX} is no UTF-8 text: save it as UTF-8") from None
    if not found:
        raise DataRefused(f"{root / INDEX} has no rows")
    if lacking := [name for name in columns if name not in found[0]]:
        raise DataRefused(f"{root / INDEX} lacks the columns {', '.join(lacking)}; it has {', '.join(found[0])}")
    return found


def label_of(row: Mapping[str, str], labels: Sequence[str]) -> int:
    """The place of a row's label in `labels`."""
    if row["label"] not in labels:
        raise DataRefused(f"{row['file']} has the label {row['label'] or '(none)'}; known: {', '.join(labels)}")
    return labels.index(row["label"])


def years(row: Mapping[str, str]) -> float | None:
    """A row's age, however it is written; None when it is not known."""
    return years_of(row["age"])


def grey(path: Path) -> npt.NDArray[np.uint8]:
    """A picture of 8 bits as grey, (rows, columns)."""
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if picture is None:
        raise DataRefused(f"{path} {'is neither PNG nor JPEG, or damaged' if path.is_file() else 'is not there'}")
    if picture.dtype != np.uint8:
        raise DataRefused(f"{path} has {8 * picture.dtype.itemsize} bits: bring it to 8, in the window it is to be read in")
    return np.asarray(picture, np.uint8)


def mask(path: Path, shape: tuple[int, ...] = ()) -> npt.NDArray[np.bool_]:
    """(rows, columns): what is bright in a black and white picture; what is not black where nothing is bright, as in masks of 0 and 1.

    It must have the `shape` of its image where one is given.
    """
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise DataRefused(f"{path} {'is no mask in PNG, or damaged' if path.is_file() else 'is not there'}")
    flat = picture if picture.ndim == 2 else picture[..., :3].max(axis=2)
    if shape and flat.shape != shape:
        raise DataRefused(f"{path} has not the size of its image: {flat.shape[1]} x {flat.shape[0]} for {shape[1]} x {shape[0]}")
    half = np.iinfo(flat.dtype).max // 2
    return np.asarray(flat > (half if int(flat.max()) > half else 0))


def ensure_there(pools: Mapping[str, int]) -> None:
    """Raise DataRefused when one of the counts, by what is counted, is 0: who draws from nothing learns nothing, and says it late."""
    if empty := [name for name, count in pools.items() if not count]:
        raise DataRefused(f"there is nothing of: {', '.join(empty)}")
