"""Pictures without a letter on them, one for each kind of acquisition: what text is burned into."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from node.testing.phantom_breast_ultrasound import breast_ultrasound
from node.testing.phantom_chest_ct import chest_ct


class Plain(NamedTuple):
    """A frame and the stored values of its displayed range."""

    frame: NDArray[Any]  #: (rows, columns) or (rows, columns, 3)
    lowest: float
    highest: float


def plain(kind: str, number: int) -> Plain:
    """A fresh copy of picture `number` of a kind: ct, mr, us, us colour, cr, mg, sc."""
    match kind:
        case "ct":
            slices = _chest()
            return Plain(_turned(slices[number % len(slices)], number // len(slices)), 0, 2600)
        case "mr":
            return Plain(_head(number).copy(), 0, 1400)
        case "us" | "us colour":
            scan = _scanner_screen(number)
            return Plain(scan if kind == "us" else _doppler(scan, number), 0, 255)
        case "cr":
            return Plain(_film(number), 0, 4095)
        case "mg":
            return Plain(_breast_film(number).copy(), 0, 4095)
        case "sc":
            return Plain(_report_page(number), 0, 255)
    raise ValueError("kind: one of ct, mr, us, us colour, cr, mg, sc")


def _turned(image: NDArray[Any], number: int) -> NDArray[Any]:
    return np.ascontiguousarray(image[:, ::-1] if number % 2 else image).copy()


@cache
def _chest() -> tuple[NDArray[np.uint16], ...]:
    hu = chest_ct(slices=6, rows=512).hu[1:]
    return tuple((np.clip(hu_slice.astype(np.int32), -1024, 3071) + 1024).astype(np.uint16) for hu_slice in hu)


@cache
def _speckle(seed: int) -> NDArray[np.uint8]:
    return breast_ultrasound(("benign", "malignant", "normal")[seed % 3], rows=300, columns=380, seed=seed + 1).pixels


def _scanner_screen(number: int) -> NDArray[np.uint8]:
    """A scan in the middle of a dark screen, with its grey bar."""
    scan = _turned(_speckle(number % 3), number // 3)
    rows, columns = ((600, 800), (768, 1024), (480, 640))[number % 3]
    screen = np.full((rows, columns), (0, 8, 20)[number % 3], np.uint8)
    tall, wide = round(rows * 0.78), round(columns * 0.74)
    scan = cv2.resize(scan, (wide, tall), interpolation=cv2.INTER_AREA)
    top, left = round(rows * 0.14), (columns - wide) // 2
    screen[top : top + tall, left : left + wide] = scan
    bar = np.linspace(255, 0, tall // 2).astype(np.uint8)[:, None]
    screen[top : top + tall // 2, columns - 18 : columns - 8] = bar
    return screen


def _doppler(scan: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """The same in colour, with flow in a vessel."""
    colour = np.repeat(scan[..., None], 3, axis=2)
    random = np.random.default_rng(number)
    rows, columns = scan.shape
    y, x = round(rows * random.uniform(0.35, 0.7)), round(columns * random.uniform(0.35, 0.65))
    down, over = np.mgrid[:rows, :columns].astype(np.float32)
    turn = random.uniform(-0.5, 0.5)
    along, across = (over - x) * np.cos(turn) + (down - y) * np.sin(turn), (down - y) * np.cos(turn) - (over - x) * np.sin(turn)
    speed = np.clip(1 - (along / 70) ** 2 - (across / 16) ** 2, 0, 1)[..., None]  # fastest in the middle of the vessel
    flow = np.array((255, 190, 40), np.float32) * speed + np.array((150, 10, 10), np.float32) * (1 - speed)
    share = np.clip(speed * 4, 0, 1)
    colour = np.asarray(colour * (1 - share) + flow * share, np.uint8)
    return colour


@cache
def _shadow() -> NDArray[np.float32]:
    hu = chest_ct(slices=40, rows=192).hu.astype(np.float32)
    through = np.clip(hu + 1000, 0, None).sum(axis=1)[::-1]
    return np.asarray(through / through.max(), np.float32)


def _film(number: int) -> NDArray[np.uint16]:
    """A chest film, brighter where more is in the way, with the grain of a plate."""
    size = ((1024, 1024), (1200, 1000), (880, 1072))[number % 3]
    image = cv2.GaussianBlur(cv2.resize(_turned(_shadow(), number // 3), size[::-1], interpolation=cv2.INTER_CUBIC), (0, 0), 3)
    grain = np.random.default_rng(number).normal(0, 0.008, image.shape)
    return np.asarray(np.clip(300 + 3300 * (image + grain), 0, 4095), np.uint16)


def _field(shape: tuple[int, int], length: float, random: np.random.Generator) -> NDArray[np.float32]:
    field = cv2.GaussianBlur(random.normal(size=shape).astype(np.float32), (0, 0), length)
    return np.asarray(field / max(1e-6, float(field.std())), np.float32)


@cache
def _breast_film(number: int) -> NDArray[np.uint16]:
    """Half an ellipse of glandular texture on black."""
    rows, columns = 1100, 840
    random = np.random.default_rng(1000 + number)
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    inside = np.clip(1.15 - np.hypot((y - rows / 2) / (rows * 0.42), x / (columns * 0.62)), 0, 0.4) / 0.4
    texture = 0.55 + 0.12 * _field((rows, columns), 24, random) + 0.05 * _field((rows, columns), 3, random)
    image = inside * np.clip(texture, 0.1, 1)
    if number % 2:
        image = image[:, ::-1]
    return np.asarray(np.clip(image * 3600 + random.normal(20, 6, (rows, columns)), 0, 4095), np.uint16)


@cache
def _head(number: int) -> NDArray[np.uint16]:
    """Skull, brain and ventricles as ellipses, with noise."""
    rows = columns = (256, 320)[number % 2]
    random = np.random.default_rng(2000 + number)
    y, x = np.mgrid[:rows, :columns].astype(np.float32) / rows - 0.5

    def ellipse(a: float, b: float, y0: float = 0.0, x0: float = 0.0) -> NDArray[np.bool_]:
        return np.asarray(np.hypot((y - y0) / a, (x - x0) / b) < 1)

    image = np.zeros((rows, columns), np.float32)
    image[ellipse(0.44, 0.36)] = 900
    image[ellipse(0.41, 0.33)] = 120
    image[ellipse(0.39, 0.31)] = 520
    image[ellipse(0.34, 0.26)] += 160
    image[ellipse(0.10, 0.035, -0.02, -0.05) | ellipse(0.10, 0.035, -0.02, 0.05)] = 200
    image += 40 * _field((rows, columns), 4, random) * (image > 400)
    return np.asarray(np.clip(cv2.GaussianBlur(image, (0, 0), 0.8) + random.rayleigh(18, (rows, columns)), 0, 1400), np.uint16)


def _report_page(number: int) -> NDArray[np.uint8]:
    """A workstation's page in colour: an even ground, a panel, a small picture."""
    grounds = ((255, 255, 255), (0, 0, 0), (40, 44, 52), (225, 232, 240), (12, 26, 70))
    rows, columns = ((768, 1024), (600, 800))[number % 2]
    page = np.empty((rows, columns, 3), np.uint8)
    page[:] = grounds[number % len(grounds)]
    top, left = round(rows * 0.42), round(columns * 0.52)
    small = cv2.resize(_speckle(number % 3), (columns // 3, rows // 3), interpolation=cv2.INTER_AREA)
    page[top : top + small.shape[0], left : left + small.shape[1]] = small[..., None]
    cv2.rectangle(page, (8, round(rows * 0.4)), (columns - 9, rows - 9), (128, 128, 128), 1)
    return page
