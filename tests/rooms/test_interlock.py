"""A model reads only pictures of the kind it was made for, whatever their header says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from node.bundle import Bundle, write_sums
from node.domain import Result
from node.errors import OutsideIntendedUse
from node.imaging.build import build_volume, images_of
from node.imaging.study import read_study
from node.imaging.volume import Volume
from node.interlock import KINDS, UNCHECKED, Interlock
from node.testing.studies import a_study
from tests.rooms.workbench import clean_study

MODELS = Path(__file__).parents[2] / "models"


def made_for(picture: str, folder: Path) -> Bundle:
    """A bundle that reads pictures of that kind and says nothing else of its intended use."""
    path = folder / f"for_{picture}"
    if not path.exists():
        shutil.copytree(MODELS / KINDS / "1.0.0", path)
        metadata = (path / "configs" / "metadata.json").read_text()
        (path / "configs" / "metadata.json").write_text(
            metadata.replace('"intended_use": {}', f'"intended_use": {{"picture": "{picture}"}}')
        )
        write_sums(path)
    return Bundle.open(path)


def pictures(found: list[Path], folder: Path) -> list[Volume]:
    """Each DICOM file as the worker would build it."""
    volumes = []
    for number, path in enumerate(found):
        ds = dcmread(path)
        [series] = read_study(clean_study([ds], folder / str(number))).series
        volumes += list(images_of(series))[:1]
    return volumes


def refusals(volumes: list[Volume], picture: str, folder: Path) -> list[str]:
    said = []
    for volume in volumes:
        try:
            Interlock(MODELS).check(made_for(picture, folder), volume)
        except OutsideIntendedUse as why:
            said.append(str(why))
        else:
            said.append("")
    return said


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("wrapped/cr_chest/*.dcm", "chest_radiograph"),
        ("cr_chest/*", "chest_radiograph"),
        ("wrapped/us_breast/*.dcm", "breast_ultrasound"),
        ("wrapped/mr_brain_slice/*.dcm", "brain_mr"),
    ],
)
def test_real_images_are_read_as_what_they_are_and_as_nothing_else(shared: Path, tmp_path: Path, where: str, kind: str) -> None:
    volumes = pictures(sorted((shared / "data" / "dicom").glob(where)), tmp_path)

    assert volumes
    assert refusals(volumes, kind, tmp_path) == [""] * len(volumes)
    for other in {"chest_radiograph", "breast_ultrasound", "brain_mr"} - {kind}:
        assert all(refusals(volumes, other, tmp_path)), other


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        (lambda film: film[::-1, ::-1], {"PatientOrientation": ["R", "H"]}),
        (lambda film: film.T, {"PatientOrientation": ["F", "L"]}),
        (lambda film: np.repeat(film, 2, axis=0), {"PixelSpacing": [0.4, 0.8]}),
        (lambda film: np.repeat(film, 2, axis=1), {"PixelAspectRatio": [2, 1]}),
    ],
    ids=["head down", "on its side", "oblong", "oblong by ratio"],
)
def test_a_film_is_looked_at_as_it_hangs(shared: Path, tmp_path: Path, stored: Any, told: dict[str, Any]) -> None:
    """However its rows and columns lie in the file: the header tells it."""
    film = dcmread(sorted((shared / "data/dicom/wrapped/cr_chest").glob("*.dcm"))[0])
    film.decompress()
    pixels = np.ascontiguousarray(stored(film.pixel_array))
    film.PixelData, (film.Rows, film.Columns) = pixels.tobytes(), pixels.shape
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        if keyword in film:
            del film[keyword]
    for keyword, value in told.items():
        setattr(film, keyword, value)
    [series] = read_study(clean_study([film], tmp_path / "lying")).series

    assert refusals(list(images_of(series)), "chest_radiograph", tmp_path) == [""]


def test_tissue_is_looked_at_without_the_screen_around_it(shared: Path, tmp_path: Path) -> None:
    """Where the machine says what of its screen is tissue (PS3.3 C.8.5.5); else the margins are a part of the picture."""
    picture = dcmread(sorted((shared / "data/dicom/wrapped/us_breast").glob("*.dcm"))[0])
    tissue = picture.pixel_array
    screen = np.zeros((2 * tissue.shape[0], 2 * tissue.shape[1], *tissue.shape[2:]), tissue.dtype)
    top, left = tissue.shape[0] // 2, tissue.shape[1] // 2
    screen[top : top + tissue.shape[0], left : left + tissue.shape[1]] = tissue
    picture.PixelData, (picture.Rows, picture.Columns) = screen.tobytes(), screen.shape[:2]
    region = Dataset()
    region.RegionSpatialFormat = region.RegionDataType = 1
    region.RegionLocationMinX0, region.RegionLocationMinY0 = left, top
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = left + tissue.shape[1] - 1, top + tissue.shape[0] - 1

    said = []
    for number, regions in enumerate(([], [region])):
        picture.SequenceOfUltrasoundRegions = regions
        [series] = read_study(clean_study([picture], tmp_path / str(number))).series
        said += refusals(list(images_of(series)), "breast_ultrasound", tmp_path)

    assert "not like a breast ultrasound image" in said[0]
    assert said[1] == ""


def test_a_hand_that_is_called_a_chest_is_refused_with_the_reason(shared: Path, tmp_path: Path) -> None:
    volumes = pictures(sorted((shared / "data/dicom/transfer_syntaxes/wg04_RG3_hand_CR").glob("RG3_J2KR*")), tmp_path)

    [reason] = refusals(volumes, "chest_radiograph", tmp_path)

    assert "does not look like a frontal chest radiograph: it is 1.4 times as far" in reason


@pytest.mark.parametrize("kind", ["chest_radiograph", "breast_ultrasound", "brain_mr", "chest_ct"])
def test_an_image_that_is_all_black_is_called_so_and_not_taken_for_another_kind(tmp_path: Path, kind: str) -> None:
    black = a_study("CR", slices=1, rows=64)
    for ds in black:
        ds.PixelData = bytes(len(ds.PixelData))
    [series] = read_study(clean_study(black, tmp_path / "black")).series

    [reason] = refusals(list(images_of(series)), kind, tmp_path)

    assert "same value everywhere" in reason


@pytest.mark.parametrize(("modality", "kind"), [("US", "breast_ultrasound"), ("MR", "brain_mr")])
def test_phantoms_look_like_what_they_stand_for(tmp_path: Path, modality: str, kind: str) -> None:
    [series] = read_study(clean_study(a_study(modality, **({"slices": 22} if modality == "MR" else {})), tmp_path)).series
    volume = build_volume(series) if modality == "MR" else next(images_of(series))

    said = Interlock(MODELS).check(made_for(kind, tmp_path), volume)

    assert said.facts["picture_kind"] == kind
    assert 0 < said.facts["picture_distance"] < 1.1


def test_an_empty_picture_is_refused_and_not_a_fault(shared: Path, tmp_path: Path) -> None:
    [volume] = pictures(sorted((shared / "data/dicom/wrapped/cr_chest").glob("*.dcm"))[:1], tmp_path)
    black = Volume(
        series=volume.series, pixels=np.full((1, 1, 1), np.nan, np.float32), unit="1", frames=volume.frames, affine=None, spacing_mm=None
    )

    assert all(refusals([black], "chest_radiograph", tmp_path))


def test_without_the_bundle_of_kinds_the_report_says_that_nobody_looked(shared: Path, tmp_path: Path) -> None:
    [volume] = pictures(sorted((shared / "data/dicom/wrapped/cr_chest").glob("*.dcm"))[:1], tmp_path)

    said = Interlock(tmp_path / "nowhere").check(made_for("chest_radiograph", tmp_path), volume)

    assert said == Result(analysed=True, notes=(UNCHECKED,))


def test_damaged_kinds_are_not_used(shared: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(MODELS / KINDS, models / KINDS)
    weights = models / KINDS / "1.0.0" / "models" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    [volume] = pictures(sorted((shared / "data/dicom/wrapped/cr_chest").glob("*.dcm"))[:1], tmp_path)

    assert Interlock(models).check(made_for("chest_radiograph", tmp_path), volume).notes == (UNCHECKED,)
