"""Boxes in an image: rectangles of whole pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Box(NamedTuple):
    """Columns `left` to `right` and rows `top` to `bottom`, the last ones not included."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        return max(0, self.right - self.left) * max(0, self.bottom - self.top)

    def shared(self, other: Box) -> Box:
        """What lies in both; of no area when nothing does."""
        left, top = max(self.left, other.left), max(self.top, other.top)
        return Box(left, top, max(left, min(self.right, other.right)), max(top, min(self.bottom, other.bottom)))

    def clipped(self, rows: int, columns: int) -> Box:
        """The part that lies in the image."""
        return self.shared(Box(0, 0, columns, rows))

    def grown(self, along: int, across: int) -> Box:
        """With a margin: `along` its longer side, `across` its shorter one."""
        x, y = (along, across) if self.right - self.left >= self.bottom - self.top else (across, along)
        return Box(self.left - x, self.top - y, self.right + x, self.bottom + y)


def covered(boxes: Iterable[Box], rows: int, columns: int) -> float:
    """The part of the image that lies in boxes, 0 to 1."""
    mask = np.zeros((rows, columns), np.bool_)
    for box in boxes:
        mask[box.top : box.bottom, box.left : box.right] = True
    return float(mask.mean())


def outermost(boxes: Iterable[Box]) -> list[Box]:
    """Without those that lie wholly in another one; largest first."""
    kept: list[Box] = []
    for box in sorted(set(boxes), key=lambda box: -box.area):
        if box.area and not any(box.shared(other) == box for other in kept):
            kept.append(box)
    return kept


def around(kept: Sequence[Box], rows: int, columns: int) -> list[Box]:
    """Boxes that cover everything outside of the kept ones, band by band."""
    inside = np.zeros((rows, columns), np.bool_)
    for box in kept:
        inside[box.top : box.bottom, box.left : box.right] = True
    out: list[Box] = []
    changes = [0, *(np.flatnonzero((inside[1:] != inside[:-1]).any(axis=1)) + 1).tolist(), rows]
    for top, bottom in pairwise(changes):
        line = np.concatenate(([True], inside[top], [True]))
        edges = np.flatnonzero(line[1:] != line[:-1]).tolist()
        out += [Box(left, top, right, bottom) for left, right in zip(edges[::2], edges[1::2], strict=True)]
    return out
