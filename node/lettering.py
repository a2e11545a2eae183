"""Words on a picture: lines of a size and a colour, measured, wrapped and written with one typeface on every machine."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

TEXT, SMALL = 22, 18  # pixels: still legible when a viewer halves the picture
WEIGHT = 500  # a little bolder than regular: thin letters break up when a viewer scales
BACKGROUND, WHITE, GREY, AMBER = (16, 16, 16), (240, 240, 240), (170, 170, 170), (255, 190, 60)

Pixels = NDArray[np.uint8]


class Line(NamedTuple):
    """A line of the caption."""

    text: str
    color: tuple[int, int, int] = WHITE
    size: int = SMALL


@cache
def _face() -> Any:
    return cv2.FontFace("sans")  # built into OpenCV 5: the same letters on every machine


def text_width(text: str, size: int) -> int:
    """Pixels that a text takes."""
    return int(cv2.getTextSize((0, 0), text, (0, 0), _face(), size, WEIGHT)[2]) if text else 0


def text_height(lines: list[Line]) -> int:
    """Pixels that lines take, one below the other."""
    return sum(round(line.size * 1.4) for line in lines)


def write_lines(canvas: Pixels, lines: list[Line], left: int, top: int) -> None:
    """Write lines below each other, the first at (left, top)."""
    row = top
    for line in lines:
        cv2.putText(canvas, line.text, (left, row + line.size), line.color, _face(), line.size, WEIGHT)
        row += round(line.size * 1.4)


def wrapped(lines: list[Line], width: int) -> list[Line]:
    """Long lines broken between words."""
    out = []
    for line in lines:
        current = ""
        for word in line.text.split():
            longer = f"{current} {word}".strip()
            if current and text_width(longer, line.size) > width:
                out.append(line._replace(text=current))
                longer = word
            current = longer
        out.append(line._replace(text=cut(current, width, line.size)))
    return out


def cut(text: str, width: int, size: int = SMALL) -> str:
    """The text, or its beginning with dots where it is too long for `width` pixels."""
    while len(text) > 4 and text_width(text, size) > width:
        text = text[:-4].rstrip() + "..."
    return text
