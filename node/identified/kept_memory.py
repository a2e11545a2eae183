"""Memory that one file needed is kept for the next one, where the C library can be told so."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  #: glibc, mallopt(3)
AS_MUCH = 256 << 20  #: bytes that may lie free
PIECE = 32 << 20  #: bytes; what is larger is handed back at once as before: the most that glibc takes


@cache
def keep_memory() -> None:
    """Left alone, glibc hands back each image's buffer and asks for another: the kernel then clears every page of it, which costs more than reading the file."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, AS_MUCH)
        mallopt(M_MMAP_THRESHOLD, PIECE)
