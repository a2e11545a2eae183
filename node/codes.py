"""The coded concepts the node speaks: SNOMED CT (SCT), DICOM (DCM), UCUM, LOINC (LN), each with its context group."""

from __future__ import annotations

import re

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

__all__ = ["Code"]

# Segmented Property Category, CID 7150
MORPHOLOGICALLY_ABNORMAL_STRUCTURE = Code("49755003", "SCT", "Morphologically Abnormal Structure")
ANATOMICAL_STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")

# Segmented Property Type, CID 7159 (lesions) and CID 7166 (common tissues)
LESION = Code("52988006", "SCT", "Lesion")
GROUND_GLASS_OPACITY = codes.DCM.GroundGlassOpacity

# Anatomy, CID 4031
CHEST = Code("51185008", "SCT", "Chest")
LUNG = Code("39607008", "SCT", "Lung")
BREAST = Code("76752008", "SCT", "Breast")
BRAIN = Code("12738006", "SCT", "Brain")
LEFT = Code("7771000", "SCT", "Left")
RIGHT = Code("24028007", "SCT", "Right")

IMAGING = Code("363679005", "SCT", "Imaging")  #: Procedure Reported where nobody says more

# Measurements, CID 218 and CID 7469, and their units (UCUM)
VOLUME = Code("118565006", "SCT", "Volume")
AREA = Code("42798000", "SCT", "Area")
LONG_AXIS = Code("103339001", "SCT", "Long Axis")
PERCENT = Code("%", "UCUM", "%")
MILLILITER = Code("mL", "UCUM", "mL")
MILLIMETER = Code("mm", "UCUM", "mm")
SQUARE_MILLIMETER = Code("mm2", "UCUM", "mm2")
PIXELS = Code("{pixels}", "UCUM", "Pixels")

# Equipment and algorithms, CID 7005 and CID 7162
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
DE_IDENTIFYING_EQUIPMENT = Code("109104", "DCM", "De-identifying Equipment")
ARTIFICIAL_INTELLIGENCE = codes.DCM.ArtificialIntelligence


#: Label Map Segmentation Storage (Supplement 243): a SOP Class that pydicom 3.0 does not know
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"


def private(value: str, meaning: str) -> Code:
    """A concept for which no standard code was found: scheme 99RADNODE (PS3.3 section 8.2, private scheme designator)."""
    return Code(value, "99RADNODE", meaning)


def chance_said(chance: float, *, decimals: int = 0) -> str:
    """A probability in percent; what is not quite sure is not rounded to 0 or 100: ">99 %", "<0.1 %"."""
    least = 10.0**-decimals
    shown = round(100 * chance, decimals)
    if shown >= 100:
        return f">{100 - least:.{decimals}f} %"
    return f"<{least:.{decimals}f} %" if shown <= 0 else f"{shown:.{decimals}f} %"


def number_said(value: float, *, digits: int = 4) -> str:
    """A number with the digits that count, and never "6.012e+04": nobody reads an area so."""
    shown = f"{value:.{digits}g}"
    return f"{float(shown):.0f}" if "e+" in shown else shown


def unit_said(ucum: str) -> str:
    """A unit as people write it: "mm2" is mm², and counts and shares (UCUM annotations, 1) have none."""
    if ucum.startswith("{") or ucum == "1":
        return ""
    return re.sub("(?<=[a-z])[23]$", lambda power: {"2": "²", "3": "³"}[power[0]], ucum)
