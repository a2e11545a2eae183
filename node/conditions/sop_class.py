"""Which kind of object: SOP Class UID (0008,0016)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from pydicom import uid as uids
from pydicom.config import IGNORE
from pydicom.uid import UID

from node.conditions.interface import OneOf, words_of
from node.domain import Series, Study


class SopClass(OneOf):
    """Which kind of object: a keyword such as CTImageStorage, or a UID. Kept as keywords where there is one."""

    name = "sop_class"
    help = "keywords such as CTImageStorage, or UIDs; one or a list"
    reads = ()

    @classmethod
    def parse(cls, value: Any) -> Self:
        return cls(tuple(_keyword(word) for word in words_of(value, cls.name)))

    def found(self, study: Study, series: Series) -> Sequence[str]:
        return list(dict.fromkeys(_keyword_of(UID(instance.sop_class_uid, validation_mode=IGNORE)) for instance in series.instances))


def _keyword(word: str) -> str:
    if word[0].isdigit():
        uid = UID(word, validation_mode=IGNORE)
        if not uid.is_valid:
            raise ValueError("sop_class: not a UID")
        return _keyword_of(uid)
    known = vars(uids).get(word)
    if not isinstance(known, UID) or known.type != "SOP Class":
        raise ValueError(f"sop_class: {word!r} is not the keyword of a SOP Class; write as in CTImageStorage")
    return word


def _keyword_of(uid: UID) -> str:
    return uid.keyword or str(uid)
