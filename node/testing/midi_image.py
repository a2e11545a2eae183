"""The pixels of an instance of the set: a picture, texts burned into it, and the way it is compressed."""

from __future__ import annotations

import io
from datetime import date
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from node.testing.burned_text import Canvas, Line, a_style
from node.testing.midi_header import Place
from node.testing.plain_images import plain

PICTURES = {"CT": "ct", "MR": "mr", "US": "us", "US LOOP": "us", "CR": "cr", "DX": "cr", "MG": "mg", "SC": "sc"}
CORNERS = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
ELSEWHERE = ((0.0, 0.5), (1.0, 0.5), (0.5, 0.0), (0.5, 1.0), (0.3, 0.3), (0.55, 0.5), (0.75, 0.6))
MARKERS = {
    "CT": ("R", "L", "SUPINE", "HFS"),
    "CR": ("L", "R", "AP", "PA", "ERECT"),
    "DX": ("L", "R", "PA"),
    "US": ("L", "R", "TRANS", "LONG"),
    "US LOOP": ("R",),
    "SC": ("L", "R"),
}
SETTINGS = ("MI 1.1 TIs 0.4", "12 cm", "Gain 45 dB", "120 kV 80 mAs", "W 1500 L -600", "Fr 31 Hz")


def image(place: Place, ds: Dataset, random: Random, *, marked: bool) -> Canvas:
    """Pixels for an instance, with identity burned in when `marked`, and the attributes that describe them.

    What comes back knows every text; its frame is the first one of a loop.
    """
    colour = place.kind == "US" and random.random() < 0.4
    canvas = Canvas(*plain("us colour" if colour else PICTURES[place.kind], random.randrange(12)))
    if marked:
        _identity(canvas, place, random)
    if place.kind in MARKERS and random.random() < 0.6:
        marker = Line(text=random.choice(MARKERS[place.kind]), kind="marker", identifying=False)
        canvas.burn([marker], a_style(random), random.choice(ELSEWHERE))
    if place.kind in {"US", "US LOOP", "CT"} and random.random() < 0.5:
        canvas.burn([Line(text=random.choice(SETTINGS), kind="setting", identifying=False)], a_style(random, largest_px=16), (0.5, 1.0))
    _flags(ds, place, random, marked=any(burned.line.identifying for burned in canvas.burned))
    frames = _frames(canvas, place, random)
    _describe(ds, frames, place)
    _compress(ds, frames, place, random)
    return canvas


def _identity(canvas: Canvas, place: Place, random: Random) -> None:
    """One or two blocks in the corners, sometimes a line in the middle of things."""
    texts = _identifying(place, random)
    for anchor in random.sample(CORNERS, random.choice((1, 2))):
        lines = [texts.pop() for _ in range(min(len(texts), random.choice((1, 2, 3))))]
        if lines:
            _burn_somehow(canvas, lines, random, anchor)
    if texts and random.random() < 0.5:
        _burn_somehow(canvas, [texts.pop()], random, random.choice(ELSEWHERE))
    if not any(burned.line.identifying for burned in canvas.burned):
        _burn_somehow(canvas, [Line(text=place.person.patient_id, kind="number", identifying=True)], random, (0.0, 0.0))


def _burn_somehow(canvas: Canvas, lines: list[Line], random: Random, anchor: tuple[float, float]) -> None:
    for largest in (40, 24, 16, 12):
        if canvas.burn(lines, a_style(random, largest_px=largest), anchor):
            return


def _identifying(place: Place, random: Random) -> list[Line]:
    person = place.person
    family, given = person.name.latin
    names = (f"{family}, {given}", f"{family.upper()}^{given.upper()}", f"{given} {family}", f"Name: {family} {given[:1]}.", family.upper())
    numbers = (person.patient_id, f"ID: {person.patient_id}", f"MRN {person.patient_id}", f"Tel {person.telephone}")
    dates = (*_written(person.born, "DOB "), *_written(person.born, "*"), *_written(place.day, ""))
    places = (person.hospital[0], person.hospital[0].upper(), f"Dr. {person.referrer}", f"Ref: {person.referrer}", f"Op: {person.operator}")
    texts = [
        Line(text=random.choice(choices), kind=kind, identifying=True)
        for kind, choices in (("name", names), ("number", numbers), ("date", dates), ("place", places))
    ]
    random.shuffle(texts)
    return texts


def _written(day: date, before: str) -> tuple[str, ...]:
    return tuple(f"{before}{day:{form}}" for form in ("%d.%m.%Y", "%m/%d/%Y", "%Y-%m-%d", "%d %b %Y"))


def _flags(ds: Dataset, place: Place, random: Random, *, marked: bool) -> None:
    """Burned In Annotation and Image Type as they come: often absent, sometimes right."""
    flag = random.choice((None, None, "YES")) if marked else random.choice((None, "NO"))
    if place.kind == "SC":
        ds.ImageType = ["DERIVED", "SECONDARY"]
    elif place.kind == "CT":
        silent = not marked or random.random() < 0.4
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if silent else ["DERIVED", "SECONDARY", "AXIAL"]
    elif place.kind == "MR":
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    else:
        ds.ImageType = ["ORIGINAL", "PRIMARY"]
    if flag:
        ds.BurnedInAnnotation = flag


def _frames(canvas: Canvas, place: Place, random: Random) -> NDArray[Any]:
    """(frames, rows, columns[, 3]): a loop moves below a text that stands still."""
    if place.kind != "US LOOP":
        return canvas.frame[None]
    still = np.repeat(canvas.frame[None], 3, axis=0)
    noise = np.random.default_rng(random.randrange(1 << 30)).integers(-6, 7, still.shape)
    moving = np.clip(still.astype(np.int16) + noise * (still > 30) * (canvas.glyphs == 0), 0, 255)
    return np.asarray(moving, np.uint8)


def _describe(ds: Dataset, frames: NDArray[Any], place: Place) -> None:
    ds.SamplesPerPixel = 3 if frames.ndim == 4 else 1
    inverse = place.kind == "CR"
    ds.PhotometricInterpretation = "RGB" if frames.ndim == 4 else "MONOCHROME1" if inverse else "MONOCHROME2"
    if frames.ndim == 4:
        ds.PlanarConfiguration = 0
    if len(frames) > 1:
        ds.NumberOfFrames, ds.FrameTime = len(frames), "40"
        ds.FrameIncrementPointer = 0x00181063
    ds.Rows, ds.Columns = frames.shape[1:3]
    stored = 8 if frames.itemsize == 1 else 12
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8 * frames.itemsize, stored, stored - 1, 0
    if place.kind in {"CT", "MR"}:
        ds.WindowCenter, ds.WindowWidth = ("40", "400") if place.kind == "CT" else ("600", "1200")


def _compress(ds: Dataset, frames: NDArray[Any], place: Place, random: Random) -> None:
    """Most come as they are; some in each of the usual ways."""
    chosen = random.choice((ExplicitVRLittleEndian,) * 5 + (ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLSLossless))
    if place.kind in {"US", "US LOOP"} and random.random() < 0.3:
        chosen = JPEGBaseline8Bit
    plain_syntax = ImplicitVRLittleEndian if chosen == ImplicitVRLittleEndian else ExplicitVRLittleEndian
    ds.file_meta.TransferSyntaxUID = plain_syntax
    ds.PixelData = frames.tobytes() + b"\0" * (frames.nbytes % 2)
    ds["PixelData"].VR = "OB" if frames.itemsize == 1 else "OW"
    if chosen == JPEGBaseline8Bit:
        ds.PixelData = encapsulate([_jpeg(frame) for frame in frames])
        ds.file_meta.TransferSyntaxUID = chosen
        ds.LossyImageCompression = "01"
        ds["PixelData"].is_undefined_length = True
        if frames.ndim == 4:
            ds.PhotometricInterpretation = "YBR_FULL_422"
    elif chosen != plain_syntax:
        if frames.ndim == 4 and chosen == JPEG2000Lossless:
            ds.PhotometricInterpretation = "YBR_RCT"
        ds.compress(chosen, frames if len(frames) > 1 else frames[0], generate_instance_uid=False)


def _jpeg(frame: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "JPEG", quality=90)
    return out.getvalue()
