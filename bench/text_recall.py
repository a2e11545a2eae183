"""Is text in pixels found however it stands there? Turned, by hand, faint, small: what stays legible beside the masks, by the truth.

    python -m bench.text_recall [--pictures 4] [--turned 0 90 180 270] [--faces printed hand script] [--sheet FILE.png]

Pictures of ultrasound, films and screen pages with names, numbers and dates; every way of writing on the same pictures at the same places.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from node.identified.text_detector import find_text, with_margin
from node.testing.burned_text import PRINTED, Canvas, Face, Line, Style, installed
from node.testing.midi_people import person
from node.testing.midi_pixels import readable
from node.testing.plain_images import plain

GROUNDS = ("us", "cr", "sc")
HEIGHTS, CONTRASTS = (10, 14, 20, 32), (1.0, 0.45, 0.25)
PLACES = ((0.0, 0.0), (0.0, 1.0), (0.5, 0.15), (0.45, 0.85), (1.0, 0.0), (1.0, 1.0), (0.25, 0.5), (0.8, 0.5))


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--pictures", type=int, default=4, help="of each kind, for each way of writing")
    asked.add_argument("--turned", type=int, nargs="+", default=[0, 90, 180, 270], choices=[0, 90, 180, 270])
    asked.add_argument("--faces", nargs="+", default=["printed", "hand", "script"], choices=["printed", "hand", "script"])
    asked.add_argument("--sheet", type=Path, help="the first picture of each way, masked, for eyes")
    options = asked.parse_args()
    print("| turned | written | texts hidden | of 10 px | of 14 px and more | faint (a quarter of the range) | painted elsewhere |")
    print("|---|---|---|---|---|---|---|")
    sheet = []
    for name in options.faces:
        if name != "printed" and not installed(Face(name)):
            print(f"| | {name} | its font is not installed |")
            continue
        for turned in options.turned:
            found: dict[str, list[bool]] = defaultdict(list)
            elsewhere = []
            for ground in GROUNDS:
                for number in range(options.pictures):
                    canvas = canvas_of(ground, number, turned, name)
                    shown, masked = looked_at(canvas)
                    elsewhere.append(float((masked.any(axis=2) & _far(canvas)).mean()))
                    for style, hidden in judged(canvas, shown, masked):
                        found["all"].append(hidden)
                        found["10" if style.height_px == 10 else "more"].append(hidden)
                        if style.contrast <= CONTRASTS[-1]:
                            found["faint"].append(hidden)
                    if number == 0:
                        sheet.append(cv2.resize(np.where(masked, np.array((60, 0, 160), np.uint8), shown), (800, 600)))
            cells = [f"{sum(found[key])} of {len(found[key])}" for key in ("all", "10", "more", "faint")]
            print(f"| {turned}° | {name} | {' | '.join(cells)} | {np.mean(elsewhere):.2%} |", flush=True)
    if options.sheet:
        rows = [np.hstack(sheet[start : start + len(GROUNDS)]) for start in range(0, len(sheet), len(GROUNDS))]
        cv2.imwrite(str(options.sheet), np.vstack(rows))


def canvas_of(ground: str, number: int, turned: int, face: str) -> Canvas:
    """A picture with texts in every place where there is room."""
    random = Random(f"{ground} {number}")
    who = person(number, random)
    family, given = who.name.latin
    texts = (
        f"{family}, {given}",
        f"{family.upper()}^{given.upper()}",
        f"ID: {who.patient_id}",
        f"DOB {who.born:%d.%m.%Y}",
        f"Dr. {who.referrer}",
    )
    canvas = Canvas(*plain(ground, number))
    for at, anchor in enumerate(PLACES):
        style = Style(
            face=random.choice(PRINTED) if face == "printed" else Face(face),
            height_px=HEIGHTS[(at + number) % len(HEIGHTS)],
            contrast=CONTRASTS[(at // 2 + number) % len(CONTRASTS)],
            turned=turned,
        )
        canvas.burn([Line(text=texts[at % len(texts)], kind="name", identifying=True)], style, anchor)
    return canvas


def looked_at(canvas: Canvas) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The picture as displayed, and what would be painted over, both (rows, columns, 3)."""
    grey = (canvas.frame.astype(np.float32) - canvas.lowest) / (canvas.highest - canvas.lowest)
    shown = (np.clip(grey, 0, 1) * 255).astype(np.uint8)
    if shown.ndim == 2:
        shown = np.repeat(shown[..., None], 3, axis=2)
    masked = np.zeros(shown.shape, bool)
    for box in find_text(shown):
        left, top, right, bottom = with_margin(box, *shown.shape[:2])
        masked[top:bottom, left:right] = True
    return shown, masked


def judged(canvas: Canvas, shown: NDArray[np.uint8], masked: NDArray[np.bool_]) -> Iterator[tuple[Style, bool]]:
    """Each text: how it is written, and whether nobody can read it any more."""
    before, after = shown.astype(np.float32), np.where(masked, 0, shown).astype(np.float32)
    for number, burned in enumerate(canvas.burned, 1):
        ink: Any = canvas.glyphs == number
        lying = [np.swapaxes(view, 0, 1) if burned.style.turned % 180 else view for view in (before, after, ink)]
        yield burned.style, not readable(lying[0], lying[1], lying[2], burned.height_px, 255.0)


def _far(canvas: Canvas) -> NDArray[np.bool_]:
    """Farther from any text than a mask may reach."""
    far = np.ones(canvas.frame.shape[:2], bool)
    for burned in canvas.burned:
        top, left, bottom, right = burned.box
        reach = round(1.6 * burned.height_px) + 4
        far[max(0, top - reach) : bottom + reach, max(0, left - reach) : right + reach] = False
    return far


if __name__ == "__main__":
    main()
