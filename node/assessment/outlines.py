"""Outlines on an image: from SCOORD to a closed polygon, and how far two of them cover each other."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

Points = NDArray[np.float64]
FINE = 4  #: grid cells a pixel when areas are compared
LARGEST = 20_000  #: pixels of an image's side
CORNERS = 64  #: of a circle or an ellipse


def outline_of(item: Dataset) -> Points | None:
    """(points, 2) of (column, row), closed where it has an area; None for what is no shape. PS3.3 C.18.6."""
    try:
        points = np.asarray([float(v) for v in item.GraphicData], np.float64).reshape(-1, 2)
    except (AttributeError, TypeError, ValueError):
        return None
    if not len(points) or not np.isfinite(points).all() or points.min() < -1 or points.max() > LARGEST:
        return None
    match str(item.get("GraphicType") or ""):
        case "CIRCLE" if len(points) == 2:
            radius = float(np.hypot(*(points[1] - points[0])))
            return _ellipse(points[0], np.array([radius, 0.0]), np.array([0.0, radius]))
        case "ELLIPSE" if len(points) == 4:
            center = points.mean(axis=0)
            return _ellipse(center, (points[1] - points[0]) / 2, (points[3] - points[2]) / 2)
        case "POLYLINE" if len(points) > 2:
            return points if np.array_equal(points[0], points[-1]) else np.vstack([points, points[:1]])
        case "POINT" | "MULTIPOINT" | "POLYLINE":
            return points
    return None


def mask_of(outline: Points, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(rows, columns): the pixels whose centres lie within a closed outline or on it; what is no area marks the pixels it touches."""
    if len(outline) < 4:
        out = np.zeros(shape, bool)
        rows = np.floor(outline[:, ::-1]).astype(int).clip(0, np.array(shape) - 1)
        out[rows[:, 0], rows[:, 1]] = True
        return out
    filled = _filled(outline, shape)
    border = (outline - 0.5).astype(np.float32)[:, None]
    rim = filled & ~cv2.erode(filled.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0).astype(bool)
    for row, column in np.argwhere(rim):  # OpenCV fills what the border touches as well
        filled[row, column] = cv2.pointPolygonTest(border, (float(column), float(row)), False) >= 0
    return filled


def dice_of(one: Points, other: Points) -> float | None:
    """Twice the common area of two closed outlines by the sum of both; None when one of them has no area."""
    if len(one) < 4 or len(other) < 4:
        return None
    low = np.floor(np.minimum(one.min(axis=0), other.min(axis=0))) - 1
    size = np.ceil(np.maximum(one.max(axis=0), other.max(axis=0)) - low).astype(int) + 2
    fine = max(1, min(FINE, 4096 // int(size.max())))
    shape = (int(size[1]) * fine, int(size[0]) * fine)
    a, b = (_filled((points - low) * fine, shape) for points in (one, other))
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else None


def _filled(outline: Points, shape: tuple[int, int]) -> NDArray[np.bool_]:
    out = np.zeros(shape, np.uint8)
    cv2.fillPoly(out, [np.round((outline - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return out.astype(bool)


def _ellipse(center: Points, across: Points, along: Points) -> Points:
    angles = np.linspace(0, 2 * math.pi, CORNERS + 1)
    return center + np.cos(angles)[:, None] * across + np.sin(angles)[:, None] * along
