"""What an MR image shows bright: what its maker calls it, else its echo, repetition and inversion times."""

from __future__ import annotations

import math
import re

from pydicom.dataset import Dataset

from node.header_text import texts_of

NAMES = ("T1", "T2", "T2*", "FLAIR", "PD", "DWI", "ADC", "SWI")

#: Acquisition Contrast (0008,9209) of enhanced objects, PS3.3 C.8.13.3.1.1
ACQUIRED = {
    "T1": "T1",
    "T2": "T2",
    "T2_STAR": "T2*",
    "FLUID_ATTENUATED": "FLAIR",
    "PROTON_DENSITY": "PD",
    "DIFFUSION": "DWI",
    "SUSCEPTIBILITY": "SWI",
}

#: what stands in descriptions, the telling ones first: "T1 FLAIR" is T1-weighted, "FLAIR T2" is a FLAIR
WORDS = (
    ("ADC", re.compile(r"\badc\b|apparent diffusion")),
    ("DWI", re.compile(r"\b(dwi|dti|diff|diffusion|ep2d diff|trace|tracew|b ?(500|600|800|1000|1200|1400|1500|2000))\b")),
    ("SWI", re.compile(r"\b(swi|swan|swip|venbold|suscept\w*)\b")),
    ("T2*", re.compile(r"\bt2 ?(\*|star\b|hemo\b)")),
    ("T1", re.compile(r"\bt1(w|c|ce|gd|km)?\b(?! map)|\b(mprage|mp ?rage|fspgr|spgr|bravo|vibe|lava|thrive|tfl)\b")),
    ("FLAIR", re.compile(r"\b(flair|dark ?fluid|darkfl)\b")),
    ("T2", re.compile(r"\bt2(w|fs)?\b(?! map)")),
    ("PD", re.compile(r"\b(pd|pdw|pd ?fs|proton density)\b")),
)

#: what is read of a header
READS = (
    *("AcquisitionContrast", "ImageType", "SeriesDescription", "ProtocolName"),
    *("ScanningSequence", "EchoTime", "RepetitionTime", "InversionTime"),
)


def weighting_of(header: Dataset) -> str:
    """One of `NAMES` for an MR image; empty where it can't be told."""
    return _acquired(header) or _described(header) or _timed(header)


def _acquired(ds: Dataset) -> str:
    return next((ACQUIRED[text.upper()] for text in texts_of(ds, "AcquisitionContrast") if text.upper() in ACQUIRED), "")


def _described(ds: Dataset) -> str:
    """From Image Type, then Series Description and Protocol Name, each by itself: a protocol may name what another series of it is."""
    for keyword in ("ImageType", "SeriesDescription", "ProtocolName"):
        text = " ".join(re.sub(r"[^a-z0-9*]+", " ", " ".join(texts_of(ds, keyword)).casefold()).split())
        looked_for = WORDS[:2] if keyword == "ImageType" else WORDS
        if found := next((name for name, words in looked_for if words.search(text)), ""):
            return found
    return ""


def _timed(ds: Dataset) -> str:
    """From the times in ms, as far as they leave no doubt; nothing of echo-planar images, whose contrast they do not tell."""
    kinds = {text.upper() for text in texts_of(ds, "ScanningSequence")}
    echo, repetition, inversion = (_number(ds, name) for name in ("EchoTime", "RepetitionTime", "InversionTime"))
    if "EP" in kinds or echo is None or repetition is None:
        return ""
    if inversion is not None and inversion >= 1500 and echo >= 60:
        return "FLAIR"
    if "GR" in kinds:
        return "T1" if echo < 10 and (inversion is not None or repetition < 50) else ""
    if "SE" in kinds and not inversion:
        if repetition <= 1000 and echo <= 30:
            return "T1"
        if repetition >= 1800:
            return "T2" if echo >= 70 else "PD" if echo <= 35 else ""
    return ""


def _number(ds: Dataset, keyword: str) -> float | None:
    """Above 0, where it is told."""
    try:
        value = float(next(iter(texts_of(ds, keyword)), "0"))
    except ValueError:
        return None
    return value if 0 < value < math.inf else None
