"""A chest CT whose answer is known: anatomy drawn from formulas, in Hounsfield units, with or without ground-glass.

Millimetres in LPS: x grows to the patient's left, y to the back, z to the head; z = 0 lies in the upper abdomen, the lung apices at
about 298. Every structure is a soft-edged shape painted over the one before it, so that edges carry partial volume as on a scanner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Plane = NDArray[np.float32]
Point = NDArray[np.float64]

LUNG_HU, GROUND_GLASS_HU = -855.0, -450.0
LUNG_MIDDLE_MM = 162.0  #: a short series is centred here
APEX_MM, WIDEST_MM, SULCUS_MM = 298.0, 160.0, 28.0
CAVITY_MM = (132.0, 86.0)  #: half width and half depth of the chest cavity where it is widest
HILA = ((-40.0, 8.0, 166.0), (42.0, 10.0, 169.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChestCt:
    """The phantom and its answer. Arrays are (slices, rows, columns), the lowest slice first."""

    hu: NDArray[np.int16] = field(repr=False)
    lungs: NDArray[np.bool_] = field(repr=False)
    ground_glass: NDArray[np.bool_] = field(repr=False)
    spacing_mm: tuple[float, float, float]  #: between slices, rows, columns
    origin_mm: tuple[float, float, float]  #: centre of voxel (0, 0, 0), LPS

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing_mm)) / 1000.0

    @property
    def lung_ml(self) -> float:
        return float(self.lungs.sum()) * self.voxel_ml

    @property
    def ground_glass_ml(self) -> float:
        return float(self.ground_glass.sum()) * self.voxel_ml

    @property
    def affected_fraction(self) -> float:
        """Ground-glass voxels over lung voxels, 0 to 1."""
        return float(self.ground_glass.sum()) / max(1.0, float(self.lungs.sum()))


@lru_cache(maxsize=3)
def chest_ct(
    *, slices: int = 64, rows: int = 512, slice_mm: float = 5.0, patches: int = 8, seed: int = 1, noise_hu: float = 22.0
) -> ChestCt:
    """A chest of `slices` axial slices, `slice_mm` apart, 400 mm field of view, `rows` x `rows` pixels.

    `patches` is the number of ground-glass patches, subpleural and bilateral; 0 gives clean lungs. The same arguments give the same voxels.
    """
    pixel = 400.0 / rows
    axis = ((np.arange(rows) + 0.5) * pixel - 200.0).astype(np.float32)
    lowest = LUNG_MIDDLE_MM - slice_mm * (slices - 1) / 2
    chest = _Chest(seed=seed, patches=patches)
    hu = np.empty((slices, rows, rows), np.int16)
    lungs, glass = np.zeros(hu.shape, bool), np.zeros(hu.shape, bool)
    random = np.random.default_rng([seed, 7])
    for k in range(slices):
        painted, lung, patch = chest.plane(axis, lowest + k * slice_mm, pixel, slice_mm)
        grain = random.standard_normal(painted.shape, dtype=np.float32)
        painted += noise_hu * (1.35 * grain - 0.75 * ndimage.uniform_filter(grain, 3))
        hu[k], lungs[k], glass[k] = np.clip(np.rint(painted), -1024, 3071), lung, patch
    for array in (hu, lungs, glass):
        array.setflags(write=False)  # shared by everyone who asks for the same phantom
    return ChestCt(
        hu=hu,
        lungs=lungs,
        ground_glass=glass,
        spacing_mm=(slice_mm, pixel, pixel),
        origin_mm=(float(axis[0]), float(axis[0]), lowest),
    )


class _Chest:
    """One person's chest, as shapes that can be cut at any height."""

    def __init__(self, *, seed: int, patches: int) -> None:
        random = np.random.default_rng(seed)
        self.waves = _Waves(random)
        self.canvas: _Canvas | None = None
        self.vessels = np.concatenate([_tree(np.array(hilum), _inside(hilum, random, 460), 7.2) for hilum in HILA])
        self.patches = tuple(_patches(random, patches))

    def plane(self, axis: Plane, z: float, pixel: float, slice_mm: float) -> tuple[Plane, NDArray[np.bool_], NDArray[np.bool_]]:
        """(HU, lung mask, ground-glass mask) of the slice at height `z`."""
        x, y = axis[None, :], axis[:, None]
        if self.canvas is None or self.canvas.x.size != axis.size:
            self.canvas = _Canvas(x, y, pixel)
        canvas = self.canvas.blank()
        texture = self.waves.at(x, y, z, 9.0)
        self._wall(canvas, z, texture)
        lung = self._lung(canvas, z, slice_mm)
        parenchyma = LUNG_HU + 0.25 * (y + 0 * x) + 14.0 * texture + 10.0 * self.waves.at(x, y, z, 3.5)
        glass = self._ground_glass(canvas, z, slice_mm) * lung
        parenchyma += glass * (GROUND_GLASS_HU - LUNG_HU + 55.0 * self.waves.at(x, y, z, 4.0))
        vessels = self._vessel_coverage(axis, z, pixel, slice_mm)
        parenchyma += vessels * (40.0 - parenchyma)
        canvas.cover(lung, parenchyma)
        self._bronchi(canvas, z)
        return canvas.hu, lung > 0.5, (glass > 0.5) & (lung > 0.5)

    def _wall(self, c: _Canvas, z: float, texture: Plane) -> None:
        """Table, skin, fat, muscle, ribs, and what lies between the lungs and below the diaphragm."""
        shoulders = float(np.clip((z - 235.0) / 60.0, 0.0, 1.0))
        a, b = 168.0 + 20.0 * shoulders, 112.0 - 22.0 * shoulders
        _table(c)
        body = c.ellipse(0.0, 5.0, a, b, power=2.3)
        c.paint(body, 15.0)
        c.paint(body + 2.2, -102.0 + 8.0 * texture)
        c.paint(c.ellipse(0.0, 8.0, a - 15.0, b - 12.0, power=2.35), 52.0 + 14.0 * self.waves.at(c.x, c.y, z, 6.0))
        cavity = self._cavity(c, z)
        c.paint(cavity - 11.0 + 2.5 * texture, -80.0)  # fat between the muscles and the cage
        c.paint(cavity - 9.5 + 2.0 * texture, 48.0)
        self._scapulae(c, z, shoulders)
        _ribs(c, cavity, z)
        c.paint(cavity - 1.5, -85.0 + 10.0 * texture)
        self._abdomen(c, cavity, z)
        self._mediastinum(c, cavity, z, texture)
        _spine(c, z)
        _sternum(c, z)

    @staticmethod
    def _cavity(c: _Canvas, z: float) -> Plane:
        s = _narrowing(z)
        if s <= 0.05:
            return np.full(c.hu.shape, 1e3, np.float32)
        return c.ellipse(0.0, -2.0 + 14.0 * (1.0 - s), CAVITY_MM[0] * s, CAVITY_MM[1] * (0.35 + 0.65 * s), power=2.3)

    def _abdomen(self, c: _Canvas, cavity: Plane, z: float) -> None:
        right, left = _domes(c.x, c.y)
        below = np.maximum(cavity, z - np.where(c.x < 0, right, left))
        c.paint(np.maximum(below, np.abs(c.x + 42.0) - 78.0), 58.0)  # liver
        c.paint(np.maximum(below, c.ellipse(62.0, -18.0, 46.0, 40.0)), 34.0)  # stomach
        c.paint(np.maximum(below, c.ellipse(96.0, 38.0, 26.0, 34.0)), 50.0)  # spleen

    def _mediastinum(self, c: _Canvas, cavity: Plane, z: float, texture: Plane) -> None:
        middle = np.maximum(_between(c.x, c.y, z), cavity)
        c.paint(middle, -70.0 + 110.0 * float(np.clip((80.0 - z) / 20.0, 0.0, 1.0)) + 12.0 * texture)
        heart = c.ellipsoid((26.0, -22.0, 98.0), (62.0, 47.0, 52.0), z, turn=0.55)
        c.paint(np.maximum(heart - 3.0, cavity), -80.0)
        c.paint(np.maximum(heart, cavity + 2.0), 50.0)
        c.paint(c.ellipsoid((34.0, -30.0, 92.0), (36.0, 24.0, 34.0), z, turn=0.55), 38.0)
        c.paint(c.ellipsoid((2.0, 16.0, 122.0), (33.0, 20.0, 24.0), z), 44.0)  # left atrium
        c.disc(-27.0, -16.0, 9.5, 42.0, 120.0 < z < 260.0)  # superior vena cava
        c.disc(-12.0 + 0.05 * (z - 130.0), -26.0, 17.0, 44.0, 125.0 < z < 203.0)  # ascending aorta
        c.disc(23.0, 40.0, 13.0, 43.0, z < 206.0)  # descending aorta
        c.tube((-10.0, -26.0, 204.0), (22.0, 38.0, 206.0), 13.5, 44.0, z)  # arch
        c.tube((18.0, -30.0, 150.0), (14.0, -8.0, 178.0), 14.0, 42.0, z)  # pulmonary trunk
        c.tube((12.0, -6.0, 176.0), (-42.0, 4.0, 168.0), 9.0, 42.0, z)
        c.tube((16.0, -6.0, 178.0), (44.0, 8.0, 172.0), 9.0, 42.0, z)
        c.disc(-9.0, 52.0, 4.0, 40.0, z < 200.0)  # azygos vein
        c.disc(7.0, 33.0, 8.0, 36.0, True)  # oesophagus
        for x in (-24.0, 24.0):
            c.disc(x, 2.0, 6.0, 44.0, z > 215.0)  # the great vessels to the neck
        c.disc(14.0, -18.0, 8.0, 42.0, z > 215.0)

    @staticmethod
    def _bronchi(c: _Canvas, z: float) -> None:
        for radius, value in ((2.0, 30.0), (0.0, -985.0)):
            c.disc(0.0, 8.0, 9.0 + radius, value, z > 194.0)
            c.tube((0.0, 8.0, 197.0), (-37.0, 14.0, 168.0), 6.6 + radius, value, z)
            c.tube((0.0, 8.0, 197.0), (42.0, 17.0, 163.0), 5.8 + radius, value, z)

    def _lung(self, c: _Canvas, z: float, slice_mm: float) -> Plane:
        """How much of each voxel is lung, 0 to 1."""
        cavity = self._cavity(c, z)
        heart = c.ellipsoid((26.0, -22.0, 98.0), (62.0, 47.0, 52.0), z, turn=0.55)
        inside = np.maximum(np.maximum(cavity + 2.0, -_between(c.x, c.y, z)), 3.0 - heart)
        right, left = _domes(c.x, c.y)
        above = (z - np.where(c.x < 0, right, left)) / slice_mm + 0.5
        return np.asarray(c.coverage(inside) * np.clip(above, 0.0, 1.0), np.float32)

    def _ground_glass(self, c: _Canvas, z: float, slice_mm: float) -> Plane:
        """How much of the air is replaced, 0 to 1: soft over some 8 mm, with ragged outlines."""
        out = np.zeros(c.hu.shape, np.float32)
        rough: Plane | None = None
        for centre, radii in self.patches:
            dz = (z - centre[2]) / radii[2]
            if abs(dz) > 1.4:
                continue
            if rough is None:
                rough = self.waves.at(c.x, c.y, z, 12.0) + 0.7 * self.waves.at(c.x, c.y, z, 4.0)
            reach_x, reach_y = 2.0 * radii[0], 2.0 * radii[1]
            near = c.near(centre[0] - reach_x, centre[0] + reach_x, centre[1] - reach_y, centre[1] + reach_y)
            dx, dy = (c.x[:, near[1]] - centre[0]) / radii[0], (c.y[near[0]] - centre[1]) / radii[1]
            r = np.sqrt(dx**2 + dy**2 + np.float32(dz**2))
            depth = (1.0 - r + 0.24 * rough[near]) * np.float32(min(radii) / 8.0) + 0.5
            np.maximum(out[near], np.clip(depth, 0.0, 1.0), out=out[near])
        return out * out * (3.0 - 2.0 * out)

    def _vessel_coverage(self, axis: Plane, z: float, pixel: float, slice_mm: float) -> Plane:
        """The vessel tree through the slab, as the mean of three planes: thin ones fade as on a thick slice."""
        total = np.zeros((axis.size, axis.size), np.float32)
        for offset in (-0.33, 0.0, 0.33):
            total += _cut(self.vessels, axis, z + offset * slice_mm, pixel) / 3.0
        return total

    @staticmethod
    def _scapulae(c: _Canvas, z: float, shoulders: float) -> None:
        if z < 150.0:
            return
        for side in (-1.0, 1.0):
            start, end = (side * 70.0, 92.0), (side * (138.0 + 8.0 * shoulders), 48.0)
            blade = c.segment(start, end)
            c.paint(blade - 4.0, 520.0)
            c.paint(blade - 2.2, 240.0)
            if shoulders > 0.4:
                c.disc(side * 158.0, 22.0, 20.0, 560.0, True)
                c.disc(side * 158.0, 22.0, 17.0, 200.0, True)


class _Canvas:
    """A slice being painted. Distances are signed millimetres, negative inside."""

    def __init__(self, x: Plane, y: Plane, pixel: float) -> None:
        self.x, self.y, self.pixel = x, y, pixel
        self.hu: Plane = np.full((y.size, x.size), -1000.0, np.float32)
        self._known: dict[tuple[float, ...], Plane] = {}  # most shapes are the same on the next slice

    def blank(self) -> _Canvas:
        """The same grid for the next slice."""
        self.hu = np.full(self.hu.shape, -1000.0, np.float32)
        return self

    def _once(self, key: tuple[float, ...], make: Callable[[], Plane]) -> Plane:
        if key not in self._known:
            while len(self._known) > 60:
                del self._known[next(iter(self._known))]
            self._known[key] = make()
        return self._known[key]

    def coverage(self, distance: Plane) -> Plane:
        return np.asarray(np.clip(0.5 - distance / (1.2 * self.pixel), 0.0, 1.0), np.float32)

    def paint(self, distance: Plane, value: float | Plane) -> None:
        self.cover(self.coverage(distance), value)

    def cover(self, share: Plane, value: float | Plane) -> None:
        self.hu += share * (value - self.hu)

    def ellipse(self, x0: float, y0: float, a: float, b: float, *, power: float = 2.0) -> Plane:
        def make() -> Plane:
            dx, dy = np.abs(self.x - x0), np.abs(self.y - y0)
            r = ((dx / a) ** power + (dy / b) ** power) ** (1.0 / power)
            return np.asarray(np.hypot(dx, dy) * (1.0 - 1.0 / np.maximum(r, 1e-3)), np.float32)

        return self._once((x0, y0, a, b, power), make)

    def ellipsoid(self, centre: tuple[float, float, float], radii: tuple[float, float, float], z: float, *, turn: float = 0.0) -> Plane:
        rest = 1.0 - ((z - centre[2]) / radii[2]) ** 2
        if rest <= 0.01:
            return np.full((1, 1), 1e3, np.float32)

        def make() -> Plane:
            dx, dy = self.x - centre[0], self.y - centre[1]
            u, v = dx * np.cos(turn) - dy * np.sin(turn), dx * np.sin(turn) + dy * np.cos(turn)
            r = np.hypot(u / radii[0], v / radii[1]) / np.float32(np.sqrt(rest))
            return np.asarray(np.hypot(dx, dy) * (1.0 - 1.0 / np.maximum(r, 1e-3)), np.float32)

        return self._once((*centre, *radii, z), make)

    def arc(self, key: int, y0: float, radius: float, half: float) -> Plane:
        """The table: a shallow curve below the patient."""

        def make() -> Plane:
            ring = np.abs(np.hypot(self.x, self.y - y0) - radius)
            return np.asarray(np.maximum(ring - half, 108.0 - self.y), np.float32)

        return self._once((float(key),), make)

    def segment(self, start: tuple[float, float], end: tuple[float, float]) -> Plane:
        """Distance to a line from `start` to `end`."""

        def make() -> Plane:
            dx, dy = end[0] - start[0], end[1] - start[1]
            t = np.clip(((self.x - start[0]) * dx + (self.y - start[1]) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
            return np.asarray(np.hypot(self.x - start[0] - t * dx, self.y - start[1] - t * dy), np.float32)

        return self._once((*start, *end), make)

    def disc(self, x0: float, y0: float, radius: float, value: float, here: bool) -> None:
        if here:
            window = self.near(x0 - radius, x0 + radius, y0 - radius, y0 + radius)
            distance = np.hypot(self.x[:, window[1]] - x0, self.y[window[0]] - y0) - radius
            share = self.coverage(distance)
            self.hu[window] += share * (value - self.hu[window])

    def tube(self, start: tuple[float, float, float], end: tuple[float, float, float], radius: float, value: float, z: float) -> None:
        """A round tube between two points in space, cut at height `z`."""
        p, d = np.array(start), np.array(end) - np.array(start)
        if not min(start[2], end[2]) - radius < z < max(start[2], end[2]) + radius:
            return
        low, high = np.minimum(start, end) - radius, np.maximum(start, end) + radius
        window = self.near(low[0], high[0], low[1], high[1])
        dx, dy, dz = self.x[:, window[1]] - p[0], self.y[window[0]] - p[1], z - p[2]
        t = np.clip((dx * d[0] + dy * d[1] + dz * d[2]) / float(d @ d), 0.0, 1.0)
        distance = np.sqrt((dx - t * d[0]) ** 2 + (dy - t * d[1]) ** 2 + (dz - t * d[2]) ** 2) - radius
        share = self.coverage(distance)
        self.hu[window] += share * (value - self.hu[window])

    def near(self, x0: float, x1: float, y0: float, y1: float) -> tuple[slice, slice]:
        columns = np.searchsorted(self.x[0], [x0 - 2.0, x1 + 2.0])
        rows = np.searchsorted(self.y[:, 0], [y0 - 2.0, y1 + 2.0])
        return slice(*rows.tolist()), slice(*columns.tolist())


class _Waves:
    """Smooth noise in space: a sum of plane waves, so that any slice at any resolution sees the same tissue."""

    def __init__(self, random: np.random.Generator) -> None:
        self.directions = random.standard_normal((10, 3))
        self.directions /= np.linalg.norm(self.directions, axis=1, keepdims=True)
        self.phases = random.uniform(0, 2 * np.pi, 10)
        self.pitch = random.uniform(0.6, 1.7, 10)

    def at(self, x: Plane, y: Plane, z: float, length_mm: float) -> Plane:
        """About -1 to 1, changing over `length_mm`."""
        if x.size % 2 == 0 and x.size >= 300:  # smooth enough to be worked out on every second pixel
            half = self.at(x[:, ::2], y[::2], z, length_mm)
            return np.asarray(half.repeat(2, axis=0).repeat(2, axis=1))
        k = self.pitch / length_mm
        a = (k * self.directions[:, 0])[:, None] * x.reshape(1, -1)
        b = y.reshape(-1, 1) * (k * self.directions[:, 1]) + (k * self.directions[:, 2] * z + self.phases)
        # sin(a + b) = sin a cos b + cos a sin b: one product of two thin matrices instead of a sine per pixel
        left = np.concatenate([np.cos(b), np.sin(b)], axis=1).astype(np.float32)
        right = np.concatenate([np.sin(a), np.cos(a)], axis=0).astype(np.float32)
        return np.asarray(0.45 * (left @ right), np.float32)


def _narrowing(z: float) -> float:
    """Width of the chest cavity at `z` against its widest, 0 to 1."""
    return float(np.sqrt(max(0.0, 1.0 - ((z - WIDEST_MM) / (APEX_MM - WIDEST_MM)) ** 2))) if z > WIDEST_MM else 1.0


def _domes(x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """Height of the diaphragm under the right and the left lung."""
    right = SULCUS_MM + 62.0 * (1.0 - ((x + 66.0) / 72.0) ** 2 - ((y + 6.0) / 88.0) ** 2)
    left = SULCUS_MM + 46.0 * (1.0 - ((x - 68.0) / 72.0) ** 2 - ((y + 6.0) / 88.0) ** 2)
    return np.maximum(right, SULCUS_MM), np.maximum(left, SULCUS_MM)


def _between(x: Plane, y: Plane, z: float) -> Plane:
    """Distance to what lies between the lungs."""
    at = [-95.0, -72.0, -48.0, -18.0, 12.0, 40.0, 62.0, 92.0]
    low = [3.0, 6.0, 22.0, 33.0, 31.0, 24.0, 25.0, 36.0]
    high = [10.0, 22.0, 32.0, 36.0, 34.0, 28.0, 27.0, 36.0]
    share = float(np.clip((z - 190.0) / 50.0, 0.0, 1.0))
    half = np.interp(y, at, (1.0 - share) * np.array(low) + share * np.array(high))
    return np.asarray(np.abs(x - 3.0) - half, np.float32)


def _table(c: _Canvas) -> None:
    for key, (y0, radius, half, value) in enumerate(((-260.0, 396.0, 1.4, -150.0), (-240.0, 410.0, 1.0, -350.0))):
        c.paint(c.arc(key, y0, radius, half), value)


def _ribs(c: _Canvas, cavity: Plane, z: float) -> None:
    """Twelve rings that fall towards the front, so that a slice meets each as a short arc."""
    turn = np.arctan2(np.abs(c.x), c.y)  # 0 at the spine, pi at the sternum
    drop = 62.0 * (turn / np.pi) ** 1.3
    height = (z + drop - 34.0) / 25.0
    away = (np.abs(height - np.clip(np.rint(height), 0, 11)) * 25.0).astype(np.float32)
    radial = np.abs(cavity - 5.0)
    rib = np.hypot(radial / 3.6, away / 6.2) - 1.0
    keep = np.maximum(rib * 3.6, (turn - 2.55).astype(np.float32) * 40.0)
    c.paint(keep, 480.0)
    c.paint(keep + 1.6, 190.0)
    front = np.maximum(rib * 3.6, (2.5 - turn).astype(np.float32) * 40.0)
    c.paint(front, 115.0)  # costal cartilage


def _spine(c: _Canvas, z: float) -> None:
    phase = (z % 26.0) / 26.0
    disc = phase < 0.2
    body = c.ellipse(0.0, 66.0, 18.5, 15.0, power=2.5)
    c.paint(c.ellipse(0.0, 96.0, 30.0, 19.0, power=2.4), 55.0)  # muscles beside it
    if disc:
        c.paint(body, 85.0)
    else:
        c.paint(body, 460.0)
        c.paint(body + 1.8, 175.0)
    arch = c.ellipse(0.0, 90.0, 14.0, 12.5)
    c.paint(arch, 520.0)
    for side in (-1.0, 1.0):
        c.paint(c.segment((side * 10.0, 92.0), (side * 30.0, 97.0)) - 3.5, 420.0)
    c.paint(c.segment((0.0, 98.0), (0.0, 112.0)) - 3.0, 430.0)
    c.paint(c.ellipse(0.0, 89.0, 9.0, 8.5), -20.0)
    c.paint(c.ellipse(0.0, 89.0, 5.5, 5.0), 38.0)  # cord


def _sternum(c: _Canvas, z: float) -> None:
    if 70.0 < z < 275.0:
        front = -2.0 + 14.0 * (1.0 - _narrowing(z)) - CAVITY_MM[1] * (0.35 + 0.65 * _narrowing(z)) - 6.0
        plate = c.ellipse(0.0, front, 21.0 if z > 225.0 else 16.0, 5.5, power=2.5)
        c.paint(plate, 380.0)
        c.paint(plate + 1.6, 130.0)


def _inside(hilum: tuple[float, float, float], random: np.random.Generator, count: int) -> Point:
    """Points spread through the lung of one hilum, where vessels should end."""
    out: list[tuple[float, float, float]] = []
    side = float(np.sign(hilum[0]))
    while len(out) < count:
        x, y, z = side * random.uniform(10.0, 130.0), random.uniform(-86.0, 86.0), random.uniform(SULCUS_MM, APEX_MM)
        s = _narrowing(z)
        depth = 0.35 + 0.65 * s
        r = (x / (126.0 * max(s, 0.05))) ** 2 + ((y + 2.0 - 14.0 * (1.0 - s)) / (81.0 * depth)) ** 2
        px, py = np.array([[x]], np.float32), np.array([[y]], np.float32)
        dome = _domes(px, py)[0 if x < 0 else 1][0, 0]
        if r < 1.0 and z > dome + 3.0 and _between(px, py, z)[0, 0] > 4.0:
            out.append((x, y, z))
    return np.array(out)


def _tree(root: Point, ends: Point, radius: float) -> Point:
    """Tapered segments from `root` to every end: halve the ends by their longest direction, branch, repeat."""
    segments: list[list[float]] = []
    todo = [(root, ends, radius)]
    while todo:
        start, group, r = todo.pop()
        middle = group.mean(axis=0)
        end = group[0] if len(group) == 1 else start + 0.45 * (middle - start)
        segments.append([*start, *end, r])
        if len(group) > 1:
            longest = np.linalg.svd(group - middle, full_matrices=False)[2][0]
            order = np.argsort((group - middle) @ longest)
            half = len(group) // 2
            for part in (order[:half], order[half:]):
                child = max(0.85, r * (len(part) / len(group)) ** 0.36)
                todo.append((end, group[part], child))
    return np.array(segments)


def _cut(segments: Point, axis: Plane, z: float, pixel: float) -> Plane:
    """Coverage, 0 to 1, of the vessels met by the plane at `z`."""
    out = np.zeros((axis.size, axis.size), np.float32)
    radius = segments[:, 6]
    low = np.minimum(segments[:, 2], segments[:, 5]) - radius
    high = np.maximum(segments[:, 2], segments[:, 5]) + radius
    for x0, y0, z0, x1, y1, z1, r in segments[(low < z) & (z < high)]:
        # only the stretch of the segment that is near the plane
        t0, t1 = 0.0, 1.0
        if abs(z1 - z0) > 1e-6:
            a, b = sorted(((z - r - z0) / (z1 - z0), (z + r - z0) / (z1 - z0)))
            t0, t1 = max(0.0, a), min(1.0, b)
        xs, ys = sorted((x0 + t0 * (x1 - x0), x0 + t1 * (x1 - x0))), sorted((y0 + t0 * (y1 - y0), y0 + t1 * (y1 - y0)))
        columns = slice(*np.searchsorted(axis, [xs[0] - r - pixel, xs[1] + r + pixel]).tolist())
        rows = slice(*np.searchsorted(axis, [ys[0] - r - pixel, ys[1] + r + pixel]).tolist())
        dx, dy, dz = axis[None, columns] - x0, axis[rows, None] - y0, z - z0
        ux, uy, uz = x1 - x0, y1 - y0, z1 - z0
        t = np.clip((dx * ux + dy * uy + dz * uz) / (ux * ux + uy * uy + uz * uz + 1e-9), 0.0, 1.0)
        distance = np.sqrt((dx - t * ux) ** 2 + (dy - t * uy) ** 2 + (dz - t * uz) ** 2)
        np.maximum(out[rows, columns], np.clip(0.5 + (r - distance) / pixel, 0.0, 1.0), out=out[rows, columns])
    return out


def _patches(random: np.random.Generator, count: int) -> Iterator[tuple[Point, tuple[float, float, float]]]:
    """Ground-glass under the pleura, mostly at the back of the lower lobes, on both sides in turn."""
    for number in range(count):
        side = -1.0 if number % 2 == 0 else 1.0
        z = float(random.uniform(70.0, 215.0))
        turn = float(random.uniform(-0.15, 1.1))  # 0 points to the side, pi/2 to the back
        s = _narrowing(z)
        reach = 0.86
        centre = (
            np.array(
                [
                    side * reach * CAVITY_MM[0] * s * np.cos(turn) ** 0.9,
                    -2.0 + reach * CAVITY_MM[1] * np.sin(turn),
                    z,
                ]
            )
            if turn >= 0
            else np.array([side * reach * CAVITY_MM[0] * s, -20.0, z])
        )
        yield centre, (float(random.uniform(20, 34)), float(random.uniform(18, 30)), float(random.uniform(18, 32)))
