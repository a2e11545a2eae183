"""Clean Descriptors: which words of a text are safe (PS3.15 E.3.5). Words of a radiology vocabulary stay, the rest goes."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

LONGEST = 10240  #: a text beyond this is no description; it goes as a whole. LT is 10240 characters, PS3.5 Table 6.2-1

_MONTH = r"(?:jan(?:uary?)?|feb(?:ruary?)?|mar(?:ch)?|m(?:ä|ae)rz|apr(?:il)?|ma[iy]|jun[ei]?|jul[iy]?|aug(?:ust)?|sept?(?:ember)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)"
_DAY, _YEAR, _BETWEEN = r"\d{1,2}(?:st|nd|rd|th)?", r"'?\d{2,4}(?!\d)", r"[ .,/_-]*"
_DATE = re.compile(
    r"(?<!\d)\d+(?:\.\d+){2,}"  # telephone numbers, UIDs and addresses of machines too
    r"|\d{1,4}([./-])\d{1,2}\1\d{1,4}|\d{1,2}:\d{2}(:\d{2})?"
    rf"|(?<!\d){_DAY}{_BETWEEN}{_MONTH}{_BETWEEN}{_YEAR}|(?<![a-z]){_MONTH}{_BETWEEN}{_DAY}[ .,/_-]+{_YEAR}"
    # over 89 years (45 CFR 164.514(b)(2))
    r"|(?<![\d.])(?:9\d|1[0-4]\d)[ -]*(?:y|yo|y/o|y\.o|yrs?|years?|jahre?|jährig\w*)(?![a-z])|(?<![a-z])age[ds]?[ :=]*(?:9\d|1[0-4]\d)(?!\d)",
    re.IGNORECASE,
)
_SPELLED = re.compile(r"[APLRHFSICT]{2}|C?T?L?S?")  #: single letters that mean something beside each other: directions, parts of the spine
_TOKEN = re.compile(r"\d+(?:\.\d+)?(?![A-Za-z0-9]|\.\d)|[^\W_]+(?:\.\d+(?:mm|cm)\b)?", re.UNICODE)
_NUMBER = re.compile(r"\d{1,3}(\.\d{1,3})?")
_DENIES = frozenset({"ohne", "vor", "kein", "keine", "avant", "senza", "zonder"})  #: these go, and what they deny would say the opposite
_QUANTITY = re.compile(
    r"\d{1,4}(\.\d{1,3})?(mm|cm|ms|s|sec|min|kv|kvp|kev|ma|mas|hz|mhz|deg|t|ml|cc|kg|ch|x|d)|\d{1,4}x\d{1,4}(x\d{1,4})?(mm)?", re.IGNORECASE
)
# B70f, Br64, I31s, FC51, Qr40, t2, b1000, te90: kernels and sequence parameters; L5, T12, C7: vertebrae
_TECHNICAL = re.compile(r"[A-Za-z]{1,2}\d{2}[a-z]?|(t[12]|te|tr|ti|fa|b|p|st|sl)\d{1,4}w?|[CTLS]\d{1,2}|[A-Z]", re.IGNORECASE)


@cache
def vocabulary() -> frozenset[str]:
    """The words of `vocabulary.txt`, in lower case."""
    lines = (Path(__file__).parent / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


def clean(text: str, banned: frozenset[str] = frozenset()) -> str:
    """What of a text may stay, in its own spelling; empty when nothing may. Always ASCII.

    A token stays when it is a word of the vocabulary, a short number, a quantity with its unit, or a kernel or sequence parameter; not
    after a word that denies it and goes: "T1 ohne KM" is no "T1 KM".
    Dates, times and ages over 89 years go; neighbouring numbers of five digits or more together go (telephone numbers, identifiers);
    single letters stay only beside a word that stays, and not in a row. `banned` are the patient's own identifiers, in upper case.
    """
    if not text or len(text) > LONGEST:
        return ""
    kept = _pass(text, banned)
    while kept and (again := _pass(kept, banned)) != kept:
        kept = again  # what stands together now may be a number that did not before
    return kept


def _pass(text: str, banned: frozenset[str]) -> str:
    words = vocabulary()
    text = _DATE.sub(" \x00 ", text)
    kept: list[tuple[int, int, str]] = []
    last = ""
    for match in _TOKEN.finditer(text):
        before, token = last, match.group()
        last = token.lower()
        if not token.isascii() or token.upper() in banned or before in _DENIES:
            continue
        if len(token) == 1 and text[match.start() - 1 : match.start()] in {"'", "’"}:
            continue
        if token.lower() in words:
            kind = "word"
        elif _NUMBER.fullmatch(token):
            kind = "number"
        elif _QUANTITY.fullmatch(token) or _TECHNICAL.fullmatch(token):
            kind = "letter" if len(token) == 1 else "technical"
        elif token.isdigit():
            kind = "identifier"  # goes, and takes the numbers beside it along
        else:
            continue
        kept.append((match.start(), match.end(), kind))
    kept = _without_initials(_without_identifiers(kept, text), text)
    if not any(kind in {"word", "technical", "number"} for *_, kind in kept):
        kept = kept if len(kept) == 1 and kept[0][2] == "letter" and len(text.strip()) == 1 else []
    return _join(kept, text)


def _without_identifiers(kept: list[tuple[int, int, str]], text: str) -> list[tuple[int, int, str]]:
    """Drop runs of numbers that make up five digits or more: a telephone number is not a slice thickness."""
    out: list[tuple[int, int, str]] = []
    run: list[tuple[int, int, str]] = []
    numbers = {"number", "identifier"}

    def close() -> None:
        if sum(c.isdigit() for start, end, _ in run for c in text[start:end]) < 5:
            out.extend(item for item in run if item[2] == "number")
        run.clear()

    for item in kept:
        if item[2] in numbers and (not run or text[run[-1][1] : item[0]].strip(" -/.,()+") == ""):
            run.append(item)
            continue
        close()
        if item[2] in numbers:
            run.append(item)
        else:
            out.append(item)
    close()
    return out


def _without_initials(kept: list[tuple[int, int, str]], text: str) -> list[tuple[int, int, str]]:
    """Drop single letters that stand beside each other: initials, and names that are spelled out. `W/O` stays."""
    out: list[tuple[int, int, str]] = []
    run: list[tuple[int, int, str]] = []

    def close() -> None:
        if len(run) < 2 or _SPELLED.fullmatch("".join(text[start:end] for start, end, _ in run).upper()):
            out.extend(run)
        run.clear()

    for item in kept:
        single = item[1] - item[0] == 1 and text[item[0]].isalpha()
        if run and not (single and not any(c.isalnum() or c == "/" for c in text[run[-1][1] : item[0]])):
            close()
        if single:
            run.append(item)
        else:
            out.append(item)
    close()
    return out


def _join(kept: list[tuple[int, int, str]], text: str) -> str:
    """The kept tokens with what stood between neighbours; one space where something was dropped."""
    out = ""
    last = None
    for start, end, _ in kept:
        if last is not None:
            between = text[last:start]
            out += between if len(between) <= 3 and not any(c.isalnum() or not 32 <= ord(c) < 127 or c == "\\" for c in between) else " "
        out += text[start:end]
        last = end
    return out.strip()
