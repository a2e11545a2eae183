"""Models that a process holds in memory from one job to the next, within a budget: the least recently used leaves first."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from node import log

_log = log.get(__name__)

MB = 1 << 20


class Key(NamedTuple):
    """Which model: two versions of a pipeline may be warm side by side."""

    pipeline: str
    version: str
    digest: str
    device: str


@dataclass(frozen=True, slots=True)
class Warm:
    """A pipeline and its model, and what they take in memory."""

    pipeline: Any
    model: Any
    size: int  #: bytes


class WarmModels:
    """Warm models by key, the least recently used first.

    A model that is larger than the whole budget is kept as well, but alone, until another one is wanted.
    """

    def __init__(self, budget_mb: float = float("inf")) -> None:
        self._budget = budget_mb * MB
        self._kept: dict[Key, Warm] = {}

    def __iter__(self) -> Iterator[Key]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes that the warm models take."""
        return sum(warm.size for warm in self._kept.values())

    def fits(self, size: int) -> bool:
        """Whether a model of that many bytes can come without another one leaving."""
        return self.size + size <= self._budget

    def get(self, key: Key) -> Warm | None:
        """The model, which is now the most recently used; None when it is not warm."""
        warm = self._kept.pop(key, None)
        if warm is not None:
            self._kept[key] = warm
        return warm

    def make_room(self, size: int) -> None:
        """Let go of models until one of that many bytes fits. Done before it is loaded, so that both never stand in memory together."""
        left = []
        while self._kept and not self.fits(size):
            key = next(iter(self._kept))
            del self._kept[key]
            left.append(f"{key.pipeline} {key.version}")
        if left:
            _give_memory_back()
            _log.info("models left the memory", extra={"models": ", ".join(left), "kept_mb": self.size // MB})

    def keep(self, key: Key, pipeline: Any, model: Any, size: int) -> Warm:
        """Keep a model that was just loaded; others leave where it does not fit beside them."""
        self._kept.pop(key, None)
        self.make_room(size)
        self._kept[key] = Warm(pipeline, model, size)
        return self._kept[key]


def _give_memory_back() -> None:
    """What python let go of goes back to the system: glibc keeps freed memory for itself otherwise, and torch that of a GPU."""
    gc.collect()  # networks refer to themselves
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
