"""Writing into the vault: one log a process, its threads side by side, one flush for all that wait."""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node import log
from node.errors import DiskFull, VaultError
from node.identified.blocks import (
    BLOCK_HEAD,
    CHUNK_BYTES,
    FIRST,
    LAST,
    PAGE_BYTES,
    VOID,
    Block,
    Digest,
    Extent,
    Meta,
    Stored,
    aad,
    key_mark,
    meta_bytes,
    sealed_length,
    study_number,
)
from node.identified.keys import NONCE_BYTES, TAG_BYTES, Keyring
from node.identified.segments import Segment

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_log = log.get(__name__)


class VaultWriter:
    """One process's log. Threads share it: their blocks lie side by side and one flush serves all that wait."""

    def __init__(self, folder: Path, name: str, keyring: Keyring, segment_bytes: int) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", name):
            raise VaultError("a writer's name is letters, digits, '_', '.', '-'")
        self._folder, self._name, self.keyring = folder, name, keyring
        self._segment_bytes = max(segment_bytes // PAGE_BYTES * PAGE_BYTES, 3 * CHUNK_BYTES)
        self._instance = os.urandom(16)
        self._digest_key = keyring.site_key("digests")
        self._lock = threading.Lock()
        self._current: Segment | None = None
        self._next: Segment | None = None
        self._preparing: threading.Thread | None = None
        self._buffers: list[tuple[bytearray, bytearray]] = []
        self._closed = False

    def begin(self, meta: Meta) -> Record:
        """A new record. Nothing is on disk before it is committed, or has grown over `CHUNK_BYTES`."""
        return Record(self, meta, self.keyring.study_key(meta.study))

    def close(self) -> None:
        """The last segment is given up; what was prepared is removed."""
        with self._lock:
            self._closed = True
            preparing = self._preparing
        if preparing:
            preparing.join()
        with self._lock:
            if self._current:
                self._current.retire()
            if self._next:
                self._next.discard()
            self._current = self._next = None

    def digest(self) -> Digest:
        return Digest(self._digest_key)

    def buffers(self) -> tuple[bytearray, bytearray]:
        """One for the data, one for the sealed data; given back, since fresh megabytes cost page faults."""
        with self._lock:
            if self._buffers:
                return self._buffers.pop()
        return bytearray(CHUNK_BYTES), bytearray(sealed_length(CHUNK_BYTES))

    def give_back(self, buffers: tuple[bytearray, bytearray]) -> None:
        with self._lock:
            if len(self._buffers) < 64:
                self._buffers.append(buffers)

    def place(self, header: Callable[[bytes], bytes], length: int) -> tuple[Segment, int, bytes]:
        """A segment with room for a block, taken for the caller; the offset there; the header as written."""
        while True:
            segment = self._writable()
            packed = header(segment.epoch)
            try:
                offset = segment.reserve(packed, length)
            except BaseException:
                segment.leave()
                raise
            if offset is not None:
                return segment, offset, packed
            segment.leave()
            self._move_on(segment)

    def _writable(self) -> Segment:
        with self._lock:
            if self._closed:
                raise VaultError("the writer is closed")
            if self._current is None:
                self._current = self._fresh()
            self._current.take()
            return self._current

    def _move_on(self, full: Segment) -> None:
        with self._lock:
            if self._current is not full:
                return
            self._current = self._fresh()  # without one, the full segment stays: the next record asks again
            full.retire()

    def _fresh(self) -> Segment:
        """The prepared segment, or one made now. Called with the lock held."""
        preparing = self._preparing
        if preparing and self._next is None:
            preparing.join()
        segment, self._next = self._next or self._prepared(), None
        if segment is None:
            raise DiskFull("no room for another segment of the vault")
        segment.adopt()
        self._preparing = threading.Thread(target=self._prepare, name=f"vault-{self._name}", daemon=True)
        self._preparing.start()
        return segment

    def _prepare(self) -> None:
        try:
            self._next = self._prepared()
        except OSError:
            _log.exception("the next segment of the vault could not be prepared; it is tried again when it is needed")

    def _prepared(self) -> Segment | None:
        try:
            return Segment(self._folder, self._name, self._instance, self._segment_bytes)
        except OSError as why:
            if why.errno not in NO_SPACE:
                raise
            return None


class Record:
    """An instance on its way into the vault. Its data is held a chunk at a time."""

    def __init__(self, writer: VaultWriter, meta: Meta, key: bytes) -> None:
        self._writer, self._meta = writer, meta
        self._key, self._cipher, self._mark = key, AESGCM(key), key_mark(key)
        self._id = os.urandom(16)
        self._study = study_number(meta.study)
        self._digest = writer.digest()
        self._buffers = writer.buffers()
        self._plain, self._sealed = memoryview(self._buffers[0]), memoryview(self._buffers[1])
        self._filled = self._size = self._number = 0
        self._extents: list[Extent] = []
        self._segments: list[Segment] = []
        self._open = True

    def write(self, data: memoryview | bytes | bytearray) -> None:
        """The next bytes of the data set. `DiskFull` when there is no room: then abandon the record."""
        taken, end = 0, len(data)
        while taken < end:
            if self._filled == CHUNK_BYTES:
                self._put(last=False)
            count = min(CHUNK_BYTES - self._filled, end - taken)
            self._plain[self._filled : self._filled + count] = data[taken : taken + count]
            self._filled += count
            taken += count

    def commit(self) -> Stored:
        """Durable on return: whoever asks after a power cut finds it again."""
        self._put(last=True)
        try:
            for segment in dict.fromkeys(self._segments):
                segment.sync()
            self._writer.keyring.confirm(self._meta.study, self._key)
        finally:
            self._finish()
        return Stored(extents=self._extents, size=self._size, digest=self._hex)

    def abandon(self) -> None:
        """Give it up; what is already in the log is marked as void. Does nothing to a committed record."""
        if not self._open:
            return
        try:
            if self._extents:
                self._void()
        finally:
            self._finish()

    def _put(self, *, last: bool) -> None:
        """Seal what is held into one block and write it."""
        plain = self._plain[: self._filled]
        self._digest.update(plain)
        self._size += self._filled
        meta = meta_bytes(self._meta) if self._number == 0 else b""
        end = b""
        if last:
            self._hex = self._digest.hexdigest()
            end = json.dumps({"size": self._size, "digest": self._hex, "blocks": self._number + 1}).encode()
        block = Block(
            (FIRST if meta else 0) | (LAST if last else 0),
            self._number,
            sealed_length(len(meta)) if meta else 0,
            sealed_length(len(plain)),
            sealed_length(len(end)) if end else 0,
            self._id,
            self._study,
            self._mark,
        )
        try:
            segment, offset, header = self._writer.place(block.packed, block.length)
        except OSError as why:
            raise _full_or(why) from None
        self._segments.append(segment)
        self._extents.append([segment.name, offset, block.length])
        try:
            segment.write(
                [part for text, name in ((meta, b"m"), (plain, b"d"), (end, b"e")) if len(text) or name == b"d"
                 for part in (self._sealed_part(text, aad(segment.epoch, header, name)))] + [bytes(block.length - block.used)],
                offset + BLOCK_HEAD.size,
            )  # fmt: skip
        except OSError as why:
            with suppress(OSError):
                segment.write([block._replace(flags=VOID).packed(segment.epoch)], offset)
            raise _full_or(why) from None
        self._number += 1
        self._filled = 0

    def _sealed_part(self, text: bytes | memoryview, aad: bytes) -> tuple[bytes, memoryview]:
        nonce = os.urandom(NONCE_BYTES)
        if isinstance(text, bytes):
            return nonce, memoryview(self._cipher.encrypt(nonce, text, aad))
        room = self._sealed[: len(text) + TAG_BYTES]
        self._cipher.encrypt_into(nonce, text, aad, room)
        return nonce, room

    def _void(self) -> None:
        """Say in the log that the record will not be finished, so that no scan waits for it."""
        block = Block(VOID, self._number, 0, 0, 0, self._id, self._study, self._mark)
        try:
            segment, _, _ = self._writer.place(block.packed, block.length)
        except (OSError, VaultError, DiskFull):
            return  # the end of the writer says it too
        segment.leave()

    def _finish(self) -> None:
        if self._open:
            self._open = False
            for segment in self._segments:
                segment.leave()
            self._writer.give_back(self._buffers)


def _full_or(why: OSError) -> Exception:
    return DiskFull("the vault's disk is full") if why.errno in NO_SPACE else why
