"""The blocks of the vault: how a record lies on the disk.

A block is a header, which is the authenticated data of what follows, then up to three sealed parts: what the record is (first
block), the data, and the end with size and digest (last block). Only the clean study UID and a mark of the key are in the clear.
"""

from __future__ import annotations

import hmac
import json
import re
import struct
import zlib
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from node.domain import Channel, CleanUid, Origin
from node.errors import VaultError
from node.identified.keys import NONCE_BYTES, TAG_BYTES

CHUNK_BYTES = 1 << 20  #: of data in a block, at most
PAGE_BYTES = 4096  #: blocks begin and end at pages: no page has to be read before it is written
OVERHEAD = NONCE_BYTES + TAG_BYTES  #: of a sealed part
# magic, flags, block number, sealed lengths of meta, data and end, record, study (the number in 2.25.<number>), key mark, CRC
BLOCK_HEAD = struct.Struct("<4sB3xIIII16s16s8sI")
BLOCK_MAGIC = b"BLK1"
FIRST, LAST, VOID = 1, 2, 4  #: flags; void: the record will not be finished

Extent = list[Any]  #: [segment, offset, length] of one block, as JSON keeps it


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


class Block(NamedTuple):
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
        return int(BLOCK_HEAD.size + self.meta_bytes + self.data_bytes + self.end_bytes)

    @property
    def length(self) -> int:
        """On disk, padding included."""
        return -(-self.used // PAGE_BYTES) * PAGE_BYTES

    def packed(self, epoch: bytes) -> bytes:
        """With a checksum over epoch and header: what an earlier life of the file left behind is not taken for a block."""
        head = BLOCK_HEAD.pack(BLOCK_MAGIC, *self, 0)
        return head[:-4] + struct.pack("<I", zlib.crc32(head[:-4], zlib.crc32(epoch)))

    @classmethod
    def parsed(cls, raw: bytes, epoch: bytes) -> Block | None:
        if (
            len(raw) < BLOCK_HEAD.size
            or raw[:4] != BLOCK_MAGIC
            or zlib.crc32(raw[:-4], zlib.crc32(epoch)) != struct.unpack("<I", raw[-4:])[0]
        ):
            return None
        return cls(*BLOCK_HEAD.unpack(raw)[1:-1])

    def clean_uid(self) -> CleanUid:
        return CleanUid(f"2.25.{int.from_bytes(self.study, 'big')}")


def study_number(study: CleanUid) -> bytes:
    if not re.fullmatch(r"2\.25\.[0-9]{1,39}", study):
        raise VaultError("a study is named by a clean UID below 2.25")
    return int(study[5:]).to_bytes(16, "big")


def key_mark(key: bytes) -> bytes:
    """Tells a key from its successor without giving it away."""
    return sha256(b"radnode key mark\0" + key).digest()[:8]


def sealed_length(data: int) -> int:
    return data + OVERHEAD


def aad(epoch: bytes, header: bytes, part: bytes) -> bytes:
    return epoch + header + part


def meta_bytes(meta: Meta) -> bytes:
    fields: dict[str, Any] = {name: getattr(meta, name) for name in Meta.__slots__}
    fields["origin"] = origin_json(meta.origin)
    return json.dumps(fields).encode()


def meta_from(data: bytes) -> Meta:
    fields = json.loads(data)
    return Meta(**{**fields, "origin": origin_from_json(fields["origin"])})


def origin_json(origin: Origin) -> dict[str, str]:
    """An Origin as JSON keeps it."""
    return {**{name: getattr(origin, name) for name in Origin.__slots__}, "received_at": origin.received_at.isoformat()}


def origin_from_json(fields: dict[str, str]) -> Origin:
    """What `origin_json` took."""
    told = {**fields, "channel": Channel(fields["channel"]), "received_at": datetime.fromisoformat(fields["received_at"])}
    return Origin(**told)  # type: ignore[arg-type]
