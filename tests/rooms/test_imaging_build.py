"""From series to volume: order, spacing, units, and what is refused with the instance named."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import EnhancedCTImageStorage, ImplicitVRLittleEndian, RLELossless, generate_uid

from node.domain import Series
from node.errors import GeometryRefused, PixelsUnreadable
from node.imaging.build import build_volume, images_of
from node.testing import a_study, clean_study
from node.testing.phantom_chest_ct import chest_ct

SMALL = {"slices": 6, "rows": 64, "patches": 2}


@pytest.fixture
def ct() -> list[Dataset]:
    return a_study("CT", **SMALL)


@pytest.fixture
def series(tmp_path: Path):
    """Datasets as the one series of a clean study."""

    def lay_out(datasets: list[Dataset]) -> Series:
        study = clean_study(datasets, tmp_path / "study")
        assert len(study.series) == 1
        return study.series[0]

    return lay_out


def turned(ds: Dataset, matrix: np.ndarray) -> None:
    """The slice with its orientation and position turned in space."""
    cosines = np.array(ds.ImageOrientationPatient, float).reshape(2, 3) @ matrix.T
    ds.ImageOrientationPatient = [f"{v:.9f}" for v in cosines.ravel()]
    ds.ImagePositionPatient = [f"{v:.6f}" for v in matrix @ np.array(ds.ImagePositionPatient, float)]


# --- what is built ----------------------------------------------------------------------------------------------------
def test_slices_in_any_order_become_the_phantom_in_hounsfield_units(ct, series):
    phantom = chest_ct(**SMALL)
    random.Random(3).shuffle(ct)

    volume = build_volume(series(ct))

    assert volume.unit == "HU"
    assert volume.pixels.dtype == np.float32
    assert np.array_equal(volume.pixels, phantom.hu)
    assert volume.spacing_mm == pytest.approx(phantom.spacing_mm)
    assert volume.notes == ()


def test_the_affine_tells_where_a_voxel_lies_in_the_patient(ct, series):
    phantom = chest_ct(**SMALL)
    volume = build_volume(series(ct))

    assert volume.affine is not None
    assert (volume.affine @ [0, 0, 0, 1])[:3] == pytest.approx(phantom.origin_mm)
    assert (volume.affine @ [10, 3, 2, 1])[:3] == pytest.approx(
        (phantom.origin_mm[0] + 10 * 6.25, phantom.origin_mm[1] + 3 * 6.25, phantom.origin_mm[2] + 2 * 5.0)
    )
    assert volume.voxel_ml == pytest.approx(phantom.voxel_ml)


def test_every_frame_names_the_instance_it_came_from(ct, series):
    volume = build_volume(series(ct))

    heights = [float(frame.instance.header.ImagePositionPatient[2]) for frame in volume.frames]
    assert heights == sorted(heights)
    assert [frame.number for frame in volume.frames] == [1] * 6


@pytest.mark.parametrize("seed", range(4))
def test_any_rotation_of_the_patient_keeps_order_and_spacing(ct, series, seed):
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    q *= np.sign(np.linalg.det(q))
    for ds in ct:
        turned(ds, q)

    volume = build_volume(series(ct))

    assert np.array_equal(volume.pixels, chest_ct(**SMALL).hu)
    assert volume.spacing_mm == pytest.approx((5.0, 6.25, 6.25), abs=1e-3)
    assert volume.affine[:3, :3] == pytest.approx(q @ np.diag([6.25, 6.25, 5.0]), abs=1e-3)


def test_spacing_comes_from_positions_and_not_from_slice_thickness(ct, series):
    for ds in ct:
        ds.SliceThickness, ds.SpacingBetweenSlices = "2.5", "9"

    assert build_volume(series(ct)).spacing_mm[0] == pytest.approx(5.0)


def test_thin_slices_whose_positions_were_rounded_are_evenly_spaced(ct, series):
    for number, ds in enumerate(ct):
        ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], f"{-0.625 * number:.1f}"]

    volume = build_volume(series(ct))

    assert volume.spacing_mm[0] == pytest.approx(0.625, abs=0.03)


def test_a_tilted_gantry_is_kept_on_its_own_grid_and_noted(ct, series):
    for ds in ct:
        x, y, z = map(float, ds.ImagePositionPatient)
        ds.ImagePositionPatient = [str(x), f"{y + 0.2 * z:.6f}", str(z)]

    volume = build_volume(series(ct))

    assert volume.spacing_mm[0] == pytest.approx(5.0)
    assert volume.affine[:3, 2] == pytest.approx([0, 1.0, 5.0])
    assert volume.voxel_ml == pytest.approx(5.0 * 6.25**2 / 1000)
    assert "tilted by 11.3 degrees" in volume.notes[0]


def test_rescale_is_taken_from_every_slice(ct, series):
    for number, ds in enumerate(ct):
        ds.RescaleSlope = "2"
        ds.RescaleIntercept = str(-1024 - number)

    volume = build_volume(series(ct))

    for frame, plane in zip(volume.frames, volume.pixels, strict=True):
        ds = frame.instance.header
        stored = next(d for d in ct if d.SOPInstanceUID == ds.SOPInstanceUID).pixel_array
        assert np.array_equal(plane, stored * 2.0 + float(ds.RescaleIntercept))


def test_signed_pixels_with_fewer_bits_stored_keep_their_sign(ct, series):
    for ds in ct:
        hu = ds.pixel_array.astype(np.int16) - 1024
        ds.PixelRepresentation, ds.RescaleIntercept = 1, 0
        ds.BitsStored, ds.HighBit = 13, 12
        ds.PixelData = (hu.astype(np.uint16) & 0x1FFF).tobytes()  # the upper bits are not the sign's

    assert np.array_equal(build_volume(series(ct)).pixels, chest_ct(**SMALL).hu)


def test_padding_outside_the_circle_becomes_air(ct, series):
    for ds in ct:
        pixels = ds.pixel_array.astype(np.int16)
        pixels[:4] = -2000
        ds.PixelRepresentation, ds.BitsStored, ds.HighBit = 1, 16, 15
        ds.add_new("PixelPaddingValue", "SS", -2000)
        ds.PixelData = pixels.tobytes()

    volume = build_volume(series(ct))

    assert (volume.pixels[:, :4] == -1024).all()
    assert np.array_equal(volume.pixels[:, 4:], chest_ct(**SMALL).hu[:, 4:])


def test_compressed_slices_give_the_same_volume(ct, series):
    for ds in ct:
        ds.compress(RLELossless, generate_instance_uid=False)

    assert np.array_equal(build_volume(series(ct)).pixels, chest_ct(**SMALL).hu)


def test_a_localizer_among_the_slices_is_left_out_with_a_note(ct, series):
    scout = a_study("CT", **SMALL)[0]
    scout.SOPInstanceUID = scout.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    volume = build_volume(series([*ct, scout]))

    assert volume.pixels.shape[0] == 6
    assert str(scout.SOPInstanceUID) in volume.notes[0]


def test_the_same_image_twice_is_dropped_with_a_note(ct, series):
    double = a_study("CT", **SMALL)[2]
    double.SOPInstanceUID = double.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)

    volume = build_volume(series([*ct, double]))

    assert volume.pixels.shape[0] == 6
    assert "came twice" in volume.notes[0]


def test_a_ct_that_does_not_say_its_units_is_not_called_hounsfield(ct, series):
    for ds in ct:
        del ds.RescaleIntercept, ds.RescaleSlope

    volume = build_volume(series(ct))

    assert volume.unit == "1"
    assert "Hounsfield" in volume.notes[0]


# --- multi-frame ----------------------------------------------------------------------------------------------------------
def enhanced(ct: list[Dataset]) -> Dataset:
    """The slices as one Enhanced CT object, frames in a mixed order."""
    out = Dataset()
    out.update(ct[0])
    out.file_meta = ct[0].file_meta
    out.SOPClassUID = out.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept", "RescaleType"):
        del out[keyword]
    shared, per_frame = Dataset(), []
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = ct[0].PixelSpacing, ct[0].SliceThickness
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Items([orientation]), Items([measures])
    order = random.Random(1).sample(range(len(ct)), len(ct))
    for k in order:
        item, place, rescale = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = ct[k].ImagePositionPatient
        rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = "1", "-1024", "HU"
        item.PlanePositionSequence, item.PixelValueTransformationSequence = Items([place]), Items([rescale])
        per_frame.append(item)
    out.SharedFunctionalGroupsSequence, out.PerFrameFunctionalGroupsSequence = Items([shared]), Items(per_frame)
    out.NumberOfFrames = len(ct)
    out.PixelData = b"".join(ct[k].PixelData for k in order)
    return out


def test_an_enhanced_object_is_ordered_by_its_frames_positions(ct, series):
    volume = build_volume(series([enhanced(ct)]))

    assert np.array_equal(volume.pixels, chest_ct(**SMALL).hu)
    assert sorted(frame.number for frame in volume.frames) == [1, 2, 3, 4, 5, 6]
    assert volume.unit == "HU"


def test_an_enhanced_object_with_two_time_points_is_refused_and_says_how_they_differ(ct, series):
    ds = enhanced(ct)
    twice = [*ds.PerFrameFunctionalGroupsSequence, *(Dataset.from_json(i.to_json()) for i in ds.PerFrameFunctionalGroupsSequence)]
    for number, item in enumerate(twice):
        content = Dataset()
        content.TemporalPositionIndex = 1 + number // 6
        item.FrameContentSequence = Items([content])
    ds.PerFrameFunctionalGroupsSequence = Items(twice)
    ds.NumberOfFrames = 12
    ds.PixelData = ds.PixelData + bytes(len(ds.PixelData))

    with pytest.raises(GeometryRefused, match=r"2 volumes of 6 slices.*TemporalPositionIndex"):
        build_volume(series([ds]))


# --- what is refused ----------------------------------------------------------------------------------------------------------
def moved(ds: Dataset, z: float) -> None:
    ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], f"{float(ds.ImagePositionPatient[2]) + z:.3f}"]


def different_orientation(ct: list[Dataset]) -> list[Dataset]:
    ct[2].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    return [ct[2]]


def different_size(ct: list[Dataset]) -> list[Dataset]:
    ct[1].Rows = 32
    return [ct[1]]


def different_spacing(ct: list[Dataset]) -> list[Dataset]:
    ct[4].PixelSpacing = ["5", "5"]
    return [ct[4]]


def zero_spacing(ct: list[Dataset]) -> list[Dataset]:
    ct[0].PixelSpacing = ["0", "0"]
    return [ct[0]]


def nan_position(ct: list[Dataset]) -> list[Dataset]:
    ct[3].ImagePositionPatient = ["NaN", "0", "0"]
    return [ct[3]]


def no_position(ct: list[Dataset]) -> list[Dataset]:
    del ct[3].ImagePositionPatient
    return [ct[3]]


def skewed_axes(ct: list[Dataset]) -> list[Dataset]:
    ct[3].ImageOrientationPatient = [1, 0, 0, 1, 0, 0]
    return [ct[3]]


def another_frame_of_reference(ct: list[Dataset]) -> list[Dataset]:
    ct[5].FrameOfReferenceUID = "1.2.3"
    return [ct[5]]


def shifted_sideways(ct: list[Dataset]) -> list[Dataset]:
    ct[2].ImagePositionPatient = [str(float(ct[2].ImagePositionPatient[0]) + 3), *ct[2].ImagePositionPatient[1:]]
    return [ct[2]]


def two_images_at_one_place(ct: list[Dataset]) -> list[Dataset]:
    ct[2].ImagePositionPatient = ct[3].ImagePositionPatient
    return [ct[2], ct[3]]


def a_slice_too_far(ct: list[Dataset]) -> list[Dataset]:
    moved(ct[0], 2.0)
    return [ct[0], ct[1]]


@pytest.mark.parametrize(
    "spoil",
    [
        different_orientation,
        different_size,
        different_spacing,
        zero_spacing,
        nan_position,
        no_position,
        skewed_axes,
        another_frame_of_reference,
        shifted_sideways,
        two_images_at_one_place,
        a_slice_too_far,
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_not_one_regular_volume_is_refused_by_name(ct, series, spoil):
    guilty = spoil(ct)

    with pytest.raises(GeometryRefused) as refused:
        build_volume(series(ct))

    for ds in guilty:
        assert str(ds.SOPInstanceUID) in refused.value.detail


def test_a_missing_slice_is_named_by_its_neighbours(ct, series):
    del ct[2]

    with pytest.raises(GeometryRefused, match=r"1 slice is missing.*10\.00 mm apart where 5\.00 mm is usual") as refused:
        build_volume(series(ct))

    assert str(ct[1].SOPInstanceUID) in refused.value.detail
    assert str(ct[2].SOPInstanceUID) in refused.value.detail


def test_at_most_five_instances_are_named(series):
    datasets = a_study("CT", slices=9, rows=64)
    for ds in datasets:
        del ds.ImagePositionPatient

    with pytest.raises(GeometryRefused, match="and 4 more") as refused:
        build_volume(series(datasets))

    assert sum(str(ds.SOPInstanceUID) in refused.value.detail for ds in datasets) == 5


@pytest.mark.parametrize(("keyword", "value"), [("Rows", 0), ("Columns", 0), ("NumberOfFrames", 0), ("NumberOfFrames", 100_000)])
def test_impossible_sizes_are_refused_before_anything_is_read(ct, series, keyword, value):
    setattr(ct[0], keyword, value)

    with pytest.raises(PixelsUnreadable) as refused:
        build_volume(series(ct))

    assert str(ct[0].SOPInstanceUID) in refused.value.detail


def test_pixel_data_shorter_than_declared_is_refused(ct, series):
    ct[1].PixelData = ct[1].PixelData[:-100]

    with pytest.raises(PixelsUnreadable, match="shorter than declared"):
        build_volume(series(ct))


@pytest.mark.filterwarnings("ignore")
def test_a_compressed_clip_with_fewer_frames_than_declared_is_refused(series):
    [ds] = a_study("US", rows=60, columns=80)
    ds.NumberOfFrames = 2
    ds.PixelData = ds.PixelData * 2
    ds.compress(RLELossless, generate_instance_uid=False)
    ds.NumberOfFrames = 3

    with pytest.raises(PixelsUnreadable, match=str(ds.SOPInstanceUID)):
        list(images_of(series([ds])))


def test_a_long_clip_is_read_a_frame_at_a_time(series):
    """80 MB on disk, a few frames in memory."""
    [ds] = a_study("US", rows=400, columns=500)
    ds.NumberOfFrames = 400
    ds.PixelData = ds.PixelData * 400
    clip = series([ds])
    del ds

    tracemalloc.start()
    count = sum(1 for _ in images_of(clip))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert count == 400
    assert peak < 12 * 2**20


@pytest.mark.parametrize(("photometric", "stored"), [("YBR_FULL", (76, 85, 255)), ("RGB", (254, 0, 0))])
def test_colour_is_rgb_whatever_it_was_stored_as(series, photometric, stored):
    [ds] = a_study("US", rows=60, columns=80)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, photometric, 0
    ds.PixelData = bytes(stored) * 4800

    [image] = images_of(series([ds]))

    assert np.abs(image.pixels.astype(int) - [254, 0, 0]).max() <= 1


def test_plain_colour_that_two_pixels_share_is_read(series):
    """YBR_FULL_422 without compression: four bytes for two pixels. PS3.3 C.7.6.3.1.2."""
    [ds] = a_study("US", rows=60, columns=80)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "YBR_FULL_422", 0
    ds.PixelData = bytes((76, 76, 85, 255)) * 2400

    [image] = images_of(series([ds]))

    assert np.abs(image.pixels.astype(int) - [254, 0, 0]).max() <= 1


@pytest.mark.parametrize("step", [1, 257], ids=["bytes", "words"])
def test_a_palette_of_words_that_holds_bytes_is_not_black(series, step):
    [ds] = a_study("US", rows=60, columns=80)
    stored = ds.pixel_array
    ds.PhotometricInterpretation = "PALETTE COLOR"
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", (np.arange(256, dtype="<u2") * step).tobytes())

    [image] = images_of(series([ds]))

    assert np.array_equal(image.pixels[0, ..., 0], stored)


def test_missing_pixel_data_is_refused(ct, series):
    del ct[1].PixelData
    ct[1].ImageComments = "x" * 10_000  # the file is as long as the pixels would be

    with pytest.raises(PixelsUnreadable, match=str(ct[1].SOPInstanceUID)):
        build_volume(series(ct))


def test_more_pixels_than_allowed_are_refused(ct, series):
    with pytest.raises(PixelsUnreadable, match="allowed at once"):
        build_volume(series(ct), limit_bytes=6 * 64 * 64 * 4 - 1)


def test_a_transfer_syntax_that_nobody_knows_is_refused(ct, series):
    laid_out = series(ct)
    laid_out.instances[0].header.file_meta.TransferSyntaxUID = "1.2.3.4.5"

    with pytest.raises(PixelsUnreadable, match=r"1\.2\.3\.4\.5"):
        build_volume(laid_out)


def test_a_rescale_slope_of_zero_is_refused(ct, series):
    ct[0].RescaleSlope = "0"

    with pytest.raises(PixelsUnreadable, match="Rescale Slope"):
        build_volume(series(ct))


def test_a_file_that_vanished_is_refused(ct, series):
    laid_out = series(ct)
    laid_out.instances[0].path.unlink()

    with pytest.raises(PixelsUnreadable, match="gone"):
        build_volume(laid_out)


def test_a_series_without_images_is_refused(ct, series):
    for ds in ct:
        del ds.Rows, ds.Columns, ds.PixelData

    with pytest.raises(PixelsUnreadable, match="no images"):
        build_volume(series(ct))


# --- single images ---------------------------------------------------------------------------------------------------------------
def test_an_ultrasound_is_calibrated_by_its_region(series):
    [image] = images_of(series(a_study("US")))

    assert image.affine is None
    assert image.pixel_spacing_mm == pytest.approx((40 / 600, 40 / 600))
    assert image.voxel_ml is None
    assert image.pixels.shape == (1, 480, 600)


def test_monochrome1_is_turned_so_that_bone_is_bright(series):
    [film] = a_study("CR", slices=12, rows=64)
    stored = film.pixel_array.astype(float)

    [image] = images_of(series([film]))

    assert np.array_equal(image.pixels[0], 4095 - stored)
    assert "detector" in image.notes[0]


@pytest.mark.parametrize("bits", [12, 16])
def test_a_modality_table_of_any_depth_is_used(series, bits):
    [film] = a_study("CR", slices=12, rows=64)
    film.PhotometricInterpretation = "MONOCHROME2"
    stored = film.pixel_array
    item = Dataset()
    item.LUTDescriptor, item.ModalityLUTType = [4096, 0, bits], "US"
    item.LUTData = (np.arange(4096, dtype="<u2")[::-1] // 2).tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
    film.ModalityLUTSequence = [item]

    [image] = images_of(series([film]))

    assert np.array_equal(image.pixels[0], (4095 - stored.astype(int)) // 2)


def test_a_film_with_a_spacing_of_zero_is_not_calibrated_and_says_so(series):
    [film] = a_study("CR", slices=4, rows=64)
    del film.ImagerPixelSpacing
    film.PixelSpacing = ["0", "0"]

    [image] = images_of(series([film]))

    assert image.spacing_mm is None
    assert "not calibrated" in image.notes[0]


def test_each_frame_of_a_clip_is_an_image(series):
    [ds] = a_study("US", rows=60, columns=80)
    ds.NumberOfFrames = 3
    ds.PixelData = ds.PixelData + bytes(4800) + bytes([7]) * 4800

    images = list(images_of(series([ds])))

    assert [image.frames[0].number for image in images] == [1, 2, 3]
    assert images[1].pixels.max() == 0
    assert (images[2].pixels == 7).all()


def test_planar_colour_becomes_rgb(series):
    [ds] = a_study("US", rows=60, columns=80)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 1
    ds.PixelData = bytes([10]) * 4800 + bytes([20]) * 4800 + bytes([30]) * 4800

    [image] = images_of(series([ds]))

    assert image.pixels.dtype == np.uint8
    assert image.pixels.shape == (1, 60, 80, 3)
    assert (image.pixels == [10, 20, 30]).all()


def test_a_single_ct_slice_knows_its_place(ct, series):
    images = list(images_of(series(ct)))

    assert len(images) == 6
    assert images[0].affine is not None
    assert images[0].spacing_mm == pytest.approx((5.0, 6.25, 6.25))


def test_implicit_little_endian_reads_the_same(ct, series):
    for ds in ct:
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian

    assert np.array_equal(build_volume(series(ct)).pixels, chest_ct(**SMALL).hu)
