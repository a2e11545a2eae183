"""What was done to a study, counted: actions on attributes by their letter in Table E.1-1, and for each image how its pixels were looked at.

Numbers and clean UIDs only: it stands in the signed report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from node.identified.profile import Act

_LETTER = {
    Act.REMOVE: "X",
    Act.EMPTY: "Z",
    Act.DUMMY: "D",
    Act.UID: "U",
    **dict.fromkeys((Act.DATE, Act.WORDS, Act.CODED), "C"),
    **dict.fromkeys((Act.KEEP, Act.TIME, Act.TECHNICAL, Act.NUMBER, Act.CODE, Act.AGE, Act.ZONE, Act.KEEP_UID), "K"),
}


class Look(StrEnum):
    """How the pixels of an image were looked at. The strongest last."""

    NOBODY = "not looked at: text detection is off"
    NOT_SEEN = "not looked at: a measured image that can't be decoded here"
    FLAT = "not looked at: nothing stands out"
    CLEAR = "looked at: nothing to mask"
    MASKED = "looked at: masked"
    BY_HAND = "released by a person"


_CLOSENESS = {look: number for number, look in enumerate(Look)}


@dataclass(slots=True)
class Account:
    """Filled by the cleaner, one for a study or a part of it."""

    acts: list[int] = field(default_factory=lambda: [0] * len(Act))  #: elements at every depth, by `Act`
    looks: dict[str, Look] = field(default_factory=dict)  #: by clean SOP Instance UID; images only
    boxes: dict[str, int] = field(default_factory=dict)  #: painted over, of images in which any were

    def saw(self, instance: str, look: Look, boxes: int) -> None:
        """How an image was looked at. Of two files of one instance the one that was looked at more closely counts."""
        self.looks[instance] = max(self.looks.get(instance, look), look, key=_CLOSENESS.__getitem__)
        if boxes:
            self.boxes[instance] = self.boxes.get(instance, 0) + boxes

    def forget(self, instances: Iterable[str]) -> None:
        """They were taken away after they had been cleaned."""
        for instance in instances:
            self.looks.pop(instance, None)
            self.boxes.pop(instance, None)

    def merge(self, other: Account) -> None:
        """Add what another process counted."""
        self.acts = [mine + more for mine, more in zip(self.acts, other.acts, strict=True)]
        for instance, look in other.looks.items():
            self.saw(instance, look, other.boxes.get(instance, 0))

    def done(self, *, defaced: int) -> dict[str, Any]:
        """What a report says of it: elements by letter of Table E.1-1, images by how they were looked at."""
        letters = Counter(dict.fromkeys("XZDUCK", 0))
        for act, letter in _LETTER.items():
            letters[letter] += self.acts[act]
        looks = Counter(self.looks.values())
        return {
            "actions": dict(letters),
            "images": {str(look): looks[look] for look in Look if looks[look]},
            "masked_boxes": sum(self.boxes.values()),
            "defaced": defaced,
        }
