"""Result → Secondary Capture: the picture that every viewer can show, also those that know neither SEG nor SR."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom.sr.coding import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage, SecondaryCaptureImageStorage

from node.derived import body_part
from node.domain import Result, Role, Study
from node.errors import ResultInvalid
from node.imaging.volume import Volume
from node.montage import summary_page
from node.picture import key_frames, place, summary_picture
from node.provenance import RESEARCH, Provenance


def write_sc(study: Study, volume: Volume, result: Result, provenance: Provenance) -> Dataset:
    """One RGB image, or one multi-frame object when several frames are worth showing (most telling first).

    Modality is OT: a viewer that hangs images by modality must not hang the capture in the place of the original. Uncompressed.

    Raises
    ------
    ResultInvalid
        When the heat map or a mask does not lie on the volume's frames.

    Standard: PS3.3 A.8.1 (Secondary Capture), A.8.5 (Multi-frame True Color Secondary Capture).
    """
    _check(volume, result)
    shown = key_frames(volume, result)
    pipeline = provenance.job.route.pipeline
    pictures = np.stack([summary_picture(volume, result, provenance.maker, pipeline=pipeline, frame=at) for at in shown])
    how = "Original beside overlay"
    return _capture(Role.SC, volume, pictures, shown, provenance, how)


def write_keys(study: Study, volume: Volume, result: Result, provenance: Provenance) -> Dataset:
    """One page: the key images with the model's view of them, the numbers, and why these images. One RGB image.

    Raises
    ------
    ResultInvalid
        When the heat map or a mask does not lie on the volume's frames.

    Standard: PS3.3 A.8.1.
    """
    _check(volume, result)
    shown = key_frames(volume, result)
    page = summary_page(volume, result, provenance.maker, provenance.job.route.pipeline, shown)
    return _capture(Role.KEYS, volume, page[None], shown, provenance, "Page of key images")


def _check(volume: Volume, result: Result) -> None:
    for values in (*(s.mask for s in result.segments), *((result.heatmap.values,) if result.heatmap else ())):
        if values.shape != volume.pixels.shape[:3]:
            raise ResultInvalid("A mask or heat map is not on the grid of its images.", shape=values.shape)


def _capture(role: Role, volume: Volume, pictures: NDArray[np.uint8], shown: Sequence[int], provenance: Provenance, how: str) -> Dataset:
    """The pictures, (pages, rows, columns, 3), of the frames `shown`, as one object."""
    several = len(pictures) > 1
    sop_class = MultiFrameTrueColorSecondaryCaptureImageStorage if several else SecondaryCaptureImageStorage
    ds = provenance.new_object(role, sop_class_uid=sop_class, modality="OT", source=volume.frames[0].instance.header)

    header = volume.frames[0].instance.header
    body_part(ds, header)
    ds.ConversionType = "WSD"  # workstation, PS3.3 C.8.6.1
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = provenance.date, provenance.time
    ds.SecondaryCaptureDeviceManufacturer = ds.Manufacturer
    ds.SecondaryCaptureDeviceManufacturerModelName = ds.ManufacturerModelName
    ds.SecondaryCaptureDeviceSoftwareVersions = ds.SoftwareVersions
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.PatientOrientation = None  # Type 2C: two views and words have no one direction
    ds.BurnedInAnnotation = "YES"
    ds.RecognizableVisualFeatures = "NO"
    ds.LossyImageCompression = "00"
    where = "; ".join(f"{i}: {place(volume, at)}" for i, at in enumerate(shown, 1))
    ds.ImageComments = f"{RESEARCH}. {where}"[:10240]
    ds.DerivationDescription = f"{how} by {provenance.maker.name} {provenance.maker.version}; sha256 {provenance.maker.digest}"[:1024]
    ds.SourceImageSequence = [_source(volume, at) for at in shown]

    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration, ds.PixelRepresentation = 3, "RGB", 0, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.Rows, ds.Columns = (int(n) for n in pictures.shape[1:3])
    if several:
        ds.NumberOfFrames = len(pictures)
        ds.FrameIncrementPointer = 0x00182001  # Page Number Vector: pages, no time
        ds.PageNumberVector = list(range(1, len(pictures) + 1))
    data = pictures.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB"
    return ds


def _source(volume: Volume, at: int) -> Dataset:
    """An item of Source Image Sequence, PS3.3 C.7.6.1.1.4."""
    frame = volume.frames[at]
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = frame.instance.sop_class_uid, frame.instance.sop_instance_uid
    if int(frame.instance.header.get("NumberOfFrames") or 1) > 1:
        item.ReferencedFrameNumber = frame.number
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)]
    return item
