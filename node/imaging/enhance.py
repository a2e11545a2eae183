"""A radiograph with less noise and more local contrast, beside the original and never in its place.

X-ray noise grows with the light: its variance is `gain` × grey + `floor`. Both are measured on the film itself; grey is then bent so that
noise is alike everywhere (Anscombe's transform for Poisson and Gaussian noise), averaged with what looks alike nearby (non-local means),
and bent back. Edges keep their place, since only pixels with a like neighbourhood are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

STRENGTH = 0.9  #: of the averaging, in deviations of the noise
PATCH, REACH = 5, 13  #: pixels: neighbourhoods that are compared, and how far apart they may lie
LEVELS = 24  #: of grey at which noise is measured
FEWEST = 100  #: pixels of one level
QUIET = 1e-7  #: variance below which there is no noise to take away
CONTRAST, TILES = 2.0, 8  #: of CLAHE: clip limit, tiles across

SECOND_DIFFERENCE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6  #: deaf to edges and slopes (Immerkær, 1996)

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Noise:
    """Variance of the noise at a grey value: gain × grey + floor."""

    gain: float
    floor: float

    def flattened(self, grey: Floats) -> Floats:
        """Grey bent so that the noise has the deviation 1 everywhere."""
        if self.gain <= QUIET:
            return np.asarray(grey / np.sqrt(self.floor), np.float32)
        return np.asarray(2 / self.gain * np.sqrt(np.maximum(self.gain * grey + 0.375 * self.gain**2 + self.floor, 0)), np.float32)

    def restored(self, flat: Floats) -> Floats:
        """The inverse for averages, without bias when there is much light."""
        if self.gain <= QUIET:
            return np.asarray(flat * np.sqrt(self.floor), np.float32)
        return np.asarray(self.gain * ((flat / 2) ** 2 - 0.125) - self.floor / self.gain, np.float32)


def noise_of(grey: Floats) -> Noise:
    """The noise of a film, (rows, columns), 0 to 1: measured at `LEVELS` levels of grey, where the film is neither black nor white."""
    rough = cv2.filter2D(grey, -1, SECOND_DIFFERENCE)[2:-2, 2:-2]
    level = cv2.GaussianBlur(grey, (0, 0), 2)[2:-2, 2:-2]
    inside = (level > 0.01) & (level < 0.99)
    rough, level = np.abs(rough[inside]), level[inside]
    if level.size < FEWEST * 4:
        return Noise(0.0, 0.0)
    edges = np.quantile(level, np.linspace(0, 1, LEVELS + 1))
    at, variance = [], []
    for low, high in pairwise(edges):
        chosen = (level >= low) & (level < high)
        if chosen.sum() >= FEWEST:
            at.append(float(level[chosen].mean()))
            variance.append((1.4826 * float(np.median(rough[chosen]))) ** 2)
    if not at or max(variance) <= QUIET:
        return Noise(0.0, 0.0)
    weight = 1 / np.maximum(np.array(variance), QUIET)
    (gain, floor), _ = nnls(np.stack([np.array(at), np.ones(len(at))], axis=1) * weight[:, None], np.array(variance) * weight)
    return Noise(float(gain), float(floor))


def denoised(grey: Floats, noise: Noise | None = None) -> Floats:
    """The film with its noise averaged away, same shape, 0 to 1; `noise` is measured when it is not given.

    A film without noise comes back as it is.
    """
    noise = noise or noise_of(grey)
    if noise.gain <= QUIET and noise.floor <= QUIET:
        return np.asarray(grey, np.float32)
    flat = noise.flattened(grey)
    low, high = float(flat.min()), float(flat.max())
    if not high - low > 1e-6:
        return np.asarray(grey, np.float32)
    steps = 60000 / (high - low)  # 16 bits: eight would be coarser than the noise of a good film
    stored = ((flat - low) * steps).astype(np.uint16)
    averaged = cv2.fastNlMeansDenoising(stored, [STRENGTH * steps], None, PATCH, REACH, cv2.NORM_L1)
    return np.asarray(np.clip(noise.restored(averaged.astype(np.float32) / np.float32(steps) + np.float32(low)), 0, 1), np.float32)


def enhanced(grey: Floats, noise: Noise | None = None) -> Floats:
    """Less noise, then contrast evened out locally (CLAHE, 16 bits), (rows, columns), 0 to 1."""
    quiet = denoised(grey, noise)
    evened = cv2.createCLAHE(CONTRAST, (TILES, TILES)).apply((quiet * 65535).astype(np.uint16))
    return np.asarray(evened, np.float32) / np.float32(65535)
