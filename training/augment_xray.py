"""What happens to a chest radiograph on its way to a network: markers, wires, frames, other exposure, files saved badly. Grey is 0 to 1."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from training.augment import Picture, placed, shaded

WORDS = ("L", "R", "LEFT", "RIGHT", "PORTABLE", "AP", "PA", "ERECT", "SUPINE", "MOBILE", "AP ERECT", "SEMI", "SITTING", "D3", "14:32", "B")
SEEN_HAZE = 0.25  #: how dense haze is that a reader would outline
Mask = npt.NDArray[np.bool_]
Processing = Callable[[Picture, np.random.Generator], Picture]


def two_lungs_placed(
    grey: Picture, left: Mask, right: Mask, size: int, rng: np.random.Generator, *, scale: tuple[float, float] = (0.55, 1.25)
) -> tuple[Picture, Picture, Picture]:
    """Picture and the lungs at the image's left and right edge on a canvas; mirrored half the time, and then the lungs change names."""
    at = rng.bit_generator.state
    made = []
    for lung in (left, right):
        rng.bit_generator.state = at
        picture, mask = placed(
            grey,
            lung.astype(np.float32),
            size,
            rng,
            rotate_deg=15,
            scale=scale,
            stretch=0.12,
            elastic=0.006,
            fills=(0.0, 0.0, 1.0, -1.0, -1.0),
        )
        made.append(mask)
    columns = np.arange(size, dtype=np.float32)
    centres = [float((m.sum(axis=0) * columns).sum() / max(1.0, float(m.sum()))) for m in made]
    if centres[0] > centres[1]:
        made.reverse()
    return picture, made[0], made[1]


def exposed(grey: Picture, rng: np.random.Generator) -> Picture:
    """Another exposure, another processing, another file format."""
    out = shaded(grey, rng, gain=0.2, bias=0.12, gamma=0.5, noise=0.04)
    if rng.random() < 0.15:
        out = locally_equalised(out, rng)
    if rng.random() < 0.3:  # brighter towards one side: tilted tube, cloth
        rows, columns = np.mgrid[-1 : 1 : out.shape[0] * 1j, -1 : 1 : out.shape[1] * 1j]
        out = out + rng.uniform(-0.15, 0.15) * rows + rng.uniform(-0.15, 0.15) * columns
    if rng.random() < 0.3:
        quality = int(rng.integers(20, 90))
        _, stored = cv2.imencode(".jpg", (np.clip(out, 0, 1) * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
        out = np.asarray(cv2.imdecode(stored, cv2.IMREAD_GRAYSCALE), np.float32) / np.float32(255)
    if rng.random() < 0.2:  # a smaller picture, enlarged
        side = int(rng.integers(64, 160))
        low = cv2.resize(np.asarray(out, np.float32), (side, side), interpolation=cv2.INTER_AREA)
        out = cv2.resize(low, out.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(out, 0, 1), np.float32)


def locally_equalised(grey: Picture, rng: np.random.Generator) -> Picture:
    """Contrast raised tile by tile (CLAHE), as viewers and makers do."""
    tiles = int(rng.integers(2, 9))
    clahe = cv2.createCLAHE(clipLimit=float(rng.uniform(1, 4)), tileGridSize=(tiles, tiles))
    return np.asarray(clahe.apply((np.clip(grey, 0, 1) * 255).astype(np.uint8)), np.float32) / np.float32(255)


def blurred(grey: Picture, rng: np.random.Generator) -> Picture:
    """Softer, as a film that was made smaller for a while."""
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.6, 1.6) * min(grey.shape) / 224), np.float32)


def brighter(grey: Picture, rng: np.random.Generator) -> Picture:
    """Middle tones up."""
    return grey ** np.float32(rng.uniform(0.5, 0.8))


def darker(grey: Picture, rng: np.random.Generator) -> Picture:
    """Middle tones down."""
    return grey ** np.float32(rng.uniform(1.3, 1.9))


def marked(grey: Picture, rng: np.random.Generator) -> Picture:
    """Side letters, words, electrodes and wires at random places."""
    size = grey.shape[0]
    ink = np.zeros(grey.shape, np.uint8)
    for _ in range(int(rng.integers(0, 4))):
        place = (int(rng.integers(0, size)), int(rng.integers(6, size)))
        font, light = float(rng.uniform(0.25, 0.9)), int(rng.integers(190, 256))
        cv2.putText(ink, str(rng.choice(WORDS)), place, cv2.FONT_HERSHEY_SIMPLEX, font, light, int(rng.integers(1, 3)), cv2.LINE_AA)
    out = np.maximum(grey, ink.astype(np.float32) / 255)
    if rng.random() < 0.35:
        lines = np.zeros(grey.shape, np.uint8)
        for _ in range(int(rng.integers(1, 5))):
            points = np.cumsum(rng.normal(0, 0.25 * size, (4, 2)), axis=0) + rng.uniform(0, size, 2)
            along = np.linspace(0, 3, 40)
            smooth = np.stack([np.interp(along, range(4), points[:, i]) for i in (0, 1)], axis=1)
            cv2.polylines(lines, [smooth.astype(np.int32)[:, None]], False, 255, 1, cv2.LINE_AA)
            x, y = smooth[0].astype(int)
            cv2.circle(lines, (int(x), int(y)), int(rng.integers(1, 5)), 255, -1, cv2.LINE_AA)
        out = out + lines.astype(np.float32) / 255 * rng.uniform(0.1, 0.5)
    return np.asarray(np.clip(out, 0, 1), np.float32)


def framed(grey: Picture, masks: list[Picture], rng: np.random.Generator) -> tuple[Picture, list[Picture]]:
    """Black or white bars at some sides, as collimators and screen shots leave them; masks end there too."""
    out, keep, size = grey.copy(), np.ones_like(grey), grey.shape[0]
    value = float(rng.choice([0.0, 0.0, 1.0, rng.uniform(0, 1)]))
    for side in range(4):
        if rng.random() < 0.5:
            width = int(rng.uniform(0.01, 0.14) * size)
            np.rot90(out, side)[:width] = value
            np.rot90(keep, side)[:width] = 0
    return out, [m * keep for m in masks]


def clouded(grey: Picture, where: Picture, rng: np.random.Generator) -> Picture:
    """Haze and consolidation drawn into the lungs: what they look like when ill, with the same outline."""
    return clouds(grey, where, rng)[0]


def clouds(grey: Picture, where: Picture, rng: np.random.Generator) -> tuple[Picture, Picture]:
    """The same, and how dense the haze is at each pixel, 0 to 1; seen from about `SEEN_HAZE`."""
    size = grey.shape[0]
    cells = int(rng.integers(2, 7))
    cloud = cv2.resize(rng.random((cells, cells)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    cloud = np.clip((cloud - rng.uniform(0.2, 0.7)) * 3, 0, 1)
    texture = cv2.GaussianBlur(rng.normal(0, 1, (size, size)).astype(np.float32), (0, 0), float(rng.uniform(1, 4)))
    cloud = cloud * np.clip(1 + 0.3 * texture / (float(texture.std()) + 1e-6), 0, 2)
    soft = cv2.GaussianBlur(where, (0, 0), 2.0)
    level = rng.uniform(0.55, 0.9)
    weight = np.clip(cloud * soft * rng.uniform(0.3, 1.0), 0, 1)
    weight = np.asarray(weight, np.float32)
    return np.asarray(np.clip(grey * (1 - weight) + np.maximum(grey, level) * weight, 0, 1), np.float32), weight
