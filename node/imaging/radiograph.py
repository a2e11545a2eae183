"""A chest radiograph as a network sees it: grey with bones bright, without borders, upright; and the two lungs found in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.imaging.facing import Facing
from node.imaging.letterbox import Box, Letterbox, box_of

LUNG_SIZE = 160  #: pixels of the canvas the lung network sees
MOST_PIXELS = 1024  #: of the longer side while working; larger films are averaged down
SMALLEST = 48  #: rows and columns below which there is nothing to read
MOST_COLOUR = 0.02  #: share of clearly coloured pixels in a picture that still counts as grey
FRONTAL_VIEWS = {"PA", "AP"}
LATERAL_VIEWS = {"LL", "RL", "LATERAL", "LLD", "RLD", "LLO", "RLO", "LAT", "LAO", "RAO", "LPO", "RPO", "OBL", "OBLIQUE"}
LATERAL_VIEWS |= {"SEITLICH", "SEITL", "PROFIL"}  # as descriptions say it elsewhere

BLACK, WHITE = 0.02, 0.98  #: ends of the grey scale
BORDER = 0.9  #: share of a row or column at the same end of the grey scale that makes it a border
FRAME, FRAME_GREY = 0.98, 0.003  #: share of a row or column that has the very grey of a corner, and how nearly, that makes it a frame
MOST_BORDER = 0.3  #: of the side, at each of its ends
SMALLEST_LUNG, LARGEST_LUNG = 0.02, 0.5  #: of the exposed field
MOST_UNEQUAL = 5.0  #: the larger lung over the smaller one
SURE = 0.85  #: mean probability inside a lung that is believed
SMALLEST_PART = 0.1  #: of the largest part of a lung

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


# --- which view it is ------------------------------------------------------------------------------------------------------
def is_lateral(header: Dataset) -> bool:
    """Whether the header names a lateral (or oblique) view: in Patient Orientation, View Position (0018,5101) or View Code, else in a description."""
    views = header.get("ViewCodeSequence") or ()
    named = _words(header.get("ViewPosition"), *(item.get("CodeMeaning") for item in views))
    if not named & (FRONTAL_VIEWS | LATERAL_VIEWS):
        described = _words(header.get("SeriesDescription"), header.get("ProtocolName"))
        named = set() if described & FRONTAL_VIEWS else described  # "PA and LAT" is said of both films
    return bool(named & LATERAL_VIEWS) or Facing.of(header) is None


def _words(*texts: object) -> set[str]:
    said = " ".join(str(text or "") for text in texts).upper()
    return set(re.findall("[A-Z]+", re.sub(r"\b([AP])\. ?([AP])\b", r"\1\2", said)))  # p.a. and a. p., too


# --- grey ---------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class Radiograph:
    """A film at working size: grey 0 to 1 with bones bright, and the part of it that was exposed."""

    grey: Floats = field(repr=False)  #: (rows, columns), the longer side at most MOST_PIXELS
    exposed: Box  #: without black or white borders
    shape: tuple[int, int]  #: rows and columns it came from
    frame: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))  #: of one grey, cut off: above and below, left and right

    @property
    def step(self) -> float:
        """Rows of the film to a row of the working grid."""
        return float(self.shape[0] / (self.grey.shape[0] + sum(self.frame[0])))

    def on_source(self, values: NDArray[Any]) -> Floats:
        """A map or mask of the working grid on the film's own rows and columns, float32; 0 on a frame."""
        rows, columns = self.shape
        framed = np.pad(values.astype(np.float32), self.frame)
        return np.asarray(cv2.resize(framed, (columns, rows), interpolation=cv2.INTER_LINEAR), np.float32)


def radiograph_of(plane: NDArray[Any], aspect: float = 1.0) -> Radiograph | str:
    """One film as a network sees it, or why it can't be read.

    Parameters
    ----------
    plane : (rows, columns) array in any unit with bones bright (MONOCHROME1 turned already), or uint8 (rows, columns, 3)
    aspect : height of a pixel by its width; the working grid has square ones
    """
    if plane.ndim == 3:
        high, low = plane.max(axis=-1).astype(np.int16), plane.min(axis=-1).astype(np.int16)
        if float((high - low > 40).mean()) > MOST_COLOUR:
            return "the picture is coloured; the model reads grey films"
        plane = np.asarray(plane, np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    values = np.asarray(plane, np.float32)
    if min(values.shape) < SMALLEST:
        return f"the picture is smaller than {SMALLEST} pixels"
    rows, columns = values.shape
    bad = ~np.isfinite(values)
    if bad.mean() > 0.5:
        return "most of the picture holds no numbers"
    if bad.any():
        values = np.where(bad, values[~bad].min(), values)
    wide, high = columns / min(1.0, aspect), rows * max(1.0, aspect)
    shrink = min(1.0, MOST_PIXELS / max(wide, high))
    size = max(1, round(wide * shrink)), max(1, round(high * shrink))
    if size != (columns, rows):
        values = np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA if shrink < 1 else cv2.INTER_LINEAR), np.float32)
    if min(values.shape) < SMALLEST:
        return "the picture is a thin strip"
    whole = _stretched(values, Box(0, 0, *values.shape))
    if whole is None:
        return "the picture is of one grey"
    kept = _unframed(whole)
    frame = (kept.top, whole.shape[0] - kept.bottom), (kept.left, whole.shape[1] - kept.right)
    values = np.ascontiguousarray(values[kept.top : kept.bottom, kept.left : kept.right])
    whole = _stretched(values, Box(0, 0, *values.shape))
    box = None if whole is None else _exposed(whole)
    inside = None if box is None else _stretched(values, box)
    if box is None or inside is None:
        return "the picture is of one grey"
    return Radiograph(inside, box, (rows, columns), frame)


def turned_over(film: Radiograph) -> Radiograph:
    """The film with bones dark made bright: for a file whose Photometric Interpretation is wrong."""
    return replace(film, grey=np.asarray(1 - film.grey, np.float32))


def _stretched(values: Floats, box: Box) -> Floats | None:
    """0 to 1 between the 0.5th and 99.5th percentile of the box; None when they are the same."""
    low, high = (float(v) for v in np.percentile(values[box.top : box.bottom, box.left : box.right], [0.5, 99.5]))
    if not high - low > 1e-6 * max(1.0, abs(high)):
        return None
    return np.asarray(np.clip((values - low) / (high - low), 0, 1), np.float32)


def _exposed(grey: Floats) -> Box:
    """Without rows and columns at the edges of which nearly every pixel is black, or nearly every pixel white."""
    box = Box(0, 0, *grey.shape)
    for _ in range(2):  # the second time without what lies beside the first border
        for end in (grey <= BLACK, grey >= WHITE):
            box = _without(end, BORDER, box)
    return box


def _unframed(grey: Floats) -> Box:
    """Without a frame of one grey, neither black nor white, that was put round the film or beside it: as an X-ray leaves none."""
    box = Box(0, 0, *grey.shape)
    for corner in {float(grey[row, column]) for row in (0, -1) for column in (0, -1)}:
        if BLACK < corner < WHITE:
            box = _without(np.abs(grey - corner) <= FRAME_GREY, FRAME, box)
    return box


def _without(border: Mask, share: float, box: Box) -> Box:
    """The box without the rows and columns at its edges of which more than `share` are border."""
    top, bottom = _trimmed(border[:, box.left : box.right].mean(axis=1) > share, box.top, box.bottom)
    left, right = _trimmed(border[top:bottom].mean(axis=0) > share, box.left, box.right)
    return Box(top, left, bottom, right)


def _trimmed(border: NDArray[np.bool_], first: int, last: int) -> tuple[int, int]:
    """`first` and `last` moved inwards over border lines, a letter's height of others between them allowed."""
    most, gap = int(MOST_BORDER * border.size), max(1, border.size // 20)
    start = np.flatnonzero(border[first : first + gap])
    while start.size and first < most:
        first += int(start[-1]) + 1
        start = np.flatnonzero(border[first : first + gap])
    end = np.flatnonzero(border[max(0, last - gap) : last])
    while end.size and border.size - last < most:
        last = max(0, last - gap) + int(end[0])
        end = np.flatnonzero(border[max(0, last - gap) : last])
    return (first, last) if last - first >= SMALLEST else (0, border.size)


# --- lungs --------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class LungFields:
    """The two lungs of an upright film on its working grid, behind the heart and where they are opaque too."""

    right: Mask = field(repr=False)  #: the patient's: at the image's left edge
    left: Mask = field(repr=False)
    certainty: float  #: mean probability inside them

    @property
    def both(self) -> Mask:
        return self.right | self.left

    def box(self, margin: float = 0.05) -> Box:
        """The box round both lungs, wider by `margin` of its longer side."""
        found = box_of(self.both)
        assert found is not None
        return found.grown(margin, *self.both.shape)


def lungs_of(film: Radiograph, network: Any) -> LungFields | str:
    """The lungs that the network sees in an upright film, or why they are not believed.

    Parameters
    ----------
    network : torch module or what `Bundle.stages` gives, (1, 1, LUNG_SIZE, LUNG_SIZE) → (1, 2, …) logits
        Channel 0 is the lung at the image's left edge.
    """
    import torch

    frame = Letterbox(film.exposed, LUNG_SIZE)
    with torch.inference_mode():
        canvas = torch.from_numpy(frame.forward(film.grey))[None, None]
        straight = torch.sigmoid(network(canvas).float())[0].cpu().numpy()
        mirrored = torch.sigmoid(network(canvas.flip(-1)).float())[0].cpu().numpy()[::-1, :, ::-1]
    maps = [frame.backward(np.asarray(m, np.float32), *film.grey.shape) for m in (straight + mirrored) / 2]
    right, left = (_solid((m >= 0.5) & (m >= other)) for m, other in (maps, maps[::-1]))
    return _believed(right, left, maps, film.exposed)


def _believed(right: Mask, left: Mask, maps: list[Floats], exposed: Box) -> LungFields | str:
    """The lungs when there are two, as large as lungs, side by side and clearly seen; else why not."""
    if not right.any() or not left.any():
        return "no two lungs are seen: not a frontal chest film, or one lung is wholly opaque"
    field_pixels = float(exposed.height * exposed.width)
    sizes = [float(lung.sum()) / field_pixels for lung in (right, left)]
    if min(sizes) < SMALLEST_LUNG or max(sizes) > LARGEST_LUNG or max(sizes) > MOST_UNEQUAL * min(sizes):
        return "what looks like lungs has not their size"
    if _centre(right)[1] >= _centre(left)[1] or abs(_centre(right)[0] - _centre(left)[0]) > 0.35 * exposed.height:
        return "what looks like lungs does not lie side by side"
    certainty = float(np.mean([maps[0][right].mean(), maps[1][left].mean()]))
    if certainty < SURE:
        return "lungs are not seen clearly"
    return LungFields(right, left, certainty)


def _centre(mask: Mask) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(rows.mean()), float(columns.mean())


def _solid(mask: Mask) -> Mask:
    """The large parts of a mask with their holes filled."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if count < 2:
        return np.zeros(mask.shape, bool)
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = np.isin(parts, 1 + np.flatnonzero(areas >= SMALLEST_PART * areas.max()))
    padded = np.pad(kept.astype(np.uint8), 1)
    cv2.floodFill(padded, None, (0, 0), 2)
    return np.asarray(padded[1:-1, 1:-1] != 2)


# --- lungs only -----------------------------------------------------------------------------------------------------------------
def equalised(grey: Floats, where: Mask) -> Floats:
    """Grey inside `where` as its rank among those pixels, 0 to 1; 0 outside. No exposure, window or file format is left in it."""
    out = np.zeros(grey.shape, np.float32)
    inside = grey[where]
    if inside.size:
        levels = np.clip(inside * 1023, 0, 1023).astype(np.int64)
        below = np.cumsum(np.bincount(levels, minlength=1024)) / inside.size
        out[where] = below[levels]
    return out
