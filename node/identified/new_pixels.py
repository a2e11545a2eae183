"""A clean file with some pixels painted over: all others keep their stored values, and so does the transfer syntax where it is lossless."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_encoder
from pydicom.uid import UID

from node.codes import Code
from node.domain import CleanUid, Instance
from node.errors import PixelsUnreadable
from node.identified.cleaning import EXPLICIT, CleanInstance, Opened, open_data_set
from node.identified.elements import encode, encode_item
from node.imaging.decode import frame_count, is_compressed, stored_frames, transfer_syntax, whole

Paint = Callable[[int], tuple[NDArray[np.bool_], int] | None]  #: frame from 1 → which pixels, and their new stored value

#: what is written where a frame was compressed: the same, or its lossless sibling. All others become Explicit VR Little Endian
ENCODED_AS = {
    "1.2.840.10008.1.2.5": "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.80": "1.2.840.10008.1.2.4.80",  # JPEG-LS
    "1.2.840.10008.1.2.4.81": "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90": "1.2.840.10008.1.2.4.90",  # JPEG 2000
    "1.2.840.10008.1.2.4.91": "1.2.840.10008.1.2.4.90",
}
_FEATURES, _METHOD_CODES = 0x00280302, 0x00120064
_PIXEL_DATA, _OFFSETS = 0x7FE00010, (0x7FE00001, 0x7FE00002)


def check_paintable(instance: Instance) -> None:
    """Raises PixelsUnreadable for pixels that can't be painted here: colour, floating point, bits in odd places."""
    header, uid = instance.header, instance.sop_instance_uid
    if whole(header, "SamplesPerPixel", 1) != 1 or str(header.get("PhotometricInterpretation", "")) == "PALETTE COLOR":
        raise PixelsUnreadable(f"{uid} is in colour")
    if whole(header, "BitsAllocated") not in (8, 16, 32) or whole(header, "HighBit", -1) != whole(header, "BitsStored") - 1:
        raise PixelsUnreadable(f"{uid} keeps its pixels in an unusual way")
    if header.get("ModalityLUTSequence"):
        raise PixelsUnreadable(f"{uid} has a table in place of a rescale slope")


def repainted(instance: Instance, paint: Paint, *, method: Code) -> tuple[CleanInstance, bool]:
    """The instance of a clean file without recognizable features, and whether a pixel changed.

    `method` joins the De-identification Method Code Sequence, Recognizable Visual Features (0028,0302) becomes NO.

    Raises
    ------
    PixelsUnreadable
        When the pixels can't be decoded, or do not come back from the encoder as they went in.
    """
    data, syntax = instance.path.read_bytes(), str(transfer_syntax(instance))
    start = 144 + int(struct.unpack_from("<I", data, 140)[0])  # behind our own file meta information: PS3.10 7.1
    opened = open_data_set(data, syntax, start)
    element = opened.pixel_data
    if element is None or element.tag != _PIXEL_DATA:
        raise PixelsUnreadable(f"{instance.sop_instance_uid} has no integer pixel data")
    out: dict[int, bytes | memoryview] = {e.tag: memoryview(data)[e.start : e.end] for e in opened.elements}
    out[_FEATURES] = encode(_FEATURES, b"CS", b"NO", explicit=opened.explicit)
    out[_METHOD_CODES] = _with(opened, method)
    frames = range(1, frame_count(instance.header) + 1)
    blanks = {number: found for number in frames if (found := paint(number)) is not None and found[0].any()}
    if blanks and is_compressed(instance):
        syntax, out[_PIXEL_DATA] = _encapsulated(instance, data, blanks, syntax)
        for tag in _OFFSETS:
            out.pop(tag, None)
    elif blanks:
        value = bytearray(data[element.value : element.value_end])
        _paint_native(instance, value, blanks)
        out[_PIXEL_DATA] = data[element.start : element.value] + bytes(value)
    return (
        CleanInstance(
            sop_class_uid=instance.sop_class_uid,
            sop_instance_uid=instance.sop_instance_uid,
            series_instance_uid=CleanUid(str(instance.header.SeriesInstanceUID)),
            study_instance_uid=CleanUid(str(instance.header.StudyInstanceUID)),
            transfer_syntax_uid=syntax,
            pixels_clean=True,
            written_uid=str(instance.header.SOPInstanceUID),
            chunks=tuple(out[tag] for tag in sorted(out)),
        ),
        bool(blanks),
    )


def _with(opened: Opened, method: Code) -> bytes:
    """The method codes as they stand, and this one, which a source that was de-identified before may claim already."""
    element = opened.top.get(_METHOD_CODES)
    before = opened.data[element.value : element.value_end] if element else b""
    if method.value.encode() in before:
        return opened.data[element.start : element.end] if element else b""
    item = (
        encode(0x00080100, b"SH", method.value.encode(), explicit=opened.explicit)
        + encode(0x00080102, b"SH", method.scheme_designator.encode(), explicit=opened.explicit)
        + encode(0x00080104, b"LO", method.meaning.encode(), explicit=opened.explicit)
    )
    return encode(_METHOD_CODES, b"SQ", before + encode_item(item), explicit=opened.explicit)


def _paint_native(instance: Instance, value: bytearray, blanks: dict[int, tuple[NDArray[np.bool_], int]]) -> None:
    rows, columns, bits = (whole(instance.header, keyword) for keyword in ("Rows", "Columns", "BitsAllocated"))
    pixels = np.frombuffer(value, f"<u{bits // 8}")
    for number, (mask, stored) in blanks.items():
        frame = pixels[(number - 1) * rows * columns : number * rows * columns].reshape(rows, columns)
        frame[mask] = stored & ((1 << bits) - 1)


def _encapsulated(instance: Instance, data: bytes, blanks: dict[int, tuple[NDArray[np.bool_], int]], syntax: str) -> tuple[str, bytes]:
    """The transfer syntax to use and the pixel data element. Frames without paint keep their bytes where the syntax stays."""
    target = ENCODED_AS.get(syntax, EXPLICIT)
    count = frame_count(instance.header)
    numbers = sorted(blanks) if target == syntax else list(range(1, count + 1))
    painted = {}
    for number, (stored, _) in zip(numbers, stored_frames(instance, numbers), strict=True):
        frame = stored.copy()
        if number in blanks:
            mask, value = blanks[number]
            frame[mask] = value
        painted[number] = frame
    if target == EXPLICIT:
        native = b"".join(_little_endian(painted[number]) for number in numbers)
        vr = b"OB" if painted[1].itemsize == 1 else b"OW"
        return target, encode(_PIXEL_DATA, vr, native, explicit=True)
    kept = _frames_as_they_are(data, count) if target == syntax else []
    encoded = [_encoded(instance, painted[n], target) if n in painted else kept[n - 1] for n in range(1, count + 1)]
    head = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    return target, head + encapsulate(encoded) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def _frames_as_they_are(data: bytes, count: int) -> Sequence[bytes]:
    ds = dcmread(BytesIO(data))
    extended = (ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths) if "ExtendedOffsetTableLengths" in ds else None
    return list(generate_frames(ds.PixelData, number_of_frames=count, extended_offsets=extended))


def _little_endian(frame: NDArray[Any]) -> bytes:
    return frame.astype(frame.dtype.newbyteorder("<"), copy=False).tobytes()


def _encoded(instance: Instance, frame: NDArray[Any], target: str) -> bytes:
    """One frame, compressed; decoded again to see that nothing was lost."""
    header = instance.header
    options: dict[str, Any] = {
        "rows": whole(header, "Rows"),
        "columns": whole(header, "Columns"),
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "bits_allocated": whole(header, "BitsAllocated"),
        "bits_stored": whole(header, "BitsStored"),
        "pixel_representation": whole(header, "PixelRepresentation"),
        "photometric_interpretation": str(header.PhotometricInterpretation),
    }
    plain = np.ascontiguousarray(frame)
    try:
        done = get_encoder(UID(target)).encode(plain, **options)
        back = _decoded(done, target, options)
    except Exception as why:  # codecs raise what they like, with values in it
        raise PixelsUnreadable(f"{instance.sop_instance_uid}: its pixels can't be compressed again ({type(why).__name__})") from None
    if not np.array_equal(back, frame):
        raise PixelsUnreadable(f"{instance.sop_instance_uid}: its pixels do not survive compression")
    return bytes(done)


def _decoded(frame: bytes, syntax: str, options: dict[str, Any]) -> NDArray[Any]:
    from pydicom.pixels import get_decoder

    found, _ = get_decoder(UID(syntax)).as_array(encapsulate([frame]), index=0, pixel_keyword="PixelData", **options)
    return np.asarray(found)
