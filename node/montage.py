"""A study on one page: its key images with the model's view of them, the numbers, and why these images were chosen."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from node.domain import Algorithm, Result
from node.imaging.volume import Volume
from node.lettering import AMBER, BACKGROUND, GREY, TEXT, WHITE, Line, Pixels, text_height, text_width, wrapped, write_lines
from node.picture import MARGIN, RESEARCH, headline, left_edge, maker, overlay_of, place, said, shown_as, window_of

TILE = 480  # pixels of the longer side of each image
COLUMNS = 3
LABEL = 58  # pixels above each image: two lines
MOST_OUTLINES = 6
MOST_FINDINGS = 10


def summary_page(volume: Volume, result: Result, algorithm: Algorithm, pipeline: str, shown: Sequence[int]) -> Pixels:
    """RGB (rows, columns, 3): a head, tiles in the order of the study, findings and remarks below."""
    tiles = [_tile(volume, result, at, number == 1) for number, at in enumerate(shown, 1)]
    order = np.argsort(shown, kind="stable")  # most telling first is said on the tile; the page reads from head to foot
    side = left_edge(volume)
    across = min(COLUMNS, len(tiles))
    height, width = tiles[0].shape[:2]
    page_width = max(across * (width + MARGIN) + MARGIN, 2 * width + 3 * MARGIN)
    head = wrapped([Line(f"AI {pipeline}: {headline(result)}", WHITE, TEXT), Line(RESEARCH, AMBER, TEXT)], page_width - 2 * MARGIN)
    foot = wrapped(_words(volume, result, algorithm, shown, side), page_width - 2 * MARGIN)
    down = -(-len(tiles) // across)
    top = MARGIN + text_height(head) + MARGIN
    canvas = np.full((top + down * (height + MARGIN) + text_height(foot) + MARGIN, page_width, 3), BACKGROUND, np.uint8)
    _at_the_right(canvas, head, MARGIN, page_width - MARGIN)
    for n, which in enumerate(order):
        y, x = top + n // across * (height + MARGIN), MARGIN + n % across * (width + MARGIN)
        canvas[y : y + height, x : x + width] = tiles[which]
    write_lines(canvas, foot, MARGIN, top + down * (height + MARGIN))
    return canvas


def _tile(volume: Volume, result: Result, at: int, first: bool) -> Pixels:
    """One image with the overlay, its place above it."""
    _, grey = shown_as(volume, at, window_of(volume, result))
    seen = overlay_of(grey, volume, result, at)
    scale = TILE / max(seen.shape[:2])
    seen = np.asarray(
        cv2.resize(seen, (round(seen.shape[1] * scale), round(seen.shape[0] * scale)), interpolation=cv2.INTER_AREA), np.uint8
    )
    canvas = np.full((LABEL + seen.shape[0], seen.shape[1], 3), BACKGROUND, np.uint8)
    words = place(volume, at) + (" - shows most" if first and len(volume.frames) > 1 else "")
    lines = wrapped([Line(words, AMBER if first else GREY)], seen.shape[1])[:2]
    _at_the_right(canvas, lines, LABEL - 6 - text_height(lines), seen.shape[1])
    canvas[LABEL:] = seen
    return canvas


def _at_the_right(canvas: Pixels, lines: list[Line], top: int, edge: int) -> None:
    """Lines that end at `edge`: viewers write the series over the left corner."""
    for n, line in enumerate(lines):
        write_lines(canvas, [line], edge - text_width(line.text, line.size), top + text_height(lines[:n]))


def _words(volume: Volume, result: Result, algorithm: Algorithm, shown: Sequence[int], side: str) -> list[Line]:
    lines = [Line(f"Why these images: {_why(volume, result, shown)}", WHITE)]
    lines += [Line(said(finding)) for finding in result.findings[:MOST_FINDINGS]]
    if len(result.findings) > MOST_FINDINGS:
        lines.append(Line(f"and {len(result.findings) - MOST_FINDINGS} more findings in the report", GREY))
    lines += [Line(f"Outline: {segment.label}", segment.color) for segment in result.segments[:MOST_OUTLINES]]
    if len(result.segments) > MOST_OUTLINES:
        lines.append(Line(f"and {len(result.segments) - MOST_OUTLINES} more outlines", GREY))
    if result.heatmap is not None:
        lines.append(Line(f"Colour, dark to bright: {result.heatmap.title}, 0 to 1", GREY))
    lines += [Line(note, GREY) for note in result.notes[:4]]
    if side:
        lines.append(Line(f"Left edge of every image: {side}", GREY))
    return [*lines, Line(maker(algorithm), GREY), Line("Radnode. Derived by software, not verified by a person.", GREY)]


def _why(volume: Volume, result: Result, shown: Sequence[int]) -> str:
    """The reason in words: what puts an image on the page."""
    if len(volume.frames) == 1:
        return "it is the only image that was read."
    of = f"{len(shown)} of {len(volume.frames)}"
    outlined = any(segment.mask[list(shown)].any() for segment in result.segments)
    if result.heatmap is not None and result.heatmap.frames:
        return f"{of}, those that speak most for the answer" + (", and where outlines are largest." if outlined else ".")
    return f"{of}, where outlines are largest." if outlined else f"{of}; nothing stands out, so the middle one stands for all."
