"""A breast ultrasound whose answer is known: scatterers, a beam, attenuation, and a lesion with a drawn outline.

The image is made the way a scanner makes it: random scatterers are blurred by the pulse, the envelope is Rayleigh speckle, attenuation
and shadow add up along the beam, and the result is log-compressed to 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Plane = NDArray[np.float64]

DYNAMIC_RANGE_DB = 60.0
LOOKS = 4  #: compounded directions; more give smoother speckle


class Kind(StrEnum):
    """What the phantom shows. The words of the breast ultrasound pipeline."""

    NORMAL = "normal"
    BENIGN = "benign"
    MALIGNANT = "malignant"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreastUltrasound:
    """The phantom and its answer. Arrays are (rows, columns); row 0 lies at the skin."""

    kind: Kind
    pixels: NDArray[np.uint8] = field(repr=False)
    lesion: NDArray[np.bool_] = field(repr=False)
    spacing_mm: float  #: of a pixel, both ways

    @property
    def area_mm2(self) -> float:
        return float(self.lesion.sum()) * self.spacing_mm**2

    @property
    def extent_mm(self) -> tuple[float, float]:
        """Height (along the beam) and width of the lesion; a cancer is often taller than wide."""
        if not self.lesion.any():
            return 0.0, 0.0
        rows, columns = np.flatnonzero(self.lesion.any(axis=1)), np.flatnonzero(self.lesion.any(axis=0))
        return float(np.ptp(rows) + 1) * self.spacing_mm, float(np.ptp(columns) + 1) * self.spacing_mm


@lru_cache(maxsize=6)
def breast_ultrasound(kind: Kind | str = Kind.MALIGNANT, *, rows: int = 480, columns: int = 600, seed: int = 1) -> BreastUltrasound:
    """A linear-probe image, 40 mm wide. The same arguments give the same pixels."""
    kind = Kind(kind)
    random = np.random.default_rng([seed, list(Kind).index(kind)])
    spacing = 40.0 / columns
    y, x = np.mgrid[0:rows, 0:columns] * spacing
    echo, attenuation = _tissue(x, y, spacing, random)
    lesion = np.zeros(x.shape, bool)
    if kind is Kind.MALIGNANT:
        lesion, echo, attenuation = _malignant(x, y, echo, attenuation, random)
    elif kind is Kind.BENIGN:
        lesion, echo, attenuation = _benign(x, y, echo, attenuation, random)
    decibels = _insonated(echo, attenuation, spacing, random)
    pixels = np.clip((decibels + DYNAMIC_RANGE_DB) / DYNAMIC_RANGE_DB * 255.0, 0, 255).astype(np.uint8)
    for array in (pixels, lesion):
        array.setflags(write=False)  # shared by everyone who asks for the same phantom
    return BreastUltrasound(kind=kind, pixels=pixels, lesion=lesion, spacing_mm=spacing)


def _tissue(x: Plane, y: Plane, spacing: float, random: np.random.Generator) -> tuple[Plane, Plane]:
    """(echogenicity in dB, attenuation in dB per mm) of skin, fat, gland, fascia and muscle."""
    wavy = _smooth(x.shape, 6.0, spacing, random)
    skin, fat = 1.6 + 0.2 * wavy, 7.0 + 1.9 * _smooth(x.shape, 9.0, spacing, random)
    gland = 20.5 + 1.5 * _smooth(x.shape, 16.0, spacing, random)
    muscle = gland + 7.5 + 0.8 * _smooth(x.shape, 14.0, spacing, random)
    echo = np.full(x.shape, -26.0) + 2.5 * _smooth(x.shape, 2.0, spacing, random)  # fat
    in_gland = _step(y - fat, 0.4) * _step(gland - y, 0.8)
    # the gland: bright stroma with dark lobules, drawn out along the skin
    streaks = ndimage.gaussian_filter(random.standard_normal(x.shape), (0.28 / spacing, 1.5 / spacing))
    streaks /= streaks.std()
    lobules = ndimage.gaussian_filter(random.standard_normal(x.shape), (0.7 / spacing, 1.4 / spacing))
    lobules /= lobules.std()
    echo += in_gland * (9.0 + 4.2 * streaks + 3.6 * lobules - (echo + 26.0))
    in_muscle = _step(y - gland - 2.2, 0.4) * _step(muscle - y, 0.4)
    echo += in_muscle * (-5.0 + 3.5 * streaks)
    echo += 15.0 * np.exp(-(((y - gland - 2.2) / 0.22) ** 2)) * (0.7 + 0.3 * wavy)  # fascia of the chest muscle
    echo += 11.0 * np.exp(-(((y - muscle) / 0.3) ** 2))
    echo += _ligaments(x, y, fat, random)
    on_skin = _step(skin - y, 0.1)
    echo += on_skin * (-12.0 - echo + 3.0 * wavy)
    echo += 12.0 * np.exp(-(((y - skin) / 0.16) ** 2)) + 14.0 * np.exp(-((y / 0.35) ** 2))
    attenuation = 0.28 + 0.16 * in_gland + 0.35 * in_muscle + 1.3 * _step(y - muscle, 0.5)
    return echo, attenuation


def _ligaments(x: Plane, y: Plane, fat: Plane, random: np.random.Generator) -> Plane:
    """Cooper's ligaments: thin bright septa that rise from the gland to the skin, and the lines between fat lobules."""
    out = np.zeros(x.shape)
    for start in np.arange(1.0, 40.0, 6.5):
        foot, lean, bow = start + random.uniform(-2, 2), random.uniform(-0.9, 0.9), random.uniform(-1.2, 1.2)
        depth = y - 1.6
        path = foot + lean * (depth - 5.0) + bow * np.sin(depth / 2.2)
        strength = random.uniform(5.0, 11.0)
        width = 0.16 * np.sqrt(1.0 + lean**2)
        out += strength * np.exp(-(((x - path) / width) ** 2)) * _step(fat + 0.8 - y, 0.4) * _step(depth, 0.2)
    for level in (3.4, 5.2):
        line = level + 0.9 * np.sin(x / random.uniform(2.8, 5.0) + random.uniform(0, 6))
        out += 6.0 * np.exp(-(((y - line) / 0.13) ** 2)) * _step(fat - y, 0.4)
    edge = 13.0 * np.exp(-(((y - fat) / 0.2) ** 2)) * np.clip(0.5 + 0.9 * np.sin(x / 2.3 + 1.0), 0.0, 1.0)
    return np.asarray(out + edge)


def _malignant(x: Plane, y: Plane, echo: Plane, attenuation: Plane, random: np.random.Generator) -> tuple[NDArray[np.bool_], Plane, Plane]:
    """Hypoechoic, irregular, spiculated, taller than wide, with an echogenic halo and a shadow."""
    x0, y0 = random.uniform(16.0, 24.0), random.uniform(13.2, 14.6)
    wide, tall = random.uniform(4.2, 4.9), random.uniform(5.4, 6.0)
    angle = np.arctan2((y - y0) / tall, (x - x0) / wide)
    outline = np.ones(x.shape)
    for k, weight in ((2, 0.05), (3, 0.08), (5, 0.09), (7, 0.07), (9, 0.05)):
        outline += weight * np.sin(k * angle + random.uniform(0, 2 * np.pi))
    spikes = np.zeros(x.shape)
    for _ in range(9):
        at = random.uniform(-np.pi, np.pi)
        spikes += random.uniform(0.08, 0.20) * np.exp(-((np.angle(np.exp(1j * (angle - at))) / 0.09) ** 2))
    r = np.hypot((x - x0) / wide, (y - y0) / tall) / (outline + spikes)
    inside = _step(1.0 - r, 0.09)
    halo = np.exp(-(((r - 1.16) / 0.13) ** 2)) * np.clip(1.2 - (y - y0) / tall, 0.0, 1.4)
    inner = 2.4 * ndimage.gaussian_filter(random.standard_normal(x.shape), 9) * 16
    echo = echo + 7.0 * halo
    echo = echo + inside * (-39.0 + inner - echo)
    specks = (random.random(x.shape) > 0.9996) & (r < 0.7)
    echo = echo + 30.0 * ndimage.gaussian_filter(specks.astype(float), 1.6) * 14  # a few microcalcifications
    attenuation = attenuation + 1.75 * inside
    return r < 1.0, echo, attenuation


def _benign(x: Plane, y: Plane, echo: Plane, attenuation: Plane, random: np.random.Generator) -> tuple[NDArray[np.bool_], Plane, Plane]:
    """Oval, smooth, wider than tall, thin capsule, even and dark inside, brighter behind, shadows at both edges."""
    x0, y0 = random.uniform(16.0, 24.0), random.uniform(12.8, 14.2)
    wide, tall, turn = random.uniform(7.0, 8.2), random.uniform(4.1, 4.7), random.uniform(-0.15, 0.15)
    u = (x - x0) * np.cos(turn) + (y - y0) * np.sin(turn)
    v = -(x - x0) * np.sin(turn) + (y - y0) * np.cos(turn)
    angle = np.arctan2(v / tall, u / wide)
    r = np.hypot(u / wide, v / tall) / (1.0 + 0.03 * np.sin(3 * angle + random.uniform(0, 6)))
    inside = _step(1.0 - r, 0.04)
    echo = echo + inside * (-41.0 + 1.2 * np.sin(x * 1.3) - echo)
    capsule = np.exp(-(((r - 1.02) / 0.035) ** 2)) * np.abs(np.sin(angle)) ** 2
    echo = echo + 14.0 * capsule
    edges = sum(np.exp(-(((x - x0 - side * 0.97 * wide) / 0.5) ** 2)) for side in (-1.0, 1.0))
    behind = _step(y - y0, 0.5) * np.asarray(edges)
    # fluid-like: less attenuation than the tissue beside it, so what lies behind looks brighter
    attenuation = attenuation * (1.0 - inside) - 0.62 * inside + 0.5 * behind * (y < y0 + tall)
    return r < 1.0, echo, attenuation


def _insonated(echo: Plane, attenuation: Plane, spacing: float, random: np.random.Generator) -> Plane:
    """Speckle by a pulse that is short along the beam and wider across, then the way the beam went, then gain."""
    amplitude = 10.0 ** (echo / 20.0)
    along, across = 0.075 / spacing, (0.13 / spacing, 0.24 / spacing)
    depth = np.linspace(0.0, 1.0, echo.shape[0])[:, None]
    looks = []
    for _ in range(LOOKS):
        scatterers = random.standard_normal(echo.shape) + 1j * random.standard_normal(echo.shape)
        near, far = (_blurred(scatterers * amplitude, along, width) for width in across)
        level = np.sqrt(np.mean(np.abs(_blurred(scatterers, along, across[0])) ** 2))
        looks.append(np.abs((1.0 - depth) * near + 1.3 * depth * far) / level)
    envelope = np.mean(looks, axis=0)
    path = np.cumsum(attenuation, axis=0) * spacing
    path = ndimage.gaussian_filter1d(path, 0.5 / spacing, axis=1)
    usual = np.median(path, axis=1, keepdims=True)
    decibels = 20.0 * np.log10(envelope + 1e-6) - (path - usual) - 1.15 * np.maximum(usual - 5.5, 0.0) - 5.0
    noise = np.abs(_blurred(random.standard_normal(echo.shape) + 1j * random.standard_normal(echo.shape), along, across[0]))
    floor = 20.0 * np.log10(noise + 1e-6) - 52.0
    return np.asarray(np.logaddexp(decibels / 8.7, floor / 8.7) * 8.7)


def _blurred(field_: NDArray[Any], along: float, across: float) -> NDArray[np.complex128]:
    real, imaginary = (ndimage.gaussian_filter(part, (along, across)) for part in (field_.real, field_.imag))
    return np.asarray(real + 1j * imaginary)


def _smooth(shape: tuple[int, ...], length_mm: float, spacing: float, random: np.random.Generator) -> Plane:
    """Noise along the skin, the same at every depth, of unit spread."""
    line = ndimage.gaussian_filter1d(random.standard_normal(shape[1] + 200), length_mm / spacing / 2.0, mode="wrap")[: shape[1]]
    return np.broadcast_to((line - line.mean()) / (line.std() + 1e-9), shape) * 0.7


def _step(distance: Plane, width: float) -> Plane:
    """0 to 1 over `width` mm, half at 0."""
    return np.asarray(np.clip(0.5 + distance / (2.0 * width), 0.0, 1.0))
