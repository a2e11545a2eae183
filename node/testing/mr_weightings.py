"""A head in four weightings as a scanner sends them: one study, four series, each on a grid of its own. All persons are invented."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from scipy import ndimage

from node.testing.phantom_brain_mr import BrainMr, brain_mr
from node.testing.studies import decimal, grey, instance_of, uid_of

AXIAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)
TISSUE, LESION, SWOLLEN = 300.0, 1400.0, 900.0  #: brain before contrast; oedema with the lesion on FLAIR; on T2


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """One series of the head: how it is called, made and cut."""

    name: str  #: Series Description
    pixels: NDArray[np.uint16] = field(repr=False)  #: (slices, rows, columns)
    first_mm: tuple[float, float, float]  #: centre of the first voxel of the first slice, LPS
    step_mm: tuple[float, float, float]  #: between slices (LPS, along `along`), rows, columns
    along: tuple[float, float, float]
    orientation: tuple[int, ...]
    times: tuple[float, float, float]  #: echo, repetition, inversion (0: none), ms
    agent: str = ""


def mr_weightings(patient: int = 1, *, rows: int = 96, slices: int = 36, without: tuple[str, ...] = (), **keywords: Any) -> list[Dataset]:
    """T1 before and after contrast on the same axial grid, T2 on a coarser one, FLAIR in sagittal slices.

    `without` leaves out series by description; `keywords` are set on every instance. The tumour enhances on `T1 tra KM`, and lies with its
    oedema bright on `FLAIR sag`; `weighted_tumor` is where.
    """
    head = brain_mr(rows=rows, slices=slices, slice_mm=3.0)
    name = f"MR weightings {patient} {rows} {slices}"
    out: list[Dataset] = []
    for number, one in enumerate(_series(head), 1):
        if one.name not in without:
            out += _instances(one, number, patient, name)
    for ds in out:
        for keyword, value in keywords.items():
            setattr(ds, keyword, value)
    return out


def weighted_tumor(*, rows: int = 96, slices: int = 36) -> BrainMr:
    """The head on the grid of `T1 tra KM`, its lowest slice first: `tumor` and `tumor_ml`."""
    return brain_mr(rows=rows, slices=slices, slice_mm=3.0)


def _series(head: BrainMr) -> list[Weighted]:
    after = np.asarray(head.pixels, np.float64)
    before = np.where(ndimage.binary_dilation(head.tumor), TISSUE, after)
    flair = np.where(head.tumor, LESION, np.minimum(0.6 * before, TISSUE))
    wet = np.where(head.tumor, SWOLLEN, np.clip(700.0 - before, 8.0, None))
    z, y, x = head.spacing_mm
    first = head.origin_mm
    up, right = (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)
    coarse = wet[::2, ::2, ::2]
    sagittal = np.flip(flair.transpose(2, 0, 1), axis=1)  # slices to the left, rows down, columns to the back
    top = (first[0], first[1], first[2] + (len(flair) - 1) * z)
    native = Weighted(
        name="T1 tra", pixels=_stored(before), first_mm=first, step_mm=(z, y, x), along=up, orientation=AXIAL, times=(10, 550, 0)
    )
    return [
        native,
        replace(native, name="T2 tra", pixels=_stored(coarse), step_mm=(2 * z, 2 * y, 2 * x), times=(96, 4200, 0)),
        Weighted(
            name="FLAIR sag",
            pixels=_stored(sagittal),
            first_mm=top,
            step_mm=(x, z, y),
            along=right,
            orientation=SAGITTAL,
            times=(110, 9000, 2500),
        ),
        replace(native, name="T1 tra KM", pixels=_stored(after), agent="Gadoterate"),
    ]


def _stored(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    return np.clip(values, 0, 4095).astype(np.uint16)


def _instances(one: Weighted, number: int, patient: int, name: str) -> list[Dataset]:
    out = []
    for k, plane in enumerate(one.pixels):
        ds = instance_of(MRImageStorage, uid_of("instance", name, one.name, k), patient=patient, study=1, name=name)
        ds.SeriesInstanceUID, ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = uid_of("series", name, one.name), number, 1, k + 1
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = uid_of("frame", name), ""
        ds.Modality, ds.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M", "SE"]
        ds.StudyDescription, ds.SeriesDescription, ds.ProtocolName = "MR Schädel mit KM", one.name, one.name
        ds.BodyPartExamined, ds.PatientPosition = "BRAIN", "HFS"
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "SE", "SK", "", "2D"
        ds.EchoTime, ds.RepetitionTime = one.times[:2]
        if one.times[2]:
            ds.ScanningSequence, ds.InversionTime = ["SE", "IR"], one.times[2]
        ds.EchoTrainLength, ds.FlipAngle, ds.MagneticFieldStrength, ds.ImagedNucleus = 1, 90, "1.5", "1H"
        if one.agent:
            ds.ContrastBolusAgent = one.agent
        place = [a + k * one.step_mm[0] * b for a, b in zip(one.first_mm, one.along, strict=True)]
        ds.ImagePositionPatient = [decimal(v) for v in place]
        ds.ImageOrientationPatient = list(one.orientation)
        ds.PixelSpacing = [decimal(v) for v in one.step_mm[1:]]
        ds.SliceThickness = ds.SpacingBetweenSlices = decimal(one.step_mm[0])
        ds.WindowCenter, ds.WindowWidth = 450, 900
        grey(ds, np.ascontiguousarray(plane), stored=12)
        ds.file_meta.MediaStorageSOPInstanceUID, ds.file_meta.MediaStorageSOPClassUID = ds.SOPInstanceUID, ds.SOPClassUID
        out.append(ds)
    return out
