"""Something put into a normal chest film that does not belong there, and where: what a network learns oddness from without one ill patient.

Grey is 0 to 1, bones bright; the lungs lie where `lungs` is 1. After the idea of pasted, anatomy-aware pretexts (Sato et al., 2023).
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.float32]
Kind = Callable[[Picture, Picture, Picture, np.random.Generator], Picture]


def pasted(grey: Picture, lungs: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """The film with one or two things pasted in; `other` is another normal film on the same canvas."""
    out = grey
    for _ in range(1 + int(rng.random() < 0.3)):
        kind = KINDS[int(rng.choice(len(KINDS), p=SHARES))]
        out = np.asarray(np.clip(kind(out, lungs, other, rng), 0, 1), np.float32)
    return out


def bright(grey: Picture, lungs: Picture, rng: np.random.Generator) -> float:
    """As bright as soft tissue beside the lungs, more or less."""
    outside = grey[lungs < 0.5]
    return float(np.quantile(outside, rng.uniform(0.35, 0.85))) if outside.size else 0.8


def smooth_noise(size: int, cells: int, rng: np.random.Generator) -> Picture:
    """A field without edges, about 0 to 1."""
    return np.asarray(cv2.resize(rng.random((cells, cells)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC), np.float32)


def grain(size: int, sigma: float, rng: np.random.Generator) -> Picture:
    """Texture of one scale, deviation 1."""
    noise = rng.normal(0, 1, (size, size)).astype(np.float32)
    fine = cv2.GaussianBlur(noise, (0, 0), sigma) - cv2.GaussianBlur(noise, (0, 0), 2 * sigma)
    return np.asarray(fine / (float(fine.std()) + 1e-6), np.float32)


def one_lung(lungs: Picture, rng: np.random.Generator) -> Picture:
    """The lung at one edge of the canvas, or both."""
    kept = lungs.copy()
    if rng.random() < 0.7:
        half = slice(0, lungs.shape[1] // 2) if rng.random() < 0.5 else slice(lungs.shape[1] // 2, None)
        kept[:, half] = 0
    return kept if kept.any() else lungs


def place_in(lungs: Picture, rng: np.random.Generator) -> tuple[int, int]:
    """A pixel in the lungs: row, column."""
    inside = np.argwhere(lungs > 0.5)
    if not len(inside):
        return int(rng.uniform(0.2, 0.8) * lungs.shape[0]), int(rng.uniform(0.2, 0.8) * lungs.shape[1])
    row, column = inside[int(rng.integers(len(inside)))]
    return int(row), int(column)


def spot(shape: tuple[int, ...], row: int, column: int, radius: float, rng: np.random.Generator) -> Picture:
    """A soft-edged, bent ellipse, 0 to 1."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    angle, stretch = rng.uniform(0, np.pi), np.exp(rng.uniform(-0.5, 0.5))
    y, x = rows - row, columns - column
    along, across = (x * np.cos(angle) + y * np.sin(angle)) * stretch, (y * np.cos(angle) - x * np.sin(angle)) / stretch
    bend = 1 + 0.5 * (smooth_noise(shape[0], 6, rng) - 0.5)
    distance = np.sqrt(along**2 + across**2) / radius * bend
    return np.asarray(1 / (1 + np.exp(np.minimum((distance - 1) * rng.uniform(4, 14), 50))), np.float32)


# --- what may be pasted ---------------------------------------------------------------------------------------------------------
def cloud(grey: Picture, lungs: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """Patchy opacity in the lungs."""
    field = np.clip((smooth_noise(len(grey), int(rng.integers(2, 8)), rng) - rng.uniform(0.25, 0.65)) * rng.uniform(2, 6), 0, 1)
    where = field * cv2.GaussianBlur(one_lung(lungs, rng), (0, 0), 3)
    return opaque(grey, where * rng.uniform(0.2, 0.9), bright(grey, lungs, rng), rng)


def consolidation(grey: Picture, lungs: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """One dense, soft-edged opacity."""
    row, column = place_in(lungs, rng)
    where = spot(grey.shape, row, column, rng.uniform(0.08, 0.25) * len(grey), rng)
    near = cv2.GaussianBlur(lungs, (0, 0), 5)
    return opaque(grey, where * near * rng.uniform(0.3, 0.9), bright(grey, lungs, rng), rng)


def nodules(grey: Picture, lungs: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """One to five round shadows."""
    out = grey
    for _ in range(int(rng.integers(1, 6))):
        row, column = place_in(lungs, rng)
        where = spot(grey.shape, row, column, rng.uniform(0.02, 0.06) * len(grey), rng)
        out = opaque(out, where * rng.uniform(0.3, 0.8), bright(grey, lungs, rng), rng)
    return out


def basal(grey: Picture, lungs: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """A lung white from below, as fluid makes it."""
    lung = one_lung(lungs, rng)
    rows = np.flatnonzero(lung.max(axis=1) > 0.5)
    if rows.size < 4:
        return cloud(grey, lungs, other, rng)
    level = rows[0] + (rows[-1] - rows[0]) * rng.uniform(0.25, 0.9)
    down, across = np.mgrid[0 : grey.shape[0], 0 : grey.shape[1]].astype(np.float32)
    line = level + rng.uniform(-0.3, 0.3) * (across - grey.shape[1] / 2)
    where = 1 / (1 + np.exp(-(down - line) / rng.uniform(2, 12)))
    return opaque(
        grey, np.asarray(where, np.float32) * cv2.GaussianBlur(lung, (0, 0), 3) * rng.uniform(0.4, 1.0), bright(grey, lungs, rng), rng
    )


def haze(grey: Picture, lungs: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """A lung paler as a whole."""
    field = rng.uniform(0.5, 1.0) + 0.5 * smooth_noise(len(grey), 3, rng)
    where = field * cv2.GaussianBlur(one_lung(lungs, rng), (0, 0), 6) * rng.uniform(0.15, 0.6)
    return opaque(grey, np.asarray(where, np.float32), bright(grey, lungs, rng), rng)


def interstitial(grey: Picture, lungs: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """Lines and dots where there should be few."""
    field = np.clip((smooth_noise(len(grey), int(rng.integers(2, 6)), rng) - rng.uniform(0.0, 0.5)) * 2, 0, 1)
    where = field * cv2.GaussianBlur(one_lung(lungs, rng), (0, 0), 3)
    marks = grain(len(grey), float(rng.uniform(0.8, 3.0)), rng)
    return np.asarray(grey + where * (marks + rng.uniform(0, 0.6)) * rng.uniform(0.04, 0.14), np.float32)


def foreign(grey: Picture, lungs: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """A part of another film at a place where it was not."""
    row, column = place_in(lungs, rng)
    where = spot(grey.shape, row, column, rng.uniform(0.07, 0.22) * len(grey), rng) * rng.uniform(0.5, 1.0)
    moved = np.roll(other, rng.integers(-len(grey) // 3, len(grey) // 3, 2).tolist(), (0, 1))
    return np.asarray(grey * (1 - where) + moved * where, np.float32)


def dark(grey: Picture, lungs: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """Air without vessels."""
    row, column = place_in(lungs, rng)
    where = spot(grey.shape, row, column, rng.uniform(0.08, 0.25) * len(grey), rng) * cv2.GaussianBlur(lungs, (0, 0), 2)
    inside = grey[lungs > 0.5]
    level = float(np.quantile(inside, 0.05)) * rng.uniform(0.5, 1.0) if inside.size else 0.1
    return np.asarray(grey * (1 - where * 0.8) + level * where * 0.8, np.float32)


def opaque(grey: Picture, where: Picture, level: float, rng: np.random.Generator) -> Picture:
    """Towards `level` by `where`; never darker, vessels fade, a little texture."""
    textured = level + grain(len(grey), float(rng.uniform(1.5, 5.0)), rng) * rng.uniform(0.0, 0.05)
    return np.asarray(np.maximum(grey * (1 - where) + textured * where, np.minimum(grey, level)), np.float32)


KINDS: tuple[Kind, ...] = (cloud, consolidation, nodules, basal, haze, interstitial, foreign, dark)
SHARES = (0.24, 0.2, 0.06, 0.12, 0.12, 0.12, 0.1, 0.04)
