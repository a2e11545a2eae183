"""Results to write: a CT of our own, and whatever real series a test names."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from node import codes
from node.domain import (
    Algorithm,
    Channel,
    CleanUid,
    Finding,
    Heatmap,
    Instance,
    Job,
    Measurement,
    Origin,
    Pseudonym,
    Result,
    Route,
    Segment,
    Series,
    Study,
    StudyRef,
)
from node.imaging.volume import Frame, Volume
from node.provenance import Provenance
from tests.conftest import need

WHEN = datetime(2026, 3, 1, 10, 30, 0)
DIGEST = "3f" * 32


def dciodvfy_errors(ds: Dataset, folder: Path) -> list[str]:
    """What dciodvfy calls an error, for an object as it leaves the node."""
    path = folder / f"{ds.Modality}.dcm"
    ds.save_as(path, enforce_file_format=True)
    run = subprocess.run([need("dciodvfy", "dicom3tools"), "-new", str(path)], capture_output=True, text=True)
    said = (run.stdout + run.stderr).splitlines()
    assert said, "dciodvfy said nothing"
    return [line for line in said if line.startswith("Error")]


def bytes_of(ds: Dataset) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def reread(ds: Dataset) -> Dataset:
    """As a receiver sees it."""
    return dcmread(BytesIO(bytes_of(ds)))


# --- studies ----------------------------------------------------------------------------------------------------------
def ct_files(folder: Path, *, slices: int = 8, size: int = 64, spacing: float = 1.5, between: float = 5.0) -> list[Path]:
    """A small chest: soft tissue, two lungs, an opacity in the left one. Written upside down: file order is not slice order."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    paths = []
    for i in range(slices):
        hu = np.full((size, size), -1000.0)
        hu[(rows / 0.7) ** 2 + (columns / 0.9) ** 2 < 1] = 40
        for side in (-0.42, 0.42):
            hu[(rows / 0.5) ** 2 + ((columns - side) / 0.32) ** 2 < 1] = -850
        hu[opacity((slices, size, size))[i]] = -300
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.1000{i}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "2.25.7001", "2.25.7002", "2.25.7003"
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "RN^0001", "RN0001", "", "F", "061Y"
        ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = "20200102"
        ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = "101500"
        ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = "", "", ""
        ds.StudyDescription, ds.SeriesDescription = "CT THORAX", "LUNG 5.0"
        ds.Modality, ds.Manufacturer, ds.SeriesNumber, ds.InstanceNumber = "CT", "Sample", 2, i + 1
        ds.ImageType, ds.BodyPartExamined, ds.PatientPosition = ["ORIGINAL", "PRIMARY", "AXIAL"], "CHEST", "HFS"
        ds.KVP, ds.AcquisitionNumber, ds.PositionReferenceIndicator = "120", 1, ""
        ds.PixelSpacing, ds.SliceThickness = [spacing, spacing], between
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-spacing * size / 2, -80.25, 100 + between * i]
        ds.Rows = ds.Columns = size
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 15, 1, 0, "HU"
        ds.WindowCenter, ds.WindowWidth = 40, 400
        ds.PixelData = hu.astype("<i2").tobytes()
        path = folder / f"{slices - i:03d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return sorted(paths)


def opacity(shape: tuple[int, int, int]) -> np.ndarray:
    """Where the opacity is: slices 2 to 4 of 8, in the left lung."""
    z, rows, columns = np.mgrid[0 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j, -1 : 1 : shape[2] * 1j]
    return ((z - 0.43) / 0.2) ** 2 + ((rows - 0.1) / 0.2) ** 2 + ((columns - 0.42) / 0.15) ** 2 < 1


def study_of(paths: Iterable[Path]) -> Study:
    """One series as a clean study: headers without Pixel Data."""
    instances = tuple(Instance(header=dcmread(path, stop_before_pixels=True), path=path) for path in paths)
    first = instances[0].header
    series = Series(series_instance_uid=CleanUid(str(first.SeriesInstanceUID)), modality=str(first.Modality), instances=instances)
    return Study(
        ref=StudyRef(study=CleanUid(str(first.StudyInstanceUID)), revision=1),
        pseudonym=Pseudonym("RN0001"),
        origin=Origin(channel=Channel.FOLDER, received_at=datetime(2026, 3, 1, tzinfo=UTC)),
        folder=instances[0].path.parent,
        series=(series,),
    )


def stack(study: Study) -> Volume:
    """Axial single-frame slices as a volume, in HU."""
    [series] = study.series
    ordered = sorted(series.instances, key=lambda i: float(i.header.ImagePositionPatient[2]))
    first, last = ordered[0].header, ordered[-1].header
    pixels = []
    for instance in ordered:
        ds = dcmread(instance.path)
        pixels.append(ds.pixel_array.astype(np.float32) * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0)))
    orientation = np.array([float(v) for v in first.ImageOrientationPatient])
    origin, end = (np.array([float(v) for v in h.ImagePositionPatient]) for h in (first, last))
    row, column = (float(v) for v in first.PixelSpacing)
    step = (end - origin) / max(len(ordered) - 1, 1)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2], affine[:3, 3] = orientation[:3] * column, orientation[3:] * row, step, origin
    return Volume(
        series=series,
        pixels=np.stack(pixels),
        unit="HU" if series.modality == "CT" else "1",
        frames=tuple(Frame(instance=instance) for instance in ordered),
        affine=affine,
        spacing_mm=(float(np.linalg.norm(step)), row, column),
    )


def flat(study: Study) -> Volume:
    """Images without a frame of reference (US, CR, DX): one image, still or cine."""
    [series] = study.series
    [instance] = series.instances
    ds = dcmread(instance.path)
    pixels = ds.pixel_array
    frames = int(ds.get("NumberOfFrames", 1))
    pixels = pixels if frames > 1 else pixels[None]
    spacing = ds.get("PixelSpacing") or ds.get("ImagerPixelSpacing")
    if spacing is None and "SequenceOfUltrasoundRegions" in ds:
        region = ds.SequenceOfUltrasoundRegions[0]
        spacing = (10 * region.PhysicalDeltaY, 10 * region.PhysicalDeltaX)
    return Volume(
        series=series,
        pixels=pixels if pixels.ndim == 4 else pixels.astype(np.float32),
        unit="1",
        frames=tuple(Frame(instance=instance, number=i + 1) for i in range(frames)),
        affine=None,
        spacing_mm=None if spacing is None or not float(spacing[0]) else (0.0, float(spacing[0]), float(spacing[1])),
    )


# --- results ------------------------------------------------------------------------------------------------------------
def provenance(study: Study, *, pipeline: str = "covid_ct", version: str = "1.0.0", digest: str = DIGEST) -> Provenance:
    [series] = study.series
    job = Job(
        id="job-1",
        study=study.ref,
        pseudonym=study.pseudonym,
        folder=study.folder,
        route=Route(rule="any", series=series.series_instance_uid, pipeline=pipeline, destinations=("folder",)),
        algorithm=Algorithm(name=f"{pipeline} U-Net", version=version, digest=digest, family=codes.ARTIFICIAL_INTELLIGENCE),
        inputs=tuple(sorted(i.sop_instance_uid for i in series.instances)),
    )
    numbers = [int(i.header.SeriesNumber) for i in series.instances if i.header.get("SeriesNumber") is not None]
    return Provenance(job=job, node_uid="2.25.4242", written_at=WHEN, used_series_numbers=numbers)


def lesion(mask: np.ndarray, number: int = 1, label: str = "Infection", color: tuple[int, int, int] = (230, 159, 0)) -> Segment:
    return Segment(number=number, label=label, mask=mask, category=codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE, type=codes.LESION, color=color)


def infection(mask: np.ndarray, *, probability: float = 0.93, site: codes.Code = codes.LUNG) -> Result:
    """One finding, one segment, a heat map that is brightest in its middle."""
    sizes = mask.reshape(len(mask), -1).sum(1)
    frames = tuple(int(i) for i in np.argsort(-sizes, kind="stable") if sizes[i])[:6]
    return Result(
        analysed=True,
        label="infection",
        confidence=probability,
        findings=(
            Finding(
                name="infection",
                code=codes.GROUND_GLASS_OPACITY,
                probability=probability,
                present=True,
                site=site,
                measurements=(Measurement(name=codes.VOLUME, value=12.345, unit=codes.MILLILITER),),
                segment=1,
            ),
        ),
        segments=(lesion(mask),),
        heatmap=Heatmap(title="Infection probability", values=glow(mask), frames=frames),
    )


def glow(mask: np.ndarray) -> np.ndarray:
    """The mask, softened."""
    import cv2

    width = max(3, mask.shape[2] // 12) | 1
    return np.stack([cv2.GaussianBlur(plane.astype(np.float32), (width, width), 0) for plane in mask]).clip(0, 1)


def ball(shape: Sequence[int], centre: Sequence[float], radius: Sequence[float]) -> np.ndarray:
    """An ellipsoid in normalised coordinates, -1 to 1 on every axis (0 where there is one sample)."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij")
    return sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radius, strict=True)) <= 1
