"""The named twins of the nouns in `domain.py`. They refuse to be printed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pydicom.dataset import Dataset

from node.domain import CleanUid, Origin, StudyRef


class _Unprintable:
    """A name must not slip out through a log line or a traceback."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    __str__ = __repr__


@dataclass(frozen=True, kw_only=True, repr=False)
class ReceivedInstance(_Unprintable):
    """One instance as it came, opened from the vault: the data set's bytes in its own transfer syntax, no file meta."""

    sop_class_uid: str
    sop_instance_uid: str  #: original
    transfer_syntax_uid: str
    origin: Origin
    data: bytes


@dataclass(frozen=True, kw_only=True, repr=False)
class IdentifiedStudy(_Unprintable):
    """A settled study with its names. `instances` opens them one at a time, so that memory stays bounded."""

    ref: StudyRef
    instances: Callable[[], Iterator[ReceivedInstance]]
    count: int


@dataclass(frozen=True, kw_only=True, repr=False)
class Identity(_Unprintable):
    """What the way home needs: patient and study modules as they came (PS3.3 C.7.1, C.7.2), original UIDs, the date shift."""

    attributes: Dataset
    original_uid: dict[CleanUid, str] = field(default_factory=dict)
    date_shift_days: int = 0
