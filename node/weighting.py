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
    ("T1", re.compile(r"\bs?t1(w|c|ce|gd|km)?\b(?! map)|\b(mprage|mp ?rage|fspgr|spgr|bravo|vibe|lava|thrive|tfl)\b")),
    ("FLAIR", re.compile(r"\b(flair|dark ?fluid|darkfl)\b")),
    ("T2", re.compile(r"\bs?t2(w|fs)?\b(?! map)")),
    ("PD", re.compile(r"\b(pd|pdw|pd ?fs|proton density)\b")),
)

#: in Image Type: what was made of images and shows another thing, PS3.3 C.8.3.1.1.1 and words of makers
ELSE = {
    *("MIP", "MNIP", "MINIP", "PROJECTION IMAGE", "SUB", "SUBTRACTION", "MODULUS SUBTRACT", "PHASE SUBTRACT"),
    *("P", "PHASE", "PHASE MAP", "T1 MAP", "T2 MAP", "T2_STAR MAP", "DENSITY MAP", "VELOCITY MAP"),
}
#: the same in descriptions; and localizers, which are cut like T1 or T2 and not to be read
ELSE_WORDS = re.compile(r"\b(mip|mnip|minip|sub|subtraction|subtracted|loc|localizer|localiser|scout|survey)\b")

#: what is read of a header
READS = (
    *("AcquisitionContrast", "ImageType", "SeriesDescription", "ProtocolName"),
    *("ScanningSequence", "EchoTime", "RepetitionTime", "InversionTime"),
)


def weighting_of(header: Dataset) -> str:
    """One of `NAMES` for an MR image; empty where it can't be told."""
    return "" if _something_else(header) else _acquired(header) or _described(header) or _timed(header)


def _acquired(ds: Dataset) -> str:
    """Image Type value 3 says the same (PS3.3 C.8.16.1.3); and of an ADC map only that it is of diffusion."""
    said = [*texts_of(ds, "AcquisitionContrast"), *texts_of(ds, "ImageType")[2:3]]
    found = next((ACQUIRED[text.upper()] for text in said if text.upper() in ACQUIRED), "")
    return "ADC" if found == "DWI" and _described(ds) == "ADC" else found


def _described(ds: Dataset) -> str:
    """From Image Type, then Series Description and Protocol Name, each by itself: a protocol may name what another series of it is."""
    for keyword in ("ImageType", "SeriesDescription", "ProtocolName"):
        text = _plain(ds, keyword)
        looked_for = WORDS[:2] if keyword == "ImageType" else WORDS
        if found := next((name for name, words in looked_for if words.search(text)), ""):
            return "T2*" if found == "T2" and _gradient(ds) else found
    return ""


def _something_else(ds: Dataset) -> bool:
    return not ELSE.isdisjoint(text.upper() for text in texts_of(ds, "ImageType")) or bool(
        ELSE_WORDS.search(_plain(ds, "SeriesDescription"))
    )


def _plain(ds: Dataset, keyword: str) -> str:
    """Lower case, words apart by one space, without signs but the star."""
    return " ".join(re.sub(r"[^a-z0-9*]+", " ", " ".join(texts_of(ds, keyword)).casefold()).split())


def _gradient(ds: Dataset) -> bool:
    """No spin echo, and an echo so late that T2* is seen: of "t2_swi3d_tra" and "t2_fl2d_tra_hemo" little more than T2 may be left."""
    kinds, echo = {text.upper() for text in texts_of(ds, "ScanningSequence")}, _number(ds, "EchoTime")
    return "GR" in kinds and "SE" not in kinds and echo is not None and echo >= 10


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
