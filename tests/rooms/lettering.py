"""Text burned into arrays, with the truth of which pixels are ink. The typeface comes with Pillow, so it is the same everywhere."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont


class Text(NamedTuple):
    """What is written, the upper left corner of its capitals, how high they are."""

    words: str
    left: int
    top: int
    height: int


@cache
def _font(height: int) -> Any:
    return next(font for size in range(4, 400) if (font := ImageFont.load_default(size)).getbbox("H")[3] - font.getbbox("H")[1] >= height)


def ink(shape: tuple[int, ...], text: Text) -> NDArray[np.float64]:
    """How much of each pixel is ink, 0 to 1, (rows, columns)."""
    font = _font(text.height)
    left, top, *_ = font.getbbox("H")
    canvas = Image.new("L", (shape[1], shape[0]))
    ImageDraw.Draw(canvas).text((text.left - left, text.top - top), text.words, fill=255, font=font)
    return np.asarray(canvas, np.float64) / 255


def written(pixels: NDArray[Any], value: float | tuple[float, ...], *texts: Text) -> NDArray[Any]:
    """A copy with the texts in it, in the same type."""
    out = pixels.astype(np.float64)
    for text in texts:
        amount = ink(pixels.shape, text)
        amount = amount[..., None] if pixels.ndim == 3 else amount
        out = out * (1 - amount) + np.asarray(value, np.float64) * amount
    return out.round().astype(pixels.dtype)


def all_ink(shape: tuple[int, ...], *texts: Text) -> NDArray[np.bool_]:
    """Pixels that are at least half ink."""
    return np.logical_or.reduce([ink(shape, text) > 0.5 for text in texts])
