"""What a clean copy must show, attribute by attribute and text by text: the words of an answer key."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items


class Do(StrEnum):
    """What is expected of one attribute, of the pixels, or of one text in them."""

    TAG_RETAINED = "tag retained"  #: there, with the value it had
    TEXT_RETAINED = "text retained"  #: the words are still in it
    TEXT_REMOVED = "text removed"  #: the words are not in it any more
    DATE_SHIFTED = "date shifted"  #: moved by the patient's one shift, or gone
    UID_CHANGED = "uid changed"  #: another one, the same everywhere
    PATIENT_CONSISTENT = "patient consistent"  #: one new Patient ID for one patient, and not another's
    PIXELS_HIDDEN = "pixels hidden"  #: the text can't be read any more
    PIXELS_RETAINED = "pixels retained"  #: nothing but texts has changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """One action of the key.

    `at` is a path: keywords joined by `/` with the number of the item between, as in `RequestAttributesSequence/0/PatientID`; a private
    attribute is `gggg:CREATOR:ee`; for a text in the pixels its number.
    """

    do: Do
    at: str
    words: tuple[str, ...] = ()
    may_go: bool = False  #: the attribute may be gone altogether where a value was asked for


@dataclass(slots=True)
class Planter:
    """Puts values into a data set, and what must become of them into the key."""

    ds: Dataset
    key: list[Expected] = field(default_factory=list)
    path: str = ""

    def keep(self, keyword: str, value: Any) -> None:
        """A value that tells nothing of a person."""
        setattr(self.ds, keyword, value)
        self._expect(Do.TAG_RETAINED, keyword, _words(value))

    def remove(self, keyword: str, value: Any, *words: str) -> None:
        """A value that must go, or the given words of it."""
        setattr(self.ds, keyword, value)
        self._expect(Do.TEXT_REMOVED, keyword, words or _words(value))

    def clean(self, keyword: str, value: str, *, keep: tuple[str, ...], remove: tuple[str, ...] = ()) -> None:
        """A text of both kinds."""
        setattr(self.ds, keyword, value)
        self._expect(Do.TEXT_RETAINED, keyword, keep)
        if remove:
            self._expect(Do.TEXT_REMOVED, keyword, remove)

    def shift(self, keyword: str, when: date | datetime) -> None:
        """A day, or a day and time."""
        text = f"{when:%Y%m%d%H%M%S}" if isinstance(when, datetime) else f"{when:%Y%m%d}"
        setattr(self.ds, keyword, text)
        self._expect(Do.DATE_SHIFTED, keyword, (text,))

    def uid(self, keyword: str, value: str, *, may_go: bool = False) -> None:
        """A UID that names a thing."""
        setattr(self.ds, keyword, value)
        self.key.append(Expected(do=Do.UID_CHANGED, at=self.path + keyword, words=(value,), may_go=may_go))

    def item(self, keyword: str) -> Planter:
        """A new item of a sequence, to plant in."""
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise ValueError(f"no such attribute: {keyword}")
        if tag not in self.ds:
            self.ds.add(DataElement(tag, dictionary_VR(tag), Items()))
        inner = Dataset()
        self.ds[tag].value.append(inner)
        return Planter(inner, self.key, f"{self.path}{keyword}/{len(self.ds[tag].value) - 1}/")

    def private(self, group: int, creator: str, element: int, vr: str, value: Any, *, keep: bool) -> None:
        """A private attribute: a known safe one, or one that must go."""
        self.ds.private_block(group, creator, create=True).add_new(element, vr, value)
        text = value.decode("ascii", "replace").strip("\0") if isinstance(value, bytes) else value
        self._expect(Do.TAG_RETAINED if keep else Do.TEXT_REMOVED, f"{group:04X}:{creator}:{element:02X}", _words(text))

    def _expect(self, do: Do, keyword: str, words: tuple[str, ...]) -> None:
        self.key.append(Expected(do=do, at=self.path + keyword, words=words))


def _words(value: Any) -> tuple[str, ...]:
    return tuple(str(one) for one in value) if isinstance(value, list | tuple) else (str(value),)
