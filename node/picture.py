"""One picture a reader understands at a glance: the original beside the model's view of it, and words that say whose view it is.

Words stand in margins, never over the image. The Secondary Capture and the demo's PNG show the same picture.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from node import codes
from node.domain import Algorithm, Finding, Result
from node.imaging.decode import frame_count
from node.imaging.spacing import pixel_aspect
from node.imaging.volume import Volume
from node.imaging.window import told_window
from node.lettering import AMBER, BACKGROUND, GREY, SMALL, TEXT, WHITE, Line, cut, text_height, text_width, wrapped, write_lines

MOST_FRAMES = 6
PANEL = 640  # pixels of the longer side of each image
MARGIN = 20
BAR = 28
LABEL_WIDTH = 64
LUNG_WINDOW = (-600.0, 1500.0)  # centre, width, in HU
SOFT_TISSUE_WINDOW = (40.0, 400.0)
CHEST_PARTS = {"CHEST", "THORAX", "LUNG", "CTTHORAX", "CHEST_TO_PELVIS"}
FAINTEST, STRONGEST = 0.1, 0.5  # heat below is not painted; opacity of 1.0
OPPOSITE = dict(zip("LRPAHF", "RLAPFH", strict=True))  #: of an end of Patient Orientation (PS3.3 C.7.6.1.1.1)
RESEARCH = "RESEARCH USE ONLY - NOT FOR DIAGNOSIS"

Pixels = NDArray[np.uint8]
Points = NDArray[np.float32]


# --- which frames -----------------------------------------------------------------------------------------------------------
def key_frames(volume: Volume, result: Result, most: int = MOST_FRAMES) -> tuple[int, ...]:
    """The frames worth showing, most telling first: the heat map's, else the segments' largest, else the middle one."""
    last = len(volume.pixels) - 1
    named = [f.region.frame for f in result.findings if f.region is not None and f.present]
    if result.heatmap is not None:
        named += result.heatmap.frames
    if result.segments:
        area = sum(np.asarray(s.mask.sum(axis=(1, 2))) for s in result.segments)
        named += [int(i) for i in np.argsort(-np.asarray(area), kind="stable")[:most] if np.asarray(area)[i]]
    kept = tuple(dict.fromkeys(int(i) for i in named if 0 <= i <= last))[:most]
    return kept or (last // 2,)


def outline_of(mask: NDArray[np.bool_], most_points: int = 200) -> Points:
    """The outer border of the largest part of a mask, see `outlines_of`."""
    found = outlines_of(mask, most_points)
    if not found:
        raise ValueError("an empty mask has no outline")
    return found[0]


def outlines_of(mask: NDArray[np.bool_], most_points: int = 200) -> list[Points]:
    """The outer borders of a mask (rows, columns), each (points, 2) of (column, row), the largest part first.

    Closed: the last point is the first. Top left pixel's centre at (0.5, 0.5), as in PS3.3 C.18.6. At least 7 points: viewers take
    four or five for a rectangle that wants editing.
    """
    borders, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [_outline(b, most_points) for b in sorted(borders, key=lambda b: (cv2.contourArea(b), len(b)), reverse=True)]


def _outline(pixels: Any, most_points: int) -> Points:
    border = pixels[:, 0].astype(np.float32) + 0.5
    if len(border) < 6 or cv2.contourArea(border) == 0:  # a dot or a line: round it
        (left, top), (right, bottom) = border.min(axis=0) - 0.5, border.max(axis=0) + 0.5
        return frame_round(left, top, right, bottom)
    points: Points = border[:: max(1, -(-len(border) // most_points))]
    return np.vstack([points, points[:1]])


def frame_round(left: float, top: float, right: float, bottom: float) -> Points:
    """A rectangle of six corners and middles, closed."""
    middle = (top + bottom) / 2
    corners = [(left, top), (right, top), (right, middle), (right, bottom), (left, bottom), (left, middle), (left, top)]
    return np.asarray(corners, np.float32)


# --- words ------------------------------------------------------------------------------------------------------------------
def said(finding: Finding) -> str:
    """A finding in words: its probability, what was decided and measured, or that nothing is said."""
    place = " ".join(code.meaning.lower() for code in (finding.laterality, finding.site) if code is not None)
    name = f"{finding.name} ({place})" if place and place.split()[-1] not in finding.name else finding.name
    numbers = [f"{m.name.meaning} {codes.number_said(m.value)} {codes.unit_said(m.unit.value)}".rstrip() for m in finding.measurements]
    decided = {True: "present", False: "not present", None: "not decided"}[finding.present]
    if finding.probability is not None:
        return "; ".join((f"{name}: {codes.chance_said(finding.probability)}, {decided}", *numbers))
    if finding.present is not None:
        return "; ".join((f"{name}: {decided}", *numbers))
    return f"{name}: {'; '.join(numbers) or 'not trained, nothing is said about it'}"


def said_briefly(finding: Finding) -> str:
    """The same without what was measured, for a label on an image."""
    return said(replace(finding, measurements=()))


def headline(result: Result) -> str:
    """The overall answer."""
    if not result.analysed:
        return f"Not analysed: {result.reason}"
    sure = "" if result.confidence is None else f", {codes.chance_said(result.confidence)}"
    return f"{result.label or 'no label'}{sure}"


def maker(algorithm: Algorithm) -> str:
    """Which model, to the byte: version and the first eight characters of its weights' digest."""
    return f"{algorithm.name} {algorithm.version}, weights {algorithm.digest[:8]}"


def place(volume: Volume, frame: int) -> str:
    """Where the frame is: its number, and its position along the patient's main axis nearest to the normal."""
    number = volume.frames[frame].number
    if volume.affine is None:
        every = max(len(volume.frames), frame_count(volume.frames[frame].instance.header))  # a clip may be read frame by frame
        return f"Frame {number} of {every}" if every > 1 else "Single image"
    normal = np.cross(volume.affine[:3, 0], volume.affine[:3, 1])
    axis = int(np.abs(normal).argmax())
    position = (volume.affine @ [0, 0, frame, 1])[axis]
    return f"Slice {frame + 1} of {len(volume.frames)}, {'LPS'[axis]} {position:+.1f} mm"


def left_edge(volume: Volume) -> str:
    """The patient's side at the image's left edge, e.g. "R": by its place in the patient, else by Patient Orientation; empty where nothing tells it."""
    if volume.affine is not None:
        return _letter(-volume.affine[:3, 0])
    told = volume.frames[0].instance.header.get("PatientOrientation") or ("",)
    return OPPOSITE.get(str(told[0])[:1].upper(), "")


def _letter(direction: NDArray[np.float64]) -> str:
    """Patient Orientation (PS3.3 C.7.6.1.1.1) of a direction in LPS."""
    axis = int(np.abs(direction).argmax())
    return "LPH"[axis] if direction[axis] > 0 else "RAF"[axis]


# --- the picture --------------------------------------------------------------------------------------------------------------
def summary_picture(volume: Volume, result: Result, algorithm: Algorithm, *, pipeline: str = "", frame: int | None = None) -> Pixels:
    """Original and overlay of one frame side by side, scale, words. RGB (rows, columns, 3); every frame of a volume gives one size."""
    at = key_frames(volume, result)[0] if frame is None else frame
    window = window_of(volume, result)
    grey, shown = shown_as(volume, at, window)
    overlay = overlay_of(shown, volume, result, at)
    rows, columns = shown.shape[:2]
    title = [Line(f"AI {pipeline}: {headline(result)}".replace("AI :", "AI:"), WHITE, TEXT)]
    width = 2 * columns + 3 * MARGIN + BAR + LABEL_WIDTH
    caption = [Line(f"{place(volume, at)}; {grey}", GREY), *(Line(said(f)) for f in result.findings[:8])]
    if len(result.findings) > 8:
        caption.append(Line(f"and {len(result.findings) - 8} more findings in the report", GREY))
    caption += [Line(note, GREY) for note in result.notes[:3]]
    caption += [Line(maker(algorithm), GREY), Line("Radnode. Derived by software, not verified by a person.", GREY)]
    head = wrapped([*title, Line(RESEARCH, AMBER, TEXT)], width - 2 * MARGIN)
    foot = wrapped(caption, width - 2 * MARGIN)
    top = text_height(head) + MARGIN + SMALL + 14
    canvas = np.full((top + rows + MARGIN + text_height(foot) + MARGIN, width, 3), BACKGROUND, np.uint8)
    for i, line in enumerate(head):  # to the right: viewers write the series over the left corner
        write_lines(canvas, [line], width - MARGIN - text_width(line.text, line.size), MARGIN // 2 + text_height(head[:i]))
    left, right = MARGIN, 2 * MARGIN + columns
    write_lines(canvas, [Line("Original")], left, top - SMALL - 12)
    heat_title = result.heatmap.title if result.heatmap is not None else "Original with outlines"
    names = ", ".join(segment.label for segment in result.segments)
    write_lines(
        canvas, [Line(cut(heat_title + (f" (outline: {names})" if names and result.heatmap else ""), columns))], right, top - SMALL - 12
    )
    canvas[top : top + rows, left : left + columns] = shown
    canvas[top : top + rows, right : right + columns] = overlay
    if side := left_edge(volume):
        for panel in (left, right):  # the patient's side at the image's left edge
            write_lines(canvas, [Line(side, WHITE)], panel - MARGIN + 2, top + rows // 2 - SMALL)
    if result.heatmap is not None:
        draw_scale(canvas, right + columns + MARGIN // 2, top, rows)
    write_lines(canvas, foot, MARGIN, top + rows + MARGIN)
    return canvas


def window_of(volume: Volume, result: Result) -> tuple[float, float] | None:
    """Window centre and width: lung for a chest CT, else the image's own (PS3.3 C.11.2), else None: by its values."""
    header = volume.frames[0].instance.header
    if volume.unit == "HU":
        part = str(header.get("BodyPartExamined") or "").upper()
        if part in CHEST_PARTS or any(f.site is not None and f.site in (codes.LUNG, codes.CHEST) for f in result.findings):
            return LUNG_WINDOW
    if volume.pixels.ndim == 4 or header.get("PhotometricInterpretation") == "MONOCHROME1":
        return None  # colour has no window; an inverted image's window would be of the values before
    told = told_window(header, volume.frames[0].number)
    return told or (SOFT_TISSUE_WINDOW if volume.unit == "HU" else None)


def shown_as(volume: Volume, at: int, window: tuple[float, float] | None) -> tuple[str, Pixels]:
    """How the grey values were shown, in words, and the frame as RGB, its longer side PANEL pixels, pixels square."""
    plane = volume.pixels[at]
    if plane.ndim == 3:
        words, rgb = "colour as acquired", np.asarray(plane, np.uint8)
    else:
        if window is None:
            low, high = (float(v) for v in np.percentile(plane, (0.5, 99.5)))
            if volume.unit == "1" and float(plane.min()) >= 0 and 64 < float(plane.max()) <= 255:
                low, high = 0.0, 255.0  # an 8-bit picture keeps its brightness
            words = f"grey values {low:.0f} to {high:.0f}"
        else:
            low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
            words = f"window {window[0]:.0f} / {window[1]:.0f}{' HU' if volume.unit == 'HU' else ''}"
        grey = ((np.nan_to_num(np.asarray(plane, np.float32)) - low) / max(high - low, 1e-6)).clip(0, 1) * 255
        rgb = np.repeat(grey.round().astype(np.uint8)[..., None], 3, axis=2)
    return words, _resized(rgb, volume, cv2.INTER_AREA if max(rgb.shape) > PANEL else cv2.INTER_CUBIC)


def _size(volume: Volume) -> tuple[int, int]:
    """Columns and rows of a panel."""
    rows, columns = (float(n) for n in volume.pixels.shape[1:3])
    rows *= pixel_aspect(volume.frames[0].instance.header, volume.pixel_spacing_mm)
    scale = PANEL / max(rows, columns)
    return max(PANEL // 2, round(columns * scale)), max(64, round(rows * scale))


def _resized(plane: Any, volume: Volume, how: int) -> Any:
    return cv2.resize(plane, _size(volume), interpolation=how)


def overlay_of(shown: Pixels, volume: Volume, result: Result, at: int) -> Pixels:
    out = shown.astype(np.float32)
    if result.heatmap is not None:
        if result.heatmap.over is not None:
            under = _resized(np.asarray(result.heatmap.over[at], np.float32), volume, cv2.INTER_AREA).clip(0, 1)
            out = np.repeat(under[..., None] * 255, 3, axis=2)
        heat = _resized(np.nan_to_num(np.asarray(result.heatmap.values[at], np.float32)).clip(0, 1), volume, cv2.INTER_LINEAR)
        opacity = np.where(heat < FAINTEST, 0, STRONGEST * np.sqrt(heat))[..., None]
        out = out * (1 - opacity) + _colors()[(heat * 255).round().astype(np.uint8)] * opacity
    picture = np.ascontiguousarray(out.round().clip(0, 255).astype(np.uint8))
    factor = np.array(shown.shape[1::-1], np.float64) / volume.pixels.shape[2:0:-1]
    for segment in result.segments:
        mask = _resized(segment.mask[at].astype(np.uint8), volume, cv2.INTER_NEAREST)
        borders, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        _draw(picture, borders, segment.color)
    for finding in result.findings:
        if finding.region is not None and finding.region.frame == at and finding.segment is None:
            _draw(picture, [(finding.region.outline * factor).round().astype(np.int32)[:, None]], WHITE)
    return picture


def _draw(picture: Pixels, borders: Any, color: tuple[int, int, int]) -> None:
    """A line with a dark edge: seen on bright and dark, and by the colour-blind."""
    cv2.drawContours(picture, borders, -1, (0, 0, 0), 4, cv2.LINE_AA)
    cv2.drawContours(picture, borders, -1, tuple(int(c) for c in color), 2, cv2.LINE_AA)


@cache
def _colors() -> NDArray[np.float32]:
    """Inferno, (256, 3) RGB: even steps of brightness, told apart with any colour vision."""
    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)
    return np.asarray(ramp[:, 0, ::-1], np.float32)


def draw_scale(canvas: Pixels, left: int, top: int, rows: int) -> None:
    """The colours of the heat map with their values."""
    levels = np.linspace(255, 0, rows).round().astype(np.uint8)
    canvas[top : top + rows, left : left + BAR] = _colors()[levels][:, None].astype(np.uint8)
    cv2.rectangle(canvas, (left, top), (left + BAR, top + rows - 1), GREY, 1)
    for value in (1.0, 0.75, 0.5, 0.25, 0.0):
        row = top + round((1 - value) * (rows - 1))
        write_lines(canvas, [Line(f"{value:.2f}", GREY)], left + BAR + 8, min(max(row - SMALL // 2 - 2, top - 4), top + rows - SMALL))
