"""Words that a technologist puts into a film and that say nothing of the person: sides, views, positions. They may stay in the pixels.

From Patient Orientation (PS3.3 C.7.6.1.1.1), View Position and its mammographic views (PS3.16 CID 4014), and lead markers in use.
"""

from __future__ import annotations

SIDES = frozenset(["L", "R", "LT", "RT", "LEFT", "RIGHT", "B", "BILAT", "BILATERAL", "LI", "RE", "D", "S", "G"])
ORIENTATIONS = frozenset(
    ["A", "P", "H", "F", "AL", "AR", "PL", "PR", "AF", "AH", "PF", "PH", "HF", "FH", "ANT", "POST", "SUP", "INF", "LEV"]
)
VIEWS = frozenset(
    [
        "AP",
        "PA",
        "LAT",
        "LL",
        "RL",
        "LATERAL",
        "OBL",
        "OBLIQUE",
        "RAO",
        "LAO",
        "RPO",
        "LPO",
        "RLO",
        "LLO",
        "DECUB",
        "DECUBITUS",
        "LLD",
        "RLD",
        "AXIAL",
        "AX",
        "SAG",
        "COR",
        "FRONTAL",
        "TANG",
        "SKYLINE",
        "MORTISE",
        "INT",
        "EXT",
        "FLEX",
        "EXTENSION",
        "INSP",
        "EXP",
        "STANDING",
    ]
)
MAMMOGRAPHIC = frozenset(
    [
        "CC",
        "MLO",
        "ML",
        "LM",
        "LMO",
        "LCC",
        "RCC",
        "LMLO",
        "RMLO",
        "RML",
        "LML",
        "XCCL",
        "XCCM",
        "XCC",
        "FB",
        "SIO",
        "ISO",
        "CV",
        "AT",
        "RM",
        "RL",
        "RS",
        "ID",
        "MAG",
        "SPOT",
    ]
)
POSITIONS = frozenset(
    [
        "SUPINE",
        "PRONE",
        "ERECT",
        "UPRIGHT",
        "SITTING",
        "SEMI",
        "SEMIERECT",
        "SEMI-ERECT",
        "STANDING",
        "PORTABLE",
        "PORT",
        "MOBILE",
        "BEDSIDE",
        "XTABLE",
        "X-TABLE",
        "WB",
    ]
)
MARKERS = SIDES | ORIENTATIONS | VIEWS | MAMMOGRAPHIC | POSITIONS


def is_marker(text: str) -> bool:
    """Every word of it is a marker, and there are at most three."""
    words = text.upper().replace(".", " ").replace(",", " ").replace("(", " ").replace(")", " ").split()
    return 0 < len(words) <= 3 and all(word in MARKERS for word in words)
