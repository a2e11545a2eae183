"""What an object says of its own de-identification (PS3.15 E.1.1), with what an earlier de-identifier did before us."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from node import __version__
from node.codes import Code
from node.identified.profile import BASIC_PROFILE, OPTION_CODES

METHOD = (f"Radnode {__version__}", "PS3.15 Table E.1-1 2026c")
_OURS = re.compile(r"Radnode \S+|PS3\.15 Table E\.1-1 \w+")
#: cleaning stays done whoever did it; what an earlier de-identifier retained is only true for as long as we retain it too
CLEANED = ("113100", "113101", "113102", "113103", "113104", "113105")
_CODES = {code.value: code for code in (BASIC_PROFILE, *OPTION_CODES.values())}
_STRENGTH = ("UNMODIFIED", "MODIFIED", "REMOVED")
LONGEST, MOST = 64, 16


def method(before: Iterable[str], kept_words: Callable[[str], str]) -> tuple[str, ...]:
    """De-identification Method (0012,0063): what an earlier tool said of itself, as far as words may stay, then ours."""
    earlier = [words[:LONGEST] for text in before if not _OURS.fullmatch(text) and (words := kept_words(text))]
    return (*dict.fromkeys(earlier[:MOST]), *METHOD)


def method_codes(before: Iterable[str], ours: tuple[Code, ...]) -> tuple[Code, ...]:
    """De-identification Method Code Sequence (0012,0064): ours, and what was cleaned before; in the order of CID 7050."""
    known = {code.value: code for code in ours}
    for value in before:
        if value in CLEANED and value not in known:
            known[value] = _CODES[value]
    return tuple(known[value] for value in sorted(known))


def longitudinal(before: str, ours: str) -> str:
    """Longitudinal Temporal Information Modified (0028,0303): the strongest thing that was ever done to the dates."""
    return max((before if before in _STRENGTH else "UNMODIFIED", ours), key=_STRENGTH.index)
