"""Pixel Data as arrays: native by `frombuffer`, compressed by the installed codecs; never more memory than was declared and allowed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels import get_decoder
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from node.domain import Instance
from node.errors import PixelsUnreadable

Pixels = NDArray[Any]
LIMIT_BYTES = 4 * 2**30  #: decoded pixels of one series; more is refused
MOST_FRAMES = 20_000  #: of one instance


def named(uids: Iterable[object]) -> str:
    """At most five clean SOP Instance UIDs, and how many more there are."""
    every = sorted({str(uid) for uid in uids})
    more = f" and {len(every) - 5} more" if len(every) > 5 else ""
    return ", ".join(every[:5]) + more


def whole(ds: Dataset, keyword: str, default: int = 0) -> int:
    """An integer attribute; `default` when it is absent or not a number."""
    try:
        value = ds.get(keyword)
        return default if value is None or value == "" else int(value)
    except (TypeError, ValueError, OverflowError):
        return default


def frame_count(header: Dataset) -> int:
    """Number of Frames (0028,0008); 1 when it is absent or not a number."""
    return whole(header, "NumberOfFrames", 1)


def is_image(instance: Instance) -> bool:
    """Whether it declares pixels at all: reports, presentation states and the like do not."""
    return "Rows" in instance.header and "Columns" in instance.header


def check_declared(instances: Sequence[Instance], *, limit_bytes: int) -> None:
    """Refuse what can't be held, before any of it is read. Raises PixelsUnreadable."""
    total = 0
    for instance in instances:
        header, uid = instance.header, instance.sop_instance_uid
        rows, columns = whole(header, "Rows"), whole(header, "Columns")
        if rows <= 0 or columns <= 0:
            raise PixelsUnreadable(f"Rows or Columns is 0 in {uid}")
        frames = frame_count(header)
        if not 0 < frames <= MOST_FRAMES:
            raise PixelsUnreadable(f"{uid} declares {frames} frames; 1 to {MOST_FRAMES} can be read")
        samples, bits = whole(header, "SamplesPerPixel", 1), whole(header, "BitsAllocated", 16)
        if samples not in (1, 3) or bits not in (1, 8, 16, 32, 64):
            raise PixelsUnreadable(f"{uid} has an impossible Samples per Pixel or Bits Allocated")
        declared = rows * columns * frames * samples
        halved = header.get("PhotometricInterpretation") == "YBR_FULL_422"  # two pixels share their colour, PS3.3 C.7.6.3.1.2
        if not is_compressed(instance) and _file_size(instance) < declared * bits // 8 * (2 if halved else 3) // 3:
            raise PixelsUnreadable(f"the pixel data of {uid} is shorter than declared")
        total += declared * (4 if samples == 1 else 1)
    if total > limit_bytes:
        raise PixelsUnreadable(f"{total // 2**20} MiB of pixels are declared; {limit_bytes // 2**20} MiB are allowed at once")


def transfer_syntax(instance: Instance) -> UID:
    """From the file meta information; the default transfer syntax where there is none (PS3.5 10.1)."""
    meta = getattr(instance.header, "file_meta", None)
    return UID(str(meta.TransferSyntaxUID)) if meta is not None and "TransferSyntaxUID" in meta else ImplicitVRLittleEndian


def is_compressed(instance: Instance) -> bool:
    """Whether pixels are encapsulated. A syntax that nobody here knows counts as such: nothing is assumed of its bytes."""
    try:
        return bool(transfer_syntax(instance).is_compressed)
    except ValueError:  # not a transfer syntax that pydicom knows
        return True


def stored_frames(instance: Instance, numbers: Sequence[int]) -> Iterator[tuple[Pixels, str]]:
    """The stored values of some frames, in the order asked for.

    Parameters
    ----------
    numbers : frame numbers, from 1

    Yields
    ------
    ((rows, columns) or (rows, columns, 3) array in stored values, Photometric Interpretation after decoding)

    Raises
    ------
    PixelsUnreadable
        No pixel data, shorter than declared, damaged, or no codec for the transfer syntax.
    """
    uid = str(instance.sop_instance_uid)
    try:
        file = instance.path.open("rb")
    except OSError:
        raise PixelsUnreadable(f"the file of {uid} is gone") from None
    with file:
        ds = _read(file, uid, stop_before_pixels=True)
        syntax = transfer_syntax(instance)
        start = file.tell()
        length = None if is_compressed(instance) else _native_length(file.read(12), implicit=syntax == ImplicitVRLittleEndian)
        if length is not None and _is_plain(ds, syntax):
            start += 8 if syntax == ImplicitVRLittleEndian else 12
            yield from _native(ds, file, start, length, numbers, uid)
            return
        file.seek(0)
        ds = _read(file, uid, stop_before_pixels=False)
    if "FloatPixelData" in ds or "DoubleFloatPixelData" in ds:
        yield from _floats(ds, numbers, uid)
    elif "PixelData" not in ds:
        raise PixelsUnreadable(f"{uid} has no pixel data")
    else:
        yield from _by_codec(ds, syntax, numbers, uid)


def _read(file: BinaryIO, uid: str, *, stop_before_pixels: bool) -> FileDataset:
    try:
        return dcmread(file, stop_before_pixels=stop_before_pixels)
    except Exception as why:  # whatever a damaged file makes the parser raise
        raise PixelsUnreadable(f"{uid} can't be read ({type(why).__name__})") from None


def _native_length(head: bytes, *, implicit: bool) -> int | None:
    """The length of Pixel Data (7FE0,0010) from its element header; None when another element stands here, or a length is not told."""
    if head[:4] != b"\xe0\x7f\x10\x00":
        return None
    length = int.from_bytes(head[4:8] if implicit else head[8:12], "little")
    return None if length == 0xFFFFFFFF else length


def _is_plain(ds: Dataset, syntax: UID) -> bool:
    """Whether a frame's bytes are its pixels: native, grey, whole bytes, little endian, no bits in odd places."""
    return (
        syntax != ExplicitVRBigEndian
        and whole(ds, "SamplesPerPixel", 1) == 1
        and whole(ds, "BitsAllocated") in (8, 16, 32)
        and whole(ds, "HighBit", whole(ds, "BitsStored") - 1) == whole(ds, "BitsStored") - 1
        and 0 < whole(ds, "BitsStored") <= whole(ds, "BitsAllocated")
    )


def _native(ds: FileDataset, file: BinaryIO, start: int, length: int, numbers: Sequence[int], uid: str) -> Iterator[tuple[Pixels, str]]:
    """Frame by frame from the file, sign-extended or masked where fewer bits are stored than allocated."""
    rows, columns = whole(ds, "Rows"), whole(ds, "Columns")
    allocated, stored = whole(ds, "BitsAllocated"), whole(ds, "BitsStored")
    signed = whole(ds, "PixelRepresentation") == 1
    dtype = np.dtype(f"<{'i' if signed else 'u'}{allocated // 8}")
    size = rows * columns * dtype.itemsize
    for number in numbers:
        at = (number - 1) * size
        file.seek(start + at)
        data = file.read(size) if 0 <= at <= length - size else b""
        if size == 0 or len(data) < size:
            raise PixelsUnreadable(f"the pixel data of {uid} is shorter than declared")
        frame = np.frombuffer(data, dtype).reshape(rows, columns)
        if stored < allocated:
            unused = allocated - stored
            frame = np.right_shift(np.left_shift(frame, unused), unused) if signed else frame & dtype.type((1 << stored) - 1)
        yield frame, str(ds.get("PhotometricInterpretation", "MONOCHROME2"))


def _floats(ds: FileDataset, numbers: Sequence[int], uid: str) -> Iterator[tuple[Pixels, str]]:
    keyword, dtype = ("FloatPixelData", "<f4") if "FloatPixelData" in ds else ("DoubleFloatPixelData", "<f8")
    rows, columns = whole(ds, "Rows"), whole(ds, "Columns")
    values = np.frombuffer(ds[keyword].value, dtype)
    for number in numbers:
        frame = values[(number - 1) * rows * columns : number * rows * columns]
        if frame.size != rows * columns:
            raise PixelsUnreadable(f"the pixel data of {uid} is shorter than declared")
        yield frame.reshape(rows, columns), "MONOCHROME2"


def _by_codec(ds: FileDataset, syntax: UID, numbers: Sequence[int], uid: str) -> Iterator[tuple[Pixels, str]]:
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise PixelsUnreadable(f"{uid}: transfer syntax {_syntax_name(syntax)} can't be decoded here") from None
    every = list(numbers) == list(range(1, frame_count(ds) + 1))  # in one pass, where single frames are searched from the start
    frames = decoder.iter_array(ds, indices=None if every else [number - 1 for number in numbers])
    try:
        for _ in numbers:
            if (decoded := next(frames, None)) is None:
                raise PixelsUnreadable(f"the pixel data of {uid} is shorter than declared")
            yield decoded[0], str(decoded[1]["photometric_interpretation"])
    except PixelsUnreadable:
        raise
    except MemoryError:
        raise PixelsUnreadable(f"{uid} needs more memory than there is") from None
    except Exception as why:  # codecs raise what they like, with values in it: only its kind is told
        raise PixelsUnreadable(f"{uid}: decoding {_syntax_name(syntax)} failed ({type(why).__name__})") from None


def _syntax_name(syntax: UID) -> str:
    """Its number, and its name where a library knows one."""
    return str(syntax) if syntax.name == str(syntax) else f"{syntax.name} ({syntax})"


def _file_size(instance: Instance) -> int:
    try:
        return instance.path.stat().st_size if transfer_syntax(instance) != "1.2.840.10008.1.2.1.99" else 2**62
    except OSError:
        raise PixelsUnreadable(f"the file of {instance.sop_instance_uid} is gone") from None


def threads_for(instances: Sequence[Instance]) -> int:
    """Codecs work outside the interpreter lock, so compressed series use several threads; reading plain bytes gains nothing."""
    compressed = any(is_compressed(instance) for instance in instances)
    return max(1, min(8, os.cpu_count() or 1, math.ceil(len(instances) / 2))) if compressed else 1
