"""What kind of picture is this: how far does it lie from those that a model has seen, when the header's words can't be trusted?

A picture becomes a small description of its coarse shapes (histograms of oriented gradients), its thumbnail and its greys. For each
kind that is known, the descriptions of its training pictures lie about a mean, wide along some directions and flat across them: the
distance (Mahalanobis within those directions, the residual beside them) says how unlike the kind a picture is. 1.0 is the
distance below which nineteen of twenty pictures of the kind lie that were not used to find the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 96  #: pixels of the square on which a picture is described
CELL, DIRECTIONS = 12, 8
THUMBNAIL, GREYS = 12, 16
FAR = 1.1  #: beyond, a picture is none of its kind
NEAR = 0.85  #: below, it is of its kind, whatever else it may look like
CLEARLY = 0.95  #: of the distance to its own kind: another kind that is nearer than this is the better name for it

Floats = NDArray[np.float32]


def described(plane: NDArray[np.generic]) -> Floats:
    """The description, (features,) float32, of a grey (rows, columns) or colour (rows, columns, 3) picture of any range."""
    from skimage.feature import hog

    grey = _square(plane)
    shapes = hog(grey, orientations=DIRECTIONS, pixels_per_cell=(CELL, CELL), cells_per_block=(2, 2))
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).ravel()
    greys, _ = np.histogram(grey, GREYS, (0, 1))
    parts = (shapes, 0.1 * (small - small.mean()) / (small.std() + 1e-3), 0.5 * np.sqrt(greys / grey.size))
    return np.concatenate(parts).astype(np.float32)


def _square(plane: NDArray[np.generic]) -> Floats:
    """The picture as grey 0 to 1 in the middle of a black square, its longer side filling it."""
    grey = np.asarray(plane, np.float32)
    if grey.ndim == 3:
        grey = grey.mean(axis=-1)
    grey = np.nan_to_num(grey, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = np.percentile(grey, [0.5, 99.5])
    grey = np.clip((grey - low) / max(float(high - low), 1e-6), 0, 1)
    scale = SIDE / max(grey.shape)
    rows, columns = (max(1, round(n * scale)) for n in grey.shape)
    square = np.zeros((SIDE, SIDE), np.float32)
    top, left = (SIDE - rows) // 2, (SIDE - columns) // 2
    square[top : top + rows, left : left + columns] = cv2.resize(grey, (columns, rows), interpolation=cv2.INTER_AREA)
    return square


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kind:
    """Pictures of one kind, as their descriptions lie."""

    mean: Floats = field(repr=False)  #: (features,)
    directions: Floats = field(repr=False)  #: (directions, features), orthonormal
    spread: Floats = field(repr=False)  #: (directions,) standard deviations
    residual: float  #: root mean square of what lies beside the directions
    unit: float = 1.0  #: the distance that is called 1.0

    @classmethod
    def of(cls, descriptions: Floats, directions: int) -> Kind:
        """The kind of these pictures, (pictures, features)."""
        mean = descriptions.mean(axis=0)
        _, scale, turned = np.linalg.svd(descriptions - mean, full_matrices=False)
        directions = min(directions, len(descriptions) // 4)
        along = turned[:directions]
        beside = (descriptions - mean) - (descriptions - mean) @ along.T @ along
        return cls(
            mean=mean,
            directions=along,
            spread=(scale[:directions] / np.sqrt(len(descriptions))).astype(np.float32),
            residual=float(np.sqrt((beside**2).sum(axis=1).mean())),
        )

    def distance(self, descriptions: Floats) -> Floats:
        """How far each of (pictures, features) lies, in this kind's units."""
        centred = descriptions - self.mean
        along = centred @ self.directions.T
        beside = centred - along @ self.directions
        squared = ((along / self.spread) ** 2).mean(axis=1) + (beside**2).sum(axis=1) / self.residual**2
        return np.asarray(np.sqrt(squared) / self.unit, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How like its kind a picture is."""

    distance: float  #: to the kind it should be
    nearest: str  #: the kind it is nearest to
    refusal: str  #: why it is not what it should be; empty when it may be


class Likeness:
    """The kinds of pictures that are known."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self.kinds = kinds

    @classmethod
    def of(cls, arrays: Mapping[str, Floats], units: Mapping[str, float]) -> Likeness:
        """From `<kind>.mean`, `.directions`, `.spread`, `.residual`, and what each kind calls 1.0. Raises KeyError for what lacks."""
        names = dict.fromkeys(name.rpartition(".")[0] for name in arrays)
        return cls({name: Kind(**_parts(arrays, name), unit=units[name]) for name in names})

    def judge(self, planes: list[NDArray[np.generic]], kind: str) -> Judgement:
        """Are these pictures of one series, by their median, of `kind`? Raises KeyError when the kind is not known."""
        return self.judge_described(np.stack([described(plane) for plane in planes]), kind)

    def judge_described(self, told: Floats, kind: str) -> Judgement:
        """The same of descriptions, (pictures, features)."""
        distances = {name: float(np.median(one.distance(told))) for name, one in self.kinds.items()}
        own, nearest = distances[kind], min(distances, key=lambda name: distances[name])
        other = nearest != kind and distances[nearest] < CLEARLY * own
        refusal = ""
        if own > NEAR and other:
            refusal = f"this looks like {spoken(nearest)}, not like {spoken(kind)}"
        elif own > FAR:
            refusal = (
                f"this does not look like {spoken(kind)}: it is {own:.1f} times as far from those the model has seen as most of them are"
            )
        return Judgement(distance=own, nearest=nearest, refusal=refusal)


def _parts(arrays: Mapping[str, Floats], name: str) -> dict[str, Any]:
    return {
        "mean": arrays[f"{name}.mean"],
        "directions": arrays[f"{name}.directions"],
        "spread": arrays[f"{name}.spread"],
        "residual": float(arrays[f"{name}.residual"]),
    }


def spoken(kind: str) -> str:
    """`breast_ultrasound` as a reader would say it."""
    return {
        "chest_radiograph": "a frontal chest radiograph",
        "breast_ultrasound": "a breast ultrasound image",
        "brain_mr": "a slice of a brain MR",
        "chest_ct": "a slice of a chest CT",
    }.get(kind, kind.replace("_", " "))
