"""Windows, resampling, and headers that are wrong in every way we could think of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from node.domain import Instance, Series
from node.errors import NotAnalysed
from node.imaging.build import build_volume, images_of
from node.imaging.decode import named
from node.imaging.resample import resampled, shape_at
from node.imaging.shown import as_shown
from node.imaging.window import told_window, window
from node.testing import a_study, clean_study
from node.testing.phantom_chest_ct import chest_ct


def test_a_window_runs_from_black_to_white_over_its_width():
    hu = np.array([-2000, -1350, -600, 150, 3000], np.int16)

    assert window(hu, -600, 1500) == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])
    assert window(hu, -600, 1500).dtype == np.float32


@pytest.mark.parametrize("width", [0, -1, float("nan")])
def test_a_window_without_width_is_refused(width):
    with pytest.raises(ValueError, match="width"):
        window(np.zeros(3), 0, width)


def test_the_window_that_the_image_proposes_is_its_first():
    [ds] = a_study("CT", slices=1, rows=32, patches=0)
    assert told_window(ds) == (-600.0, 1500.0)
    ds.WindowCenter, ds.WindowWidth = [40, -600], [400, 1500]
    assert told_window(ds) == (40.0, 400.0)
    del ds.WindowWidth
    assert told_window(ds) is None


# --- as a reader sees it --------------------------------------------------------------------------------------------------
def a_film(tmp_path: Path, stored: np.ndarray, **keywords: Any) -> np.ndarray:
    """What is seen of a film with these stored values, (rows, columns)."""
    [ds] = a_study("CR", slices=12, rows=64)
    ds.PhotometricInterpretation, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = "MONOCHROME2", 16, 12, 11, 0
    for keyword in ("WindowCenter", "WindowWidth"):
        if keyword in ds:
            del ds[keyword]
    for keyword, value in keywords.items():
        setattr(ds, keyword, value)
    ds.Rows, ds.Columns, ds.PixelData = *stored.shape, stored.astype("<u2").tobytes()
    return as_shown(next(images_of(clean_study([ds], tmp_path).series[0])))


def like(one: np.ndarray, other: np.ndarray) -> float:
    """How alike two pictures are but for brightness and contrast, 1 at most."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


PICTURE = np.linspace(0, 1, 64 * 64).reshape(64, 64)[:, np.random.default_rng(2).permutation(64)]


def test_a_film_is_seen_through_its_voi_table(tmp_path: Path):
    stored = np.expm1(3 * PICTURE) / np.expm1(3) * 4095
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [4096, 0, 12], (np.log1p(np.arange(4096) / 4095 * np.expm1(3)) / 3 * 4095).astype("<u2").tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"

    assert like(a_film(tmp_path / "plain", stored), PICTURE) < 0.97
    assert like(a_film(tmp_path / "seen", stored, VOILUTSequence=[item]), PICTURE) > 0.999


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_film_is_seen_through_its_sigmoid(tmp_path: Path, photometric: str):
    inside = 0.02 + 0.96 * PICTURE
    stored = (2000 + 1200 / 4 * np.log(inside / (1 - inside))).clip(0, 4095)
    if photometric == "MONOCHROME1":
        inside, stored = 1 - inside, stored

    seen = a_film(tmp_path, stored, WindowCenter=2000, WindowWidth=1200, VOILUTFunction="SIGMOID", PhotometricInterpretation=photometric)

    assert like(seen, inside) > 0.999


def test_what_lies_outside_its_window_is_not_seen(tmp_path: Path):
    stored = 500 + 1000 * PICTURE
    stored[:8] = 4000  # beside the patient

    seen = a_film(tmp_path, stored, WindowCenter=1000, WindowWidth=1000)

    assert like(seen[8:], PICTURE[8:]) > 0.999
    assert seen[0, 0] == seen[8:].max() == 1.0


def test_a_window_that_shows_nothing_is_not_believed(tmp_path: Path):
    stored = 500 + 3000 * PICTURE

    assert like(a_film(tmp_path, stored, WindowCenter=40, WindowWidth=400), PICTURE) > 0.999


def test_resampling_there_and_back_keeps_a_mask():
    lungs = chest_ct(slices=12, rows=64, slice_mm=20.0, patches=0).lungs
    finer = shape_at(lungs.shape, (20.0, 6.25, 6.25), (5.0, 3.125, 3.125))
    assert finer == (48, 128, 128)

    there = resampled(lungs, finer, order=0)

    assert there.dtype == np.bool_
    assert there.mean() == pytest.approx(lungs.mean(), rel=1e-6)
    assert np.array_equal(resampled(there, lungs.shape, order=0), lungs)


def test_resampling_keeps_the_place_of_things():
    """A ramp stays a ramp: half a voxel of shift would show."""
    ramp = np.broadcast_to(np.arange(16, dtype=np.float32), (2, 16, 16))

    finer = resampled(ramp, (2, 16, 32))

    assert finer[0, 0, 8:10] == pytest.approx([3.75, 4.25])


def test_names_of_instances_are_few():
    assert named(["b", "a"]) == "a, b"
    assert named(map(str, range(7))) == "0, 1, 2, 3, 4 and 2 more"


ODD: tuple[Any, ...] = (None, b"\x00\xff", "nan", "-1", "1e999", "", "x" * 100, "1\\2\\3\\4", "65536", "\x00")
KEYWORDS = [
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "PixelPaddingValue",
    "InstanceNumber",
    "ImageType",
    "SliceThickness",
    "FrameOfReferenceUID",
    "Modality",
    "ModalityLUTSequence",
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
    "SequenceOfUltrasoundRegions",
    "WindowCenter",
]


class Raw:
    """An element as a damaged file leaves it: the value is not what its VR says."""

    @staticmethod
    def put(ds: Dataset, keyword: str, value: Any) -> None:
        tag = tag_for_keyword(keyword)
        assert tag is not None
        element = DataElement(tag, "UN", b"")
        element._value = value
        ds._dict[element.tag] = element


@pytest.mark.parametrize("keyword", KEYWORDS)
@pytest.mark.filterwarnings("ignore")
def test_a_header_that_lies_ends_in_a_volume_or_a_reason(keyword, tmp_path: Path):
    study = clean_study(a_study("CT", slices=3, rows=32, patches=0), tmp_path)
    [series] = study.series
    for odd in ODD:
        header = Dataset()
        header.update(series.instances[1].header)
        header.file_meta = series.instances[1].header.file_meta
        Raw.put(header, keyword, odd)
        spoiled = Instance(header=header, path=series.instances[1].path)
        with_it = Series(
            series_instance_uid=series.series_instance_uid, modality="CT", instances=(series.instances[0], spoiled, series.instances[2])
        )
        for attempt in (build_volume, lambda s: list(images_of(s))):
            assert outcome(attempt, with_it)


def outcome(attempt: Any, series: Series) -> str:
    """ "built", or the reason; any other error is the test's to see."""
    try:
        attempt(series)
    except NotAnalysed as why:
        return why.detail
    return "built"


@pytest.mark.parametrize("keyword", [k for k in KEYWORDS if not k.endswith("Sequence") and k != "SequenceOfUltrasoundRegions"])
@pytest.mark.filterwarnings("ignore")
def test_a_file_that_lies_ends_in_a_volume_or_a_reason(keyword, tmp_path: Path):
    """The same, written to disk and read back as bytes of an unknown VR."""
    for number, odd in enumerate((b"", b"\x00\xff", b"nan ", b"-1", b"1e999 ", b"9" * 100)):
        datasets = a_study("CT", slices=3, rows=32, patches=0)
        tag = tag_for_keyword(keyword)
        datasets[1][tag] = DataElement(tag, "OB", odd)
        try:
            study = clean_study(datasets, tmp_path / str(number))
        except (AttributeError, TypeError, ValueError):
            continue  # pydicom refuses to write it
        for series in study.series:
            for attempt in (build_volume, lambda s: list(images_of(s))):
                assert outcome(attempt, series)
