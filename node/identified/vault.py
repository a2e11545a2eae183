"""Identified instances at rest: a log of sealed blocks for each writing process, which is also the journal of what arrived.

A log is a row of segment files; a record is one block, or several, which may go on in the next segment.
Why so: `docs/decisions/0003-vault-as-a-log.md`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node.domain import CleanUid
from node.errors import KeyMissing, RecordDamaged
from node.identified.blocks import (
    BLOCK_HEAD,
    FIRST,
    LAST,
    OVERHEAD,
    PAGE_BYTES,
    VOID,
    Block,
    Extent,
    Meta,
    Stored,
    aad,
    key_mark,
    meta_from,
)
from node.identified.keys import NONCE_BYTES, Keyring
from node.identified.segments import DRAFT, SUFFIX, SegmentReader, has_writer
from node.identified.vault_writer import Record, VaultWriter

__all__ = ["Arrival", "Meta", "Position", "Record", "Scan", "Stored", "Vault", "VaultWriter"]

_Begun = dict[str, list[tuple[int, str, int, int]]]  # record → (block number, segment, offset, length)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Arrival:
    """A complete record that a scan met."""

    meta: Meta
    stored: Stored


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
        self._listed: tuple[float, list[Path]] = (0, [])

    def writer(self, name: str) -> VaultWriter:
        """A log for this process. Drafts that an earlier process of the name left are removed."""
        for draft in self.folder.glob(f"{name}-*{DRAFT}"):
            if not has_writer(draft):
                draft.unlink(missing_ok=True)
        return VaultWriter(self.folder, name, self._keyring, self._segment_bytes)

    def read_meta(self, extents: Sequence[Extent], study: CleanUid) -> Meta:
        """What a record is, without reading its data."""
        with SegmentReader(self.folder, extents[0][0]) as reader:
            block = self._block(reader, extents[0], study, 0)
            return meta_from(self._part(reader, block, extents[0][1], b"m", self._key(block)))

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
        reader: SegmentReader | None = None
        block = None
        record = b""
        try:
            for number, extent in enumerate(extents):
                if reader is None or reader.segment != extent[0]:
                    if reader:
                        reader.close()
                    reader = SegmentReader(self.folder, extent[0])
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

    def scan(self, positions: Sequence[Position], *, done: Container[str] = (), at_most: int = 1000) -> Scan:
        """From where the last turn ended: all complete, authentic, durable records that are new.

        A block that its writer has not finished is met again next turn; one whose writer died is stepped over.
        Segments in `done` are not looked at.
        """
        known = {position.segment: position for position in positions}
        scan = Scan()
        living: set[str] = set()
        begun: _Begun = {}
        readers: dict[str, SegmentReader] = {}
        try:
            for path in self._segments():
                position = known.get(path.stem) or Position(segment=path.stem)
                if position.done or path.stem in done:
                    continue
                position = replace(position, studies=dict(position.studies))  # the caller's stays as it was
                alive = has_writer(path)  # asked before reading: what a dead writer left does not change any more
                try:
                    readers[path.stem] = reader = SegmentReader(self.folder, path.stem)
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

    def _segments(self) -> list[Path]:
        """In the order of their making. Listed again only when the folder has changed: it may hold very many."""
        changed = self.folder.stat().st_mtime
        if changed != self._listed[0] or time.time() - changed < 2:  # a time stamp is coarse
            self._listed = (changed, sorted(self.folder.glob(f"*{SUFFIX}")))
        return self._listed[1]

    def drop(self, segment: str) -> None:
        """Delete a segment nobody needs."""
        (self.folder / (segment + SUFFIX)).unlink(missing_ok=True)

    def _walk(
        self,
        reader: SegmentReader,
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
            raw = reader.bytes_at(position.offset, BLOCK_HEAD.size)
            block = Block.parsed(raw, reader.epoch)
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
        reader: SegmentReader,
        block: Block,
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

    def _make_durable(self, arrivals: list[Arrival], readers: dict[str, SegmentReader]) -> None:
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

    def _block(self, reader: SegmentReader, extent: Extent, study: CleanUid, number: int) -> Block:
        block = Block.parsed(reader.bytes_at(extent[1], BLOCK_HEAD.size), reader.epoch)
        if block is None or block.length != extent[2] or block.number != number or block.clean_uid() != study:
            raise RecordDamaged("a block is missing")
        if bool(block.flags & FIRST) != (number == 0):
            raise RecordDamaged("a block is out of its place")
        return block

    def _key(self, block: Block) -> bytes:
        key = self._keyring.existing_key(block.clean_uid())
        if key_mark(key) != block.key_mark:
            raise KeyMissing("the study was purged and has come again")
        return key

    def _part(self, reader: SegmentReader, block: Block, offset: int, part: bytes, key: bytes) -> bytes:
        start = offset + BLOCK_HEAD.size
        at, length = {
            b"m": (start, block.meta_bytes),
            b"d": (start + block.meta_bytes, block.data_bytes),
            b"e": (start + block.meta_bytes + block.data_bytes, block.end_bytes),
        }[part]
        sealed = reader.bytes_at(at, length)
        if len(sealed) != length or length < OVERHEAD:
            raise RecordDamaged("a block is cut off")
        try:
            view = memoryview(sealed)
            return AESGCM(key).decrypt(view[:NONCE_BYTES], view[NONCE_BYTES:], aad(reader.epoch, block.packed(reader.epoch), part))
        except InvalidTag:
            raise RecordDamaged from None
