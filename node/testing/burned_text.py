"""Text burned into pixels, with the truth beside it: where it stands, how tall it is, which pixels are ink."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Frame = NDArray[Any]  #: (rows, columns) or (rows, columns, 3), integers
Ink = NDArray[np.float32]  #: (rows, columns), 0 to 1, cut to the text


class Face(StrEnum):
    """Typefaces. The first are inside the libraries: outlines of several weights, and a bitmap of fixed width; `by_hand` may have more."""

    LIGHT = "light"
    REGULAR = "regular"
    BOLD = "bold"
    ITALIC = "italic"
    GROTESQUE = "grotesque"
    BITMAP = "bitmap"
    HAND = "hand"
    SCRIPT = "script"


PRINTED = (Face.LIGHT, Face.REGULAR, Face.BOLD, Face.ITALIC, Face.GROTESQUE, Face.BITMAP)
#: a person's own hand, and joined letters: Debian's fonts-dkg-handwriting and fonts-dancingscript
BY_HAND = {Face.HAND: "dkg.ttf", Face.SCRIPT: "DancingScript-Regular.otf"}
FONTS = Path("/usr/share/fonts")

#: OpenCV's own typeface and weight; these know letters beyond ASCII
OUTLINES = {Face.LIGHT: ("sans", 250), Face.REGULAR: ("sans", 400), Face.BOLD: ("sans", 700), Face.ITALIC: ("italic", 400)}


class Box(NamedTuple):
    """Pixels that a text covers, ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    def meets(self, other: Box, gap: int = 2) -> bool:
        """They overlap, or come closer than `gap` pixels."""
        return (
            self.top - gap < other.bottom
            and other.top - gap < self.bottom
            and self.left - gap < other.right
            and other.left - gap < self.right
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line to burn in."""

    text: str
    kind: str  #: "name", "number", "date", "place", or what may stay: "marker", "setting"
    identifying: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How a block of lines looks."""

    face: Face
    height_px: int  #: of a capital letter
    contrast: float  #: to what lies behind, as a share of the displayed range; 1 is as bright or as dark as can be
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)  #: used in colour images
    plate: bool = False  #: an even rectangle behind the text
    turned: int = 0  #: degrees, counter-clockwise: 0, 90, 180 or 270


@dataclass(frozen=True, slots=True, kw_only=True)
class Burned:
    """What was burned in, and where."""

    line: Line
    style: Style
    height_px: int  #: of a capital letter as it was drawn
    box: Box


@dataclass(slots=True)
class Canvas:
    """A frame with text on it. `lowest` and `highest` are the stored values of the displayed range."""

    frame: Frame
    lowest: float
    highest: float
    burned: list[Burned] = field(default_factory=list)
    glyphs: NDArray[np.uint8] = field(init=False)  #: (rows, columns): 0, or the number of the text, from 1, whose ink this is

    def __post_init__(self) -> None:
        self.glyphs = np.zeros(self.frame.shape[:2], np.uint8)

    def burn(self, lines: Sequence[Line], style: Style, anchor: tuple[float, float]) -> bool:
        """Write lines below each other; `anchor` says where the block lies, (0, 0) top left to (1, 1) bottom right. False: no room."""
        inks = [drawn(line.text, style.face, style.height_px) for line in lines]
        step = round(style.height_px * 1.7)
        rows, columns = self.frame.shape[:2]
        margin = max(3, style.height_px // 3)
        block = step * (len(inks) - 1) + max(ink.shape[0] for ink in inks), max(ink.shape[1] for ink in inks)
        tall, wide = block[::-1] if style.turned % 180 else block
        if tall + 2 * margin > rows or wide + 2 * margin > columns:
            return False
        top = margin + round((rows - tall - 2 * margin) * anchor[0])
        left = margin + round((columns - wide - 2 * margin) * anchor[1])
        boxes = []
        for number, ink in enumerate(inks):
            indent = block[1] - ink.shape[1] if anchor[1] > 0.5 else 0
            upright = Box(number * step, indent, number * step + ink.shape[0], indent + ink.shape[1])
            lies = _turned(upright, style.turned, block)
            boxes.append(Box(top + lies.top, left + lies.left, top + lies.bottom, left + lies.right))
        inks = [np.rot90(ink, style.turned // 90) for ink in inks]
        if any(box.bottom > rows or box.meets(other.box) for box in boxes for other in self.burned):
            return False
        for line, ink, box in zip(lines, inks, boxes, strict=True):
            self._ink(ink, box, style)
            self.burned.append(Burned(line=line, style=style, height_px=capital_px(style.face, style.height_px), box=box))
            here = self.glyphs[box.top : box.bottom, box.left : box.right]
            here[ink > 0.5] = len(self.burned)
        return True

    def _ink(self, ink: Ink, box: Box, style: Style) -> None:
        here = self.frame[box.top : box.bottom, box.left : box.right]
        spread = self.highest - self.lowest
        if style.plate:
            edge = max(2, style.height_px // 4)
            plate = self.frame[max(0, box.top - edge) : box.bottom + edge, max(0, box.left - edge) : box.right + edge]
            plate[:] = round(self.lowest if here.mean() > self.lowest + spread / 2 else self.lowest + 0.12 * spread)
        behind = here.astype(np.float32)
        mean, noise = float(behind.mean()), float(behind.std())
        away = max(style.contrast * spread, 4 * noise, 0.25 * spread)
        upwards = self.highest - mean >= mean - self.lowest
        value = min(mean + away, self.highest) if upwards else max(mean - away, self.lowest)
        paint: Any = value
        if self.frame.ndim == 3:
            paint = mean + np.array(style.colour if upwards else (1.0, 1.0, 1.0), np.float32) * (value - mean)
        alpha = ink if self.frame.ndim == 2 else ink[..., None]
        here[:] = np.rint(behind * (1 - alpha) + paint * alpha).astype(self.frame.dtype)


def _turned(box: Box, degrees: int, block: tuple[int, int]) -> Box:
    """Where a box of a block, (rows, columns), lies when the block is turned as a whole."""
    tall, wide = block
    for _ in range(degrees // 90):
        box = Box(wide - box.right, box.top, wide - box.left, box.bottom)
        tall, wide = wide, tall
    return box


@cache
def capital_px(face: Face, height_px: int) -> int:
    """How tall a capital letter becomes: a bitmap knows whole multiples only."""
    return int(drawn("H", face, height_px).shape[0])


@cache
def drawn(text: str, face: Face, height_px: int) -> Ink:
    """The ink of one line whose capital letters are `height_px` tall, cut to where there is ink."""
    if face in OUTLINES:
        ink = _outline(text, *OUTLINES[face], height_px)
    elif face is Face.BITMAP:
        ink = _bitmap(text, height_px)
    elif face in BY_HAND:
        ink = _typeset(text, _by_hand(face, height_px))
    else:
        ink = _typeset(text, ImageFont.load_default(size=height_px / 0.7))
    there = np.argwhere(ink > 0.3)
    (top, left), (bottom, right) = there.min(axis=0), there.max(axis=0) + 1
    return ink[top:bottom, left:right]


def _outline(text: str, name: str, weight: int, height_px: int) -> Ink:
    size = max(6, round(height_px * 1.32))
    image = np.zeros((size * 3, size * (len(text) + 2), 3), np.uint8)
    cv2.putText(image, text, (size // 2, size * 2), (255, 255, 255), cv2.FontFace(name), size, weight)
    return (image[..., 0] / 255.0).astype(np.float32)


def installed(face: Face) -> bool:
    """Whether this machine can write so."""
    return face not in BY_HAND or _file_of(face) is not None


@cache
def _file_of(face: Face) -> Path | None:
    return next(FONTS.rglob(BY_HAND[face]), None)


@cache
def _by_hand(face: Face, height_px: int) -> Any:
    file = _file_of(face)
    if file is None:
        raise FileNotFoundError(f"{BY_HAND[face]} is not below {FONTS}: install fonts-dkg-handwriting and fonts-dancingscript")
    _, top, _, bottom = ImageFont.truetype(str(file), 200).getbbox("H")
    return ImageFont.truetype(str(file), height_px * 200 / (bottom - top))


def _typeset(text: str, font: Any) -> Ink:
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8))
    ImageDraw.Draw(image).text((4 - left, 4 - top), text, font=font, fill=255)
    return (np.asarray(image) / 255.0).astype(np.float32)


def _bitmap(text: str, height_px: int) -> Ink:
    font = ImageFont.load_default_imagefont()
    image = Image.new("L", (len(text) * 8 + 8, 24))
    ImageDraw.Draw(image).text((4, 4), text, font=font, fill=255)
    times = max(1, round(height_px / 7))
    return np.kron(np.asarray(image) > 127, np.ones((times, times))).astype(np.float32)


COLOURS = ((1, 1, 1), (1, 1, 0.2), (0.3, 1, 0.3), (0.2, 0.9, 1), (1, 0.65, 0.2), (1, 0.35, 0.35))


def a_style(random: Random, *, largest_px: int = 40) -> Style:
    """Some look: small sizes are met most, as in practice."""
    height = random.choice([px for px in (8, 10, 10, 11, 12, 12, 13, 14, 15, 16, 18, 20, 22, 24, 28, 32, 40) if px <= largest_px])
    return Style(
        face=random.choice(PRINTED),
        height_px=height,
        contrast=random.choice((1.0, 1.0, 0.7, 0.45, 0.3)),
        colour=random.choice(COLOURS),
        plate=random.random() < 0.15,
    )
