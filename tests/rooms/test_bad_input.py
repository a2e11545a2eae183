"""What is broken, odd or huge is refused with a reason or handled: nothing of it leaves, and nothing stops the node."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from node.domain import Pseudonym
from node.errors import InstanceUnreadable
from node.identified.clean_uids import CleanUids
from node.identified.cleaning import Cleaner, CleanInstance, identifiers, open_data_set
from node.identified.elements import DEEPEST, Malformed, encode, encode_item
from node.identified.folders import REPORT, Folders
from node.identified.profile import Options, Profile
from tests.rooms.test_deidentifier import Wing, a_slice, as_received

EXPLICIT = "1.2.840.10008.1.2.1"
EVERYTHING = Options(clean_graphics=True, clean_structured_content=True)
NAME = b"ZQDOE JANE "


def with_elements(*elements: bytes) -> bytes:
    """One CT slice with encoded elements among its own."""
    whole = as_received(a_slice(1)).data
    opened = open_data_set(whole, EXPLICIT)
    own = {e.tag: whole[e.start : e.end] for e in opened.elements}
    for element in elements:
        own[int.from_bytes(element[:2], "little") << 16 | int.from_bytes(element[2:4], "little")] = element
    return b"".join(own[tag] for tag in sorted(own))


def cleaned(data: bytes) -> tuple[bytes, Dataset]:
    opened = open_data_set(data, EXPLICIT)
    cleaner = Cleaner(Profile(EVERYTHING), CleanUids(b"k" * 32), Pseudonym("P1"), banned=identifiers(opened), images_only=False)
    instance = cleaner.clean(opened)
    assert isinstance(instance, CleanInstance)
    raw = b"".join(instance.file())
    return raw, dcmread(io.BytesIO(raw))


@pytest.mark.parametrize(
    ("tag", "vr"),
    [
        (0x00104000, b"UT"),
        (0x0008103E, b"UT"),
        (0x00181030, b"UT"),
        (0x00080070, b"UT"),
        (0x00181250, b"UC"),
        (0x0040A160, b"UT"),
        (0x00104001, b"UN"),
    ],
)
def test_ten_megabytes_of_text_say_nothing(tag: int, vr: bytes) -> None:
    raw, _ = cleaned(with_elements(encode(tag, vr, NAME * (10 << 20 >> 3), explicit=True)))

    assert b"ZQDOE" not in raw
    assert len(raw) < 10_000


@pytest.mark.parametrize("text", [b"1" * (10 << 20) + b"x", b" " * (10 << 20) + b"x", b"1\\" * (5 << 20) + b"x", b"1." * (5 << 20)])
@pytest.mark.parametrize(("tag", "vr"), [(0x00180050, b"DS"), (0x00080030, b"TM"), (0x00200013, b"IS"), (0x00080201, b"SH")])
def test_ten_megabytes_in_the_place_of_a_number_are_no_number(tag: int, vr: bytes, text: bytes) -> None:
    """In Implicit VR any length is possible. One pass over it, and it is gone."""
    opened = open_data_set(as_received(a_slice(1), "1.2.840.10008.1.2").data, "1.2.840.10008.1.2")
    own = {e.tag: opened.data[e.start : e.end] for e in opened.elements}
    own[tag] = encode(tag, vr, text, explicit=False)
    data = b"".join(own[one] for one in sorted(own))

    instance = Cleaner(Profile(), CleanUids(b"k" * 32), Pseudonym("P1")).clean(open_data_set(data, "1.2.840.10008.1.2"))

    assert isinstance(instance, CleanInstance)
    assert sum(map(len, instance.chunks)) < 10_000


@pytest.mark.parametrize(
    "element",
    [
        encode(0x00186020, b"SL", b"\1\2", explicit=True),
        encode(0x00189073, b"FD", b"\1\2\3\4", explicit=True),
        encode(0x00209057, b"UL", b"\1\2\3\4\5\6", explicit=True),
    ],
)
def test_a_length_that_does_not_fit_its_vr_is_refused(element: bytes) -> None:
    with pytest.raises((InstanceUnreadable, Malformed)) as refused:
        cleaned(with_elements(element))

    assert "DOE" not in str(refused.value)


def nested(depth: int, *, undefined: bool) -> bytes:
    """A name below so many sequences."""
    inside = encode(0x00100010, b"PN", NAME, explicit=True)
    for _ in range(depth):
        if undefined:
            item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + inside + b"\xfe\xff\x0d\xe0\0\0\0\0"
            inside = b"\x08\x00\x15\x92SQ\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
        else:
            inside = encode(0x00089215, b"SQ", encode_item(inside), explicit=True)
    return inside


@pytest.mark.parametrize("undefined", [False, True])
def test_as_deep_as_the_bound_is_cleaned_and_deeper_is_refused(undefined: bool) -> None:
    raw, _ = cleaned(with_elements(nested(DEEPEST, undefined=undefined)))
    assert b"ZQDOE" not in raw

    for depth in (DEEPEST + 1, 5000):
        with pytest.raises((InstanceUnreadable, Malformed), match="deep"):
            cleaned(with_elements(nested(depth, undefined=undefined)))


def test_private_makers_that_nobody_knows_go_without_a_word() -> None:
    known_number_unknown_maker = (
        encode(0x00190010, b"LO", b"ZQ MAKER", explicit=True),
        encode(0x0019100C, b"IS", b"1000", explicit=True),
        encode(0x00191101, b"LO", NAME, explicit=True),  # no creator at all
        encode(0x00190001, b"LO", NAME, explicit=True),  # where no private element may stand
        encode(0x00290011, b"UN", encode_item(encode(0x00100010, b"PN", NAME, explicit=False)), explicit=True),
    )

    raw, clean = cleaned(with_elements(*known_number_unknown_maker))

    assert b"ZQ" not in raw
    assert not [element for element in clean if element.tag.is_private]


def test_text_under_the_cover_of_a_known_private_number_goes() -> None:
    siemens = encode(0x00190010, b"LO", b"SIEMENS MR HEADER", explicit=True)

    raw, _ = cleaned(with_elements(siemens, encode(0x00191027, b"FD", b"ZQDOEJAN" * 2, explicit=True)))

    assert b"ZQDOE" not in raw


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_of_rubbish_ends_with_a_line_for_each(tmp_path: Path, workers: int) -> None:
    """Cut, flipped, empty and foreign files beside a good one: the good one leaves, each other has its reason, and no value is told."""
    source = tmp_path / "in"
    source.mkdir()
    good = b"\0" * 128 + b"DICM" + encode(0x00020010, b"UI", EXPLICIT.encode(), explicit=True) + as_received(a_slice(1)).data
    (source / "good.dcm").write_bytes(good)
    for number, cut in enumerate((133, 150, 300, len(good) - 5)):
        (source / f"DOE cut {number}.dcm").write_bytes(good[:cut])
    (source / "flipped.dcm").write_bytes(good.replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00ZZ"))
    (source / "empty.dcm").write_bytes(b"")
    (source / "letter.txt").write_bytes(b"Dear Mrs. Doe")
    wing = Wing(tmp_path)
    folders = Folders(
        wing.engine, wing.identities, wing.keyring, tmp_path / "sealed", profile=Profile(), clean_uids=wing.clean_uids, workers=workers
    )

    report = folders.deidentify(source, tmp_path / "out")

    assert report["deidentified"] == 1
    assert report["files"] == report["deidentified"] + report["left_out"] + report["refused"] + report["not_dicom"] == 8
    assert all(one["reason"] for one in report["outcomes"] if one["outcome"] == "refused")
    assert b"DOE" not in (tmp_path / "out" / REPORT).read_bytes().upper()
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and b"DOE^JANE" in path.read_bytes()]


def segment(marker: int, said: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(said) + 2).to_bytes(2, "big") + said


def an_image_by(camera: Callable[[bytes], bytes]) -> tuple[bytes, Dataset]:
    """A JPEG in a data set, as the camera made it of a plain one."""
    written = io.BytesIO()
    Image.fromarray(np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)).save(written, "JPEG")
    ds = a_slice(1, BitsAllocated=8, BitsStored=8, HighBit=7, Rows=64, Columns=64, PixelRepresentation=0)
    ds.PixelData = encapsulate([camera(written.getvalue())])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return as_received(ds, JPEGBaseline8Bit).data, ds


@pytest.mark.parametrize(
    "camera",
    [
        lambda jpeg: jpeg[:2] + segment(0xFE, b"Zqneighbour 0171 5551234") + jpeg[2:],
        lambda jpeg: jpeg[:2] + segment(0xE1, b"Exif\0\0Zqneighbour 52.5 N 13.4 E") + jpeg[2:],
        lambda jpeg: jpeg[:2] + b"\xff\xff" + segment(0xFE, b"Zqneighbour 0171 5551234") + jpeg[2:],
        lambda jpeg: jpeg + b"Zqneighbour 19560312",
    ],
)
def test_what_a_camera_writes_beside_the_pixels_goes(camera: Callable[[bytes], bytes]) -> None:
    """Nobody of the header, so no scan could know it."""
    came, original = an_image_by(camera)
    opened = open_data_set(came, JPEGBaseline8Bit)
    cleaner = Cleaner(Profile(), CleanUids(b"k" * 32), Pseudonym("P1"), images_only=False)

    instance = cleaner.clean(opened)

    assert isinstance(instance, CleanInstance)
    out = dcmread(io.BytesIO(b"".join(instance.file())))
    assert b"Zqneighbour" in came
    assert b"Zqneighbour" not in out.PixelData
    assert len(out.PixelData) == len(original.PixelData)
    original.ensure_file_meta()
    original.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    assert np.array_equal(out.pixel_array, original.pixel_array)


def test_a_stream_that_says_nothing_is_copied_as_it_came() -> None:
    came, _ = an_image_by(lambda jpeg: jpeg[:2] + segment(0xFE, b"LEAD Technologies Inc. V1.01\0") + jpeg[2:])
    opened = open_data_set(came, JPEGBaseline8Bit)

    instance = Cleaner(Profile(), CleanUids(b"k" * 32), Pseudonym("P1"), images_only=False).clean(opened)

    assert isinstance(instance, CleanInstance)
    assert isinstance(instance.pixel_chunk, memoryview)


def test_what_stands_behind_the_last_frame_goes_and_comes_home(tmp_path: Path) -> None:
    source, wing = tmp_path / "in", Wing(tmp_path)
    source.mkdir()
    ds = a_slice(1)
    pixels = ds.PixelData
    ds.PixelData = pixels + b"Zqneighbour 0171 5551234"
    ds.ensure_file_meta()
    ds.file_meta.TransferSyntaxUID = EXPLICIT
    ds.save_as(source / "1.dcm", enforce_file_format=True)
    folders = Folders(wing.engine, wing.identities, wing.keyring, tmp_path / "sealed", profile=Profile(), clean_uids=wing.clean_uids)

    folders.deidentify(source, tmp_path / "out")
    home = folders.reidentify(tmp_path / "out", tmp_path / "home")

    [clean] = (tmp_path / "out").rglob("*.dcm")
    assert dcmread(clean).PixelData == pixels
    assert home["restored"] == 1
    assert (tmp_path / "home" / "1.dcm").read_bytes() == (source / "1.dcm").read_bytes()
