"""The intake: a study in any number of associations is one study; the same again is nothing new; late images are the next revision."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from sqlalchemy import select

from node.domain import Channel, Origin, StudyRef
from node.errors import InstanceUnreadable, KeyMissing
from node.identified.clean_uids import CleanUids
from node.identified.intake import Intake, why_settled
from node.identified.keys import Keyring
from node.identified.tables import InstanceRow, KeyRow, SegmentRow, StudyRow
from node.identified.vault import Vault
from node.ledger.database import open_identified, reading, sqlite_url

MASTER = bytes(range(32))
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class Department:
    """A node's intake with a clock, and a scanner that brings files."""

    def __init__(self, home: Path) -> None:
        self.home, self.now, self.ours = home, NOON, set()
        self.engine = open_identified(sqlite_url(home / "identified.db"))
        self.open()

    def open(self) -> None:
        """As after a restart."""
        keyring = Keyring(self.engine, MASTER, lease_s=0)
        self.vault = Vault(self.home / "vault", keyring, 4 << 20)
        self.uids = CleanUids(keyring.site_key("uids"))
        self.writer = self.vault.writer("stow")
        self.intake = Intake(
            self.engine, self.vault, keyring, self.uids,
            settle_after_s=30, settle_complete_after_s=2, is_ours=lambda uid: uid in self.ours, clock=lambda: self.now,
        )  # fmt: skip

    def origin(self, channel: Channel = Channel.STOW) -> Origin:
        return Origin(channel=channel, received_at=self.now, peer="127.0.0.1")

    def brings(self, *files: bytes, channel: Channel = Channel.STOW) -> None:
        for file in files:
            self.intake.accept(file, self.origin(channel), self.writer)
        self.intake.index_new()

    def waits(self, seconds: float) -> list[StudyRef]:
        self.now += timedelta(seconds=seconds)
        return self.intake.settled()

    def extents(self) -> list[list[list[object]]]:
        with reading(self.engine) as db:
            return list(db.scalars(select(InstanceRow.extents)))

    def row(self, study: str = "1.2.3") -> StudyRow:
        with reading(self.engine) as db:
            return db.execute(select(StudyRow.__table__).where(StudyRow.study == self.uids.of(study))).one()


@pytest.fixture
def department(tmp_path: Path) -> Department:
    return Department(tmp_path)


def a_file(number: int, study: str = "1.2.3", syntax: str = ExplicitVRLittleEndian, content: int = 0, **more: object) -> bytes:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"{study}.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientName = study, f"{study}.0", "DOE^JANE"
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    ds.Rows = ds.Columns = 16
    ds.BitsAllocated, ds.SamplesPerPixel, ds.PixelRepresentation = 16, 1, 0
    ds.PixelData = np.full((16, 16), content, ">u2" if syntax == ExplicitVRBigEndian else "<u2").tobytes()
    ds["PixelData"].VR = "OW"
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def data_set(file: bytes) -> bytes:
    """The bytes after the file meta information."""
    from pydicom.filereader import _read_file_meta_info, read_preamble

    source = io.BytesIO(file)
    read_preamble(source, False)
    _read_file_meta_info(source)
    return file[source.tell() :]


def test_a_study_settles_when_it_has_been_quiet(department):
    department.brings(a_file(1), a_file(2))

    assert department.waits(29) == []
    [ref] = department.waits(1)

    assert ref == StudyRef(study=department.uids.of("1.2.3"), revision=1)
    assert department.row().settled_reason == "quiet for 30 s"
    assert department.intake.settled() == []


def test_a_new_instance_starts_the_wait_again(department):
    department.brings(a_file(1))
    assert department.waits(20) == []
    department.brings(a_file(2))

    assert department.waits(29) == []
    assert len(department.waits(1)) == 1


def test_the_count_of_the_source_shortens_the_wait(department):
    department.intake.expect(department.uids.of("1.2.3"), 2)
    department.brings(a_file(1))
    assert department.waits(2) == []
    department.brings(a_file(2))

    assert department.waits(1) == []
    assert len(department.waits(1)) == 1
    assert department.row().settled_reason == "complete: 2 of 2 instances"


def test_an_expected_study_of_which_nothing_came_does_not_settle(department):
    department.intake.expect(department.uids.of("1.2.3"), 2)

    assert department.waits(1000) == []


@pytest.mark.parametrize(
    ("quiet_s", "total", "expected", "reason"),
    [
        (29.9, 5, None, ""),
        (30, 5, None, "quiet for 30 s"),
        (1.9, 5, 5, ""),
        (2, 5, 5, "complete: 5 of 5 instances"),
        (2, 6, 5, "complete: 6 of 5 instances"),
        (2, 4, 5, ""),
        (30, 4, 5, "quiet for 30 s"),
        (2, 5, 0, ""),
    ],
)
def test_when_has_a_study_settled(quiet_s, total, expected, reason):
    assert why_settled(quiet_s, total, expected, settle_after_s=30, settle_complete_after_s=2) == reason


def test_the_study_opens_with_the_bytes_that_came(department):
    files = {syntax: a_file(n, syntax=syntax) for n, syntax in enumerate(
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian))}  # fmt: skip
    department.brings(*files.values())
    [ref] = department.waits(30)

    study = department.intake.open(ref)

    got = {instance.transfer_syntax_uid: instance for instance in study.instances()}
    assert study.count == 4
    for syntax, file in files.items():
        assert got[syntax].data == data_set(file)
        assert got[syntax].origin == Origin(channel=Channel.STOW, received_at=NOON, peer="127.0.0.1")
        assert got[syntax].sop_class_uid == CTImageStorage
    assert {i.sop_instance_uid for i in got.values()} == {f"1.2.3.{n}" for n in range(4)}
    assert "DOE" not in repr(study) + repr(list(got.values()))


def test_two_doors_and_two_writers_of_one_study_make_one_study(department):
    department.brings(a_file(1), channel=Channel.ORTHANC)
    other = department.vault.writer("scp-1")
    department.intake.accept(a_file(2), department.origin(Channel.DIMSE), other)
    department.intake.index_new()

    [ref] = department.waits(30)

    assert department.intake.open(ref).count == 2


def test_the_same_study_again_is_nothing_new(department):
    department.brings(a_file(1), a_file(2))
    [ref] = department.waits(30)
    department.intake.processed(ref)

    department.brings(a_file(1), a_file(2))

    assert department.waits(1000) == []
    assert department.row().state == "PROCESSED"
    assert department.row().revision == 1
    assert department.intake.counted["duplicate"] == 2


def test_the_same_instance_with_other_content_does_not_replace_the_first(department, caplog):
    department.brings(a_file(1, content=1))
    department.brings(a_file(1, content=2))

    [ref] = department.waits(30)
    [instance] = department.intake.open(ref).instances()

    assert instance.data == data_set(a_file(1, content=1))
    assert department.intake.counted["conflict"] == 1
    assert "other content" in caplog.text
    assert "1.2.3.1" not in caplog.text


def test_a_late_image_makes_the_next_revision(department):
    department.brings(a_file(1), a_file(2))
    [first] = department.waits(30)
    department.intake.processed(first)

    department.brings(a_file(3))
    assert department.row().state == "RECEIVING"
    [second] = department.waits(30)

    assert second == StudyRef(study=first.study, revision=2)
    assert department.intake.open(second).count == 3
    assert department.intake.open(first).count == 2


def test_an_image_that_comes_while_the_study_is_processed_is_not_forgotten(department):
    department.brings(a_file(1))
    [first] = department.waits(30)
    department.brings(a_file(2))

    department.intake.processed(first)

    assert department.row().state == "RECEIVING"
    [second] = department.waits(30)
    assert second.revision == 2


def test_a_refused_study_is_tried_again_when_new_images_come(department):
    department.brings(a_file(1))
    [first] = department.waits(30)
    department.intake.refused(first)
    assert department.intake.state_counts() == {"RECEIVING": 0, "SETTLED": 0, "PROCESSED": 0, "QUARANTINED": 1}
    assert department.waits(1000) == []

    department.brings(a_file(2))

    assert department.row().state == "RECEIVING"
    assert [ref.revision for ref in department.waits(30)] == [2]


def test_a_settled_study_that_was_not_finished_is_named_again_after_a_restart(department):
    department.brings(a_file(1))
    [ref] = department.waits(30)
    assert department.intake.settled() == []

    department.open()

    assert department.intake.settled() == [ref]
    assert department.intake.settled() == []
    department.intake.give_again(ref)
    assert department.intake.settled() == [ref]


def test_our_own_results_that_come_back_are_not_taken(department):
    department.ours.add("1.2.3.7")

    accepted = department.intake.accept(a_file(7), department.origin(), department.writer)

    assert accepted.own
    assert department.intake.index_new() == 0
    assert department.waits(1000) == []


def test_our_own_results_that_come_by_c_store_are_not_taken(department):
    department.intake.accept(a_file(7), department.origin(), department.writer)
    department.ours.add("1.2.3.7")

    assert department.intake.index_new() == 0
    assert department.intake.counted["own"] == 1


def test_a_study_does_not_settle_while_an_instance_is_arriving(department):
    department.brings(a_file(1))
    meta = department.vault.read_meta(department.extents()[0], department.uids.of("1.2.3"))
    slow = department.writer.begin(meta)
    slow.write(bytes(3 << 20))
    department.intake.index_new()

    assert department.waits(1000) == []
    slow.abandon()
    department.intake.index_new()
    assert len(department.waits(30)) == 1


def test_indexing_again_from_the_start_finds_nothing_new(department):
    department.brings(a_file(1), a_file(2))
    with department.engine.begin() as db:
        db.execute(SegmentRow.__table__.delete())

    assert department.intake.index_new() == 0
    assert department.intake.counted["duplicate"] == 0


def test_a_purged_study_is_gone_and_its_segment_is_deleted(department):
    department.brings(a_file(1), a_file(2))
    department.brings(a_file(1, study="1.5"))
    [gone, kept] = sorted(department.waits(30), key=lambda ref: ref.study != department.uids.of("1.2.3"))
    opened = department.intake.open(gone)
    department.writer.close()
    department.intake.index_new()

    department.intake.purge(gone.study)

    assert department.intake.open(gone).count == 0
    with pytest.raises(KeyMissing):
        list(opened.instances())
    assert department.intake.open(kept).count == 1
    assert len(list(department.vault.folder.glob("*.seg"))) == 1
    department.intake.purge(kept.study)
    assert list(department.vault.folder.iterdir()) == []
    with reading(department.engine) as db:
        assert not [name for name in db.scalars(select(KeyRow.name)) if name.startswith("study:")]
        assert not db.scalars(select(SegmentRow.segment)).all()


def test_a_purged_study_that_is_sent_again_is_new(department):
    department.brings(a_file(1))
    [ref] = department.waits(30)
    department.intake.purge(ref.study)

    department.brings(a_file(1))

    [again] = department.waits(30)
    assert again == ref
    assert department.intake.open(again).count == 1


def test_accepted_names_the_original_uids_for_the_answer(department):
    accepted = department.intake.accept(a_file(1), department.origin(), department.writer)

    assert (accepted.sop_class_uid, accepted.sop_instance_uid, accepted.study_instance_uid) == (CTImageStorage, "1.2.3.1", "1.2.3")
    assert accepted.study == department.uids.of("1.2.3")
    assert "1.2.3" not in repr(accepted)


def test_a_file_is_taken_by_its_path(department, tmp_path):
    path = tmp_path / "one.dcm"
    path.write_bytes(a_file(1))

    department.intake.accept(path, department.origin(Channel.FOLDER), department.writer)
    department.intake.index_new()

    [ref] = department.waits(30)
    [instance] = department.intake.open(ref).instances()
    assert instance.data == data_set(a_file(1))


GOOD = a_file(1)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "DICM"),
        (b"not DICOM at all" * 100, "DICM"),
        (GOOD[:140], "transfer syntax"),
        (GOOD[: GOOD.index(b"1.2.840.10008.1.2.1") + 5], "file meta"),
        (GOOD[: GOOD.index(b"\x08\x00\x16\x00") + 14], "ends inside"),
        (a_file(1, StudyInstanceUID=""), "Study Instance UID is missing"),
        (a_file(1, SOPInstanceUID=""), "SOP Instance UID is missing"),
        (a_file(1, SOPClassUID=""), "SOP Class UID is missing"),
        (GOOD.replace(b"1.2.3.1", b"../../e"), "SOP Instance UID is not a UID"),
        (GOOD.replace(b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.9.9"), "transfer syntax"),
        (GOOD.replace(b"\x08\x00\x16\x00UI", b"\x08\x00\x16\x00??"), "value representation"),
    ],
)
@pytest.mark.parametrize("by_path", [False, True])
def test_what_is_not_dicom_is_refused_with_a_reason_and_no_value(department, tmp_path, file, reason, by_path):
    path = tmp_path / "x"
    path.write_bytes(file)

    with pytest.raises(InstanceUnreadable) as refused:
        department.intake.accept(path if by_path else file, department.origin(), department.writer)

    assert reason in str(refused.value)
    assert "1.2.3" not in str(refused.value)
    assert "/e" not in str(refused.value)
    assert department.intake.index_new() == 0


def test_a_study_uid_behind_a_long_head_is_found(department):
    many = [Dataset() for _ in range(3000)]
    for n, item in enumerate(many):
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, f"1.2.3.4.5.6.7.8.{n}"

    department.brings(a_file(1, ReferencedImageSequence=many))

    [ref] = department.waits(30)
    assert ref.study == department.uids.of("1.2.3")


def test_the_identified_database_holds_no_name_and_no_original_uid(department, tmp_path):
    department.brings(a_file(1, study="1.2.777.888"), a_file(2, study="1.2.777.888"))
    department.waits(30)

    raw = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    assert b"DOE" not in raw
    assert b"1.2.777.888" not in raw


def test_real_files_of_every_transfer_syntax_are_taken(department, shared):
    files = sorted((shared / "data" / "dicom" / "transfer_syntaxes").rglob("*.dcm"))
    refused = {}
    for path in files:
        try:
            department.intake.accept(path, department.origin(Channel.FOLDER), department.writer)
        except InstanceUnreadable as why:
            refused[path] = str(why)
    taken = len(files) - len(refused)
    for path, why in refused.items():
        assert "Study Instance UID is missing" in why
        assert "StudyInstanceUID" not in dcmread(path, stop_before_pixels=True)
    new = department.intake.index_new()

    assert taken >= 30
    assert new + department.intake.counted["duplicate"] + department.intake.counted["conflict"] == taken
    opened = [i for ref in department.waits(30) for i in department.intake.open(ref).instances()]
    assert len(opened) == new
    assert len({i.transfer_syntax_uid for i in opened}) >= 5
