"""A file that is written once, from start to end, and then read anywhere: the surface of one, whatever holds its bytes."""

from __future__ import annotations

from abc import abstractmethod
from io import SEEK_CUR, SEEK_END, SEEK_SET, RawIOBase


class WrittenOnce(RawIOBase):
    """Whoever inherits keeps the bytes: `write` moves `_size` and `_at` on, `_bytes` gives them back."""

    def __init__(self) -> None:
        self._size = self._at = 0

    @abstractmethod
    def _bytes(self, at: int, size: int) -> bytes:
        """So many bytes from there on; both lie within the file."""

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        self._at = max(0, offset + {SEEK_SET: 0, SEEK_CUR: self._at, SEEK_END: self._size}[whence])
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._at)
        found = self._bytes(self._at, left if size is None or size < 0 else min(size, left))
        self._at += len(found)
        return found

    def readall(self) -> bytes:
        return self.read(-1)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)
