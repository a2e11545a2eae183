"""Burned-in text: may these pixels go on, or must they be looked at first? The header says how usual text is; it is not believed that there is none."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Literal, NamedTuple

Unflagged = Literal["accept", "refuse"]
TextDetection = Literal["off", "usual", "all"]
Captures = Literal["leave out", "look"]


class Verdict(Enum):
    """What is known of the pixels."""

    CLEAN = "clean"  #: they show the body only: this kind of acquisition writes nothing in
    GLANCE = "glance"  #: the same, but whoever passes it on may have written into it: looked at when a single value stands out
    LOOK = "look"  #: text is usual in this kind of image, or nobody says
    UNKNOWN = "unknown"  #: the same where nobody looks
    LEAVE_OUT = "leave out"  #: a capture of a screen: a picture of text, of no use to a model
    BURNED_IN = "burned in"  #: identity is in the pixels, or nothing excludes it, and nobody looks


class Decision(NamedTuple):
    """A verdict and why."""

    verdict: Verdict
    reason: str
    declared: bool = False  #: Burned In Annotation is YES: text must be found, or something was missed


#: acquisitions whose reconstruction writes no text into the pixels, when the image says ORIGINAL\\PRIMARY
SILENT_MODALITIES = frozenset({"CT", "MR", "PT", "NM"})
SCREEN_WORDS = ("SCREEN SAVE", "SCREEN CAPTURE", "SCREENSHOT", "SCREEN SHOT", "DOSE_INFO", "DOSE REPORT")
#: photographs of a slide with its label, PS3.3 C.8.12.4.1.1
SLIDE_LABELS = frozenset({"LABEL", "OVERVIEW"})
#: one picture in many tiles, VL Whole Slide and Confocal Microscopy Tiled Pyramidal: text in one tile is in no other, PS3.3 C.8.12.4
TILED = frozenset({"1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.840.10008.5.1.4.1.1.77.1.9"})
FRAMES_LOOKED_AT = 6  #: of a multi-frame image, and the brightest and darkest that each pixel becomes over all frames
#: Conversion Type (0008,0064), PS3.3 C.8.6.1: digitized film, scanned image, digitized video
CAPTURED = frozenset({"DF", "SI", "DV"})
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def decide(
    facts: Mapping[str, str], *, unflagged: Unflagged = "accept", text_detection: TextDetection = "off", captures: Captures = "leave out"
) -> Decision:
    """May the pixels of this image go on?

    Parameters
    ----------
    facts
        SOPClassUID, Modality, ImageType (values joined by a backslash), ConversionType, BurnedInAnnotation, NumberOfFrames; absent
        ones empty.
    text_detection
        `usual`: every image is looked at; CT, MR, PT and NM that say ORIGINAL\\PRIMARY, and those of them that say NO and are not
        SECONDARY, only when one value stands out as no tissue does (`flat_values.py`). Everything else is looked at whatever it says
        of itself: ultrasound, films, captures, angiography, endoscopy, photographs. `all`: every image. `off`: nobody looks.
        A slide of more tiles than are looked at waits for a person.
    unflagged
        Where nobody looks: what to do with an image of a kind that often carries text and says nothing of it. With `accept` it goes on, and
        Clean Pixel Data (113101) is not claimed for it.
    captures
        What to do with captures of a screen where somebody looks: they are of no use to a model, but a person may want them masked.
        Where nobody looks they never go on.

    Standard: PS3.15 E.3.1; Burned In Annotation (0028,0301), PS3.3 C.7.6.1.
    """
    image_type = facts.get("ImageType", "").upper()
    flag = facts.get("BurnedInAnnotation", "").strip().upper()
    if any(word in image_type for word in SCREEN_WORDS) and (captures == "leave out" or text_detection == "off"):
        return Decision(Verdict.LEAVE_OUT, "a capture of a screen")
    if facts.get("Modality", "") == "SM" and SLIDE_LABELS & set(image_type.split("\\")):
        return Decision(Verdict.LEAVE_OUT, "a photograph of a slide with its label")
    if text_detection == "off":
        return _unseen(facts, image_type, flag, unflagged)
    if facts.get("SOPClassUID", "") in TILED and _count(facts) > FRAMES_LOOKED_AT:
        return Decision(Verdict.BURNED_IN, "a slide of more tiles than are looked at for text")
    if flag == "YES":
        return Decision(Verdict.LOOK, "Burned In Annotation is YES", declared=True)
    if text_detection == "usual" and _is_silent(facts, image_type, flag):
        return Decision(Verdict.GLANCE, "reconstructed from measurements")
    return Decision(Verdict.LOOK, "text is usual in this kind of image")


def _count(facts: Mapping[str, str]) -> int:
    frames = facts.get("NumberOfFrames", "").strip()
    return int(frames) if frames.isdigit() else 1


def _is_silent(facts: Mapping[str, str], image_type: str, flag: str) -> bool:
    """A tomographic image as the scanner made it. A capture of one is none, whatever its modality."""
    if facts.get("Modality", "") not in SILENT_MODALITIES or facts.get("SOPClassUID", "").startswith(SECONDARY_CAPTURE):
        return False
    return image_type.startswith("ORIGINAL\\PRIMARY") or (flag == "NO" and "SECONDARY" not in image_type.split("\\"))


def _unseen(facts: Mapping[str, str], image_type: str, flag: str, unflagged: Unflagged) -> Decision:
    """What the header alone can say."""
    if flag == "YES":
        return Decision(Verdict.BURNED_IN, "Burned In Annotation is YES")
    if flag == "NO":
        return Decision(Verdict.CLEAN, "Burned In Annotation is NO")
    if facts.get("SOPClassUID", "").startswith(SECONDARY_CAPTURE) and facts.get("ConversionType", "").strip().upper() in CAPTURED:
        return Decision(Verdict.BURNED_IN, "a digitized film, page or video that does not say what is written on it")
    if facts.get("Modality", "") in SILENT_MODALITIES and image_type.startswith("ORIGINAL\\PRIMARY"):
        return Decision(Verdict.CLEAN, "reconstructed from measurements")
    if unflagged == "refuse":
        return Decision(Verdict.BURNED_IN, "nothing says that the pixels are free of text")
    return Decision(Verdict.UNKNOWN, "nothing says that the pixels are free of text")
