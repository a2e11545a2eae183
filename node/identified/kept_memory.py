"""Many files one after another: memory that one needed is kept for the next, and what was there before is no garbage."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  #: glibc, mallopt(3)
AS_MUCH = 256 << 20  #: bytes that may lie free
PIECE = 32 << 20  #: bytes; what is larger is handed back at once as before: the most that glibc takes


@contextmanager
def kept_memory() -> Iterator[None]:
    """For the time of the work, and for processes forked in it."""
    _keep_freed()
    gc.freeze()  # a process of many libraries holds a million objects, which the collector would go through every few hundred files
    try:
        yield
    finally:
        gc.unfreeze()


@cache
def _keep_freed() -> None:
    """Left alone, glibc hands back each image's buffer and asks for another: the kernel then clears every page of it, which costs more than reading the file."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, AS_MUCH)
        mallopt(M_MMAP_THRESHOLD, PIECE)
