"""A file for an instance on its way in: small ones stay in memory, large ones lie on disk under a key nobody keeps."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from node.written_once import WrittenOnce

IN_MEMORY = 32 << 20  #: bytes


def spool(folder: Path, *, in_memory: int = IN_MEMORY) -> BinaryIO:
    """An empty file to write, rewind and read. Nothing of it can be read after it is closed, nor after a crash."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return cast(BinaryIO, _Spool(folder, in_memory))


class _Spool(WrittenOnce):
    """Memory up to a size, then an unlinked file in AES-CTR (NIST SP 800-38A 6.5) whose random key is in memory only.

    CTR lets a reader start anywhere: the counter is the block's number. Each byte is written once, at the end, so no
    key stream serves twice. Nobody else can write to the file, hence no authentication.
    """

    def __init__(self, folder: Path, in_memory: int) -> None:
        super().__init__()
        self._folder = folder
        self._in_memory = in_memory
        self._memory: bytearray | None = bytearray()
        self._file = -1
        self._key = b""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if self._at != self._size:
            raise ValueError("a spool is written once, from start to end")
        if self._memory is not None and self._size + len(data) <= self._in_memory:
            self._memory += data
        else:
            if self._memory is not None:
                self._to_disk(self._memory)
            self._write(data, self._size)
        self._size += len(data)
        self._at = self._size
        return len(data)

    def _bytes(self, at: int, size: int) -> bytes:
        if self._memory is not None:
            return bytes(self._memory[at : at + size])
        return self._crypt(os.pread(self._file, size, at), at)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._memory, self._key = bytearray(), b""
        super().close()

    # --- on disk ------------------------------------------------------------------------------------------------------
    def _to_disk(self, content: bytearray) -> None:
        handle, name = tempfile.mkstemp(dir=self._folder, prefix="incoming-")  # mode 0600
        Path(name).unlink()
        self._file, self._key = handle, os.urandom(32)
        self._write(content, 0)
        self._memory = None

    def _write(self, data: bytes | bytearray, at: int) -> None:
        sealed = memoryview(self._crypt(data, at))
        while sealed:
            done = os.pwrite(self._file, sealed, at)
            sealed, at = sealed[done:], at + done

    def _crypt(self, data: bytes | bytearray, at: int) -> bytes:
        block, skip = divmod(at, 16)
        stream = Cipher(algorithms.AES(self._key), modes.CTR(block.to_bytes(16, "big"))).encryptor()
        stream.update(bytes(skip))
        return stream.update(data)
