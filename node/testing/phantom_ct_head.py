"""A head and neck CT whose answer is known: skin, skull, brain and face drawn from formulas, in Hounsfield units.

Millimetres in LPS: x grows to the patient's left, y to the back, z to the head; z = 0 lies at the height of the eyes. It has what matters to
whoever looks for a face or a brain: a closed skull with its hole for the cord, orbits, nose, sinuses, jaws with teeth, ears, neck and headrest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Point = tuple[float, float, float]

BRAIN = ((0.0, 10.0, 40.0), (66.0, 85.0, 62.0))  #: centre and half axes
SKULL_MM, SCALP_MM = 7.0, 6.0
LOWEST_MM, HIGHEST_MM = -130.0, 130.0
BROW_MM = 16.0  #: the face lies below


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadCt:
    """The phantom and its answer. Arrays are (slices, rows, columns), the lowest slice first."""

    hu: NDArray[np.int16] = field(repr=False)
    brain: NDArray[np.bool_] = field(repr=False)
    body: NDArray[np.bool_] = field(repr=False)  #: all that lies inside the skin, with the air of the sinuses and without the headrest
    spacing_mm: tuple[float, float, float]  #: between slices, rows, columns
    origin_mm: tuple[float, float, float]  #: centre of voxel (0, 0, 0), LPS


@lru_cache(maxsize=3)
def ct_head(*, slice_mm: float = 4.0, rows: int = 128, field_mm: float = 270.0, noise_hu: float = 6.0, nod_deg: float = 0.0) -> HeadCt:
    """The head from vertex to collar, `nod_deg` bent forward. The same arguments give the same voxels."""
    pixel = field_mm / rows
    flat = ((np.arange(rows) + 0.5) * pixel - field_mm / 2).astype(np.float32)
    heights = np.arange(LOWEST_MM, HIGHEST_MM, slice_mm, dtype=np.float32)
    z, y, x = np.meshgrid(heights, flat, flat, indexing="ij", sparse=True)
    turn = np.float32(np.radians(nod_deg))
    head = _Head(x, y * np.cos(turn) + z * np.sin(turn), z * np.cos(turn) - y * np.sin(turn))
    hu = head.hu
    hu[(np.hypot(x, y - 10.0) > 118.0) & (np.hypot(x, y - 10.0) < 122.0) & (y > 60.0) & (z < 90.0)] = -700.0  # headrest
    smooth = ndimage.gaussian_filter(hu, [0.4, 0.6, 0.6])
    grain = np.random.default_rng(3).standard_normal(hu.shape, dtype=np.float32)
    noisy = np.clip(np.rint(smooth + noise_hu * grain), -1024, 3071).astype(np.int16)
    for array in (noisy, head.brain, head.body):
        array.setflags(write=False)
    return HeadCt(
        hu=noisy,
        brain=head.brain,
        body=head.body,
        spacing_mm=(slice_mm, pixel, pixel),
        origin_mm=(float(flat[0]), float(flat[0]), float(heights[0])),
    )


class _Head:
    """Shapes painted over each other, from the skin inwards."""

    def __init__(self, x: Floats, y: Floats, z: Floats) -> None:
        self.x, self.y, self.z = x, y, z
        centre, axes = BRAIN
        skull_axes = _add(axes, SKULL_MM)
        brain = self._ball(centre, axes)
        skull = self._ball(centre, skull_axes)
        skin = self._ball(centre, _add(skull_axes, SCALP_MM)) | self._face_skin() | self._neck(58.0)
        for side in (-1.0, 1.0):
            skin |= self._ball((side * 74.0, 18.0, -6.0), (12.0, 17.0, 30.0))  # ears
        self.hu = np.where(skin, np.float32(30.0), np.float32(-1000.0)).astype(np.float32)
        self._face()
        self._spine()
        self.hu[skull] = 900.0
        hole = np.hypot(x, y - 22.0) < 15.0
        low = skull & ~brain & hole & (z < centre[2] - axes[2] + 25.0)
        self.hu[low] = 35.0  # foramen magnum
        self.hu[brain] = 34.0
        self.hu[brain & (np.abs(x) < 1.2) & (z > 40.0)] = 60.0  # falx
        for side in (-1.0, 1.0):
            self.hu[self._ball((side * 14.0, 5.0, 50.0), (8.0, 32.0, 12.0))] = 8.0  # ventricles
        self.hu[self._ball((0.0, -84.0, 14.0), (14.0, 5.0, 8.0))] = -950.0  # frontal sinus, within the bone
        self.brain = np.asarray(brain)
        self.body = np.asarray(skin)

    def _face_skin(self) -> NDArray[np.bool_]:
        face = self._ball((0.0, -38.0, -40.0), (64.0, 62.0, 72.0))
        nose = self._ball((0.0, -99.0, -32.0), (13.0, 20.0, 13.0)) | self._ball((0.0, -93.0, -14.0), (8.0, 12.0, 18.0))
        chin = self._ball((0.0, -82.0, -98.0), (20.0, 16.0, 14.0))
        lips = self._ball((0.0, -95.0, -68.0), (20.0, 10.0, 10.0))
        return np.asarray(face | nose | chin | lips)

    def _face(self) -> None:
        hu = self.hu
        for side in (-1.0, 1.0):
            orbit = self._ball((side * 32.0, -74.0, -4.0), (20.0, 24.0, 18.0))
            hu[self._ball((side * 32.0, -74.0, -4.0), (24.0, 20.0, 22.0)) & self._deep()] = 700.0  # rim and walls
            hu[orbit & self._deep(2.0)] = -80.0  # fat
            hu[self._ball((side * 32.0, -84.0, -4.0), (12.0, 12.0, 12.0))] = 12.0  # the eye
            hu[self._ball((side * 30.0, -62.0, -36.0), (18.0, 20.0, 18.0)) & self._deep()] = 600.0  # maxilla
            hu[self._ball((side * 30.0, -62.0, -36.0), (14.0, 16.0, 14.0))] = -980.0  # its sinus
            hu[self._ball((side * 58.0, -30.0, -70.0), (5.0, 14.0, 40.0)) & self._deep()] = 800.0  # ramus of the jaw
        hu[self._ball((0.0, -62.0, -34.0), (9.0, 38.0, 16.0)) & self._deep()] = -960.0  # nose, inside
        hu[self._ball((0.0, -32.0, -60.0), (12.0, 12.0, 40.0))] = -970.0  # pharynx
        arch = np.hypot(self.x / 46.0, (self.y + 40.0) / 44.0)
        hu[(arch > 0.86) & (arch < 1.0) & (self.y < -30.0) & (np.abs(self.z + 92.0) < 14.0) & self._deep()] = 900.0  # jaw
        hu[(arch > 0.82) & (arch < 1.0) & (self.y < -30.0) & (np.abs(self.z + 68.0) < 8.0) & self._deep()] = 1800.0  # teeth

    def _spine(self) -> None:
        ring = np.hypot(self.x, self.y - 24.0)
        below = self.z < -36.0
        self.hu[(ring < 17.0) & below & (np.mod(self.z, 18.0) < 14.0)] = 600.0
        self.hu[(ring < 9.0) & (self.z < -20.0)] = 36.0  # cord

    def _neck(self, radius: float) -> NDArray[np.bool_]:
        return np.asarray((np.hypot(self.x, self.y - 12.0) < radius) & (self.z < -20.0))

    def _deep(self, mm: float = 5.0) -> NDArray[np.bool_]:
        """Not within the skin of the face."""
        return self._ball((0.0, -38.0, -40.0), (64.0 - mm, 62.0 - mm, 72.0 - mm))

    def _ball(self, centre: Point, axes: Point) -> NDArray[np.bool_]:
        (a, b, c), (i, j, k) = centre, axes
        return np.asarray(((self.x - a) / i) ** 2 + ((self.y - b) / j) ** 2 + ((self.z - c) / k) ** 2 < 1.0)


def _add(axes: Point, mm: float) -> Point:
    return axes[0] + mm, axes[1] + mm, axes[2] + mm
