"""A segmentation in the transfer syntax its destination takes: the same voxels in fewer bytes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from io import BytesIO

from pydicom import dcmread, dcmwrite
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless, SegmentationStorage

from node.codes import LABEL_MAP

SEGMENTATIONS = (SegmentationStorage, LABEL_MAP)
#: the words of `transfer_syntax` in the settings
SYNTAXES: Mapping[str, UID] = {
    "explicit": ExplicitVRLittleEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "jpeg-ls": JPEGLSLossless,
    "rle": RLELossless,
}
# for 8 bits; left to choose, pydicom takes GDCM for RLE, which brings the process down over an odd number of columns
ENCODERS = {RLELossless: "pylibjpeg", JPEGLSLossless: "pyjpegls"}


def syntaxes_of(chosen: str | Sequence[str]) -> tuple[UID, ...]:
    """One word or several, the one that is liked best first. Raises ValueError, for whoever wrote the setting."""
    words = [chosen] if isinstance(chosen, str) else chosen
    if not isinstance(words, list | tuple) or not words or any(word not in SYNTAXES for word in words):
        raise ValueError(f"one or a list of {', '.join(SYNTAXES)}")
    return tuple(SYNTAXES[word] for word in words)


def packed(part10: bytes, syntaxes: Sequence[str], accepted: Collection[str] | None = None) -> bytes:
    """A file as it should go: in the first of the transfer syntaxes that fits, else the very bytes that came in.

    Parameters
    ----------
    syntaxes : Transfer Syntax UIDs, the best first
    accepted : Transfer Syntax UIDs, or None
        Those that the destination said it takes of this SOP Class; None: it was not asked, so what it refuses is seen when it is sent.

    Notes
    -----
    RLE Lossless and JPEG-LS are for 8 bits a pixel. RLE and JPEG 2000 may hold single bits too (CP-2301), but DCMTK and OHIF read no such
    file; JPEG-LS starts at 2 bits. A file of single bits is deflated as a whole, which any reader of PS3.5 A.5 inflates.
    The SOP Instance UID stays: the values are the same (PS3.5 A.4).
    """
    ds = dcmread(BytesIO(part10), stop_before_pixels=True, specific_tags=["SOPClassUID", "BitsAllocated"])
    if ds.SOPClassUID not in SEGMENTATIONS or ds.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian:
        return part10
    taken = [one for one in syntaxes if accepted is None or one in accepted]
    syntax = next((UID(one) for one in taken if ds.BitsAllocated == 8 or one not in ENCODERS), ExplicitVRLittleEndian)
    if syntax == ExplicitVRLittleEndian:
        return part10
    whole = dcmread(BytesIO(part10))
    if syntax in ENCODERS:
        whole.compress(syntax, encoding_plugin=ENCODERS[syntax], generate_instance_uid=False)
    else:
        whole.file_meta.TransferSyntaxUID = syntax
    out = BytesIO()
    dcmwrite(out, whole, enforce_file_format=True)
    return out.getvalue()
