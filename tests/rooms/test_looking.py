"""Pixels are looked at, text is painted over, the rest keeps its values; who is not sure refuses."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import convert_color_space
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from node.domain import Pseudonym
from node.errors import BurnedInAnnotation, PixelsNotSeen, TextDetectorFailed
from node.identified import looking_apart
from node.identified.boxes import Box
from node.identified.clean_uids import CleanUids
from node.identified.cleaning import Cleaner, CleanInstance, open_data_set
from node.identified.flat_values import stands_out
from node.identified.folders import Folders, data_set_of
from node.identified.looking import ByHand, Looker
from node.identified.looking_apart import LookingApart
from node.identified.pixels import Decision, Verdict
from node.identified.profile import Profile
from node.identified.regions import DeviceRegion, boxes_in, known_devices
from node.identified.text_detector import Picture
from node.testing.phantom_breast_ultrasound import breast_ultrasound
from node.testing.studies import a_study
from tests.rooms.lettering import Text, all_ink, written
from tests.rooms.test_deidentifier import Wing, a_slice

NAME = Text("HADDAD LEILA", 30, 24, 14)
CLEAN_PIXEL_DATA = "113101"
UIDS = CleanUids(b"u" * 32)


@pytest.fixture
def wing(tmp_path: Path) -> Wing:
    return Wing(tmp_path)


def an_image(pixels: NDArray[Any], syntax: str = ExplicitVRLittleEndian, frames: int = 1, **changes: Any) -> Dataset:
    """An ultrasound image of Jane Doe with these pixels, stored as it is or compressed."""
    samples = 3 if pixels.shape[-1] == 3 else 1
    bits = pixels.dtype.itemsize * 8
    ds = a_slice(1, Modality="US", SOPClassUID=UltrasoundImageStorage, RescaleSlope=None, RescaleIntercept=None)
    ds.Rows, ds.Columns = pixels.shape[-3:-1] if samples == 3 else pixels.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = samples, "RGB" if samples == 3 else "MONOCHROME2"
    if samples == 3:
        ds.PlanarConfiguration = 0
    if frames > 1:
        ds.SOPClassUID, ds.NumberOfFrames = UltrasoundMultiFrameImageStorage, frames
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OB" if bits == 8 else "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        plugin = {RLELossless: "pylibjpeg"}.get(syntax, "")
        ds.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


def cleaned(ds: Dataset, **arguments: Any) -> tuple[CleanInstance, Dataset]:
    """Through the profile, and what a reader of the result finds."""
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    start, syntax, _ = data_set_of(out.getvalue())
    cleaner = Cleaner(Profile(), UIDS, Pseudonym("P1"), **{"looker": Looker(), **arguments})
    instance = cleaner.clean(open_data_set(out.getvalue(), syntax, start))
    assert isinstance(instance, CleanInstance)
    return instance, dcmread(io.BytesIO(b"".join(bytes(part) for part in instance.file())))


def finds(*boxes: Box) -> Looker:
    """A detector that is known to find these."""

    def find(picture: Picture) -> list[Box]:
        return list(boxes)

    return Looker(find_text=find)


def claimed(ds: Dataset) -> bool:
    return CLEAN_PIXEL_DATA in {item.CodeValue for item in ds.DeidentificationMethodCodeSequence}


def speckle() -> NDArray[np.uint8]:
    return breast_ultrasound("benign").pixels[100:300, 100:400].copy()


# --- what is painted, and what stays --------------------------------------------------------------------------------------------
def sixteen_bits() -> NDArray[Any]:
    return written((speckle().astype(np.uint16) + 900) * 4, 65535, NAME)


def signed() -> NDArray[Any]:
    return written(speckle().astype(np.int16) * 8 - 1024, 3071, NAME)


@pytest.mark.parametrize(
    ("pixels", "changes", "black"),
    [
        (written(speckle(), 255, NAME), {}, "lowest"),
        (sixteen_bits(), {}, "lowest"),
        (signed(), {}, "lowest"),
        (written(255 - speckle(), 0, NAME), {"PhotometricInterpretation": "MONOCHROME1"}, "highest"),
        (written(np.repeat(speckle()[..., None], 3, 2), (255, 255, 0), NAME), {}, "rgb"),
    ],
    ids=["8 bit", "16 bit", "signed", "MONOCHROME1", "RGB"],
)
@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=lambda uid: uid.name
)
def test_a_name_is_painted_over_and_the_rest_keeps_its_values(
    pixels: NDArray[Any], changes: dict[str, Any], black: str, syntax: str
) -> None:
    box = Box(14, 15, 188, 47)  # with its margin
    ds = an_image(pixels, syntax, **changes)
    before = ds.pixel_array

    instance, clean = cleaned(ds, looker=finds(Box(32, 20, 170, 42)))

    after = clean.pixel_array
    assert clean.file_meta.TransferSyntaxUID == syntax
    assert instance.masked == 1
    fill = {"lowest": before.min(), "highest": before.max(), "rgb": 0}[black]
    inside = np.zeros(before.shape[:2], bool)
    inside[box.top : box.bottom, box.left : box.right] = True
    assert (after[all_ink(before.shape, NAME)] == fill).all()
    assert np.array_equal(after[~inside], before[~inside])
    assert (clean.BurnedInAnnotation, claimed(clean)) == ("NO", True)
    assert "IconImageSequence" not in clean


def test_sixteen_bits_are_read_where_text_is_at_the_end_of_the_scale() -> None:
    """Letters at the highest value over tissue that fills a hundredth of the scale, and letters that only a narrow window shows."""
    pixels = written(sixteen_bits() // 8, 65535, Text("NGOZI", 30, 100, 14))
    pixels = written(pixels, float(pixels.min()) - 0 + 1100, Text("19470206", 150, 160, 14))

    _, clean = cleaned(an_image(pixels))

    left = all_ink(pixels.shape, NAME, Text("NGOZI", 30, 100, 14)) & (clean.pixel_array == pixels)
    assert left.sum() == 0


def test_a_palette_is_filled_with_its_darkest_colour() -> None:
    ramp = np.arange(255, -1, -1).astype(np.uint8)  # value 0 is white, 255 black
    ds = an_image(written(255 - speckle(), 0, NAME), PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 8])
        setattr(ds, f"{colour}PaletteColorLookupTableData", ramp.tobytes())

    _, clean = cleaned(ds)

    assert (clean.pixel_array[all_ink(clean.pixel_array.shape, NAME)] == 255).all()


def test_ybr_stays_ybr_and_black_is_black() -> None:
    rgb = written(np.repeat(speckle()[..., None], 3, 2), (255, 255, 255), NAME)
    ds = an_image(convert_color_space(rgb, "RGB", "YBR_FULL"), PhotometricInterpretation="YBR_FULL")

    _, clean = cleaned(ds)

    assert clean.PhotometricInterpretation == "YBR_FULL"
    assert clean.pixel_array[all_ink(rgb.shape, NAME)].max() == 0  # as RGB


def test_subsampled_colour_is_written_whole() -> None:
    rgb = written(np.repeat(speckle()[..., None], 3, 2), (255, 255, 255), NAME)
    ybr = convert_color_space(rgb, "RGB", "YBR_FULL")
    pairs = ybr.reshape(200, 150, 2, 3)
    ds = an_image(ybr, PhotometricInterpretation="YBR_FULL_422")
    ds.PixelData = np.concatenate([pairs[..., 0], pairs[:, :, :1, 1], pairs[:, :, :1, 2]], axis=2).tobytes()  # Y Y Cb Cr
    before = ds.pixel_array

    _, clean = cleaned(ds, looker=finds(Box(32, 20, 170, 42)))

    assert clean.PhotometricInterpretation == "YBR_FULL"
    assert clean.pixel_array[all_ink(rgb.shape, NAME)].max() == 0
    assert np.array_equal(clean.pixel_array[100:], before[100:])


def test_lossy_pixels_become_native_and_stay_lossy_in_name() -> None:
    ds = an_image(speckle())
    out = io.BytesIO()
    Image.fromarray(written(speckle(), 255, NAME)).save(out, "JPEG", quality=95)
    ds.PixelData = encapsulate([out.getvalue()])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    before = ds.pixel_array

    _, clean = cleaned(ds)

    assert clean.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert clean.LossyImageCompression == "01"
    assert not (clean.pixel_array[all_ink(before.shape, NAME)] == before[all_ink(before.shape, NAME)]).any()
    assert np.array_equal(clean.pixel_array[100:], before[100:])


def test_an_image_without_text_keeps_its_very_bytes() -> None:
    ds = an_image(speckle(), JPEGLSLossless)

    instance, clean = cleaned(ds)

    assert isinstance(instance.pixel_chunk, memoryview)
    assert clean.PixelData == ds.PixelData
    assert (instance.masked, clean.BurnedInAnnotation, claimed(clean)) == (0, "NO", True)


def test_text_that_shows_in_a_few_frames_goes_from_all() -> None:
    """Thirty frames; a name stands in the twelfth only, which is none of those that are looked at one by one."""
    frames = np.stack([speckle()] * 30)
    frames[11] = written(frames[11], 255, NAME)

    _, clean = cleaned(an_image(frames, frames=30))

    after = clean.pixel_array
    there = all_ink(frames.shape[1:], NAME)
    assert (after[:, there] == frames.min()).all()
    assert np.array_equal(after[:, 100:], frames[:, 100:])


@pytest.mark.parametrize(
    ("name", "line"),
    [("us_breast/us_01", Box(2, 6, 245, 24)), ("us_breast/us_04", Box(3, 6, 248, 24)), ("cr_chest/cr_02", Box(9, 17, 222, 44))],
)
def test_the_names_burned_into_real_images_are_gone(shared: Path, name: str, line: Box) -> None:
    source = dcmread(shared / "data" / "dicom" / "wrapped" / f"{name}.dcm")
    before = source.pixel_array

    instance, clean = cleaned(source)

    after = clean.pixel_array
    assert instance.masked
    assert (after[line.top : line.bottom, line.left : line.right] == before.min()).all()
    assert np.mean(after != before) < 0.08


@pytest.mark.parametrize("name", ["wrapped/cr_chest/cr_03", "wrapped/ct_covid_slice/ct_00", "odd/color-pl"])
def test_real_images_without_text_are_left_alone(shared: Path, name: str) -> None:
    source = dcmread(shared / "data" / "dicom" / f"{name}.dcm")

    instance, clean = cleaned(source)

    assert instance.masked == 0
    assert clean.PixelData == source.PixelData


# --- what is known unseen -------------------------------------------------------------------------------------------------------
def test_all_outside_of_the_ultrasound_regions_is_blanked() -> None:
    pixels = np.full((200, 300), 90, np.uint8)
    pixels[0, 0] = 3
    regions = [Dataset(), Dataset()]
    for region, (x0, y0, x1, y1) in zip(regions, [(20, 40, 139, 189), (150, 40, 279, 189)], strict=True):
        region.RegionLocationMinX0, region.RegionLocationMinY0 = x0, y0
        region.RegionLocationMaxX1, region.RegionLocationMaxY1 = x1, y1

    _, clean = cleaned(an_image(pixels, SequenceOfUltrasoundRegions=regions), looker=finds())

    kept = np.zeros(pixels.shape, bool)
    kept[40:190, 20:140] = kept[40:190, 150:280] = True
    assert (clean.pixel_array[kept] == 90).all()
    assert (clean.pixel_array[~kept] == 3).all()


def test_regions_that_make_no_sense_say_nothing() -> None:
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0, region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 900, 900, 950, 950
    ds = an_image(speckle(), SequenceOfUltrasoundRegions=[region, Dataset()])

    assert boxes_in(ds, known_devices()) == []


def test_a_site_names_its_own_devices() -> None:
    ours = DeviceRegion(modality="US", model="EchoMaster", rows=200, boxes=(Box(0, 0, 300, 30),))
    pixels = written(speckle(), 255, NAME)
    looker = Looker(devices=(ours,), find_text=lambda picture: [])

    _, met = cleaned(an_image(pixels, ManufacturerModelName="ECHOMASTER "), looker=looker)
    instance, other = cleaned(an_image(pixels, ManufacturerModelName="Another"), looker=looker)

    assert (met.pixel_array[:30] == pixels.min()).all()
    assert instance.masked == 0
    assert np.array_equal(other.pixel_array, pixels)


def test_known_devices_are_where_their_images_have_text(shared: Path) -> None:
    source = dcmread(shared / "data" / "dicom" / "us" / "aloka_16bit_palette.dcm")

    boxes = boxes_in(source, known_devices())

    assert Box(0, 0, 640, 25) in boxes


# --- who is not sure refuses ----------------------------------------------------------------------------------------------------
def test_declared_text_that_is_not_found_is_refused() -> None:
    with pytest.raises(BurnedInAnnotation, match="no text was found"):
        cleaned(an_image(speckle(), BurnedInAnnotation="YES"), looker=finds())


def test_declared_text_that_is_found_goes_on_masked() -> None:
    _, clean = cleaned(an_image(written(speckle(), 255, NAME), BurnedInAnnotation="YES"))

    assert clean.BurnedInAnnotation == "NO"


def test_a_sender_that_denies_text_is_not_believed() -> None:
    instance, _ = cleaned(an_image(written(speckle(), 255, NAME), BurnedInAnnotation="NO"))

    assert instance.masked


def test_a_page_of_text_is_refused() -> None:
    with pytest.raises(BurnedInAnnotation, match="more than a third"):
        cleaned(an_image(speckle(), SOPClassUID=SecondaryCaptureImageStorage), looker=finds(Box(0, 0, 300, 80)))


def test_a_detector_that_is_down_refuses_and_spares_what_needs_no_look() -> None:
    def down(picture: Picture) -> list[Box]:
        raise TextDetectorFailed("it can't be loaded (ImportError)")

    with pytest.raises(TextDetectorFailed, match=r"install what requirements\.txt names"):
        cleaned(an_image(speckle()), looker=Looker(find_text=down))
    cleaned(a_slice_of_ct(), looker=Looker(find_text=down))


def undecodable() -> Dataset:
    """A codestream that brings down the whole process with one of the codecs."""
    ds = an_image(speckle(), JPEG2000Lossless)
    ds.PixelData = encapsulate([b"\xff\x4f\xff\x51 no codestream " * 9])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds


def test_pixels_that_nobody_can_decode_are_refused() -> None:
    ds = an_image(speckle(), RLELossless)
    ds.PixelData = encapsulate([b"no run lengths " * 9])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True

    with pytest.raises(PixelsNotSeen, match="can't be decoded"):
        cleaned(ds)


def a_slice_of_ct() -> Dataset:
    ds = a_slice()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def a_measured_slice(syntax: str = ExplicitVRLittleEndian, *texts: Text, value: int = 1800) -> Dataset:
    """A slice of the chest phantom as a scanner makes it, with what somebody wrote into it."""
    [ds] = a_study("CT", slices=1, rows=256, PatientID="PID77")
    ds.PixelData = written(ds.pixel_array, value, *texts).tobytes()
    if syntax != ExplicitVRLittleEndian:
        ds.compress(syntax, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    return ds


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless], ids=lambda uid: uid.name)
@pytest.mark.parametrize("value", [4095, 1800, 700], ids=["at the end of the scale", "bright", "dim"])
def test_text_in_a_slice_that_calls_itself_original_is_noticed(syntax: str, value: int) -> None:
    text = Text("HADDAD LEILA", 30, 24, 10)
    ds = a_measured_slice(syntax, text, value=value)

    instance, clean = cleaned(ds, looker=finds(Box(28, 22, 130, 36)))

    assert instance.masked == 1
    assert (clean.pixel_array[all_ink((256, 256), text)] == ds.pixel_array.min()).all()


def test_who_wrote_in_one_place_wrote_in_the_others_too() -> None:
    """A second line, too faint to stand out by itself, goes with the first; where no line stands out a detector is not believed."""
    bright, faint = Text("HADDAD LEILA", 30, 24, 10), Box(28, 60, 130, 74)
    ds = a_measured_slice(ExplicitVRLittleEndian, bright)

    both, clean = cleaned(ds, looker=finds(Box(28, 22, 130, 36), faint))
    one, _ = cleaned(ds, looker=finds(faint))

    assert (both.masked, one.masked) == (2, 0)
    assert (clean.pixel_array[faint.top : faint.bottom, faint.left : faint.right] == ds.pixel_array.min()).all()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless], ids=lambda uid: uid.name)
def test_a_slice_without_text_asks_no_detector(syntax: str) -> None:
    def asked(picture: Picture) -> list[Box]:
        raise AssertionError("nothing stood out")

    instance, clean = cleaned(a_measured_slice(syntax), looker=Looker(find_text=asked))

    assert instance.masked == 0
    assert claimed(clean)


@pytest.mark.parametrize(
    ("frame", "known"),
    [
        (np.zeros((64, 64), np.int16), False),
        (np.full((64, 64), -2000, np.int16), False),
        (np.arange(4096, dtype=np.uint16).reshape(64, 64), False),
        (np.zeros((64, 64, 3), np.uint8), True),
        (np.zeros((64, 64), np.float32), True),
    ],
    ids=["black", "padding only", "a ramp", "colour", "floating point"],
)
def test_a_value_stands_out_or_can_not_be_told(frame: NDArray[Any], known: bool) -> None:
    assert stands_out(frame) is known


def test_what_a_person_released_passes_with_the_masks_of_that_person() -> None:
    ds = an_image(speckle(), BurnedInAnnotation="YES")
    uid = UIDS.of(ds.SOPInstanceUID)

    passed, _ = cleaned(ds, looker=finds(), by_hand={uid: ByHand((), released=True)})
    masked, clean = cleaned(ds, looker=finds(Box(0, 0, 300, 90)), by_hand={uid: ByHand((Box(5, 5, 50, 20),), released=True)})

    assert passed.masked == 0
    assert masked.masked == 1  # a third of the image was no doubtless finding; the person's box stands
    assert (clean.pixel_array[5:20, 5:50] == speckle().min()).all()


def test_a_mask_by_hand_is_painted_into_an_image_that_nobody_had_to_look_at() -> None:
    ds = a_slice_of_ct()
    uid = UIDS.of(ds.SOPInstanceUID)

    _, clean = cleaned(ds, by_hand={uid: ByHand((Box(0, 0, 4, 2),), released=True)})

    assert (clean.pixel_array[:2, :4] == ds.pixel_array.min()).all()
    assert np.array_equal(clean.pixel_array[2:], ds.pixel_array[2:])


# --- in a process of its own ------------------------------------------------------------------------------------------------------
def test_an_image_that_brings_a_decoder_down_costs_that_image_only() -> None:
    apart = LookingApart(Looker(), threads=1)
    named = an_image(written(speckle(), 255, NAME), JPEGLSLossless)
    try:
        _, here = cleaned(named)
        _, there = cleaned(named, looker=apart)
        with pytest.raises(PixelsNotSeen, match="can't be decoded"):
            cleaned(undecodable(), looker=apart)
        afterwards, _ = cleaned(named, looker=apart)
    finally:
        apart.close()

    assert there == here
    assert afterwards.masked == 1


def test_a_refusal_keeps_its_kind_and_its_words_across_processes() -> None:
    asked = (str(ExplicitVRLittleEndian), Decision(Verdict.LOOK, "", declared=True), ByHand())
    answer, _ = looking_apart._answer(
        looking_apart.pickle.dumps((finds_nothing(), "look", an_image(speckle()), asked, {"explicit": True})), threads=1
    )

    with pytest.raises(BurnedInAnnotation, match="no text was found"):
        looking_apart._raise_what_is_refused(answer)


def nothing(picture: Picture) -> list[Box]:
    return []


def finds_nothing() -> Looker:
    return Looker(find_text=nothing)


# --- whole folders ------------------------------------------------------------------------------------------------------------------
def test_masked_files_come_home_byte_for_byte(wing: Wing, tmp_path: Path) -> None:
    files = {}
    for i, syntax in enumerate((ExplicitVRLittleEndian, RLELossless, JPEGLSLossless)):
        ds = an_image(written(speckle(), 255, NAME) if i else speckle(), syntax)
        ds.SOPInstanceUID = f"{ds.SOPInstanceUID}.{i}"
        path = tmp_path / "in" / f"{i}.dcm"
        path.parent.mkdir(exist_ok=True)
        ds.save_as(path, enforce_file_format=True)
        files[path.name] = path.read_bytes()
    looker = LookingApart(Looker(), threads=1)
    folders = Folders(
        wing.engine,
        wing.identities,
        wing.keyring,
        tmp_path / "sealed",
        profile=Profile(),
        clean_uids=wing.clean_uids,
        looker=looker,
        workers=2,
    )

    report = folders.deidentify(tmp_path / "in", tmp_path / "out")
    home = folders.reidentify(tmp_path / "out", tmp_path / "home")

    assert (report["deidentified"], report["masked"], report["boxes"]) == (3, 2, 2)
    assert "HADDAD" not in str(report).upper()
    assert home["restored"] == 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "home").glob("*.dcm")} == files
