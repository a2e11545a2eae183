"""The Image Pixel module of one instance: its frames as they were stored, and written anew where text or a face is painted over.

What was native or losslessly compressed stays so where a codec at hand can write it, near-lossless becomes lossless, all else native.
PS3.3 C.7.6.3, PS3.5 A.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_decoder, get_encoder
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from node.errors import PixelsNotSeen, PixelsUnreadable
from node.identified.boxes import Box
from node.identified.elements import encode
from node.identified.painting import black, painted
from node.identified.rendering import Picture, pictures
from node.imaging.decode import LIMIT_BYTES, MOST_FRAMES, frame_count, whole

NATIVE = frozenset({str(ImplicitVRLittleEndian), str(ExplicitVRLittleEndian)})
Change = Callable[[int, NDArray[Any]], NDArray[Any]]  #: frame from 0 and its stored values → those in their place, the same array or a copy
#: the syntax that is written where one came: the same, or its lossless sibling
KEPT_AS = {
    str(RLELossless): str(RLELossless),
    str(JPEGLSLossless): str(JPEGLSLossless),
    str(JPEGLSNearLossless): str(JPEGLSLossless),
    str(JPEG2000Lossless): str(JPEG2000Lossless),
    str(JPEG2000): str(JPEG2000Lossless),
}
#: whose encoder is taken: one that raises where another would end the process
ENCODERS = {str(RLELossless): "pylibjpeg", str(JPEGLSLossless): "pyjpegls", str(JPEG2000Lossless): "pylibjpeg"}
LOSSY = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 81))  #: always lossy; others may or may not be

_PHOTOMETRIC, _PLANAR, _BITS_ALLOCATED, _LOSSY = 0x00280004, 0x00280006, 0x00280100, 0x00282110
#: smallest and largest values, and where frames lay: not true of other pixels
_OUTDATED = (0x00280106, 0x00280107, 0x00280108, 0x00280109, 0x00280110, 0x00280111, 0x7FE00001, 0x7FE00002, 0x7FE00003)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """Pixel data that was written anew, and the elements that say how."""

    transfer_syntax_uid: str
    chunk: bytes  #: the whole pixel data element
    elements: dict[int, bytes] = field(repr=False)  #: by tag, encoded; empty: the element goes


class PixelModule:
    """
    Parameters
    ----------
    ds
        Groups 0028 and 7FE0 of the instance, and SOPInstanceUID: the clean one, for messages.
    """

    def __init__(self, ds: Dataset, transfer_syntax_uid: str) -> None:
        self.ds, self.transfer_syntax_uid = ds, transfer_syntax_uid
        self.rows, self.columns = whole(ds, "Rows"), whole(ds, "Columns")
        self.count = frame_count(ds)

    def frames(self, numbers: Sequence[int] | None = None) -> Iterator[tuple[NDArray[Any], str]]:
        """(stored values, (rows, columns) or (rows, columns, 3); Photometric Interpretation) of all frames, or of those from 1 on that are named.

        Raises
        ------
        PixelsNotSeen
            They can't be decoded, or are more than can be held.
        """
        self._check()
        try:
            decoder = get_decoder(UID(self.transfer_syntax_uid))
            indices = None if numbers is None else [number - 1 for number in numbers]
            seen = 0
            for array, facts in decoder.iter_array(self.ds, indices=indices, raw=True):
                if seen == (self.count if numbers is None else len(numbers)):
                    return  # a stream may hold more than it declares; nobody shows them
                seen += 1
                photometric = str(facts["photometric_interpretation"])
                yield array, "YBR_FULL" if photometric == "YBR_FULL_422" else photometric  # the decoder gives each pixel its own colour
        except Exception as why:  # codecs raise what they like, with values in it: only its kind is told
            raise self._unseen(type(why).__name__) from None
        if seen < (self.count if numbers is None else len(numbers)):
            raise self._unseen("frames are missing")

    def pictures(self, frame: NDArray[Any], photometric: str) -> list[Picture]:
        """The frame as a viewer shows it, in its windows. Raises PixelsNotSeen."""
        try:
            return pictures(frame, self.ds, photometric)
        except PixelsUnreadable:
            raise self._unseen("a lookup table can't be used") from None

    def masked(self, boxes: Sequence[Box], *, explicit: bool) -> Rewritten | None:
        """With the boxes painted over in every frame; None when that changes no pixel. Raises PixelsNotSeen."""
        frames = list(self.frames())
        fill = black(frames[0][1], [frame for frame, _ in frames], self.ds)
        return self._rewritten(frames, lambda number, frame: painted(frame, boxes, fill), explicit=explicit)

    def rewritten(self, change: Change, *, explicit: bool) -> Rewritten | None:
        """With frames changed one by one; None when no pixel is another one then. Raises PixelsNotSeen."""
        return self._rewritten(list(self.frames()), change, explicit=explicit)

    # --- written anew ---------------------------------------------------------------------------------------------------------
    def _rewritten(self, before: list[tuple[NDArray[Any], str]], change: Change, *, explicit: bool) -> Rewritten | None:
        photometric = before[0][1]
        frames: list[NDArray[Any]] = []
        changed: set[int] = set()
        for number, (old, _) in enumerate(before):
            new = change(number, old)
            if new is not old and not np.array_equal(new, old):
                changed.add(number)
            frames.append(new)
        if not changed:
            return None
        target = KEPT_AS.get(self.transfer_syntax_uid)
        again = self._compressed(target, frames, changed, photometric) if target else None
        if target and again is not None:
            planar = self._planar_when_compressed(target, frames[0])
            return Rewritten(
                transfer_syntax_uid=target,
                chunk=_encapsulated(again),
                elements=self._elements(photometric, frames[0], planar, explicit=explicit),
            )
        syntax = self.transfer_syntax_uid if self.transfer_syntax_uid in NATIVE else str(ExplicitVRLittleEndian)
        return Rewritten(
            transfer_syntax_uid=syntax,
            chunk=self._native(frames, explicit=explicit),
            elements=self._elements(photometric, frames[0], 0, explicit=explicit),
        )

    def _compressed(self, target: str, frames: list[NDArray[Any]], changed: set[int], photometric: str) -> list[bytes] | None:
        """Each frame encoded, and decoded again to see that nothing was lost; None when that can't be done.

        Grey frames in which nothing changed keep their bytes where the transfer syntax stays.
        """
        kept = self._as_they_are() if target == self.transfer_syntax_uid and len(changed) < len(frames) and frames[0].ndim == 2 else []
        out = []
        for number, frame in enumerate(frames):
            data = kept[number] if kept and number not in changed else self._encoded(target, frame, photometric)
            if data is None:
                return None
            out.append(data)
        return out

    def _encoded(self, target: str, frame: NDArray[Any], photometric: str) -> bytes | None:
        facts = self._facts(frame, photometric)
        try:
            data = get_encoder(UID(target)).encode(np.ascontiguousarray(frame), encoding_plugin=ENCODERS[target], **facts)
            facts["planar_configuration"] = self._planar_when_compressed(target, frame)
            back, _ = get_decoder(UID(target)).as_array(encapsulate([data]), index=0, raw=True, pixel_keyword="PixelData", **facts)
        except Exception:  # depth, sign or colour that this encoder does not write: native does
            return None
        return bytes(data) if np.array_equal(back, frame) else None

    def _as_they_are(self) -> list[bytes]:
        """The frames' bytes as they came; none where they can't be told apart."""
        extended = (self.ds.ExtendedOffsetTable, self.ds.ExtendedOffsetTableLengths) if "ExtendedOffsetTableLengths" in self.ds else None
        try:
            found = list(generate_frames(self.ds.PixelData, number_of_frames=self.count, extended_offsets=extended))
        except Exception:  # whatever a library says of odd fragments: then every frame is written anew
            return []
        return found[: self.count] if len(found) >= self.count else []

    def _facts(self, frame: NDArray[Any], photometric: str) -> dict[str, Any]:
        samples = frame.shape[2] if frame.ndim == 3 else 1
        return {
            "rows": self.rows,
            "columns": self.columns,
            "number_of_frames": 1,
            "samples_per_pixel": samples,
            "photometric_interpretation": photometric,
            "bits_allocated": frame.dtype.itemsize * 8,
            "bits_stored": whole(self.ds, "BitsStored"),
            "pixel_representation": whole(self.ds, "PixelRepresentation"),
            **({"planar_configuration": 0} if samples > 1 else {}),
        }

    @staticmethod
    def _planar_when_compressed(target: str, frame: NDArray[Any]) -> int:
        """RLE segments hold one sample each (PS3.5 G.2); the other syntaxes say in their stream how it is."""
        return 1 if target == RLELossless and frame.ndim == 3 else 0

    def _native(self, frames: list[NDArray[Any]], *, explicit: bool) -> bytes:
        keyword = next(k for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if k in self.ds)
        tag = {"PixelData": 0x7FE00010, "FloatPixelData": 0x7FE00008, "DoubleFloatPixelData": 0x7FE00009}[keyword]
        vr = {0x7FE00008: b"OF", 0x7FE00009: b"OD"}.get(tag, b"OB" if frames[0].dtype.itemsize == 1 else b"OW")
        if whole(self.ds, "BitsAllocated") == 1:
            value = np.packbits(np.concatenate([frame.ravel() for frame in frames]), bitorder="little").tobytes()
        else:
            value = b"".join(np.ascontiguousarray(frame, frame.dtype.newbyteorder("<")).tobytes() for frame in frames)
        return encode(tag, vr, value, explicit=explicit)

    def _elements(self, photometric: str, frame: NDArray[Any], planar: int, *, explicit: bool) -> dict[int, bytes]:
        elements = dict.fromkeys(_OUTDATED, b"")
        elements[_PHOTOMETRIC] = encode(_PHOTOMETRIC, b"CS", photometric.encode(), explicit=explicit)
        elements[_PLANAR] = encode(_PLANAR, b"US", planar.to_bytes(2, "little"), explicit=explicit) if frame.ndim == 3 else b""
        if whole(self.ds, "BitsAllocated") != 1:
            bits = (frame.dtype.itemsize * 8).to_bytes(2, "little")
            elements[_BITS_ALLOCATED] = encode(_BITS_ALLOCATED, b"US", bits, explicit=explicit)
        if self.transfer_syntax_uid in LOSSY and not self.ds.get("LossyImageCompression"):
            elements[_LOSSY] = encode(_LOSSY, b"CS", b"01", explicit=explicit)  # once lossy, always said: PS3.3 C.7.6.1.1.5
        return elements

    # --- checks -----------------------------------------------------------------------------------------------------------------
    def _check(self) -> None:
        samples, bits = whole(self.ds, "SamplesPerPixel", 1), max(8, whole(self.ds, "BitsAllocated", 16))
        if samples not in (1, 3) or self.rows <= 0 or self.columns <= 0 or not 0 < self.count <= MOST_FRAMES:
            raise self._unseen("an impossible number of samples, rows, columns or frames")
        if self.rows * self.columns * self.count * samples * bits // 8 > LIMIT_BYTES:
            raise self._unseen(f"more than {LIMIT_BYTES >> 20} MiB of pixels are declared")

    def _unseen(self, why: str) -> PixelsNotSeen:
        return PixelsNotSeen(f"({why})", instance=str(self.ds.get("SOPInstanceUID", "")))


def _encapsulated(frames: Iterable[bytes]) -> bytes:
    """Pixel Data of undefined length with its fragments and the delimiter, PS3.5 A.4."""
    return b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + bytes(encapsulate(list(frames))) + b"\xfe\xff\xdd\xe0\0\0\0\0"
