"""Does a text that was recognised in pixels say who the patient is? A reader of pixels mistakes a letter now and then."""

from __future__ import annotations

import re

from node.identified.identifying import Identifying, Kind
from node.identified.markers import is_marker
from node.identified.needles import needles

#: letters and digits that readers of pixels take for one another
_ALIKE = str.maketrans({"0": "o", "1": "i", "l": "i", "|": "i", "5": "s", "8": "b", "2": "z", "6": "g"})
FUZZY = 5  #: characters of a value of which one may be mistaken; shorter ones must stand there as they are, as words of their own
LONG_NUMBER = 7  #: the same for digits alone: measurements are numbers too
WITHIN = 6  #: characters of a value that counts also in the middle of a longer run, as where blanks are lost
SHORTEST = 3
DATES = frozenset({Kind.DATE, Kind.BIRTH_DATE})
KINDS = frozenset({Kind.NAME, Kind.IDENTIFIER, Kind.INSTITUTION, Kind.CONTACT}) | DATES


class Spoken:
    """The identifying values of a study as letters and digits alone."""

    def __init__(self, found: Identifying) -> None:
        fuzzy: dict[str, Kind] = {}
        self._whole: dict[str, Kind] = {}
        for pattern, needle in needles(found).items():
            if needle.width != 1 or needle.kind not in KINDS:
                continue
            try:
                value = "".join(c for c in pattern.decode("utf-8").casefold() if c.isalnum())
            except UnicodeError:
                continue
            if len(value) < SHORTEST:
                continue
            if needle.kind in DATES:
                if len(value) >= 8:
                    self._whole.setdefault(value, needle.kind)
            elif len(value) >= (LONG_NUMBER if value.isdigit() else FUZZY):
                fuzzy.setdefault(_alike(value), needle.kind)
            elif needle.alone or value.isdigit():
                self._whole.setdefault(value, needle.kind)
        self._fuzzy = sorted((kind, value) for value, kind in fuzzy.items())

    def __repr__(self) -> str:
        return "<Spoken>"

    def says(self, text: str) -> Kind | None:
        """Which kind of value the text comes near to: one letter another, missing or too many in a value of five letters or more.

        A date or a short name must stand there exactly; a side or view marker says nothing.
        """
        if is_marker(text):
            return None
        words = [word.casefold() for word in re.findall(r"[^\W_]+", text)]
        joined = "".join(words)
        digits = "".join(re.findall(r"[\d]", text))
        for value, kind in self._whole.items():
            if value in words or (kind in DATES and (value in joined or value == digits)):
                return kind
        alike, squeezed = [_alike(word) for word in words], _alike(joined)
        for kind, value in self._fuzzy:
            if (len(value) >= WITHIN and value in squeezed) or any(near(value, word) for word in (*alike, squeezed)):
                return kind
        return None


def near(value: str, word: str) -> bool:
    """The same, or one character is another, missing or too many."""
    if value == word:
        return True
    if abs(len(value) - len(word)) > 1:
        return False
    at = next((i for i, (a, b) in enumerate(zip(value, word, strict=False)) if a != b), min(len(value), len(word)))
    return value[at + 1 :] == word[at + 1 :] or value[at:] == word[at + 1 :] or value[at + 1 :] == word[at:]


def _alike(text: str) -> str:
    return text.translate(_ALIKE)
