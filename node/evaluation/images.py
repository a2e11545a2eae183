"""A folder of images with known answers: `index.csv` with file, split, and label or mask, becomes volumes as a pipeline is given them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.bundle import Bundle
from node.domain import CleanUid, Instance, Series
from node.errors import EvaluationRefused
from node.imaging.build import images_of
from node.imaging.clinical import tell, years_of
from node.imaging.volume import Frame, Volume

INDEX = "index.csv"
GROUPS = ("group", "patient", "patient_id")  #: columns that say which images belong together
SUBGROUPS = ("sex", "view", "source")  #: columns of which each value is looked at by itself
AGE_BANDS = ((0, 18), (18, 40), (40, 60), (60, 80), (80, 200))  #: years, the upper one excluded


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the index."""

    name: str
    path: Path
    label: str
    mask: Path | None
    group: str  #: drawn together in the bootstrap; the image itself where the index joins nothing
    row: Mapping[str, str] = field(repr=False)

    @property
    def subgroups(self) -> Iterator[tuple[str, str]]:
        """(column, value) of each subgroup that the image belongs to."""
        for column in SUBGROUPS:
            if value := self.row.get(column, "").strip():
                yield column, value
        years = _years(self)
        for low, high in AGE_BANDS:
            if years is not None and low <= years < high:
                yield "age", f"{low} to {high - 1}" if high < 200 else f"{low} and more"


def cases_in(folder: Path, split: str) -> list[Case]:
    """The rows of one split.

    Raises
    ------
    EvaluationRefused
        When there is no index, it lacks a column, names a file that is not there or lies outside, or has no such split.
    """
    try:
        text = (folder / INDEX).read_text(encoding="utf-8-sig")
        rows = rows_in(text)
    except (OSError, csv.Error):
        raise EvaluationRefused(f"{folder.name} has no readable {INDEX}") from None
    except UnicodeDecodeError:
        raise EvaluationRefused(f"{folder.name} has no readable {INDEX}: save it as UTF-8") from None
    columns = set(rows[0]) if rows else set()
    if "file" not in columns or not columns & {"label", "mask"}:
        raise EvaluationRefused(f"{INDEX} needs a column file, and label or mask; it has {', '.join(sorted(columns)) or 'no rows'}")
    chosen = [row for row in rows if row.get("split", split) == split]
    if not chosen:
        raise EvaluationRefused(f"no row is of the split {split}; known: {', '.join(sorted({row['split'] for row in rows}))}")
    return [_case(folder, row) for row in chosen]


def rows_in(text: str) -> list[dict[str, str]]:
    """The rows of a table with a head; columns stand apart by comma, semicolon or tab, as its head says, and blanks round words tell nothing."""
    head = text.partition("\n")[0]
    apart = next((mark for mark in ",;\t" if mark in head), ",")
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=apart, skipinitialspace=True)
    return [{name.strip(): (value or "").strip() for name, value in row.items() if name} for row in table]


def _case(folder: Path, row: dict[str, str]) -> Case:
    group = next((row[column] for column in GROUPS if row.get(column)), row["file"])
    mask = _inside(folder, row["mask"]) if row.get("mask") else None
    return Case(name=row["file"], path=_inside(folder, row["file"]), label=row.get("label", ""), mask=mask, group=group, row=row)


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise EvaluationRefused(f"{INDEX} names a file that is not in the folder", file=name[:200])
    return path


# --- images -------------------------------------------------------------------------------------------------------------
def volume_of(case: Case, bundle: Bundle, window_hu: tuple[float, float] | None) -> Volume:
    """The image as the bundle's pipeline is given it: a DICOM object as the node reads it, a picture as an image of the right modality.

    It carries what the index knows of the patient, age and sex, where its header does not tell them. CT is read in Hounsfield units, which a picture does not hold:
    `window_hu` says which values its black and white stand for. Colour stays where the network takes it; else it becomes grey.
    """
    if _is_dicom(case.path):
        return _of_dicom(case)
    picture = cv2.imread(str(case.path), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise EvaluationRefused("the picture can't be read", file=case.name[:200])
    modality = next(iter(bundle.intended_use.get("modality", ())), "OT")
    header = _header(case, modality)
    if picture.ndim == 3 and bundle.node.get("channels") == 3 and modality != "CT":
        pixels: npt.NDArray[Any] = np.asarray(picture[..., 2::-1] >> (8 * picture.dtype.itemsize - 8), np.uint8)  # OpenCV gives BGR
    else:
        pixels = np.asarray(picture[..., :3].mean(axis=2) if picture.ndim == 3 else picture, np.float32)
    if modality == "CT":
        if window_hu is None:
            raise EvaluationRefused("pictures hold no Hounsfield units: say what black and white stand for, as --window-hu=-1350,150")
        low, high = window_hu
        pixels = low + pixels / float(np.iinfo(picture.dtype).max) * (high - low)
    instance = Instance(header=header, path=case.path)
    series = Series(series_instance_uid=CleanUid("2.25.1"), modality=modality, instances=(instance,))
    unit = "HU" if modality == "CT" else "1"
    return Volume(series=series, pixels=pixels[None], unit=unit, frames=(Frame(instance=instance),), affine=None, spacing_mm=None)


def mask_of(case: Case, shape: tuple[int, int]) -> npt.NDArray[np.bool_] | None:
    """(rows, columns): the known outline, everything that is not black; None when the index has none."""
    if case.mask is None:
        return None
    picture = cv2.imread(str(case.mask), cv2.IMREAD_UNCHANGED)  # as it is stored: OpenCV's grey makes 1 of 16 bits black
    if picture is None or picture.shape[:2] != shape:
        raise EvaluationRefused("the mask can't be read, or has not the size of its image", file=case.name[:200])
    return np.asarray(picture > 0 if picture.ndim == 2 else (picture[..., :3] > 0).any(axis=2))


def _is_dicom(path: Path) -> bool:
    """By its name, or by the mark that a DICOM file has (PS3.10 7.1): many are named by their UID."""
    if path.suffix.lower() in (".dcm", ""):
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _of_dicom(case: Case) -> Volume:
    try:
        header = dcmread(case.path, stop_before_pixels=True)
        for element in _known_of_the_patient(case):
            if not header.get(element.keyword):
                header[element.tag] = element
        instance = Instance(header=header, path=case.path)
        series = Series(
            series_instance_uid=CleanUid(str(header.SeriesInstanceUID)), modality=str(header.get("Modality", "")), instances=(instance,)
        )
    except Exception:  # a damaged header may fail in any way, and its values stay out of the message
        raise EvaluationRefused("the file is neither a picture nor DICOM", file=case.name[:200]) from None
    return next(images_of(series))


def _header(case: Case, modality: str) -> Dataset:
    header = _known_of_the_patient(case)
    header.SOPInstanceUID, header.Modality = "2.25.2", modality
    return header


def _known_of_the_patient(case: Case) -> Dataset:
    """Age and sex, where the index tells them."""
    header = Dataset()
    if (years := _years(case)) is not None:
        tell(header, {"age_years": years})
    if (sex := case.row.get("sex", "").strip().upper()[:1]) in ("M", "F", "O"):
        header.PatientSex = sex
    return header


def _years(case: Case) -> float | None:
    """The age that the index tells; None when it can't be read, or nobody is as old."""
    years = years_of(case.row.get("age", ""))
    return years if years is not None and years < 150 else None
