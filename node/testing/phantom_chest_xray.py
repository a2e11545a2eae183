"""A chest radiograph whose answer is known: how thick soft tissue, air and bone are on the way of each ray, and haze in one lung or none.

Everything is drawn: outlines by corner points, thickness from the distance to them, vessels at random. The picture is the attenuation along
each ray, as a film processor shows it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]

WIDE_MM = 400.0
MIDLINE = np.array([WIDE_MM / 2, 0.0])  #: column and row in mm
BODY_MM, LUNG_MM, HEART_MM, MEDIASTINUM_MM = 210.0, 165.0, 85.0, 120.0  #: thickness along the beam
SOFT, BONE = 0.016, 0.05  #: attenuation for a millimetre
AIR = 0.82  #: of a lung
VIEW_FROM = 0.35  #: attenuation that is shown black, and white at:
VIEW_TO = 4.6
RIGHT_LUNG = (
    (-24, 70), (-48, 55), (-80, 64), (-106, 98), (-122, 145), (-131, 195), (-136, 245), (-138, 292), (-114, 270), (-84, 258), (-54, 262),
    (-27, 278), (-25, 230), (-23, 170), (-22, 115),
)  # fmt: skip
LEFT_LUNG = (
    (24, 70), (48, 55), (80, 64), (106, 98), (122, 145), (131, 195), (137, 250), (140, 302), (116, 282), (86, 272), (54, 274), (26, 284),
    (24, 230), (23, 170), (22, 115),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ChestXray:
    """The phantom and its answer. Arrays are (rows, columns); the patient's right is at the left edge, bones are bright."""

    pixels: NDArray[np.uint16] = field(repr=False)  #: 12 bits
    right: Mask = field(repr=False)  #: the lungs, behind the heart too
    left: Mask = field(repr=False)
    opacity: Mask = field(repr=False)  #: where at least a third of the air is gone
    spacing_mm: float

    @property
    def shares_percent(self) -> tuple[float, float]:
        """How much of the right and the left lung is opaque."""
        right, left = (100.0 * float((self.opacity & lung).sum()) / float(lung.sum()) for lung in (self.right, self.left))
        return right, left


@lru_cache(maxsize=3)
def chest_xray(*, opacity: str = "right lower", rows: int = 720, seed: int = 1) -> ChestXray:
    """A square film of 400 mm. `opacity`: "", or words of right, left, upper, middle, lower. The same arguments give the same pixels."""
    random = np.random.default_rng([seed, rows])
    mm = WIDE_MM / rows
    y, x = (np.mgrid[0:rows, 0:rows].astype(np.float32) + 0.5) * np.float32(mm)
    x = x - np.float32(WIDE_MM / 2)
    right, left = _inside(RIGHT_LUNG, rows), _inside(LEFT_LUNG, rows)
    lungs = right | left
    air = AIR * LUNG_MM * (_rounded(right, 30 / mm) + _rounded(left, 30 / mm))
    haze = _haze(opacity, x, y, lungs, random, mm) if opacity else np.zeros((rows, rows), np.float32)
    air = air * (1 - 0.8 * haze)
    heart = _ellipse(x, y, (22.0, 222.0), (64.0, 50.0), 0.5)
    air = air * (1 - 0.62 * heart)
    soft = np.clip(_body(x, y) - air + 0.35 * HEART_MM * heart + MEDIASTINUM_MM * 0.35 * np.exp(-((x / 30.0) ** 2)) * (y > 40), 0, None)
    soft = soft + 15.0 * _vessels(lungs, random, rows, mm) * (air > 5)
    bone = _ribs(rows, mm) + _spine(x, y)
    texture = cv2.GaussianBlur(random.standard_normal(x.shape).astype(np.float32), (0, 0), 1.2 / mm)
    soft = soft * (1 + 0.03 * texture / float(texture.std()))
    attenuation = SOFT * soft + BONE * bone
    attenuation = cv2.GaussianBlur(attenuation.astype(np.float32), (0, 0), max(0.3, 0.5 / mm))
    attenuation = attenuation + 0.012 * np.exp(attenuation / 6) * random.standard_normal(attenuation.shape)
    seen = np.clip((attenuation - VIEW_FROM) / (VIEW_TO - VIEW_FROM), 0, 1) ** 0.8
    pixels = np.clip(seen * 4095, 0, 4095).astype(np.uint16)
    found = (haze > 0.33) & lungs
    for array in (pixels, right, left, found):
        array.setflags(write=False)  # shared by everyone who asks for the same phantom
    return ChestXray(pixels=pixels, right=right, left=left, opacity=found, spacing_mm=mm)


def _inside(corners: tuple[tuple[int, int], ...], rows: int) -> Mask:
    """The area within corner points (mm from the midline, mm from the top), its corners rounded."""
    points = (np.asarray(corners, np.float32) + MIDLINE) * (rows / WIDE_MM)
    drawn = cv2.fillPoly(np.zeros((rows, rows), np.uint8), [points.round().astype(np.int32)], 255)
    return np.asarray(cv2.GaussianBlur(drawn, (0, 0), 5 * rows / WIDE_MM) > 127)


def _rounded(mask: Mask, radius: float) -> Plane:
    """0 at the edge of a mask to 1 at `radius` pixels inside it, round as a sphere's edge."""
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(np.sqrt(np.clip(1 - (1 - np.clip(depth / radius, 0, 1)) ** 2, 0, 1)), np.float32)


def _body(x: Plane, y: Plane) -> Plane:
    """Neck, shoulders and trunk: thickness in mm."""
    shoulder = 1 / (1 + np.exp(-(y - 48.0) / 9.0))
    half = 52.0 + 116.0 * shoulder + 10.0 * np.clip((y - 120) / 200, 0, 1) + 40.0 * np.exp(-(((y - 92) / 40.0) ** 2))
    return np.asarray(BODY_MM * (0.55 + 0.45 * shoulder) * np.sqrt(np.clip(1 - (x / half) ** 2, 0, 1)), np.float32)


def _ellipse(x: Plane, y: Plane, centre: tuple[float, float], half: tuple[float, float], turned: float) -> Plane:
    """1 inside, 0 outside, with a soft edge."""
    dx, dy = x - centre[0], y - centre[1]
    across, along = dx * np.cos(turned) + dy * np.sin(turned), dy * np.cos(turned) - dx * np.sin(turned)
    radius = np.sqrt((across / half[0]) ** 2 + (along / half[1]) ** 2)
    return np.asarray(np.clip((1.0 - radius) * 12, 0, 1), np.float32)


def _haze(where: str, x: Plane, y: Plane, lungs: Mask, random: np.random.Generator, mm: float) -> Plane:
    """Patchy consolidation round one place, 0 to 1."""
    words = where.split()
    centre_x = -80.0 if "right" in words else 84.0
    centre_y = {"upper": 105.0, "middle": 170.0, "lower": 215.0}[words[-1]]
    cloud, grain = (cv2.GaussianBlur(random.standard_normal(x.shape).astype(np.float32), (0, 0), size / mm) for size in (7.0, 2.0))
    cloud, grain = cloud / float(cloud.std()), grain / float(grain.std())
    radius = np.sqrt(((x - centre_x) / 64.0) ** 2 + ((y - centre_y) / 67.0) ** 2) + 0.15 * cloud
    dense = np.clip(0.6 + 0.15 * cloud + 0.15 * grain, 0, 1)
    return np.asarray(np.clip((1.3 - radius) / 0.6, 0, 1) * dense * lungs, np.float32)


def _spine(x: Plane, y: Plane) -> Plane:
    """Vertebrae with spaces between them: mm of bone."""
    column = np.clip((19.0 - np.abs(x)) / 3.0, 0, 1)
    return np.asarray(column * (9.0 + 2.5 * np.clip(np.sin(2 * np.pi * y / 27.0) * 3, -1, 1)), np.float32)


def _ribs(rows: int, mm: float) -> Plane:
    """Ten pairs of ribs, back and front, and the collar bones: mm of bone."""
    bone = np.zeros((rows, rows), np.float32)

    def drawn(points: list[tuple[float, float]], width: float, thick: float) -> None:
        line = ((np.asarray(points, np.float32) + MIDLINE) / mm).round().astype(np.int32)[:, None]
        for part, share in ((width, 1.0), (width * 0.55, -0.45)):  # a tube: dense walls
            canvas = np.zeros((rows, rows), np.uint8)
            cv2.polylines(canvas, [line], False, 255, max(1, round(part / mm)), cv2.LINE_AA)
            np.add(bone, share * thick * canvas.astype(np.float32) / 255, out=bone)

    along = np.linspace(0, 1, 40)
    for side in (-1, 1):
        for k in range(10):
            top, reach = 52.0 + 22.5 * k, 92.0 + 50.0 * np.sin(np.pi * min(1.0, (k + 2.5) / 12))
            back = [(side * (18 + (reach - 18) * t), top - 10 * np.sin(np.pi * t) + (12 + 2.2 * k) * t**2.4) for t in along]
            front = [(side * (reach - (reach - 30) * 0.72 * t), back[-1][1] + (16 + 3.5 * k) * t + 6 * np.sin(np.pi * t)) for t in along]
            drawn(back, 8.5, 7.0)
            drawn(front, 9.5, 4.0)
        drawn([(side * (12 + 128 * t), 78 - 30 * t + 9 * np.sin(2 * np.pi * t)) for t in along], 11.0, 9.0)
    return np.clip(bone, 0, None)


def _vessels(lungs: Mask, random: np.random.Generator, rows: int, mm: float) -> Plane:
    """Branches from both hila outwards, finer as they go."""
    canvas, pieces = np.zeros((rows, rows), np.uint8), []
    for side in (-1, 1):
        for _ in range(70):
            place, angle = np.array([side * 30.0, 165.0 + 14 * random.standard_normal()]), random.uniform(-1.45, 1.45)
            width, points = random.uniform(2.0, 5.5), []
            for _ in range(14):
                points.append(((place[0] + WIDE_MM / 2) / mm, place[1] / mm))
                place = place + 9.0 * np.array([side * np.cos(angle), np.sin(angle)])
                angle += 0.22 * random.standard_normal()
            pieces += [(n, width * (1 - n / 15), a, b) for n, (a, b) in enumerate(itertools.pairwise(points))]
    for n, thick, a, b in sorted(pieces, key=lambda piece: -piece[0]):  # the thickest last, over the fine ones
        ends = [(round(float(c)), round(float(r))) for c, r in (a, b)]
        cv2.line(canvas, ends[0], ends[1], round(255 * (1 - n / 20)), max(1, round(thick / mm)), cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), max(0.3, 0.8 / mm)) * lungs, np.float32) / np.float32(255)
