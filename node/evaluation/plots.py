"""ROC and reliability curves as pictures, drawn with OpenCV: two square plots need no plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from node.evaluation import metrics

SIDE, MARGIN = 480, 70  #: pixels of the square from 0 to 1, and round it
BLACK, GREY, BLUE, WHITE = (0, 0, 0), (200, 200, 200), (178, 114, 0), (255, 255, 255)  #: BGR

Picture = npt.NDArray[np.uint8]
Scored = tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]  #: probabilities, truth


def roc(name: str, scored: Scored) -> Picture:
    """Sensitivity over the false positive rate at every threshold."""
    canvas = _square(f"{name}: ROC, AUC {metrics.auc(*scored):.3f}, n = {len(scored[1])}", "1 - specificity", "sensitivity")
    cv2.polylines(canvas, [_places(metrics.roc(*scored))], isClosed=False, color=BLUE, thickness=2, lineType=cv2.LINE_AA)
    return canvas


def reliability(name: str, scored: Scored) -> Picture:
    """How often a probability came true, over bins of as many images each; on the diagonal it can be taken at its word."""
    error = metrics.calibration_error(*scored)
    canvas = _square(f"{name}: reliability, ECE {error:.3f}, n = {len(scored[1])}", "probability", "share that is so")
    places = _places([(chance, share) for chance, share, _ in metrics.reliability(*scored)])
    cv2.polylines(canvas, [places], isClosed=False, color=BLUE, thickness=1, lineType=cv2.LINE_AA)
    for column, row in places:
        cv2.circle(canvas, (int(column), int(row)), 5, BLUE, thickness=-1, lineType=cv2.LINE_AA)
    return canvas


def write(picture: Picture, path: Path) -> None:
    """As PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture)


def _square(title: str, across: str, up: str) -> Picture:
    """White, with axes from 0 to 1, a grid, the diagonal, and words."""
    size = SIDE + 2 * MARGIN
    canvas: Picture = np.full((size, size, 3), WHITE, np.uint8)
    for step in np.linspace(0, 1, 6):
        for line in ([(step, 0), (step, 1)], [(0, step), (1, step)]):
            cv2.polylines(canvas, [_places(line)], isClosed=False, color=GREY)
        (column, row), (left, height) = _places([(step, 0), (0, step)])
        _write(canvas, f"{step:.1f}", (int(column) - 12, int(row) + 22), 0.45)
        _write(canvas, f"{step:.1f}", (int(left) - 36, int(height) + 5), 0.45)
    cv2.polylines(canvas, [_places([(0, 0), (1, 1)])], isClosed=False, color=GREY, thickness=2, lineType=cv2.LINE_AA)
    cv2.rectangle(canvas, (MARGIN, MARGIN), (MARGIN + SIDE, MARGIN + SIDE), BLACK)
    _write(canvas, title, (MARGIN, MARGIN - 40), 0.55)
    _write(canvas, across, (MARGIN + SIDE // 2 - 60, size - 18), 0.5)
    _write(canvas, up, (12, MARGIN - 16), 0.5)
    return canvas


def _places(points: npt.ArrayLike | Sequence[Sequence[float]]) -> npt.NDArray[np.int32]:
    """(across, up) from 0 to 1 as (column, row) of the canvas."""
    across, up = np.asarray(points, float).reshape(-1, 2).T
    return np.stack([MARGIN + across * SIDE, MARGIN + (1 - up) * SIDE], axis=1).round().astype(np.int32)


def _write(canvas: Picture, words: str, place: tuple[int, int], size: float) -> None:
    cv2.putText(canvas, words.encode("ascii", "replace").decode(), place, cv2.FONT_HERSHEY_SIMPLEX, size, BLACK, 1, cv2.LINE_AA)
