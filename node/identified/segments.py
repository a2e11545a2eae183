"""The segments of the vault: zero-filled files that blocks are appended to, so that a flush moves no metadata."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from node.errors import RecordDamaged
from node.identified.blocks import BLOCK_HEAD, CHUNK_BYTES, PAGE_BYTES, Block

SUFFIX, DRAFT = ".seg", ".new"
# magic, epoch, writer instance
SEGMENT_HEAD = struct.Struct("<8s16s16s24x")
SEGMENT_MAGIC = b"RNVAULT1"


class Segment:
    """A file being appended to. A lock on it (flock) says that its writer lives; the system takes it away with the process."""

    def __init__(self, folder: Path, writer: str, instance: bytes, size: int) -> None:
        epoch = os.urandom(16)
        self.name = f"{writer}-{time.time_ns():016x}{epoch[:4].hex()}"  # a writer's segments in the order of their making
        self.epoch = epoch
        self._size = size
        self._path = folder / (self.name + SUFFIX)
        self._draft = folder / (self.name + DRAFT)
        self._fd = os.open(self._draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            _room_for(folder, size)
            _fill(self._draft, self._fd, size)
            _pwritev(self._fd, [_page(SEGMENT_HEAD.pack(SEGMENT_MAGIC, epoch, instance))], 0)
            os.fsync(self._fd)
        except OSError:
            os.close(self._fd)
            self._draft.unlink(missing_ok=True)
            raise
        self._offset = PAGE_BYTES
        self._append = threading.Lock()
        self._synced = threading.Condition()
        self._asked = self._done = 0
        self._leading = self._failed = False
        self._users = 0
        self._retired = False

    def adopt(self) -> None:
        """Become visible to those who scan."""
        self._draft.rename(self._path)
        _sync_folder(self._path.parent)

    def reserve(self, header: bytes, length: int) -> int | None:
        """Room for a block of `length` bytes, its header written so that a scan can step over it; None: no room left."""
        with self._append:
            if self._failed or self._offset + length > self._size:
                return None
            offset = self._offset
            _pwritev(self._fd, [_page(header)], offset)
            self._offset += length
            return offset

    def write(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        _pwritev(self._fd, parts, offset)

    def sync(self) -> None:
        """Everything written before this call is on the disk. One thread flushes for all that wait."""
        with self._synced:
            self._asked += 1
            mine = self._asked
            while self._leading and self._done < mine:
                self._synced.wait()
            if self._done >= mine:
                return
            if self._failed:  # the system reports a lost write once only; a second flush would lie
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self._leading = True
            upto = self._asked
        failed = True
        try:
            os.fdatasync(self._fd)
            failed = False
        finally:
            with self._synced:
                self._failed = failed
                if not failed:
                    self._done = max(self._done, upto)
                self._leading = False
                self._synced.notify_all()

    def take(self) -> None:
        with self._synced:
            self._users += 1

    def leave(self) -> None:
        with self._synced:
            self._users -= 1
            self._close_when_done()

    def retire(self) -> None:
        """No new block comes; closed when the last record that began here is finished."""
        with self._synced:
            if not self._retired:
                self._retired = True
                self._close_when_done()

    def discard(self) -> None:
        """Prepared, never used."""
        os.close(self._fd)
        self._draft.unlink(missing_ok=True)

    def _close_when_done(self) -> None:
        if self._retired and self._users == 0:
            os.close(self._fd)


def _room_for(folder: Path, size: int) -> None:
    """Rather refuse at once than fill the disk to the brim on every try."""
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _fill(path: Path, fd: int, size: int) -> None:
    """Zeros on the disk, past the page cache where the file system lets us: nobody reads them."""
    os.posix_fallocate(fd, 0, size)
    direct = fd
    with suppress(OSError):
        direct = os.open(path, os.O_WRONLY | os.O_DIRECT)
    zeros = memoryview(mmap.mmap(-1, CHUNK_BYTES))  # at a page border, as O_DIRECT needs it
    try:
        for offset in range(0, size, CHUNK_BYTES):
            _pwritev(direct, [zeros[: min(CHUNK_BYTES, size - offset)]], offset)
    finally:
        if direct != fd:
            os.close(direct)


def _page(data: bytes) -> bytes:
    return data.ljust(PAGE_BYTES, b"\0")


def _pwritev(fd: int, parts: Sequence[bytes | memoryview], offset: int) -> None:
    """All of it: a disk that fills up answers with a short write first."""
    left = [memoryview(part) for part in parts if len(part)]
    while left:
        written = os.pwritev(fd, left, offset)
        offset += written
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class SegmentReader:
    """A segment opened for reading."""

    def __init__(self, folder: Path, segment: str) -> None:
        self.segment = segment
        try:
            self._fd = os.open(folder / (segment + SUFFIX), os.O_RDWR)
        except FileNotFoundError:
            raise RecordDamaged("its segment is gone", segment=segment) from None
        head = self.bytes_at(0, SEGMENT_HEAD.size)
        magic, self.epoch, self.writer = SEGMENT_HEAD.unpack(head) if len(head) == SEGMENT_HEAD.size else (b"", b"", b"")
        if magic != SEGMENT_MAGIC:
            self.close()
            raise RecordDamaged("not a segment of the vault", segment=segment)

    def __enter__(self) -> SegmentReader:
        return self

    def __exit__(self, *why: object) -> None:
        self.close()

    def bytes_at(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def next_block(self, offset: int) -> int | None:
        """Where a header stands after `offset`: at the start of a page."""
        while window := self.bytes_at(offset, CHUNK_BYTES):
            for at in range(0, len(window), PAGE_BYTES):
                if Block.parsed(window[at : at + BLOCK_HEAD.size], self.epoch):
                    return offset + at
            offset += len(window)
        return None

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def truncate(self, length: int) -> None:
        if os.fstat(self._fd).st_size > length:
            os.ftruncate(self._fd, length)

    def close(self) -> None:
        os.close(self._fd)


def has_writer(path: Path) -> bool:
    """Somebody holds the lock of the segment."""
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
