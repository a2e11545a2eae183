"""Burned-in text: may these pixels go on? What the header says decides; text detection comes on top of it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Literal, NamedTuple

Unflagged = Literal["accept", "refuse"]


class Verdict(Enum):
    """What is known of the pixels."""

    CLEAN = "clean"  #: they show the body only: the sender says so, or this kind of acquisition writes nothing in
    UNKNOWN = "unknown"  #: nobody says; text is usual in this kind of image
    LEAVE_OUT = "leave out"  #: a capture of a screen: a picture of text, of no use to a model
    BURNED_IN = "burned in"  #: identity is in the pixels, or nothing excludes it


class Decision(NamedTuple):
    """A verdict and why."""

    verdict: Verdict
    reason: str


#: acquisitions whose reconstruction writes no text into the pixels, when the image says ORIGINAL\\PRIMARY
SILENT_MODALITIES = frozenset({"CT", "MR", "PT", "NM"})
SCREEN_WORDS = ("SCREEN SAVE", "SCREEN CAPTURE", "SCREENSHOT", "SCREEN SHOT", "DOSE_INFO", "DOSE REPORT")
#: photographs of a slide with its label, PS3.3 C.8.12.4.1.1
SLIDE_LABELS = frozenset({"LABEL", "OVERVIEW"})
#: Conversion Type (0008,0064), PS3.3 C.8.6.1: digitized film, scanned image, digitized video
CAPTURED = frozenset({"DF", "SI", "DV"})
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def decide(facts: Mapping[str, str], *, unflagged: Unflagged = "accept") -> Decision:
    """May the pixels of this image go on?

    Parameters
    ----------
    facts
        SOPClassUID, Modality, ImageType (values joined by a backslash), ConversionType, BurnedInAnnotation; absent ones empty.
    unflagged
        What to do with an image of a kind that often carries text and says nothing of it: ultrasound, secondary capture, angiography,
        endoscopy. With `accept` it goes on, and Clean Pixel Data (113101) is not claimed for it.

    Standard: PS3.15 E.3.1; Burned In Annotation (0028,0301), PS3.3 C.7.6.1.
    """
    image_type = facts.get("ImageType", "").upper()
    flag = facts.get("BurnedInAnnotation", "").strip().upper()
    if any(word in image_type for word in SCREEN_WORDS):
        return Decision(Verdict.LEAVE_OUT, "a capture of a screen")
    if facts.get("Modality", "") == "SM" and SLIDE_LABELS & set(image_type.split("\\")):
        return Decision(Verdict.LEAVE_OUT, "a photograph of a slide with its label")
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
