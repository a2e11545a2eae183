"""Segmentations go to a destination in fewer bytes where it takes them so, and plain where it does not."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    SegmentationStorage,
)

import config
from node.assembly import House
from node.domain import Role, WrittenObject
from node.errors import DeliveryRefused, SettingsInvalid
from node.identified.delivery import State
from node.seg_writer import write_seg
from node.testing.pacs import Pacs
from tests.conformance import cases
from tests.orthanc_server import OrthancServer
from tests.rooms.test_delivery import STUDY, Open, Postbox, clock, engine, opens, trail  # noqa: F401 - fixtures


@pytest.fixture
def made(tmp_path: Path):
    """Writes a segmentation to the clean volume: 1 bit a pixel, or 8."""
    study = cases.study_of(cases.ct_files(tmp_path / "ct"))
    volume = cases.stack(study)

    def made(role: Role) -> WrittenObject:
        ds = write_seg(study, volume, cases.infection(cases.opacity(volume.pixels.shape)), cases.provenance(study), role=role)
        path = tmp_path / "clean" / f"{role}.dcm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cases.bytes_of(ds))
        return WrittenObject(job="j", study=STUDY, role=role, sop_class_uid=ds.SOPClassUID, sop_instance_uid=ds.SOPInstanceUID, path=path)

    return made


def a_house(tmp_path: Path, **destination: object) -> House:
    return House(config.load(data_dir=tmp_path / "data", destinations={"archive": destination}))


def same_voxels(got: Dataset, obj: WrittenObject) -> bool:
    return got.SOPInstanceUID == obj.sop_instance_uid and np.array_equal(got.pixel_array, dcmread(obj.path).pixel_array)


@pytest.mark.parametrize(("role", "syntax"), [(Role.SEG, DeflatedExplicitVRLittleEndian), (Role.SEG_FRACTIONAL, JPEGLSLossless)])
def test_a_real_archive_that_says_it_takes_them_gets_compressed_segmentations(
    tmp_path: Path,
    orthanc: OrthancServer,
    opens: Open,  # noqa: F811
    made,
    role: Role,
    syntax: str,
):
    house = a_house(tmp_path, kind="dimse", host="127.0.0.1", port=orthanc.dicom_port, ae_title=orthanc.ae_title, profile="archive")
    house.probe("archive", [SegmentationStorage])
    obj = made(role)
    outbox = opens(house.destinations["archive"], pack=house.packed_for)
    outbox.put(obj, ["archive"])

    outbox.send_due()

    assert [entry.reason for entry in outbox.entries()] == ["C-STORE 0x0000"]
    [id] = orthanc.get("/instances")
    there = dcmread(BytesIO(orthanc.http.get(f"{orthanc.url}/instances/{id}/file").content))
    assert there.file_meta.TransferSyntaxUID == syntax
    assert there.PatientName == "GRAY^ALICE"
    assert same_voxels(there, obj)


def test_one_that_was_never_asked_gets_plain_ones_unless_the_settings_say_so(tmp_path: Path, made):
    obj = made(Role.SEG)
    plain = obj.path.read_bytes()

    by_profile = a_house(tmp_path, kind="folder", path=str(tmp_path), profile="archive")
    by_setting = a_house(tmp_path, kind="folder", path=str(tmp_path), transfer_syntax="deflated")
    viewer = a_house(tmp_path, kind="folder", path=str(tmp_path), profile="ohif")
    other = a_house(tmp_path, kind="folder", path=str(tmp_path), profile="archive", transfer_syntax="explicit")

    assert by_profile.packing("archive").endswith("once it is probed")
    assert by_setting.packing("archive") == "Deflated Explicit VR Little Endian"
    assert viewer.packing("archive") == "uncompressed"
    assert all(house.packed_for("archive", obj.sop_class_uid, plain) == plain for house in (by_profile, viewer, other))
    small = by_setting.packed_for("archive", obj.sop_class_uid, plain)
    assert len(small) < len(plain) / 3
    assert same_voxels(dcmread(BytesIO(small)), obj)


@pytest.mark.parametrize("role", [Role.SEG, Role.SEG_FRACTIONAL])
def test_a_pacs_that_takes_no_compressed_objects_gets_plain_ones_and_it_is_said(tmp_path: Path, opens: Open, made, role: Role):  # noqa: F811
    with Pacs(tmp_path / "pacs", transfer_syntaxes=[ExplicitVRLittleEndian, ImplicitVRLittleEndian]) as pacs:
        address = {"kind": "dimse", "host": "127.0.0.1", "port": pacs.port, "ae_title": "PACS", "keep_open_s": 0.1}
        house = a_house(tmp_path, **address, transfer_syntax=["jpeg-ls", "deflated"])
        obj = made(role)
        outbox = opens(house.destinations["archive"], pack=house.packed_for)
        outbox.put(obj, ["archive"])

        outbox.send_due()

        [got] = pacs.received()
    assert got.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert same_voxels(got, obj)
    [entry] = outbox.entries()
    syntax = "Deflated Explicit VR Little Endian" if role is Role.SEG else "JPEG-LS Lossless Image Compression"
    assert entry.reason == f"C-STORE 0x0000, uncompressed: {syntax} is not taken"


def test_what_is_refused_compressed_is_sent_again_plain(tmp_path: Path, opens: Open, made):  # noqa: F811
    house = a_house(tmp_path, kind="folder", path=str(tmp_path), transfer_syntax="deflated")
    obj = made(Role.SEG)
    box = Postbox("archive")
    box.answers = [DeliveryRefused("Failure Reason 0xC122, transfer syntax not supported")]
    outbox = opens(box, pack=house.packed_for)
    outbox.put(obj, ["archive"])

    outbox.send_due()

    [entry] = outbox.entries()
    assert entry.state is State.SENT
    assert entry.reason == "taken, uncompressed: compressed it said Failure Reason 0xC122, transfer syntax not supported"
    [got] = box.got
    assert dcmread(BytesIO(got)).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_what_is_no_segmentation_is_never_touched(tmp_path: Path):
    house = a_house(tmp_path, kind="folder", path=str(tmp_path), transfer_syntax="deflated")

    assert house.packed_for("archive", "1.2.840.10008.5.1.4.1.1.7", b"a picture") == b"a picture"


@pytest.mark.parametrize("chosen", ["jpeg2000", [], ["deflated", "zip"], 7])
def test_a_transfer_syntax_that_is_not_known_stops_the_start(tmp_path: Path, chosen: object):
    with pytest.raises(SettingsInvalid, match=r"destinations\.archive\.transfer_syntax: one or a list of explicit, deflated, jpeg-ls, rle"):
        a_house(tmp_path, kind="folder", path=str(tmp_path), transfer_syntax=chosen).check()
