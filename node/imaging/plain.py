"""A plain picture (PNG, JPEG) as the image that a pipeline reads: decoded in a process of its own, then wrapped as DICOM.

Decoders are native code that a damaged picture can bring down; whoever asks must outlive that.
"""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    MRImageStorage,
    NuclearMedicineImageStorage,
    OphthalmicPhotography8BitImageStorage,
    PositronEmissionTomographyImageStorage,
    UltrasoundImageStorage,
    VLEndoscopicImageStorage,
    VLMicroscopicImageStorage,
    VLPhotographicImageStorage,
    XRayAngiographicImageStorage,
)

import node
from node.errors import PixelsUnreadable, UploadRefused

MOST_PIXELS = 100_000_000
LONGEST_S = 60.0
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")  #: of the environment: no settings, no keys

#: what a picture of a modality is stored as. CT is not among them: a picture holds no Hounsfield units
SOP_CLASS = {
    "CR": ComputedRadiographyImageStorage,
    "DX": DigitalXRayImageStorageForPresentation,
    "MG": DigitalMammographyXRayImageStorageForPresentation,
    "US": UltrasoundImageStorage,
    "MR": MRImageStorage,
    "PT": PositronEmissionTomographyImageStorage,
    "NM": NuclearMedicineImageStorage,
    "XA": XRayAngiographicImageStorage,
    "OP": OphthalmicPhotography8BitImageStorage,
    "ES": VLEndoscopicImageStorage,
    "SM": VLMicroscopicImageStorage,
    "XC": VLPhotographicImageStorage,
}
COLOUR = {"US", "OP", "ES", "SM", "XC"}  #: modalities whose colour says something; of the others the grey is kept


def decoded(data: bytes) -> NDArray[Any]:
    """A picture's pixels: uint8 or uint16, (rows, columns) or (rows, columns, 3) as RGB. Transparency is dropped.

    Raises UploadRefused when it is damaged or too large.
    """
    size = declared_size(data)
    if size is None or 0 in size:
        raise UploadRefused("A picture is damaged: it does not say how large it is. Export it again.")
    if size[0] * size[1] > MOST_PIXELS:
        raise UploadRefused(f"A picture has {size[0]} × {size[1]} pixels; {MOST_PIXELS // 1_000_000} million are taken. Make it smaller.")
    root = str(Path(node.__file__).absolute().parents[1])
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    command = [sys.executable, "-P", "-m", "node.imaging._picture_decoder"]
    try:
        done = subprocess.run(
            command, input=data, capture_output=True, timeout=LONGEST_S, env={**kept, "PYTHONPATH": root}, cwd="/", check=False
        )
        found: NDArray[Any] = np.load(BytesIO(done.stdout), allow_pickle=False)
    except (subprocess.TimeoutExpired, ValueError, EOFError):
        raise UploadRefused("A picture can't be decoded: it is damaged. Export it again.") from None
    return found


def declared_size(data: bytes) -> tuple[int, int] | None:
    """(columns, rows) as a PNG's IHDR (ISO/IEC 15948 11.2.2) or a JPEG's frame header (ISO/IEC 10918-1 B.2.2) says; None without one."""
    if data[12:16] == b"IHDR" and len(data) >= 24:
        columns, rows = struct.unpack_from(">LL", data, 16)
        return int(columns), int(rows)
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOF: all but tables
            rows, columns = struct.unpack_from(">HH", data, at + 5)
            return int(columns), int(rows)
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def as_dicom(pictures: Sequence[NDArray[Any]], *, modality: str, body_part: str = "", view: str = "") -> list[bytes]:
    """Pictures as the instances of one series of a patient of whom nothing is known: DICOM files (PS3.10).

    Parameters
    ----------
    pictures : as `decoded` gives them
    modality : a key of `SOP_CLASS`

    The same pictures give the same UIDs. Nothing is said of spacing, position or window: a picture does not know them.
    """
    digest = hashlib.sha256(modality.encode())
    for one in pictures:
        digest.update(repr((one.shape, one.dtype.str)).encode() + hashlib.sha256(one.tobytes()).digest())
    return [_instance(one, number, digest.hexdigest(), modality, body_part, view) for number, one in enumerate(pictures, 1)]


def _instance(picture: NDArray[Any], number: int, name: str, modality: str, body_part: str, view: str) -> bytes:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SOP_CLASS[modality], _uid(name, str(number))
    ds.StudyInstanceUID, ds.SeriesInstanceUID = _uid(name, "study"), _uid(name, "series")
    ds.PatientName = ds.PatientID = ds.PatientBirthDate = ds.PatientSex = ""
    ds.StudyDate = ds.StudyTime = ds.StudyID = ds.AccessionNumber = ds.ReferringPhysicianName = ""
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = modality, 1, number
    ds.ImageType = ["DERIVED", "SECONDARY"]  # so that the picture is always looked at for burned-in text
    if body_part:
        ds.BodyPartExamined = body_part
    if view:
        ds.ViewPosition = view
    pixels = _kept(picture, colour=modality in COLOUR)
    bits = 8 * pixels.dtype.itemsize
    colour = pixels.ndim == 3
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = (int(n) for n in pixels.shape[:2])
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits, bits - 1, 0
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OW" if bits == 16 else "OB"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _kept(picture: NDArray[Any], *, colour: bool) -> NDArray[Any]:
    """Grey of its own depth, the mean of the channels; or 8 bit colour where there is colour and it says something."""
    if picture.ndim == 2:
        return picture
    if colour and not (picture == picture[..., :1]).all():
        return np.asarray(picture >> 8 if picture.dtype == np.uint16 else picture, np.uint8)
    return np.asarray(np.rint(picture.mean(axis=2)), picture.dtype)


def _uid(name: str, part: str) -> str:
    """2.25 and 128 bits of a hash (PS3.5 B.2)."""
    return "2.25." + str(int.from_bytes(hashlib.sha256(f"{name} {part}".encode()).digest()[:16]))


def page_as_png(capture: bytes) -> bytes:
    """The first, most telling page of one of our Secondary Captures (uncompressed RGB) as PNG. Raises PixelsUnreadable."""
    import cv2

    ds = dcmread(BytesIO(capture))
    page = np.frombuffer(ds.PixelData, np.uint8)[: ds.Rows * ds.Columns * 3].reshape(ds.Rows, ds.Columns, 3)
    done, png = cv2.imencode(".png", page[..., ::-1])
    if not done:
        raise PixelsUnreadable("the capture can't be written as PNG")
    return png.tobytes()
