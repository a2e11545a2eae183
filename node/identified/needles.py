"""An identifying value as the bytes it may hide in: any case, order, separator, notation and character set."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import permutations
from typing import NamedTuple

from node.identified.identifying import Identifying, Kind, common_words

ALWAYS = ("latin-1", "utf-8", "utf-16-le", "utf-16-be")
#: of the character sets of PS3.3 C.12.1.1.2, tried for what is not ASCII whatever the study says of itself
OTHERS = (
    *("iso8859_2", "iso8859_3", "iso8859_4", "iso8859_5", "iso8859_6", "iso8859_7", "iso8859_8", "iso8859_9", "iso8859_15", "tis_620"),
    *("shift_jis", "euc_jp", "iso2022_jp", "euc_kr", "gb18030"),
)
SHORTEST_LETTERS = 3  #: of a part of a name that is searched for by itself
SHORTEST_IDENTIFIER = 4
SHORTEST_UID = 8
SHORTEST_PHRASE = 5
MOST_PARTS = 4  #: parts of a name that are tried in every order

_BETWEEN = ("", " ", "^", ", ", ",", "_", "-", ".", "^^", "\\")
_PARTS = re.compile(r"[^\W_]+")
_LETTER = re.compile(r"[A-Za-z]")
_WIDE = re.compile("[⺀-퟿豈-﫿]")
_TECHNICAL = re.compile(r"[A-Za-z]{1,2}\d{1,2}[a-z]?|\d{1,3}")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LONG_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")
_GERMAN = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "å": "aa", "ø": "oe", "æ": "ae"})


def load_character_sets() -> None:
    """Python reads each from its own file when it is first asked for."""
    for codec in (*ALWAYS, *OTHERS):
        codecs.lookup(codec)


class Needle(NamedTuple):
    """What a pattern of bytes stands for."""

    kind: Kind
    width: int  #: bytes a character where all are alike: 2 in UTF-16, else 1
    digits: bool  #: it is digits and what stands between them
    alone: bool  #: a single word: it counts where it stands as a word, or is long
    characters: int


def needles(found: Identifying) -> dict[bytes, Needle]:
    """Patterns, in lower case where they are ASCII, and what each stands for. The weightier kind wins."""
    out: dict[bytes, Needle] = {}
    character_sets = [*ALWAYS, *OTHERS, *sorted(found.codecs - {*ALWAYS, *OTHERS, "iso8859", "utf8", "utf_8"})]
    for kind in reversed(Kind):  # the weightiest last: it overwrites
        for form, alone in _forms(kind, found.values.get(kind, ())):
            digits = not _LETTER.search(form) if form.isascii() else not any(c.isalpha() for c in form)
            for pattern, width in _encoded(form, character_sets):
                out[pattern] = Needle(kind, width, digits, alone, len(form))
    for raw in found.raw:
        out[raw.lower()] = Needle(Kind.NAME, 1, False, False, len(raw))
    return out


def _forms(kind: Kind, values: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """(a way to write it, whether it is a single word)."""
    for value in values:
        match kind:
            case Kind.NAME:
                yield from name_forms(value)
            case Kind.BIRTH_DATE | Kind.DATE:
                yield from ((form, False) for form in date_forms(value))
            case Kind.UID:
                if len(value) >= SHORTEST_UID:
                    yield value, False
            case Kind.IDENTIFIER | Kind.EQUIPMENT:
                yield from ((form, True) for form in identifier_forms(value))
            case Kind.CONTACT | Kind.INSTITUTION:
                yield from ((form, False) for form in phrase_forms(value))
            case Kind.WORD:
                yield value, True


def name_forms(name: str) -> Iterator[tuple[str, bool]]:
    """Each part of a name that tells by itself, and the parts together in every order (PS3.5 6.2.1: component groups, components)."""
    for group in name.split("="):
        parts = list(dict.fromkeys(_PARTS.findall(group)))
        telling = [part for part in parts if _tells(part)]
        for part in telling:
            for spelling in spellings(part):
                yield spelling, True
        together = [part for part in parts if part.casefold() not in _TITLES][:MOST_PARTS]
        if all(part.casefold() in common_words() or _TECHNICAL.fullmatch(part) for part in together):
            continue  # `QC^PHANTOM`, `T2^FLAIR`: a test object, in the words of its descriptions
        for one, two in permutations(together, 2):
            for between in ("",) if one in telling and two in telling else _BETWEEN:
                form = f"{one}{between}{two}"
                if len(form) >= (2 if _WIDE.search(form) else SHORTEST_PHRASE) and not form.isdigit():
                    for spelling in spellings(form):
                        yield spelling, False


_TITLES = frozenset({"dr", "prof", "mr", "mrs", "ms", "md", "phd", "jr", "sr", "ii", "iii", "iv", "med", "herr", "frau", "mme"})


def _tells(part: str) -> bool:
    if part.casefold() in common_words() or part.casefold() in _TITLES:
        return False
    if _WIDE.search(part):
        return len(part) >= 2
    if any(c.isdigit() for c in part):
        return len(part) >= SHORTEST_IDENTIFIER and len(set(part)) > 1
    return len(part) >= SHORTEST_LETTERS and len(set(part.casefold())) > 1


def spellings(text: str) -> set[str]:
    """With its marks, without them, and as a German keyboard without umlauts writes it."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return {text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text), plain, text.translate(_GERMAN)}


def identifier_forms(value: str) -> set[str]:
    """As it is, without what stands between its letters and digits, and without leading zeros."""
    joined = "".join(_PARTS.findall(value))
    forms = {value, joined, joined.lstrip("0")}
    return {
        form for form in forms
        if len(form) >= SHORTEST_IDENTIFIER and len(set(form)) > 1 and sum(c.isalnum() for c in form) >= SHORTEST_IDENTIFIER
        and form.casefold() not in common_words() and (any(c.isdigit() for c in form) or not _all_common(form))
    }  # fmt: skip


def phrase_forms(value: str) -> set[str]:
    """A name of a place, an address, a telephone number: as it is, with other separators, and its digits alone."""
    parts = _PARTS.findall(value)
    forms = {value, " ".join(parts), "".join(parts), "_".join(parts), "^".join(parts)}
    forms = {form for form in forms if len(form) >= SHORTEST_PHRASE and not _all_common(form)}
    digits = "".join(c for c in value if c.isdigit())
    if len(digits) >= 6 and len(digits) >= sum(c.isalpha() for c in value):
        forms |= {digits, digits.lstrip("0"), digits[-7:]}
    return {form for form in forms if len(set(form)) > 1}


def _all_common(text: str) -> bool:
    return all(part.casefold() in common_words() or len(part) < 3 for part in _PARTS.findall(text))


def date_forms(day: str) -> set[str]:
    """A DA value in the notations of people and programs."""
    y, m, d = day[:4], day[4:6], day[6:]
    short = (str(int(m)), str(int(d)))
    forms = {day, d + m + y, m + d + y}
    for sign in "-./":
        forms |= {f"{y}{sign}{m}{sign}{d}", f"{d}{sign}{m}{sign}{y}", f"{m}{sign}{d}{sign}{y}"}
        forms |= {f"{short[1]}{sign}{short[0]}{sign}{y}", f"{short[0]}{sign}{short[1]}{sign}{y}"}
    try:
        date(int(y), int(m), int(d))
    except ValueError:
        return {day}
    for month in (_MONTHS[int(m) - 1], _LONG_MONTHS[int(m) - 1]):
        for number in {d, short[1]}:
            forms |= {f"{number} {month} {y}", f"{number}-{month}-{y}", f"{number}. {month} {y}", f"{month} {number}, {y}"}
    return forms


def _encoded(form: str, character_sets: Iterable[str]) -> Iterator[tuple[bytes, int]]:
    if form.isascii():  # one byte a character in every set but the wide ones
        low = form.lower()
        wide = low.encode("utf-16-le")
        if len(low) >= 3:
            yield low.encode(), 1
        if len(wide) >= 3:
            yield wide, 2
            yield b"\0" + wide[:-1], 2
        return
    cases = {form, form.lower(), form.upper(), form.casefold(), form.title()}
    for codec in character_sets:
        for case in cases:
            try:
                encoded = case.encode(codec)
            except (UnicodeError, LookupError):
                continue
            if codec.startswith("iso2022"):
                encoded = re.sub(rb"\x1b[ -/]+[0-~]", b"", encoded)  # what stands between the escapes
            if len(encoded) >= 3:
                yield encoded.lower(), 2 if codec.startswith("utf-16") else 1
