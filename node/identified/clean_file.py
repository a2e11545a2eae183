"""A clean file that a face is taken out of: opened, some pixels painted over, and what it says of itself set right."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.codes import Code
from node.domain import CleanUid, Instance
from node.errors import PixelsNotSeen, PixelsUnreadable
from node.identified.cleaning import CleanInstance, Opened, image_of, open_data_set
from node.identified.elements import encode, encode_item
from node.identified.pixel_module import PixelModule
from node.imaging.decode import transfer_syntax, whole

Paint = Callable[[int], tuple[NDArray[np.bool_], int] | None]  #: frame from 1 → which pixels, and their new stored value

_FEATURES, _METHOD_CODES, _PIXEL_DATA = 0x00280302, 0x00120064, 0x7FE00010


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
        When the pixels can't be decoded.
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

    def change(number: int, frame: NDArray[Any]) -> NDArray[Any]:
        found = paint(number + 1)
        if found is None or not found[0].any():
            return frame
        new = frame.copy()
        new[found[0]] = found[1]
        return new

    try:
        image = PixelModule(image_of(opened, out[_PIXEL_DATA], instance.sop_instance_uid), syntax)
        rewritten = image.rewritten(change, explicit=opened.explicit)
    except PixelsNotSeen as why:
        raise PixelsUnreadable(f"{instance.sop_instance_uid} {why.detail}") from None
    if rewritten is not None:
        out |= rewritten.elements
        out[_PIXEL_DATA], syntax = rewritten.chunk, rewritten.transfer_syntax_uid
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
        rewritten is not None,
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
