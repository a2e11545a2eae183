"""Results to write: a CT of our own, and whatever real series a test names."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage

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
    ReadingLink,
    Result,
    Route,
    Segment,
    Series,
    Study,
    StudyRef,
)
from node.imaging.build import build_volume, images_of
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
def ct_files(
    folder: Path, *, slices: int = 8, size: int = 64, columns: int | None = None, spacing: float = 1.5, between: float = 5.0
) -> list[Path]:
    """A small chest: soft tissue, two lungs, an opacity in the left one. Written upside down: file order is not slice order."""
    folder.mkdir(parents=True, exist_ok=True)
    width = columns or size
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : width * 1j]
    paths, where = [], opacity((slices, size, width))
    for i in range(slices):
        hu = np.full((size, width), -1000.0)
        hu[(y / 0.7) ** 2 + (x / 0.9) ** 2 < 1] = 40
        for side in (-0.42, 0.42):
            hu[(y / 0.5) ** 2 + ((x - side) / 0.32) ** 2 < 1] = -850
        hu[where[i]] = -300
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
        ds.Rows, ds.Columns = size, width
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
    """The series as a volume."""
    return build_volume(study.series[0])


def still(study: Study) -> Volume:
    """The first image of the series by itself."""
    return next(images_of(study.series[0]))


def cine(study: Study) -> Volume:
    """All frames of one multi-frame image without a frame of reference: an ultrasound clip."""
    [instance] = study.series[0].instances
    pixels = dcmread(instance.path).pixel_array
    return Volume(
        series=study.series[0],
        pixels=pixels if pixels.ndim == 4 else pixels.astype(np.float32),
        unit="1",
        frames=tuple(Frame(instance=instance, number=i + 1) for i in range(len(pixels))),
        affine=None,
        spacing_mm=(0.0, 0.12, 0.12),
    )


def cine_file(path: Path, *, frames: int = 5, rows: int = 96, columns: int = 128) -> Path:
    """An ultrasound clip in colour: speckle and a dark lesion; no frame of reference."""
    rng = np.random.default_rng(7)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "2.25.2000"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.8001", "2.25.8002"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "RN^0002", "RN0002", "", "F"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "20200102", "101500", "", "", ""
    ds.Modality, ds.Manufacturer, ds.SeriesNumber, ds.InstanceNumber, ds.BodyPartExamined = "US", "Sample", 1, 1, "BREAST"
    ds.ImageType, ds.NumberOfFrames, ds.FrameTime, ds.FrameIncrementPointer = ["ORIGINAL", "PRIMARY"], frames, 40, 0x00181063
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = rows, columns, 3, "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.LossyImageCompression = 8, 8, 7, 0, "00"
    echo = 90 * rng.gamma(2.0, 0.5, (frames, rows, columns))
    echo[ball((frames, rows, columns), (0, 0.1, 0.1), (9, 0.3, 0.2))] *= 0.25
    ds.PixelData = np.repeat(echo.clip(0, 255).astype(np.uint8)[..., None], 3, -1).tobytes()
    ds.save_as(path, enforce_file_format=True)
    return path


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


def linked(maker: Provenance) -> Provenance:
    """The same of a node whose reports carry a link to the reading page, as long as it gets."""
    link = ReadingLink(url=f"https://radnode.hospital.example/read/{'W' * 70}.{'m' * 43}", until=WHEN + timedelta(days=30))
    return replace(maker, job=replace(maker.job, reading_link=link))


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
    width = max(3, mask.shape[2] // 12) | 1
    return np.stack([cv2.GaussianBlur(plane.astype(np.float32), (width, width), 0) for plane in mask]).clip(0, 1)


def ball(shape: Sequence[int], centre: Sequence[float], radius: Sequence[float]) -> np.ndarray:
    """An ellipsoid in normalised coordinates, -1 to 1 on every axis (0 where there is one sample)."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij")
    return sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radius, strict=True)) <= 1
