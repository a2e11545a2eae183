"""Recognizable visual features: does a series show a face? What headers say first, then what the voxels show. PS3.15 E.3.2."""

from __future__ import annotations

import re
from enum import Enum
from typing import Literal

from pydicom.dataset import Dataset

Choice = Literal["keep", "refuse", "deface"]

MODALITIES = frozenset({"CT", "MR", "PT"})  #: volumes from which a face can be drawn
SLAB_MM = 40.0  #: a transverse slab thinner than this holds no face

#: words of descriptions for a part of the body that has a face on it or near it
HEAD_WORDS = re.compile(
    r"HEAD|BRAIN|SKULL|SCH[AÄ]E?DEL|KOPF|HIRN|CRANI|CEREB|ENCEPH|NEURO|FACE|FACIAL|NECK|HALS|ORBIT|SINUS|NASAL|NOSE|JAW|MANDIB|MAXIL|DENT"
    r"|TMJ|PITUIT|SELLA|HYPOPHYS|TEMPORAL|PETROUS|\bIACS?\b|\bEAR\b|\bEYES?\b|C[ -]?SPINE|CERVICAL|HWS|MASTOID|WHOLE ?BODY|CAROTID"
)
#: and for parts that have none
OTHER_WORDS = re.compile(
    r"KNEE|KNIE|SHOULDER|SCHULTER|\bHIPS?\b|HÜFT|ANKLE|FOOT|FEET|FUSS|HAND|WRIST|ELBOW|FEMUR|TIBIA|\bARM\b|\bLEG\b|ABD|PELV|BECKEN|LIVER|LEBER"
    r"|PROSTAT|BREAST|MAMMA|CHEST|THORA|LUNG|CARD|HEART|HERZ|[LT][ -]?SPINE|LUMB|[LB]WS|SACR|RENAL|KIDNEY|NIERE|UTER|RECT|BOWEL|ENTERO|MRCP|PANCREA"
)
#: concepts of CID 4031 and SNOMED RT: head, brain, neck, skull, face, head and neck, orbit, paranasal sinus, jaws, cervical spine
HEAD_CODES = frozenset(
    {"69536005", "12738006", "45048000", "89546000", "89545001", "774007", "363654007", "2095001", "70925003", "91609006", "122494005"}
    | {"T-D1100", "T-A0100", "T-D1600", "T-11100", "T-D1200", "T-D1000", "T-D1480", "T-22000", "T-11170", "T-11180", "T-11501"}
)


class Told(Enum):
    """What the header says of the part of the body."""

    HEAD = "head"
    OTHER = "other"
    SILENT = "silent"


def told(header: Dataset) -> Told:
    """The part of the body by code, Body Part Examined and descriptions; the study's own description when nothing else speaks."""
    if str(header.get("RecognizableVisualFeatures") or "").strip().upper() == "YES":
        return Told.HEAD
    codes = [*(header.get("AnatomicRegionSequence") or ())]
    for shared in header.get("SharedFunctionalGroupsSequence") or ():
        for anatomy in shared.get("FrameAnatomySequence") or ():
            codes += anatomy.get("AnatomicRegionSequence") or ()
    if any(str(code.get("CodeValue", "")) in HEAD_CODES for code in codes):
        return Told.HEAD
    part = str(header.get("BodyPartExamined") or "")
    words = [part, *(str(code.get("CodeMeaning") or "") for code in codes)]
    words += [str(header.get(keyword) or "") for keyword in ("SeriesDescription", "ProtocolName")]
    if HEAD_WORDS.search(" ".join(words).upper()):
        return Told.HEAD
    if codes or part.strip(" \0").upper() not in {"", "UNKNOWN", "ANONYMIZED"}:
        return Told.OTHER
    study = str(header.get("StudyDescription") or "").upper()
    for text in (" ".join(words).upper(), study):
        if HEAD_WORDS.search(text):
            return Told.HEAD
        if OTHER_WORDS.search(text):
            return Told.OTHER
    return Told.SILENT


def said_clean(header: Dataset) -> bool:
    """Recognizable Visual Features (0028,0302) is NO: the sender has taken them out, or there are none."""
    return str(header.get("RecognizableVisualFeatures") or "").strip().upper() == "NO"
