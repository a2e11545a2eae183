"""What a rule may ask of a series. One file a condition; its file name is the key in the rules' YAML."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Self

from pydicom.dataset import Dataset

from node.domain import Series, Study
from node.header_text import texts_of

MOST_VALUES, LONGEST_VALUE = 200, 64  #: LO is at most 64 characters, PS3.5 Table 6.2-1


class Condition(ABC):
    """A question with a typed answer. Pure: reads clean headers only, never pixels, files or the clock."""

    help: ClassVar[str]  #: one line for `radnode explain` and the documentation
    reads: ClassVar[tuple[str, ...]]  #: keywords of the attributes it asks, macros of functional groups too: what is kept for replay

    @classmethod
    @abstractmethod
    def parse(cls, value: Any) -> Condition:
        """The condition from its YAML value. Raises ValueError with a sentence that says what is allowed."""

    @abstractmethod
    def ask(self, study: Study, series: Series) -> tuple[bool, str]:
        """Whether the series meets it, and why, in words without a patient: `modality CT is one of CT, PT`."""


# --- shapes that several conditions share -----------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class OneOf(Condition):
    """Met when the series has one of some words. `*` and `?` stand for any letters and any letter; case does not count."""

    words: tuple[str, ...]

    name: ClassVar[str]
    allowed: ClassVar[tuple[str, ...]] = ()  #: the only words there are; empty: any

    @classmethod
    def parse(cls, value: Any) -> Self:
        words = words_of(value, cls.name)
        if cls.allowed:
            words = tuple(word.upper() for word in words)
            if wrong := [word for word in words if word not in cls.allowed]:
                raise ValueError(f"{cls.name}: {wrong[0]!r} is not one of {', '.join(cls.allowed)}")
        return cls(words)

    @abstractmethod
    def found(self, study: Study, series: Series) -> Sequence[str]:
        """What the series has; empty when it does not say."""

    def ask(self, study: Study, series: Series) -> tuple[bool, str]:
        there = [text for text in self.found(study, series) if text]
        shown, wanted = "/".join(text[:32] for text in there[:4]), ", ".join(self.words)
        if not there:
            return False, f"{self.name} is not told; {wanted} is wanted"
        met = any(matches(word, text) for word in self.words for text in there)
        return met, f"{self.name} {shown} is {'one' if met else 'none'} of {wanted}"


@dataclass(frozen=True, slots=True)
class Words(Condition):
    """Met when a text holds one of some words, whole and in any case; with `*` or `?` the whole text must match.

    The text itself is not repeated in the answer: a description may hold more than it should.
    """

    words: tuple[str, ...]

    name: ClassVar[str]
    keyword: ClassVar[str]  #: of the attribute, the one in `reads`

    @classmethod
    def parse(cls, value: Any) -> Self:
        return cls(words_of(value, cls.name))

    def ask(self, study: Study, series: Series) -> tuple[bool, str]:
        text = text_of(series.header, self.keyword)
        hit = next((word for word in self.words if mentions(text, word)), None)
        if hit is not None:
            return True, f"{self.name} matches {hit}"
        return (
            False,
            f"{self.name} {'is empty' if not text else 'matches none of'}{'; wanted is' if not text else ''} {', '.join(self.words)}",
        )


@dataclass(frozen=True, slots=True)
class Range(Condition):
    """Met when a number lies between `min` and `max`, both included; one of them may be left out."""

    low: float
    high: float

    name: ClassVar[str]
    told: ClassVar[bool] = True  #: whether the answer may repeat the number

    @classmethod
    def parse(cls, value: Any) -> Self:
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = {"min": value, "max": value}
        if not isinstance(value, dict) or not value or set(value) - {"min", "max"}:
            raise ValueError(f"{cls.name}: a number, or min and max, as in {{min: 20, max: 400}}")
        for number in value.values():
            if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) < 1e9:
                raise ValueError(f"{cls.name}: min and max are numbers")
        low, high = float(value.get("min", -math.inf)), float(value.get("max", math.inf))
        if low > high:
            raise ValueError(f"{cls.name}: min is larger than max")
        return cls(low, high)

    @abstractmethod
    def measured(self, study: Study, series: Series) -> float | None:
        """The number; None when the series does not say."""

    def ask(self, study: Study, series: Series) -> tuple[bool, str]:
        number = self.measured(study, series)
        if number is None or not math.isfinite(number):
            return False, f"{self.name} is not told; {self._wanted()} is wanted"
        met = self.low <= number <= self.high
        shown = f" {number:g}" if self.told else ""
        return met, f"{self.name}{shown} is {'' if met else 'not '}{self._wanted()}"

    def _wanted(self) -> str:
        if math.isinf(self.low):
            return f"at most {self.high:g}"
        return f"at least {self.low:g}" if math.isinf(self.high) else f"between {self.low:g} and {self.high:g}"


# --- reading YAML values and headers ---------------------------------------------------------------------------------------
def words_of(value: Any, name: str) -> tuple[str, ...]:
    """One word or a list of words. Raises ValueError."""
    values = value if isinstance(value, list) else [value]
    if not values or len(values) > MOST_VALUES:
        raise ValueError(f"{name}: give 1 to {MOST_VALUES} words")
    out = []
    for item in values:
        if isinstance(item, bool) or not isinstance(item, str | int | float):
            raise ValueError(f"{name}: a word or a list of words (put words such as yes, no, on and off in quotes)")
        word = str(item).strip()
        if not word or len(word) > LONGEST_VALUE or not word.isprintable():
            raise ValueError(f"{name}: a word has 1 to {LONGEST_VALUE} letters")
        out.append(word)
    return tuple(out)


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text is the pattern; `*` and `?` as in file names, case does not count. Takes len × len steps at most."""
    p, t = pattern.casefold(), text.casefold()
    if "*" not in p and "?" not in p:
        return p == t
    i = j = 0
    star, mark = -1, 0
    while j < len(t):
        if i < len(p) and p[i] == "*":
            star, mark = i, j
            i += 1
        elif i < len(p) and p[i] in ("?", t[j]):
            i, j = i + 1, j + 1
        elif star >= 0:
            mark += 1
            i, j = star + 1, mark
        else:
            return False
    return all(c == "*" for c in p[i:])


def mentions(text: str, word: str) -> bool:
    """Whether a text holds the words in a row, whole; or matches as a whole when there is a `*` or `?` in them."""
    if "*" in word or "?" in word:
        return bool(text) and matches(word, text)
    wanted = plain(word)
    return bool(wanted) and f" {wanted} " in f" {plain(text)} "


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """Lower case, words apart by one space, everything but letters and digits (and + as in C+) gone."""
    return " ".join("".join(c if c.isalnum() or c == "+" else " " for c in text.casefold()).split())


def text_of(ds: Dataset, keyword: str) -> str:
    """One attribute as text, several values joined by a space; empty when absent."""
    return " ".join(texts_of(ds, keyword))


def values_in(series: Series, keyword: str) -> list[str]:
    """The different values of an attribute over the instances of a series, in the order met."""
    return list(dict.fromkeys(text for instance in series.instances for text in texts_of(instance.header, keyword)))


def numbers_in(ds: Dataset, keyword: str, group: str = "") -> list[float]:
    """The numbers of an attribute of the first image: from the functional groups of a multi-frame object, else its own. PS3.3 C.7.6.16."""
    for functional in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        items = ds.get(functional) or [] if group else []
        macros = items[0].get(group) if items else None
        if macros and (found := _numbers(macros[0], keyword)):
            return found
    return _numbers(ds, keyword)


def _numbers(ds: Dataset, keyword: str) -> list[float]:
    try:
        found = [float(text) for text in texts_of(ds, keyword)]
    except ValueError:
        return []
    return found if all(math.isfinite(number) for number in found) else []
