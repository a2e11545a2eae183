"""What somebody hands in to be looked at once: files told apart by their first bytes, zips unpacked, everything within limits.

Names of files come from outside: none is used, kept or repeated.
"""

from __future__ import annotations

import stat
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from io import SEEK_END
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, cast

from node.errors import UploadRefused, UploadTooLarge
from node.written_once import WrittenOnce

LARGEST_FILE = 1 << 30  #: bytes: an instance is taken apart in memory
LARGEST_DIRECTORY = 32 << 20  #: bytes of a zip's list of members, which is read in one piece
HEAD = 132
PIECE = 1 << 20
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
TAKEN = "DICOM files, PNG or JPEG pictures, or one zip of a series"
CLUTTER = {"DICOMDIR", "THUMBS.DB", ".DS_STORE"}


class Kind(StrEnum):
    """What a file is, by its first bytes."""

    DICOM = "DICOM"
    PNG = "PNG"
    JPEG = "JPEG"
    ZIP = "zip"


PICTURES = {Kind.PNG, Kind.JPEG}


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """One file: DICOM or a picture. Open at its start."""

    kind: Kind
    file: BinaryIO = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What is to be looked at, and what was said beside it."""

    files: Sequence[Given]
    pipeline: str = ""  #: empty: the rules choose
    told: Mapping[str, float | str] = field(default_factory=dict, repr=False)  #: of the patient, as `imaging.clinical` names it
    modality: str = ""  #: of pictures, where a pipeline takes several


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is taken at once."""

    files: int
    bytes: int  #: unpacked


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """The files of an upload, to be closed by whoever asked for them."""

    files: Sequence[Given]
    left_out: int


def kind_of(head: bytes) -> Kind | None:
    """By the first bytes: PS3.10 7.1, PNG (ISO/IEC 15948 5.2), JPEG (ISO/IEC 10918-1 B.1.1.3), zip (APPNOTE 4.3)."""
    if head[128:132] == b"DICM":
        return Kind.DICOM
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return Kind.PNG
    if head.startswith(b"\xff\xd8\xff"):
        return Kind.JPEG
    return Kind.ZIP if head.startswith((b"PK\x03\x04", b"PK\x05\x06")) else None


def sorted_out(files: Sequence[BinaryIO], limits: Limits, spool: Callable[[], BinaryIO]) -> Unpacked:
    """DICOM files and pictures, those of zips too, in the order in which they came.

    Raises
    ------
    UploadRefused, UploadTooLarge
        With what to do. What was unpacked until then is closed.
    """
    unpacking = _Unpacking(limits, spool)
    try:
        for number, file in enumerate(files, 1):
            unpacking.take(file, number)
        return unpacking.done()
    except BaseException:
        unpacking.close()
        raise


class _Unpacking:
    def __init__(self, limits: Limits, spool: Callable[[], BinaryIO]) -> None:
        self._limits, self._spool = limits, spool
        self._files: list[Given] = []
        self._own: list[BinaryIO] = []
        self._left_out = 0
        self._bytes = 0

    def take(self, file: BinaryIO, number: int) -> None:
        """A file of the request."""
        head = _head(file)
        if not head:
            raise UploadRefused(f"File {number} is empty; send {TAKEN}.")
        kind = kind_of(head)
        if kind is None:
            raise UploadRefused(f"File {number} is of no kind that is taken; send {TAKEN}.")
        if kind is Kind.ZIP:
            self._unzip(file, number)
        else:
            self._keep(kind, file, _size(file))

    def done(self) -> Unpacked:
        """All of it. Raises UploadRefused when there is nothing, or pictures among DICOM files."""
        if not self._files:
            raise UploadRefused(f"There is nothing to look at in the upload; send {TAKEN}.")
        if len({one.kind is Kind.DICOM for one in self._files}) > 1:
            raise UploadRefused("The upload holds DICOM files and pictures; send either these or those.")
        return Unpacked(files=tuple(self._files), left_out=self._left_out)

    def close(self) -> None:
        """Throw away what was unpacked."""
        for file in self._own:
            file.close()

    def _keep(self, kind: Kind, file: BinaryIO, size: int) -> None:
        if size > LARGEST_FILE:
            raise UploadTooLarge(f"One file is larger than {LARGEST_FILE >> 20} MB; send smaller ones.")
        if len(self._files) >= self._limits.files:
            raise UploadTooLarge(f"The upload holds more than {self._limits.files} files (predict.max_files); send one series a request.")
        self._files.append(Given(kind=kind, file=file))

    # --- zips -----------------------------------------------------------------------------------------------------------------
    def _unzip(self, file: BinaryIO, number: int) -> None:
        try:
            with zipfile.ZipFile(cast(BinaryIO, _Sparing(file))) as archive:
                for member in _members(archive, self._limits.files):
                    self._member(archive, member, number)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError):
            raise UploadRefused(f"File {number} is a damaged zip; pack it again.") from None

    def _member(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, number: int) -> None:
        target = self._spool()
        self._own.append(target)
        size = 0
        with archive.open(member) as packed:
            head = packed.read(HEAD)
            kind = kind_of(head)
            if kind is Kind.ZIP:
                raise UploadRefused(f"File {number} is a zip with a zip inside; unpack the inner one first.")
            if kind is None:
                self._left_out += 1
                return
            piece = head
            while piece:  # what a member declares of its size is not believed
                size += len(piece)
                self._bytes += len(piece)
                if self._bytes > self._limits.bytes:
                    raise UploadTooLarge(f"Unpacked the upload is larger than {self._limits.bytes >> 20} MB (web.max_upload_mb).")
                target.write(piece)
                piece = packed.read(PIECE)
        target.seek(0)
        self._keep(kind, target, size)


def _members(archive: zipfile.ZipFile, most: int) -> Iterator[zipfile.ZipInfo]:
    """Those that are files. Raises UploadRefused for one that no honest packer of a series makes."""
    members = archive.infolist()
    if len(members) > 2 * most + 100:  # folders and a viewer's own files count too, but not for ever
        raise UploadTooLarge(f"The zip has {len(members)} members, more than are taken (predict.max_files); send one series a request.")
    for member in members:
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UploadRefused("The zip holds a symbolic link; pack the files themselves.")
        if _leaves(member.filename):
            raise UploadRefused("The zip names a path outside itself; pack the folder of the series.")
        if member.flag_bits & 0x1:
            raise UploadRefused("The zip is encrypted; pack it without a password.")
        if member.compress_type not in METHODS:
            raise UploadRefused("The zip is packed in an unusual way; use the usual one (deflate).")
        name = PurePosixPath(member.filename)
        if not member.is_dir() and name.name.upper() not in CLUTTER and "__MACOSX" not in name.parts:
            yield member


def _leaves(name: str) -> bool:
    return any(path.is_absolute() or ".." in path.parts or path.anchor for path in (PurePosixPath(name), PureWindowsPath(name)))


class _Sparing:
    """A file that is never read in pieces larger than the list of members of a sensible zip: `zipfile` believes what a zip says of itself."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(LARGEST_DIRECTORY + 1 if size < 0 else min(size, LARGEST_DIRECTORY + 1))
        if len(data) > LARGEST_DIRECTORY:
            raise UploadTooLarge("The zip's list of members is too long; send one series a request.")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    head = file.read(HEAD)
    file.seek(0)
    return head


def _size(file: BinaryIO) -> int:
    size = file.seek(0, 2)
    file.seek(0)
    return size


class OneFile:
    """Many files in a single one: each is written in turn, and read in any order. A request of thousands needs no thousand open files."""

    def __init__(self, spool: Callable[[], BinaryIO]) -> None:
        self._file = spool()
        self._lock = threading.Lock()
        self._size = 0

    def spool(self) -> BinaryIO:
        """An empty file at the end. The one before it is not written any more."""
        return cast(BinaryIO, _Part(self, self._size))

    def close(self) -> None:
        """Nothing of it can be read again."""
        self._file.close()

    def write(self, data: bytes, at: int) -> int:
        with self._lock:
            if at != self._size:
                raise ValueError("a file is written once, before the next one begins")
            self._file.seek(0, SEEK_END)
            self._file.write(data)
            self._size += len(data)
            return len(data)

    def read(self, at: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(at)
            return self._file.read(size)


class _Part(WrittenOnce):
    """One of the many."""

    def __init__(self, whole: OneFile, start: int) -> None:
        super().__init__()
        self._whole, self._start = whole, start

    def write(self, data: bytes) -> int:  # type: ignore[override]
        done = self._whole.write(data, self._start + self._size)
        self._size += done
        self._at = self._size
        return done

    def _bytes(self, at: int, size: int) -> bytes:
        return self._whole.read(self._start + at, size)
