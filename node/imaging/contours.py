"""A mask as closed contours along the edges between its pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label
from skimage.measure import approximate_polygon, find_contours

MOST_POINTS = 2000  # Contour Data has VR DS: 65534 bytes in Explicit VR, at most 27 a point
TOLERANCES = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)  # pixels that a contour may be simplified by, tried in turn
EIGHT = np.ones((3, 3), int)

Points = NDArray[np.float64]


def closed_contours(mask: NDArray[np.bool_]) -> Iterator[Points]:
    """The contours of a mask (rows, columns): one a connected part, (points, 2) of (column, row), the top left pixel's centre at (0, 0).

    The last point is not the first again.
    """
    parts, count = label(mask, EIGHT)
    for number in range(1, count + 1):
        padded = np.pad(parts == number, 1).astype(np.float32)
        edges = [_simple(edge[:, ::-1] - 1) for edge in find_contours(padded, 0.5, fully_connected="high")]
        outer, *holes = sorted(edges, key=lambda edge: -abs(_area(edge)))
        for hole in sorted(holes, key=lambda edge: float(edge[:, 0].min())):
            outer = _keyhole(outer, hole)
        yield outer[:-1]


def _simple(edge: Points) -> Points:
    """No more points than Contour Data can hold, the last one the first."""
    for tolerance in TOLERANCES:
        simple: Points = approximate_polygon(edge, tolerance)
        if len(simple) <= MOST_POINTS // 2:
            break
    return simple


def _area(edge: Points) -> float:
    x, y = edge[:, 0], edge[:, 1]
    return float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2


def _keyhole(outer: Points, hole: Points) -> Points:
    """Out along the outer contour, over to the hole where they are nearest, round it, and back. The hole runs the other way round."""
    if _area(outer) * _area(hole) > 0:
        hole = hole[::-1]
    apart = ((outer[:-1, None] - hole[None, :-1]) ** 2).sum(axis=2)
    at, to = (int(n) for n in np.unravel_index(int(apart.argmin()), apart.shape))
    around = np.vstack([hole[to:-1], hole[: to + 1]])
    return np.vstack([outer[: at + 1], around, outer[at:]])
