"""A head on T1-weighted MR after contrast whose answer is known: scalp, skull, folded cortex, ventricles, and an enhancing tumour or none.

Brightness is made from distances to smooth surfaces; the folds of the cortex come from a smooth random field that bends them. The noise is
Rician, as in a magnitude image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Grid = NDArray[np.float64]

HALF_MM = (92.0, 75.0)  #: the head at its widest: half its length, half its width
SCALP, SKULL, FLUID, GREY, WHITE = 620.0, 70.0, 110.0, 330.0, 450.0  #: stored values
ENHANCING, NECROSIS, OEDEMA, VESSEL = 880.0, 170.0, 300.0, 900.0
NOISE = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BrainMr:
    """The phantom and its answer. Arrays are (slices, rows, columns), the lowest slice first."""

    pixels: NDArray[np.uint16] = field(repr=False)
    tumor: NDArray[np.bool_] = field(repr=False)  #: rim and core
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]  #: centre of the first voxel, LPS

    @property
    def tumor_ml(self) -> float:
        return float(self.tumor.sum()) * float(np.prod(self.spacing_mm)) / 1000.0


@lru_cache(maxsize=3)
def brain_mr(*, tumor: bool = True, slices: int = 22, rows: int = 256, slice_mm: float = 5.0, seed: int = 1) -> BrainMr:
    """Axial slices from the base of the ventricles to the vertex, 240 mm across. The same arguments give the same voxels."""
    random = np.random.default_rng([seed, int(tumor)])
    pixel = 240.0 / rows
    z, y, x = np.meshgrid((np.arange(slices) - 0.35 * slices) * slice_mm, *[(np.arange(rows) - (rows - 1) / 2) * pixel] * 2, indexing="ij")
    step = (slice_mm, pixel, pixel)
    bend = 0.8 * _field(x.shape, 60.0, step, random)
    depth = _depth(x, y, z) + bend  # mm below the skin
    image = np.full(x.shape, 8.0)
    image = _onto(image, SCALP * (1 + 0.06 * _field(x.shape, 6.0, step, random)), depth, 0.0)
    image = _onto(image, SKULL, depth, 6.0)
    image = _onto(image, 140.0, depth, 8.5)  # marrow between the tables
    image = _onto(image, SKULL, depth, 10.5)
    image = _onto(image, FLUID, depth, 13.0)
    folds = _field(x.shape, 13.0, step, random)
    image = _onto(image, GREY, depth, 14.0)
    ribbon = 15.0 * np.exp(-((folds / 0.5) ** 2)) * np.clip(1.3 - (depth - 14.0) / 20.0, 0, 1)  # grey matter follows the folds inwards
    image = _onto(image, WHITE * (1 + 0.02 * _field(x.shape, 8.0, step, random)), depth - ribbon, 17.5)
    sulci = np.exp(-((folds / 0.13) ** 2)) * np.clip(1.25 - (depth - 13.0) / 16.0, 0, 1) * (depth > 13)
    image = image + sulci * (FLUID - image)
    image = _middle(image, x, y, z, depth)
    found = np.zeros(x.shape, bool)
    if tumor:
        image, found = _tumor(image, x, y, z, step, random)
    image = image * (1 + 0.08 * _field(x.shape, 90.0, step, random))  # the coil
    image = ndimage.gaussian_filter(image, (0.0, 0.45 / pixel, 0.45 / pixel))
    noisy = np.hypot(image + NOISE * random.standard_normal(image.shape), NOISE * random.standard_normal(image.shape))
    pixels = np.clip(noisy, 0, 4095).astype(np.uint16)
    for array in (pixels, found):
        array.setflags(write=False)  # shared by everyone who asks for the same phantom
    origin = (float(x.min()), float(y.min()), float(z.min()))
    return BrainMr(pixels=pixels, tumor=found, spacing_mm=step, origin_mm=origin)


def _depth(x: Grid, y: Grid, z: Grid) -> Grid:
    """How far below the skin, in mm, of an egg that is narrower in front and closes at the top."""
    narrow = 1.0 - 0.08 * np.clip(-y / HALF_MM[0], -1, 1)
    height = np.where(z > 0, 88.0, 140.0)
    radius = np.sqrt((y / HALF_MM[0]) ** 2 + (x / (HALF_MM[1] * narrow)) ** 2 + (z / height) ** 2)
    return np.asarray((1.0 - radius) * 78.0)


def _middle(image: Grid, x: Grid, y: Grid, z: Grid, depth: Grid) -> Grid:
    """The cleft between the halves with its bright falx and vessels, the ventricles, and the grey nuclei beside them."""
    inside = depth > 15
    cleft = np.exp(-((x / 1.6) ** 2)) * inside * np.clip((np.abs(y) - 22) / 10, 0, 1)
    image = image + cleft * (FLUID - image)
    image = image + 0.55 * np.exp(-((x / 0.7) ** 2)) * inside * np.clip((np.abs(y) - 26) / 10, 0, 1) * (VESSEL - image)
    sinus = np.exp(-(((x / 4.0) ** 2) + ((y - 74 + 0.35 * np.clip(z, 0, None)) / 4.0) ** 2)) * (depth > 9)
    image = image + sinus * (VESSEL - image)
    side = np.abs(x)
    nuclei = np.exp(-((((side - 17) / 8.0) ** 2 + ((y + 2) / 16.0) ** 2 + ((z - 2) / 14.0) ** 2) ** 2))
    image = image + 0.9 * nuclei * (GREY - image)
    body = ((side - 9 - 0.16 * np.abs(y)) / 4.6) ** 2 + ((y + 4) / 34.0) ** 2 + ((z - 16) / 15.0) ** 2
    third = (x / 1.8) ** 2 + ((y + 3) / 13.0) ** 2 + ((z + 2) / 11.0) ** 2
    for shape in (body, third):
        wet = np.clip((1.25 - shape) / 0.5, 0, 1)
        image = image + wet * (FLUID * 0.8 - image)
    plexus = np.exp(-(((side - 14) / 2.0) ** 2 + ((y - 20) / 5.0) ** 2 + ((z - 14) / 5.0) ** 2))
    return np.asarray(image + 0.7 * plexus * (VESSEL * 0.8 - image))


def _tumor(image: Grid, x: Grid, y: Grid, z: Grid, step: tuple[float, ...], random: np.random.Generator) -> tuple[Grid, NDArray[np.bool_]]:
    """An irregular ring that enhances round a necrotic core, with oedema that spreads into the white matter."""
    x0, y0, z0, size = 33.0, -14.0, 26.0, 17.0
    rough = _field(x.shape, 9.0, step, random)
    r = np.sqrt((x - x0) ** 2 + (1.15 * (y - y0)) ** 2 + (1.1 * (z - z0)) ** 2) / size + 0.12 * rough
    swelling = np.clip((2.1 - r + 0.25 * rough) / 0.5, 0, 1)
    image = image + 0.8 * swelling * (np.minimum(image, OEDEMA) - image)
    rim = np.clip((1.0 - r) / 0.08 + 0.5, 0, 1)
    image = image + rim * (ENHANCING * (1 + 0.08 * rough) - image)
    core = np.clip((0.66 + 0.08 * rough - r) / 0.1 + 0.5, 0, 1)
    return np.asarray(image + core * (NECROSIS - image)), np.asarray(r < 1.0)


def _onto(image: Grid, value: Any, depth: Grid, below_mm: float) -> Grid:
    """What lies deeper than `below_mm` has this value; the border is a millimetre soft."""
    part = np.clip(0.5 + (depth - below_mm), 0, 1)
    return np.asarray(image + part * (value - image))


def _field(shape: tuple[int, ...], length_mm: float, step: tuple[float, ...], random: np.random.Generator) -> Grid:
    """A smooth random field of unit spread that changes over about `length_mm`: drawn on a coarse grid, then refined."""
    coarse = [max(1.0, length_mm / 5.0 / s) for s in step]
    few = [int(np.ceil(n / c)) + 4 for n, c in zip(shape, coarse, strict=True)]
    sigma = [length_mm / 2.5 / s / c for s, c in zip(step, coarse, strict=True)]
    rough = ndimage.gaussian_filter(random.standard_normal(few), sigma, mode="wrap")
    for axis, (n, c) in enumerate(zip(shape, coarse, strict=True)):
        at = 1.0 + np.arange(n) / c
        low = at.astype(int)
        part = (at - low).reshape([-1 if k == axis else 1 for k in range(3)])
        rough = np.take(rough, low, axis) * (1 - part) + np.take(rough, low + 1, axis) * part
    return np.asarray((rough - rough.mean()) / (rough.std() + 1e-9))
