"""Real series of many makers: each builds, or is refused with the right reason."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from node.domain import CleanUid, Instance, Series
from node.errors import GeometryRefused, NotAnalysed, PixelsUnreadable
from node.imaging.build import build_volume, images_of

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def dicom(shared: Path) -> Path:
    return shared / "data" / "dicom"


def series_in(folder: Path) -> list[Series]:
    """The series of a folder (or of one file)."""
    found: dict[str, list[Instance]] = defaultdict(list)
    for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
        try:
            header = dcmread(path, stop_before_pixels=True) if path.is_file() else None
        except InvalidDicomError:
            continue
        if header is not None and "SOPInstanceUID" in header:
            found[str(header.get("SeriesInstanceUID", path.name))].append(Instance(header=header, path=path))
    return [
        Series(series_instance_uid=CleanUid(uid), modality=str(instances[0].header.get("Modality", "")), instances=tuple(instances))
        for uid, instances in sorted(found.items())
    ]


def one(folder: Path) -> Series:
    [series] = series_in(folder)
    return series


VOLUMES = {
    "ct_chest_lungpetctdx/Lung_Dx-A0001_philips_lung_5mm": ((64, 512, 512), (5.0, 0.841796875, 0.841796875), "HU"),
    "mr_brain_t1_brainchop": ((256, 256, 256), (1.0, 1.0, 1.0), "1"),
    "mr_brain_tumor_btp/PGBM_01_pre_T1post": ((20, 256, 256), (6.5, 0.9375, 0.9375), "1"),
    "mr_multivendor/siemens_anatomical_001": ((4, 256, 256), (1.0, 1.0, 1.0), "1"),
    "mr_multivendor/philips_anatomical_001_implicit": ((4, 240, 240), (0.6, 1.0416666, 1.0416666), "1"),
    "mr_multivendor/hitachi_anatomical_001_implicit": ((4, 64, 64), (4.0, 2.34375, 2.34375), "1"),
    "enhanced/eCT_Supplemental.dcm": ((2, 512, 512), (10.0, 0.388672, 0.388672), "HU"),
    "enhanced/philips_enhanced_mr_8f.dcm": ((8, 256, 256), (1.2, 1.0, 1.0), "1"),
}


@pytest.mark.parametrize("folder", VOLUMES)
def test_a_real_series_becomes_a_volume(dicom, folder):
    shape, spacing, unit = VOLUMES[folder]

    volume = build_volume(one(dicom / folder))

    assert volume.pixels.shape == shape
    assert volume.spacing_mm == pytest.approx(spacing, rel=1e-3)
    assert volume.unit == unit
    assert len(volume.frames) == shape[0]


def test_a_real_chest_has_air_in_the_lungs_and_lies_the_right_way_up(dicom):
    """Head last, left on the high columns, back on the high rows: the table is below the patient."""
    volume = build_volume(one(dicom / "ct_chest_lungpetctdx"))

    assert volume.affine is not None
    assert np.diag(volume.affine)[:3] == pytest.approx([0.841796875, 0.841796875, 5.0], rel=1e-4)
    patient = volume.pixels[32, 180:430, 60:450]
    assert -950 < np.percentile(patient, 25) < -800  # lung
    assert volume.pixels[32, 440:].max() > volume.pixels[32, :100].max() + 300  # the table is below, nothing above
    for frame, k in ((volume.frames[0], 0), (volume.frames[63], 63)):
        assert (volume.affine @ [0, 0, k, 1])[:3] == pytest.approx([float(v) for v in frame.instance.header.ImagePositionPatient], abs=0.01)
        ds = dcmread(frame.instance.path)
        assert np.array_equal(volume.pixels[k], ds.pixel_array * ds.RescaleSlope + ds.RescaleIntercept)


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("bad_geometry/sliceincrement_001", "1 slice is missing between"),
        ("bad_geometry/notavolume_001", "different images lie at one position"),
        ("mr_epi_5volumes_ge_nih", "10 volumes of 15 slices share one series"),
        ("mr_multivendor/ge_dti_002", "4 volumes of 4 slices share one series"),
        ("mr_multivendor/siemens_fmri_001", "mosaics"),
        ("enhanced/philips_fmap_64f.dcm", "2 volumes of 32 slices share one series, told apart by EffectiveEchoTime"),
        ("enhanced/emri_small.dcm", "Image Position"),
        ("cr_chest/RG1_J2KI_PA_monochrome1.dcm", "Image Position"),
        ("odd/fodicom_GH355.dcm", "Image Position"),
    ],
)
def test_what_is_not_a_volume_is_refused_for_that_reason(dicom, folder, reason):
    with pytest.raises(GeometryRefused, match=reason):
        build_volume(one(dicom / folder))


def test_the_gap_is_named_by_the_slices_on_either_side(dicom):
    series = one(dicom / "bad_geometry/sliceincrement_001")
    heights = sorted((float(i.header.ImagePositionPatient[2]), str(i.sop_instance_uid)) for i in series.instances)
    [(before, after)] = [(a[1], b[1]) for a, b in pairwise(heights) if b[0] - a[0] > 7]

    with pytest.raises(GeometryRefused) as refused:
        build_volume(series)

    assert before in refused.value.detail
    assert after in refused.value.detail


def test_nothing_in_the_collection_ends_in_anything_but_pixels_or_a_reason(dicom):
    """Every folder, every series, both ways in; no instance is left unaccounted for."""
    built = refused = 0
    for folder in sorted({path.parent for path in dicom.rglob("*.dcm")}):
        for series in series_in(folder):
            for attempt in (lambda s: [build_volume(s)], first_images):
                try:
                    volumes = attempt(series)
                except NotAnalysed as why:
                    refused += bool(why.detail)
                    continue
                for volume in volumes:
                    assert volume.pixels.shape[0] == len(volume.frames)
                    assert np.isfinite(volume.pixels).all()
                built += 1
    assert built > 80
    assert refused > 30


def first_images(series: Series) -> list:
    images: Iterator = images_of(series)
    return [image for image, _ in zip(images, range(2), strict=False)]


LOSSLESS = ("RLE", "JPLL", "JLSL", "J2KR")


@pytest.mark.parametrize("name", ["CT1", "MR4", "US1", "NM1"])
def test_lossless_syntaxes_decode_to_what_the_uncompressed_image_has(dicom, name):
    folder = dicom / "transfer_syntaxes" / f"wg04_{name}"
    plain = [image.pixels for image in images_of(one(folder / f"{name}_UNC.dcm"))]
    packed = [path for path in sorted(folder.iterdir()) if path.stem.split("_")[1] in LOSSLESS]
    assert len(packed) >= 2

    for path in packed:
        images = [image.pixels for image in images_of(one(path))]
        assert len(images) == len(plain)
        for image, expected in zip(images, plain, strict=True):
            assert np.array_equal(image, expected), path.name


def test_two_lossless_syntaxes_of_one_film_agree(dicom):
    folder = dicom / "transfer_syntaxes/wg04_RG3_hand_CR"
    [first], [second] = (list(images_of(one(folder / f"RG3_{name}.dcm"))) for name in ("J2KR", "JLSL"))

    assert np.array_equal(first.pixels, second.pixels)


def test_lossy_syntaxes_decode_close_to_it(dicom):
    for name in ("US1", "MR4"):
        folder = dicom / "transfer_syntaxes" / f"wg04_{name}"
        [plain] = [image.pixels.astype(float) for image in images_of(one(folder / f"{name}_UNC.dcm"))]
        [lossy] = [image.pixels.astype(float) for image in images_of(one(folder / f"{name}_J2KI.dcm"))]
        assert np.abs(lossy - plain).mean() < 0.01 * np.ptp(plain)


def test_a_stream_that_no_codec_reads_is_refused_by_name(dicom):
    series = one(dicom / "transfer_syntaxes/wg04_MR4/MR4_JPLY.dcm")

    with pytest.raises(PixelsUnreadable, match="JPEG Extended") as refused:
        build_volume(series)

    assert str(series.instances[0].sop_instance_uid) in refused.value.detail


def test_a_transfer_syntax_newer_than_the_codecs_is_refused_by_number(dicom):
    with pytest.raises(PixelsUnreadable, match=r"1\.2\.840\.10008\.1\.2\.8\.1"):
        build_volume(one(dicom / "transfer_syntaxes/other/liver_deflate.dcm"))


def test_big_endian_compressed_and_little_endian_enhanced_frames_are_the_same(dicom):
    plain = np.stack([image.pixels for image in images_of(one(dicom / "enhanced/emri_small.dcm"))])

    for name in ("big_endian", "RLE", "jpeg_2k_lossless", "jpeg_ls_lossless"):
        other = np.stack([image.pixels for image in images_of(one(dicom / f"enhanced/emri_small_{name}.dcm"))])
        assert np.array_equal(other, plain), name


def test_compressed_slices_build_the_volume_that_plain_ones_build(dicom):
    plain = build_volume(one(dicom / "mr_multivendor/siemens_anatomical_001")).pixels

    for name in ("j2k", "jpegls", "rle"):
        assert build_volume(one(dicom / f"mr_multivendor/generic_compressed_{name}_001")).pixels.shape == plain.shape


def test_a_palette_of_16_bits_becomes_rgb_with_the_machines_calibration(dicom):
    [image] = images_of(one(dicom / "us/aloka_16bit_palette.dcm"))

    assert image.pixels.shape == (1, 480, 640, 3)
    assert image.pixels.max() > 200
    assert image.pixel_spacing_mm == pytest.approx((0.3826530650258064,) * 2)


def test_a_chest_film_is_bright_where_it_should_be(dicom):
    """MONOCHROME1: stored high is dark. The air beside the patient is dark after turning, the spine bright."""
    [film] = images_of(one(dicom / "cr_chest/RG1_J2KI_PA_monochrome1.dcm"))
    stored = dcmread(dicom / "cr_chest/RG1_J2KI_PA_monochrome1.dcm").pixel_array.astype(float)

    assert np.corrcoef(film.pixels[0, ::16, ::16].ravel(), stored[::16, ::16].ravel())[0, 1] == pytest.approx(-1.0)
    assert film.spacing_mm is None  # Pixel Spacing is 0\0
    assert film.pixels.min() >= 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fodicom_GH178.dcm", "shorter than declared"),
        ("emri_small_jpeg_2k_lossless_too_short.dcm", "emri|pixel data|decod|read"),
        ("fodicom_GH487.dcm", "no images"),
    ],
)
def test_odd_objects_without_usable_pixels_are_refused(dicom, name, reason):
    with pytest.raises(PixelsUnreadable, match=reason):
        list(images_of(one(dicom / "odd" / name)))


def test_planar_colour_and_fragments_of_real_machines_are_read(dicom):
    [colour] = images_of(one(dicom / "odd/color-pl.dcm"))
    fragments = build_volume(one(dicom / "odd/fodicom_D_CLUNIE_CT1_RLE_FRAGS.dcm"))
    plain = build_volume(one(dicom / "transfer_syntaxes/wg04_CT1/CT1_UNC.dcm"))

    assert colour.pixels.shape == (1, 120, 256, 3)
    assert np.array_equal(fragments.pixels, plain.pixels)


def test_no_warning_or_error_repeats_a_value_of_the_image(dicom):
    """Reasons name instances by UID and nothing else of them."""
    for folder in ("bad_geometry/notavolume_001", "transfer_syntaxes/wg04_MR4/MR4_JPLY.dcm", "cr_chest/RG1_J2KI_PA_monochrome1.dcm"):
        series = one(dicom / folder)
        with warnings.catch_warnings(), pytest.raises(NotAnalysed) as refused:
            build_volume(series)
        for keyword in ("PatientName", "PatientID", "InstitutionName", "StudyDescription"):
            value = str(series.header.get(keyword, ""))
            assert not value or value not in str(refused.value)
