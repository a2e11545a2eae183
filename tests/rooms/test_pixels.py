"""Pixels go on, stay behind, or stop the study: the header decides, and says why."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian

from node.domain import Pseudonym
from node.errors import BurnedInAnnotation
from node.identified.clean_uids import CleanUids
from node.identified.cleaning import Cleaner, CleanInstance, open_data_set
from node.identified.deidentifier import Deidentifier
from node.identified.folders import data_set_of
from node.identified.looking import ByHand, Looker
from node.identified.pixels import Verdict, decide
from node.identified.profile import Profile
from tests.rooms.test_deidentifier import Wing, a_slice, headers

US, SC, WSI = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.77.1.6"


@pytest.fixture
def wing(tmp_path: Path) -> Wing:
    return Wing(tmp_path)


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        ({"Modality": "CT", "ImageType": "ORIGINAL\\PRIMARY\\AXIAL"}, Verdict.CLEAN),
        ({"Modality": "CT", "ImageType": "DERIVED\\SECONDARY\\AXIAL"}, Verdict.UNKNOWN),
        ({"Modality": "CT", "ImageType": "DERIVED\\SECONDARY\\SCREEN SAVE"}, Verdict.LEAVE_OUT),
        ({"Modality": "SM", "ImageType": "ORIGINAL\\PRIMARY\\LABEL\\NONE"}, Verdict.LEAVE_OUT),
        ({"Modality": "SM", "ImageType": "ORIGINAL\\PRIMARY\\VOLUME\\NONE"}, Verdict.UNKNOWN),
        ({"Modality": "US", "SOPClassUID": US, "ImageType": "ORIGINAL\\PRIMARY"}, Verdict.UNKNOWN),
        ({"Modality": "US", "SOPClassUID": US, "BurnedInAnnotation": "NO"}, Verdict.CLEAN),
        ({"Modality": "US", "SOPClassUID": US, "BurnedInAnnotation": "YES"}, Verdict.BURNED_IN),
        ({"Modality": "MR", "ImageType": "ORIGINAL\\PRIMARY", "BurnedInAnnotation": "YES"}, Verdict.BURNED_IN),
        ({"Modality": "OT", "SOPClassUID": SC, "ConversionType": "DF"}, Verdict.BURNED_IN),
        ({"Modality": "OT", "SOPClassUID": SC, "ConversionType": "SI"}, Verdict.BURNED_IN),
        ({"Modality": "OT", "SOPClassUID": SC, "ConversionType": "DF", "BurnedInAnnotation": "NO"}, Verdict.CLEAN),
        ({"Modality": "CT", "SOPClassUID": SC, "ConversionType": "WSD"}, Verdict.UNKNOWN),
    ],
)
def test_the_header_decides(facts: dict[str, str], verdict: Verdict) -> None:
    decision = decide(facts)

    assert decision.verdict is verdict
    assert decision.reason


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        ({"Modality": "CT", "ImageType": "ORIGINAL\\PRIMARY\\AXIAL"}, Verdict.GLANCE),
        ({"Modality": "CT", "ImageType": "DERIVED\\SECONDARY\\AXIAL", "BurnedInAnnotation": "NO"}, Verdict.LOOK),
        ({"Modality": "CT", "ImageType": "DERIVED\\PRIMARY\\MPR", "BurnedInAnnotation": "NO"}, Verdict.GLANCE),
        ({"Modality": "CT", "ImageType": "DERIVED\\PRIMARY\\MPR"}, Verdict.LOOK),
        ({"Modality": "CT", "ImageType": "ORIGINAL\\PRIMARY", "SOPClassUID": SC}, Verdict.LOOK),
        ({"Modality": "MR", "ImageType": "ORIGINAL\\PRIMARY", "BurnedInAnnotation": "YES"}, Verdict.LOOK),
        ({"Modality": "US", "ImageType": "ORIGINAL\\PRIMARY", "BurnedInAnnotation": "NO"}, Verdict.LOOK),
        ({"Modality": "DX", "ImageType": "ORIGINAL\\PRIMARY"}, Verdict.LOOK),
        ({"Modality": "OT", "SOPClassUID": SC, "ConversionType": "DF"}, Verdict.LOOK),
        ({"Modality": "SM", "ImageType": "ORIGINAL\\PRIMARY\\LABEL\\NONE"}, Verdict.LEAVE_OUT),
        ({"Modality": "SM", "SOPClassUID": WSI, "ImageType": "ORIGINAL\\PRIMARY\\VOLUME", "NumberOfFrames": "7"}, Verdict.BURNED_IN),
        ({"Modality": "SM", "SOPClassUID": WSI, "NumberOfFrames": "4000", "BurnedInAnnotation": "YES"}, Verdict.BURNED_IN),
        ({"Modality": "SM", "SOPClassUID": WSI, "NumberOfFrames": "4000", "BurnedInAnnotation": "NO"}, Verdict.BURNED_IN),
        ({"Modality": "SM", "SOPClassUID": WSI, "ImageType": "DERIVED\\PRIMARY\\THUMBNAIL", "NumberOfFrames": "1"}, Verdict.LOOK),
        ({"Modality": "US", "SOPClassUID": US, "NumberOfFrames": "60"}, Verdict.LOOK),
        ({"Modality": "CT", "ImageType": "DERIVED\\SECONDARY\\SCREEN SAVE"}, Verdict.LEAVE_OUT),
    ],
)
def test_where_text_is_usual_somebody_looks_whatever_the_header_says(facts: dict[str, str], verdict: Verdict) -> None:
    assert decide(facts, text_detection="usual").verdict is verdict


def test_a_slide_waits_for_a_person_who_may_let_it_go(wing: Wing) -> None:
    """Seven tiles are more than are looked at; one that a person has released goes on."""
    tiles = {"Modality": "SM", "SOPClassUID": WSI, "NumberOfFrames": "7", "PixelData": b"\0\1" * (64 * 7)}
    slide = a_slice(1, **tiles)

    careful = Deidentifier(Profile(), wing.clean_uids, wing.identities, wing.volume, looker=Looker())
    with pytest.raises(BurnedInAnnotation, match="more tiles"):
        careful.deidentify(wing.study(slide))

    clean_uid = wing.clean_uids.of(str(slide.SOPInstanceUID))
    released = Deidentifier(
        Profile(), wing.clean_uids, wing.identities, wing.volume, looker=Looker(), by_hand=lambda _: {clean_uid: ByHand(released=True)}
    )
    [clean] = headers(released.deidentify(wing.study(slide)))
    assert clean.NumberOfFrames == 7


def test_on_request_every_image_is_looked_at() -> None:
    assert decide({"Modality": "CT", "ImageType": "ORIGINAL\\PRIMARY\\AXIAL"}, text_detection="all").verdict is Verdict.LOOK


def test_whoever_wants_no_doubt_refuses_images_that_say_nothing(wing: Wing) -> None:
    careful = Deidentifier(Profile(), wing.clean_uids, wing.identities, wing.volume, unflagged="refuse")
    study = wing.study(a_slice(1, Modality="US", SOPClassUID=US))

    with pytest.raises(BurnedInAnnotation):
        careful.deidentify(study)


def test_an_overlay_inside_the_pixels_goes_with_its_overlay(wing: Wing) -> None:
    """Bits 12 to 15 of a 12-bit image once carried graphics, PS3.5 8.1.2."""
    stored = np.arange(64, dtype="<u2").reshape(8, 8)
    ds = a_slice(1, PixelData=(stored | 0x8000).tobytes())
    ds.add_new(0x60000010, "US", 8)
    ds.add_new(0x60000011, "US", 8)
    ds.add_new(0x60000100, "US", 16)
    ds.add_new(0x60000102, "US", 15)

    [clean] = headers(wing.deidentify(ds))

    assert np.array_equal(clean.pixel_array, stored)
    assert 0x60000102 not in clean


def test_pixel_bytes_of_real_images_are_copied(shared: Path) -> None:
    checked = 0
    for path in sorted((shared / "data" / "dicom" / "transfer_syntaxes").rglob("*.dcm")):
        data = path.read_bytes()
        start, transfer_syntax, _ = data_set_of(data)
        opened = open_data_set(data, transfer_syntax, start)
        if not opened.value(0x0020000D):
            continue
        instance = Cleaner(Profile(), CleanUids(b"k" * 32), Pseudonym("P1")).clean(opened)
        if isinstance(instance, CleanInstance):
            assert instance.transfer_syntax_uid == transfer_syntax
            clean = dcmread(io.BytesIO(b"".join(instance.file())))
            assert clean.PixelData == dcmread(path).PixelData
            checked += 1
    assert checked > 20


def test_big_endian_and_deflated_images_keep_their_pixel_values(shared: Path, tmp_path: Path) -> None:
    files = [
        shared / "data" / "dicom" / "enhanced" / "emri_small_big_endian.dcm",
        Path(str(pydicom.data.get_testdata_file("MR_small_bigendian.dcm"))),
        Path(str(pydicom.data.get_testdata_file("image_dfl.dcm"))),
    ]
    for path in files:
        data = path.read_bytes()
        start, transfer_syntax, _ = data_set_of(data)
        instance = Cleaner(Profile(), CleanUids(b"k" * 32), Pseudonym("P1")).clean(open_data_set(data, transfer_syntax, start))
        assert isinstance(instance, CleanInstance)
        clean = dcmread(io.BytesIO(b"".join(instance.file())))
        assert clean.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert np.array_equal(clean.pixel_array, dcmread(path).pixel_array)
