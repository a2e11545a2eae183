"""The keys: one a study, wrapped; gone is gone."""

from __future__ import annotations

import base64
import stat
import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from node.domain import CleanUid
from node.errors import KeyMissing, MasterKeyWrong
from node.identified.keys import Keyring, read_master_key
from node.identified.tables import KeyRow
from node.ledger.database import open_identified, reading, sqlite_url

MASTER = bytes(range(32))
STUDY = CleanUid("2.25.1234567890")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_identified(sqlite_url(tmp_path / "identified.db"))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def keyring(engine: Engine, clock: Clock, master: bytes = MASTER) -> Keyring:
    return Keyring(engine, master, monotonic=clock, wait=clock.wait)


def test_a_study_has_one_key_in_every_process(engine, clock):
    here, there = keyring(engine, clock), keyring(engine, clock)

    assert here.study_key(STUDY) == there.study_key(STUDY) == there.existing_key(STUDY)
    assert here.study_key(CleanUid("2.25.2")) != here.study_key(STUDY)


def test_threads_that_race_for_a_new_study_end_with_one_key(engine, clock):
    rings = [keyring(engine, clock) for _ in range(8)]
    keys: list[bytes] = []
    start = threading.Barrier(8)

    def ask(ring: Keyring) -> None:
        start.wait()
        keys.append(ring.study_key(STUDY))

    threads = [threading.Thread(target=ask, args=(ring,)) for ring in rings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_no_key_lies_in_the_database_unwrapped(engine, clock):
    ring = keyring(engine, clock)
    keys = {ring.study_key(STUDY), ring.site_key("uids")}

    with reading(engine) as db:
        stored = b"".join(db.scalars(select(KeyRow.wrapped)))

    assert not any(key in stored for key in keys)
    assert MASTER not in stored


def test_a_shredded_key_is_missing_also_where_it_was_remembered(engine, clock):
    here, there = keyring(engine, clock), keyring(engine, clock)
    old = there.study_key(STUDY)

    here.shred(STUDY)

    for ring in (here, there):
        with pytest.raises(KeyMissing):
            ring.existing_key(STUDY)
        with pytest.raises(KeyMissing):
            ring.confirm(STUDY, old)


def test_a_study_that_comes_again_after_shredding_gets_a_new_key(engine, clock):
    here, there = keyring(engine, clock), keyring(engine, clock)
    old = there.study_key(STUDY)
    sealed = there.seal(STUDY, b"DOE^JANE", "identity")
    here.shred(STUDY)

    new = there.study_key(STUDY)

    assert new != old
    with pytest.raises(KeyMissing):
        there.confirm(STUDY, old)
    with pytest.raises(KeyMissing):
        there.unseal(STUDY, sealed, "identity")


def test_what_is_sealed_opens_for_its_study_and_purpose_only(engine, clock):
    ring = keyring(engine, clock)
    sealed = ring.seal(STUDY, b"DOE^JANE", "identity")
    ring.study_key(CleanUid("2.25.2"))

    assert b"DOE" not in sealed
    assert ring.unseal(STUDY, sealed, "identity") == b"DOE^JANE"
    for study, data, purpose in (
        (STUDY, sealed, "outbox"),
        (CleanUid("2.25.2"), sealed, "identity"),
        (STUDY, sealed[:-1] + bytes([sealed[-1] ^ 1]), "identity"),
        (STUDY, b"", "identity"),
    ):
        with pytest.raises(KeyMissing):
            ring.unseal(study, data, purpose)


def test_site_keys_differ_by_purpose_and_stay(engine, clock):
    ring = keyring(engine, clock)

    assert ring.site_key("uids") != ring.site_key("digests")
    assert keyring(engine, clock).site_key("uids") == ring.site_key("uids")


def test_the_wrong_master_key_is_noticed_at_the_start(engine, clock):
    keyring(engine, clock)

    with pytest.raises(MasterKeyWrong):
        keyring(engine, clock, master=bytes(32))


def test_the_default_master_key_is_made_once_and_for_the_owner_only(tmp_path, caplog):
    path = tmp_path / "identified" / "master.key"

    key = read_master_key(None, None, path)

    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "master key was made" in caplog.text
    assert base64.b64encode(key).decode() not in caplog.text
    assert read_master_key(None, None, path) == key
    assert [p.name for p in path.parent.iterdir()] == ["master.key"]


def test_a_master_key_that_the_settings_name_is_never_made(tmp_path):
    with pytest.raises(MasterKeyWrong):
        read_master_key(tmp_path / "absent.key", None, tmp_path / "default.key")
    assert not (tmp_path / "default.key").exists()


@pytest.mark.parametrize("text", ["", "short", base64.b64encode(bytes(16)).decode(), "not base64 !!"])
def test_a_master_key_that_is_not_32_bytes_is_refused_without_being_repeated(tmp_path, text):
    with pytest.raises(MasterKeyWrong) as refused:
        read_master_key(None, text, tmp_path / "default.key")
    assert not text or text not in str(refused.value)


def test_the_environment_beats_the_file(tmp_path):
    (tmp_path / "k").write_bytes(base64.b64encode(bytes(32)))

    assert read_master_key(tmp_path / "k", base64.b64encode(MASTER).decode(), tmp_path / "d") == MASTER
    assert read_master_key(tmp_path / "k", None, tmp_path / "d") == bytes(32)
