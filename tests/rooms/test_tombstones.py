"""Forgotten is forgotten: in older copies of the vault, and when a backup of the database comes back."""

from __future__ import annotations

import resource
import shutil
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.filereader import read_dataset
from sqlalchemy import select

from config import Settings
from node.assembly import House
from node.domain import CleanUid, StudyRef
from node.errors import KeyMissing, NodeError
from node.gateway import Gateway
from node.identified.tables import InstanceRow, KeyRow
from node.identified.tombstones import Tombstones
from node.testing.studies import a_study, write_study

STUDIES = 2


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A node's data folder with two studies, de-identified, nobody at work."""
    for number in range(1, STUDIES + 1):
        write_study(a_study("CT", slices=2, rows=64, patient=number), tmp_path / "in" / str(number))
    home = opened(tmp_path / "data")
    home.take_folder(tmp_path / "in")
    assert Gateway(home).settle() == STUDIES
    home.close()
    return tmp_path / "data"


def opened(data: Path) -> House:
    return House(Settings(data_dir=data, intake={"settle_after_s": 0, "min_free_mb": 1}))


def names_in(home: House, ref: StudyRef) -> set[str]:
    return {str(read_dataset(BytesIO(one.data), False, True).PatientID) for one in home.intake.open(ref).instances()}


def test_a_copy_of_vault_and_clean_volume_is_unreadable_after_the_purge(data: Path, tmp_path: Path) -> None:
    before = opened(data)
    first, second = before.intake.refs()
    assert names_in(before, first) == {"PHANTOM-0001"}
    extents = _extents(before, first.study)
    before.close()
    shutil.copytree(data / "identified" / "vault", tmp_path / "backup" / "vault")
    shutil.copytree(data / "clean", tmp_path / "backup" / "clean")

    home = opened(data)
    Gateway(home).purge(first.study)
    home.close()
    shutil.copytree(tmp_path / "backup" / "vault", data / "identified" / "vault", dirs_exist_ok=True)

    after = opened(data)
    with pytest.raises(KeyMissing):
        after.vault.open(extents, first.study)
    with pytest.raises(KeyMissing):
        after.identities.get(first.study)
    assert names_in(after, second) == {"PHANTOM-0002"}
    for path in (tmp_path / "backup" / "clean").rglob("*.dcm"):  # nameless, and nobody can tell any more whose they were
        assert str(dcmread(path).PatientID).startswith("P")
    after.close()


def _extents(home: House, study: CleanUid) -> list[object]:
    with home.wing.connect() as db:
        return db.scalars(select(InstanceRow.extents).where(InstanceRow.study == study)).first()


def test_the_key_is_on_no_page_of_the_database_after_the_purge(data: Path) -> None:
    home = opened(data)
    ref = home.intake.refs()[0]
    with home.wing.connect() as db:
        wrapped = db.scalar(select(KeyRow.wrapped).where(KeyRow.name == f"study:{ref.study}"))
    files = list((data / "identified").glob("identified.sqlite*"))
    assert wrapped in b"".join(path.read_bytes() for path in files)

    Gateway(home).purge(ref.study)
    home.close()

    assert wrapped not in b"".join(path.read_bytes() for path in (data / "identified").glob("identified.sqlite*"))


def test_a_restored_database_does_not_bring_a_purged_study_back(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "backup")
    home = opened(data)
    first, second = home.intake.refs()
    Gateway(home).purge(first.study)
    home.close()

    _restore(tmp_path / "backup", data)
    after = opened(data)

    with pytest.raises(KeyMissing):
        after.keyring.existing_key(first.study)
    with pytest.raises(NodeError):
        after.reveal_study(first.study, "to see whether it came back")
    assert names_in(after, second) == {"PHANTOM-0002"}
    assert "purged again: its key had come back" in [record["what"] for record in after.trail.of_study(first.study)]
    assert [ref.study for ref in after.intake.refs()] == [first.study, second.study]
    Gateway(after).chores()  # as the gateway does at its start
    assert [ref.study for ref in after.intake.refs()] == [second.study]
    assert not (after.studies / first.study).exists()
    assert after.trail.verify().intact
    after.close()


def _restore(backup: Path, data: Path) -> None:
    """The identified database, the vault and the clean volume as they were; the list of the purged is not part of that backup."""
    for path in (data / "identified").glob("identified.sqlite*"):
        path.unlink()
    for path in (backup / "identified").glob("identified.sqlite*"):
        shutil.copy2(path, data / "identified")
    for part in (Path("identified/vault"), Path("clean/studies")):
        shutil.copytree(backup / part, data / part, dirs_exist_ok=True)


def test_a_study_that_is_sent_again_after_its_purge_stays(data: Path, tmp_path: Path) -> None:
    home = opened(data)
    first = home.intake.refs()[0]
    Gateway(home).purge(first.study)
    home.take_folder(tmp_path / "in" / "1")
    Gateway(home).settle()
    home.close()

    again = opened(data)

    assert again.studies_back() == []
    assert names_in(again, StudyRef(study=first.study, revision=1)) == {"PHANTOM-0001"}
    again.close()


def test_a_crash_between_tombstone_and_key_is_carried_on(data: Path) -> None:
    home = opened(data)
    first = home.intake.refs()[0]
    home.tombstones.add([first.study])  # and here the power went
    home.close()

    after = opened(data)

    with pytest.raises(KeyMissing):
        after.keyring.existing_key(first.study)
    after.close()


def test_the_list_survives_torn_lines_and_keeps_the_last_time(tmp_path: Path) -> None:
    moments = iter([datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)])
    stones = Tombstones(tmp_path / "wing" / "purged.log", lambda: next(moments))
    study = CleanUid("2.25.1")
    assert stones.all() == {}

    stones.add([study])
    with stones.path.open("a") as file:
        file.write('{"study": "2.25.9", "purg\n')
    stones.add([study])

    assert stones.all() == {study: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=31)}


def test_a_line_that_a_power_cut_tore_takes_no_later_purge_with_it(tmp_path: Path) -> None:
    stones = Tombstones(tmp_path / "purged.log")
    stones.add([CleanUid("2.25.1")])
    with stones.path.open("a") as file:
        file.write('{"study": "2.25.9", "purg')

    stones.add([CleanUid("2.25.2")])

    assert set(stones.all()) == {"2.25.1", "2.25.2"}


def test_without_room_for_its_tombstone_a_study_keeps_its_key(data: Path) -> None:
    home = opened(data)
    first, second = (ref.study for ref in home.intake.refs())
    home.tombstones.add([CleanUid("2.25.1")])
    size = home.tombstones.path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))  # the disk takes a part of the line, and no more
    try:
        with pytest.raises(OSError, match="too large"):
            home.keyring.shred(first)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert home.keyring.existing_key(first)
    home.keyring.shred(second)
    assert set(home.tombstones.all()) == {"2.25.1", second}
    home.close()
