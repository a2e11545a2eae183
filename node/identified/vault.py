"""Identified instances at rest: a log of sealed blocks, one log a writing process. It is also the journal of what arrived.

A log is a row of segment files `<writer>-<epoch>.seg`: zero-filled beforehand, so that making a record durable is one
`fdatasync` that moves no metadata. A record is one block, or several of at most `CHUNK_BYTES` of data each, which may go
on in the next segment. A block is a header, which is the authenticated data of what follows, then up to three sealed parts:
what it is (first block), the data, and the end with size and digest (last block). Only the clean study UID and a mark of
the key stand in the header. Why so: `docs/decisions/0003-vault-as-a-log.md`.
"""

from __future__ import annotations

import errno
import fcntl
import hmac
import json
import mmap
import os
import re
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node import log
from node.domain import Channel, CleanUid, Origin
from node.errors import DiskFull, KeyMissing, RecordDamaged, VaultError
from node.identified.keys import NONCE_BYTES, TAG_BYTES, Keyring

CHUNK_BYTES = 1 << 20
PAGE_BYTES = 4096  #: blocks begin and end at pages: no page has to be read before it is written
_OVERHEAD = NONCE_BYTES + TAG_BYTES
_SUFFIX, _DRAFT = ".seg", ".new"
_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

# magic, epoch, writer instance
_SEGMENT = struct.Struct("<8s16s16s24x")
_SEGMENT_MAGIC = b"RNVAULT1"
# magic, flags, block number, sealed lengths of meta, data and end, record, study (the number in 2.25.<number>), key mark, CRC
_BLOCK = struct.Struct("<4sB3xIIII16s16s8sI")
_BLOCK_MAGIC = b"BLK1"
FIRST, LAST, VOID = 1, 2, 4

_Begun = dict[str, list[tuple[int, str, int, int]]]  # record → (block number, segment, offset, length)

Extent = list[Any]  #: [segment, offset, length] of one block, as JSON keeps it

_log = log.get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Meta:
    """What a record is. Sealed with it: the UIDs are the original ones."""

    study: CleanUid
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Where a committed record lies."""

    extents: list[Extent]
    size: int
    digest: str  #: keyed hash of the data


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Arrival:
    """A complete record that a scan met."""

    meta: Meta
    stored: Stored


class Digest:
    """A keyed hash that costs next to nothing beside the encryption: HMAC-SHA256 over the GMAC of the data.

    GMAC under a secret key is a universal hash; HMAC under a second one hides its value (Carter and Wegman). Equal data,
    equal digest; nothing else can be learnt from it without the site's key.
    """

    def __init__(self, key: bytes) -> None:
        inner = hmac.new(key, b"gmac", sha256).digest()
        self._outer = hmac.new(key, b"hmac", sha256).digest()
        self._gmac = Cipher(algorithms.AES(inner), modes.GCM(bytes(NONCE_BYTES))).encryptor()
        self._size = 0

    def update(self, data: memoryview | bytes | bytearray) -> None:
        self._gmac.authenticate_additional_data(data)
        self._size += len(data)

    def hexdigest(self) -> str:
        self._gmac.finalize()
        return hmac.new(self._outer, self._gmac.tag + self._size.to_bytes(8, "big"), sha256).hexdigest()


# --- blocks ---------------------------------------------------------------------------------------------------------------
class _Block(NamedTuple):
    """A block's header."""

    flags: int
    number: int
    meta_bytes: int
    data_bytes: int
    end_bytes: int
    record: bytes
    study: bytes
    key_mark: bytes

    @property
    def used(self) -> int:
        return int(_BLOCK.size + self.meta_bytes + self.data_bytes + self.end_bytes)

    @property
    def length(self) -> int:
        """On disk, padding included."""
        return -(-self.used // PAGE_BYTES) * PAGE_BYTES

    def packed(self, epoch: bytes) -> bytes:
        """With a checksum over epoch and header: what an earlier life of the file left behind is not taken for a block."""
        head = _BLOCK.pack(_BLOCK_MAGIC, *self, 0)
        return head[:-4] + struct.pack("<I", zlib.crc32(head[:-4], zlib.crc32(epoch)))

    @classmethod
    def parsed(cls, raw: bytes, epoch: bytes) -> _Block | None:
        if len(raw) < _BLOCK.size or raw[:4] != _BLOCK_MAGIC or zlib.crc32(raw[:-4], zlib.crc32(epoch)) != struct.unpack("<I", raw[-4:])[0]:
            return None
        return cls(*_BLOCK.unpack(raw)[1:-1])

    def clean_uid(self) -> CleanUid:
        return CleanUid(f"2.25.{int.from_bytes(self.study, 'big')}")


def _study_number(study: CleanUid) -> bytes:
    if not re.fullmatch(r"2\.25\.[0-9]{1,39}", study):
        raise VaultError("a study is named by a clean UID below 2.25")
    return int(study[5:]).to_bytes(16, "big")


def _key_mark(key: bytes) -> bytes:
    """Tells a key from its successor without giving it away."""
    return sha256(b"radnode key mark\0" + key).digest()[:8]


def _sealed_length(data: int) -> int:
    return data + _OVERHEAD


def _aad(epoch: bytes, header: bytes, part: bytes) -> bytes:
    return epoch + header + part


def _meta_bytes(meta: Meta) -> bytes:
    fields = {name: value for name, value in _fields(meta) if name != "origin"}
    return json.dumps({**fields, "origin": origin_json(meta.origin)}, separators=(",", ":")).encode()


def _fields(meta: Meta) -> Iterator[tuple[str, Any]]:
    return ((name, getattr(meta, name)) for name in Meta.__slots__)


def _meta_from(data: bytes) -> Meta:
    fields = json.loads(data)
    return Meta(**{**fields, "origin": origin_from_json(fields["origin"])})


def origin_json(origin: Origin) -> dict[str, str]:
    """An Origin as JSON keeps it."""
    return {**asdict(origin), "received_at": origin.received_at.isoformat()}


def origin_from_json(fields: dict[str, str]) -> Origin:
    """What `origin_json` took."""
    told = {**fields, "channel": Channel(fields["channel"]), "received_at": datetime.fromisoformat(fields["received_at"])}
    return Origin(**told)  # type: ignore[arg-type]


# --- segments being written ---------------------------------------------------------------------------------------------
class _Segment:
    """A file being appended to. A lock on it (flock) says that its writer lives; the system takes it away with the process."""

    def __init__(self, folder: Path, writer: str, instance: bytes, size: int) -> None:
        epoch = os.urandom(16)
        self.name = f"{writer}-{time.time_ns():016x}{epoch[:4].hex()}"  # a writer's segments in the order of their making
        self.epoch = epoch
        self._size = size
        self._path = folder / (self.name + _SUFFIX)
        self._draft = folder / (self.name + _DRAFT)
        self._fd = os.open(self._draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            _room_for(folder, size)
            _fill(self._draft, self._fd, size)
            _pwritev(self._fd, [_page(_SEGMENT.pack(_SEGMENT_MAGIC, epoch, instance))], 0)
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
        self._current: _Segment | None = None
        self._next: _Segment | None = None
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
        return bytearray(CHUNK_BYTES), bytearray(_sealed_length(CHUNK_BYTES))

    def give_back(self, buffers: tuple[bytearray, bytearray]) -> None:
        with self._lock:
            if len(self._buffers) < 64:
                self._buffers.append(buffers)

    def place(self, header: Callable[[bytes], bytes], length: int) -> tuple[_Segment, int, bytes]:
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

    def _writable(self) -> _Segment:
        with self._lock:
            if self._closed:
                raise VaultError("the writer is closed")
            if self._current is None:
                self._current = self._fresh()
            self._current.take()
            return self._current

    def _move_on(self, full: _Segment) -> None:
        with self._lock:
            if self._current is not full:
                return
            self._current = self._fresh()  # without one, the full segment stays: the next record asks again
            full.retire()

    def _fresh(self) -> _Segment:
        """The prepared segment, or one made now. Called with the lock held."""
        preparing = self._preparing
        if preparing and self._next is None:
            preparing.join(30)
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

    def _prepared(self) -> _Segment | None:
        try:
            return _Segment(self._folder, self._name, self._instance, self._segment_bytes)
        except OSError as why:
            if why.errno not in _SPACE:
                raise
            return None


class Record:
    """An instance on its way into the vault. Its data is held a chunk at a time."""

    def __init__(self, writer: VaultWriter, meta: Meta, key: bytes) -> None:
        self._writer, self._meta = writer, meta
        self._key, self._cipher, self._mark = key, AESGCM(key), _key_mark(key)
        self._id = os.urandom(16)
        self._study = _study_number(meta.study)
        self._digest = writer.digest()
        self._buffers = writer.buffers()
        self._plain, self._sealed = memoryview(self._buffers[0]), memoryview(self._buffers[1])
        self._filled = self._size = self._number = 0
        self._extents: list[Extent] = []
        self._segments: list[_Segment] = []
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
        meta = _meta_bytes(self._meta) if self._number == 0 else b""
        end = b""
        if last:
            self._hex = self._digest.hexdigest()
            end = json.dumps({"size": self._size, "digest": self._hex, "blocks": self._number + 1}).encode()
        block = _Block(
            (FIRST if meta else 0) | (LAST if last else 0),
            self._number,
            _sealed_length(len(meta)) if meta else 0,
            _sealed_length(len(plain)),
            _sealed_length(len(end)) if end else 0,
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
                 for part in (self._sealed_part(text, _aad(segment.epoch, header, name)))] + [bytes(block.length - block.used)],
                offset + _BLOCK.size,
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
        block = _Block(VOID, self._number, 0, 0, 0, self._id, self._study, self._mark)
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
    return DiskFull("the vault's disk is full") if why.errno in _SPACE else why


# --- reading ------------------------------------------------------------------------------------------------------------
@dataclass(kw_only=True)
class Position:
    """How far a segment was scanned, and the records that had begun but not ended there. Kept in the ledger."""

    segment: str
    writer: str = ""  #: the writer instance, in hex
    offset: int = 0
    done: bool = False  #: its writer is gone and all of it was read
    begun: dict[str, list[list[int]]] = field(default_factory=dict)  #: record → [[number, offset, length], …]
    studies: dict[str, str] = field(default_factory=dict)  #: record → clean study UID


@dataclass(kw_only=True)
class Scan:
    """What a turn found. `positions` are to be kept in one transaction with the arrivals."""

    arrivals: list[Arrival] = field(default_factory=list)
    positions: list[Position] = field(default_factory=list)
    unreadable: int = 0  #: records torn by a crash, or whose key is gone

    @property
    def receiving(self) -> set[CleanUid]:
        """Studies of which an instance is arriving."""
        return {CleanUid(study) for position in self.positions for study in position.studies.values()}


class _NotYet(Exception):
    """A block whose writer has not finished with it."""


class _Gone(Exception):
    """A record that can't be had: torn, or its key was shredded."""


class Vault:
    """The folder of all logs. Any process with the keys may read; who writes asks for a `writer` of its own."""

    def __init__(self, folder: Path, keyring: Keyring, segment_bytes: int = 64 << 20) -> None:
        self.folder, self._keyring, self._segment_bytes = folder, keyring, segment_bytes
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def writer(self, name: str) -> VaultWriter:
        """A log for this process. Drafts that an earlier process of the name left are removed."""
        for draft in self.folder.glob(f"{name}-*{_DRAFT}"):
            if not _has_writer(draft):
                draft.unlink(missing_ok=True)
        return VaultWriter(self.folder, name, self._keyring, self._segment_bytes)

    def read_meta(self, extents: Sequence[Extent], study: CleanUid) -> Meta:
        """What a record is, without reading its data."""
        with _Reader(self.folder, extents[0][0]) as reader:
            block = self._block(reader, extents[0], study, 0)
            return _meta_from(self._part(reader, block, extents[0][1], b"m", self._key(block)))

    def read(self, extents: Sequence[Extent], study: CleanUid) -> Iterator[bytes]:
        """The data, a chunk at a time.

        Raises
        ------
        KeyMissing
            The study was purged.
        RecordDamaged
            A block is missing, altered, or out of its place. Chunks given before were authentic.
        """
        size, count = 0, len(extents)
        reader: _Reader | None = None
        block = None
        record = b""
        try:
            for number, extent in enumerate(extents):
                if reader is None or reader.segment != extent[0]:
                    if reader:
                        reader.close()
                    reader = _Reader(self.folder, extent[0])
                block = self._block(reader, extent, study, number)
                if number and block.record != record:
                    raise RecordDamaged("a block of another record")
                record = block.record
                data = self._part(reader, block, extent[1], b"d", self._key(block))
                size += len(data)
                yield data
            if block is None or reader is None or not block.flags & LAST:
                raise RecordDamaged("its end is missing")
            end = json.loads(self._part(reader, block, extents[-1][1], b"e", self._key(block)))
            if (end["size"], end["blocks"]) != (size, count):
                raise RecordDamaged("it has lost a part")
        finally:
            if reader:
                reader.close()

    def open(self, extents: Sequence[Extent], study: CleanUid) -> bytes:
        """All the data at once."""
        return b"".join(self.read(extents, study))

    def scan(self, positions: Sequence[Position], *, at_most: int = 1000) -> Scan:
        """From where the last turn ended: all complete, authentic, durable records that are new.

        A block that its writer has not finished is met again next turn; one whose writer died is stepped over.
        """
        known = {position.segment: position for position in positions}
        scan = Scan()
        living: set[str] = set()
        begun: _Begun = {}
        readers: dict[str, _Reader] = {}
        try:
            for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
                position = known.get(path.stem) or Position(segment=path.stem)
                if position.done:
                    continue
                position = replace(position, studies=dict(position.studies))  # the caller's stays as it was
                alive = _has_writer(path)  # asked before reading: what a dead writer left does not change any more
                try:
                    readers[path.stem] = reader = _Reader(self.folder, path.stem)
                except RecordDamaged:
                    continue
                position.writer = reader.writer.hex()
                if alive:
                    living.add(position.writer)
                scan.positions.append(position)
                position.done = not alive
                for record, parts in position.begun.items():
                    begun.setdefault(record, []).extend((n, position.segment, o, length) for n, o, length in parts)
            for position in scan.positions:
                if len(scan.arrivals) >= at_most:
                    position.done = False
                    continue
                before = len(scan.arrivals)
                self._walk(readers[position.segment], position, begun, scan, living, at_most)
                if len(scan.arrivals) > before:
                    self._make_durable(scan.arrivals[before:], readers)
        finally:
            for reader in readers.values():
                reader.close()
        self._forget_ended(scan, living, begun)
        return scan

    def drop(self, segment: str) -> None:
        """Delete a segment nobody needs."""
        (self.folder / (segment + _SUFFIX)).unlink(missing_ok=True)

    def _walk(
        self,
        reader: _Reader,
        position: Position,
        begun: _Begun,
        scan: Scan,
        living: set[str],
        at_most: int,
    ) -> None:
        final = position.done
        position.offset = position.offset or PAGE_BYTES
        while True:
            if len(scan.arrivals) >= at_most:
                position.done = False
                return
            raw = reader.bytes_at(position.offset, _BLOCK.size)
            block = _Block.parsed(raw, reader.epoch)
            if block is None:
                if not final:
                    return
                offset = reader.next_block(position.offset)
                if offset is None:
                    if not any(raw):
                        reader.truncate(position.offset)  # the rest was never used
                    return
                position.offset = offset  # past bytes that are damaged
                scan.unreadable += 1
                continue
            record = block.record.hex()
            if block.flags & VOID:
                begun.pop(record, None)
            else:
                try:
                    self._meet(reader, block, position, begun, scan, living, final=final)
                except _NotYet:
                    position.done = False
                    return
                except _Gone:
                    begun.pop(record, None)
                    scan.unreadable += 1
            position.offset += block.length

    def _meet(
        self,
        reader: _Reader,
        block: _Block,
        position: Position,
        begun: _Begun,
        scan: Scan,
        living: set[str],
        *,
        final: bool,
    ) -> None:
        record = block.record.hex()
        parts = [*begun.get(record, []), (block.number, position.segment, position.offset, block.length)]
        if not block.flags & LAST:
            begun[record] = parts
            position.studies[record] = block.clean_uid()
            return
        try:
            key = self._key(block)
        except KeyMissing:
            raise _Gone from None
        try:
            end = json.loads(self._part(reader, block, position.offset, b"e", key))
        except RecordDamaged:
            raise (_Gone if final else _NotYet) from None
        extents: list[Extent] = [[segment, offset, length] for _, segment, offset, length in sorted(parts)]
        study = block.clean_uid()
        if len(extents) != end["blocks"] and position.writer in living:
            raise _NotYet  # a part was written to an earlier segment since that was walked
        try:
            if len(extents) != end["blocks"]:
                raise RecordDamaged("a part is missing")
            meta = self.read_meta(extents, study)
            if final:  # after a power cut blocks may be torn that a living writer has surely written
                for _ in self.read(extents, study):
                    pass
        except (RecordDamaged, KeyMissing):
            raise _Gone from None
        begun.pop(record, None)
        scan.arrivals.append(Arrival(meta=meta, stored=Stored(extents=extents, size=end["size"], digest=end["digest"])))

    def _make_durable(self, arrivals: list[Arrival], readers: dict[str, _Reader]) -> None:
        """The ledger must not know of a record that a power cut could still take: then its resending would be a duplicate."""
        for segment in {extent[0] for arrival in arrivals for extent in arrival.stored.extents}:
            if segment in readers:
                readers[segment].sync()

    def _forget_ended(self, scan: Scan, living: set[str], begun: _Begun) -> None:
        """Keep with each segment what began in it; a record of a writer that died will not end any more."""
        by_segment: dict[str, dict[str, list[list[int]]]] = {}
        for record, parts in begun.items():
            for number, segment, offset, length in sorted(parts):
                by_segment.setdefault(segment, {}).setdefault(record, []).append([number, offset, length])
        all_read = {
            writer for writer in {p.writer for p in scan.positions} - living
            if all(p.done for p in scan.positions if p.writer == writer)
        }  # fmt: skip
        for position in scan.positions:
            position.begun = {} if position.writer in all_read else by_segment.get(position.segment, {})
            position.studies = {record: study for record, study in position.studies.items() if record in position.begun}
            if position.begun:
                position.done = False  # until the record that went on elsewhere has ended

    def _block(self, reader: _Reader, extent: Extent, study: CleanUid, number: int) -> _Block:
        block = _Block.parsed(reader.bytes_at(extent[1], _BLOCK.size), reader.epoch)
        if block is None or block.length != extent[2] or block.number != number or block.clean_uid() != study:
            raise RecordDamaged("a block is missing")
        if bool(block.flags & FIRST) != (number == 0):
            raise RecordDamaged("a block is out of its place")
        return block

    def _key(self, block: _Block) -> bytes:
        key = self._keyring.existing_key(block.clean_uid())
        if _key_mark(key) != block.key_mark:
            raise KeyMissing("the study was purged and has come again")
        return key

    def _part(self, reader: _Reader, block: _Block, offset: int, part: bytes, key: bytes) -> bytes:
        start = offset + _BLOCK.size
        at, length = {
            b"m": (start, block.meta_bytes),
            b"d": (start + block.meta_bytes, block.data_bytes),
            b"e": (start + block.meta_bytes + block.data_bytes, block.end_bytes),
        }[part]
        sealed = reader.bytes_at(at, length)
        if len(sealed) != length or length < _OVERHEAD:
            raise RecordDamaged("a block is cut off")
        try:
            view = memoryview(sealed)
            return AESGCM(key).decrypt(view[:NONCE_BYTES], view[NONCE_BYTES:], _aad(reader.epoch, block.packed(reader.epoch), part))
        except InvalidTag:
            raise RecordDamaged from None


class _Reader:
    """A segment opened for reading."""

    def __init__(self, folder: Path, segment: str) -> None:
        self.segment = segment
        try:
            self._fd = os.open(folder / (segment + _SUFFIX), os.O_RDWR)
        except FileNotFoundError:
            raise RecordDamaged("its segment is gone", segment=segment) from None
        head = self.bytes_at(0, _SEGMENT.size)
        magic, self.epoch, self.writer = _SEGMENT.unpack(head) if len(head) == _SEGMENT.size else (b"", b"", b"")
        if magic != _SEGMENT_MAGIC:
            self.close()
            raise RecordDamaged("not a segment of the vault", segment=segment)

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *why: object) -> None:
        self.close()

    def bytes_at(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def next_block(self, offset: int) -> int | None:
        """Where a header stands after `offset`: at the start of a page."""
        while window := self.bytes_at(offset, CHUNK_BYTES):
            for at in range(0, len(window), PAGE_BYTES):
                if _Block.parsed(window[at : at + _BLOCK.size], self.epoch):
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


def _has_writer(path: Path) -> bool:
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
