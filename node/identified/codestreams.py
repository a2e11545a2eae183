"""What JPEG, JPEG-LS and JPEG 2000 streams say beside their pixels: comments and application data, as a camera leaves who, where and when (Exif).

They are overwritten where they lie, so every length and offset stays, and no pixel changes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any

_ITEM = b"\xfe\xff\x00\xe0"
_STARTS = (b"\xff\xd8", b"\xff\x4f")  #: Start of Image, Start of Codestream
_SCAN, _TILE, _DATA = 0xDA, 0x90, 0x93  #: here the pixels begin
_COMMENT, _COMMENT_2000 = 0xFE, 0x64
_APPLICATION = range(0xE0, 0xF0)
_FILL = 0xFF  #: may stand before a marker any number of times, ISO/IEC 10918-1 B.1.1.2

#: what encoders say of themselves, and what a decoder needs: JFIF without thumbnail, the colour transform, a colour profile
_HARMLESS = re.compile(
    rb"(\x00\x01)?(Kakadu-v?[\d.]{1,12}|Created by OpenJPEG version [\d.]{1,12}|OpenJPH Ver [\d.]{1,12}|LEAD Technologies Inc\. V[\d.]{1,8}"
    rb"|Lavc[\d.]{1,12}|Kdu-Layer-Info: log_2\{Delta-D\(squared-error\)/Delta-L\(bytes\)\}, L\(bytes\)[\s\d.,e+-]*)\0*"
    rb"|JFIF\0.{7}\0\0|Adobe.{7}|mrfx.{1,12}|ICC_PROFILE\0.*",
    re.DOTALL,
)


def silenced(data: Any, pos: int, end: int, frames: int) -> bytes | None:
    """The fragments between `pos` and `end` without such texts; None where there is nothing to silence.

    Parameters
    ----------
    frames
        Number of Frames: where each has a fragment of its own, what stands behind its end goes too.
    """
    fragments = list(_fragments(data, pos, end))[1:]  # the first is a table of offsets, PS3.5 A.4
    spoken = [place for start, stop in fragments for place in _spoken(data, start, stop, whole=len(fragments) == frames)]
    if not spoken:
        return None
    out = bytearray(data[pos:end])
    for start, stop in spoken:
        out[start - pos : stop - pos] = bytes(stop - start)
    return bytes(out)


def _fragments(data: Any, pos: int, end: int) -> Iterator[tuple[int, int]]:
    while pos + 8 <= end and data[pos : pos + 4] == _ITEM:
        start = pos + 8
        pos = start + struct.unpack_from("<I", data, pos + 4)[0]
        yield start, min(pos, end)


def _spoken(data: Any, start: int, stop: int, *, whole: bool) -> Iterator[tuple[int, int]]:
    """Where a fragment says something: from here to there. One that goes on with a frame says nothing."""
    if data[start : start + 2] not in _STARTS:
        return
    at = start + 2
    while at + 4 <= stop and data[at] == 0xFF and data[at + 1] not in {_SCAN, _TILE, _DATA}:
        if data[at + 1] == _FILL:
            at += 1
            continue
        marker, following = data[at + 1], min(at + 2 + int.from_bytes(data[at + 2 : at + 4], "big"), stop)
        said = bytes(data[at + 4 : following])
        if (marker in _APPLICATION or marker in {_COMMENT, _COMMENT_2000}) and said.strip(b"\0\1") and not _HARMLESS.fullmatch(said):
            yield at + 4 + (2 if marker == _COMMENT_2000 else 0), following  # which alphabet, comes first
        at = max(following, at + 2)
    last = data.rfind(b"\xff\xd9", at, stop) + 2 if whole else 0
    if last >= 2 and data[last:stop].strip(b"\0\xff"):
        yield last, stop
