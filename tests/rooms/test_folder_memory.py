"""What de-identification of folders remembers and leaves out for speed changes nothing of what comes out, or home."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian

from node.domain import Pseudonym
from node.identified import folders as folders_module
from node.identified.clean_uids import CleanUids
from node.identified.cleaning import Cleaner, CleanInstance, Opened, identifiers
from node.identified.folders import Folders, _files, _open
from node.identified.identifying import Identifying, Kind
from node.identified.pixel_tags import PixelTags
from node.identified.profile import Options, Profile
from node.testing import canary_study
from tests.rooms.test_deidentifier import Wing, a_slice

KEY = b"k" * 32


def written(ds: Dataset) -> bytes:
    out = BytesIO()
    if not hasattr(ds, "file_meta"):
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def opened(ds: Dataset) -> Opened:
    found = _open(written(ds))
    assert found is not None
    return found


@pytest.mark.parametrize("options", [Options(), Options(clean_structured_content=True, clean_graphics=True, retain_device_identity=True)])
def test_an_instance_is_cleaned_the_same_whether_it_is_the_first_or_the_last(options: Options) -> None:
    came = [opened(ds) for ds in canary_study(slices=2, rows=16).datasets]
    banned = frozenset().union(*map(identifiers, came))

    def cleaner() -> Cleaner:
        return Cleaner(Profile(options), CleanUids(KEY), Pseudonym("P1"), banned=banned, images_only=False)

    shared = cleaner()
    together = [shared.clean(one) for one in [*came, *came]]
    alone = [cleaner().clean(one) for one in [*came, *came]]

    assert all(isinstance(one, CleanInstance) for one in together)
    assert [b"".join(one.file()) for one in together] == [b"".join(one.file()) for one in alone]


def test_a_word_that_is_banned_later_is_not_remembered_as_harmless() -> None:
    one = opened(a_slice(1, SeriesDescription="chest", StudyDescription="chest"))
    cleaner = Cleaner(Profile(), CleanUids(KEY), Pseudonym("P1"))
    before = b"".join(cleaner.clean(one).file())

    cleaner.ban(frozenset({"CHEST"}))

    after = dcmread(BytesIO(b"".join(cleaner.clean(one).file())))
    assert dcmread(BytesIO(before)).SeriesDescription == "chest"
    assert not after.get("SeriesDescription")


def test_uids_are_found_as_a_library_reads_them() -> None:
    ds = a_slice(1)
    ds.add_new(0x00080120, "UR", "http://somewhere")
    ds.IrradiationEventUID = ["1.2.840.99999.1.2.3", "1.2.840.99999.4.5.6"]
    ds.private_block(0x0019, "MAKER", create=True).add_new(1, "UI", "1.2.840.99999.7.8.9")
    one = opened(ds)
    quick, slow = Identifying(), Identifying()

    quick.add(one.data, one.elements, explicit=True)
    for element in one.elements:
        if element.vr == b"UI":
            slow._read(one.data[element.start : element.end], element, b"", explicit=True)

    assert quick.values[Kind.UID] == slow.values[Kind.UID]
    assert {"1.2.840.99999.4.5.6", "1.2.840.99999.7.8.9", ds.SOPInstanceUID} <= quick.values[Kind.UID]
    assert ds.SOPClassUID not in quick.values[Kind.UID]


def test_a_tag_tells_instances_pixels_and_sites_apart() -> None:
    tags = PixelTags(KEY)

    same = tags.of("1.2.3", b"pixels")

    assert tags.of("1.2.3", memoryview(b"pixels")) == same
    assert len({same, tags.of("1.2.4", b"pixels"), tags.of("1.2.3", b"pixelt"), PixelTags(b"x" * 32).of("1.2.3", b"pixels")}) == 4


def test_what_was_sealed_by_its_digest_still_comes_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wing = Wing(tmp_path)
    (tmp_path / "in" / "below").mkdir(parents=True)
    for number in (1, 2, 3):
        (tmp_path / "in" / "below" / f"{number}.dcm").write_bytes(written(a_slice(number)))
    folders = Folders(
        wing.engine, wing.identities, wing.keyring, tmp_path / "sealed", profile=wing.deidentifier.profile, clean_uids=wing.clean_uids
    )
    with monkeypatch.context() as older:
        older.setattr(folders_module, "_key", lambda instance, told_by, tags: folders_module._older_key(instance, told_by))
        folders.deidentify(tmp_path / "in", tmp_path / "out")

    report = folders.reidentify(tmp_path / "out", tmp_path / "home")

    assert report["restored"] == 3
    came = {path.relative_to(tmp_path / "in"): path.read_bytes() for path in (tmp_path / "in").rglob("*") if path.is_file()}
    assert {path: (tmp_path / "home" / path).read_bytes() for path in came} == came


def test_every_file_is_found_and_no_link_leads_astray(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    for name in ("a/1", "a/b/2", "out/3"):
        (tmp_path / name).touch()
    (tmp_path / "a" / "itself").symlink_to("itself")
    (tmp_path / "a" / "nowhere").symlink_to("gone")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "file").symlink_to("1")

    found = sorted(_files(str(tmp_path), but=str(tmp_path / "out")))

    assert found == [f"{tmp_path}/a/{name}" for name in ("1", "b/2", "file")]
    assert list(_files(str(tmp_path), but=str(tmp_path))) == []
    assert list(_files(str(tmp_path / "a"), but=str(tmp_path))) == []
