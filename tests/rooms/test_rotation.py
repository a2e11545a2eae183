"""A new master key: online, whatever interrupts it; afterwards the old one opens nothing."""

from __future__ import annotations

import base64
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Engine, insert, select, text

from node.domain import CleanUid
from node.errors import KeyMissing, MasterKeyWrong, SettingsInvalid
from node.identified import migrations
from node.identified.keys import Keyring
from node.identified.masters import CURRENT, RETIRED, RETIRING, generations, seal, sealed_check
from node.identified.rotation import Rotation, counted, write_key
from node.identified.tables import KeyRow
from node.ledger.database import alembic_config, open_engine, open_identified, reading, sqlite_url
from tests.conftest import ROOT
from tests.rooms.databases import postgres_server
from tests.rooms.front_door import radnode
from tests.rooms.test_commands import settings

__all__ = ["settings"]
OLD, NEW = bytes(range(32)), bytes(range(32, 64))


def uid(number: int) -> CleanUid:
    return CleanUid(f"2.25.{number}")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_identified(sqlite_url(tmp_path / "identified.sqlite"))


def ring(engine: Engine, master: bytes, **more: object) -> Keyring:
    return Keyring(engine, master, lease_s=0, **more)


def many(engine: Engine, numbers: Iterable[int], master: bytes = OLD) -> dict[int, bytes]:
    """Keys of many studies, made in one go."""
    ring(engine, master)
    keys = {n: os.urandom(32) for n in numbers}
    names = {n: f"study:{uid(n)}" for n in keys}
    at = datetime(2026, 1, 2, tzinfo=UTC)
    rows = [{"name": names[n], "wrapped": seal(master, keys[n], names[n].encode()), "generation": 1, "created_at": at} for n in keys]
    with engine.begin() as db:
        db.execute(insert(KeyRow), rows)
    return keys


def rotate(engine: Engine, old: bytes = OLD, new: bytes = NEW) -> None:
    rotation = Rotation(engine, ring(engine, old).masters)
    rotation.begin(new)
    rotation.carry_on()
    assert rotation.finish()


def test_every_key_is_the_same_under_the_new_master_key(engine: Engine) -> None:
    before = ring(engine, OLD)
    keys = many(engine, range(450))
    signing = before.site_key("signing")
    told: list[tuple[int, int]] = []

    rotation = Rotation(engine, before.masters)
    rotation.begin(NEW)
    rotated = rotation.carry_on(lambda done, of: told.append((done, of)))
    assert rotation.finish()

    after = ring(engine, NEW)
    assert rotated.rewrapped == 451
    assert {n: after.existing_key(uid(n)) for n in keys} == keys
    assert after.site_key("signing") == signing
    assert told[-1] == (451, 451)
    assert [one["keys"] for one in counted(engine)] == [0, 451]
    assert [one.state for one in generations(engine)] == [RETIRED, CURRENT]


def test_the_old_master_key_opens_nothing_afterwards(engine: Engine, tmp_path: Path) -> None:
    ring(engine, OLD).study_key(uid(1))
    rotation = Rotation(engine, ring(engine, OLD).masters)
    rotation.begin(NEW)
    [handover] = [one.handover for one in generations(engine) if one.handover]
    with reading(engine) as db:
        wrapped = db.scalar(select(KeyRow.wrapped))
    rotation.carry_on()
    assert rotation.finish()

    late = ring(engine, OLD)  # it still is a key of this vault, but of a generation that is over
    with pytest.raises(MasterKeyWrong, match="new one"):
        late.existing_key(uid(1))
    with pytest.raises(MasterKeyWrong):
        late.study_key(uid(2))
    assert all(one.handover is None for one in generations(engine))
    engine.dispose()
    on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert wrapped not in on_disk
    assert handover not in on_disk


@pytest.mark.parametrize("again", [OLD, NEW])
def test_a_key_that_was_a_master_key_before_is_no_new_one(engine: Engine, again: bytes) -> None:
    """By it nobody could tell the generations apart, and the vault would stay shut for everybody."""
    key = ring(engine, OLD).study_key(uid(1))
    rotate(engine)

    with pytest.raises(SettingsInvalid, match="make another"):
        Rotation(engine, ring(engine, NEW).masters).begin(again)

    assert ring(engine, NEW).existing_key(uid(1)) == key
    assert [one.state for one in generations(engine)] == [RETIRED, CURRENT]


def test_processes_with_the_old_key_go_on_while_it_lasts(engine: Engine) -> None:
    """Reading, making and shredding, by who was given the old key before and by who starts with it in the middle."""
    here = ring(engine, OLD)
    keys = many(engine, range(300))
    rotation = Rotation(engine, ring(engine, OLD).masters)
    rotation.begin(NEW)
    there = ring(engine, OLD)

    assert here.existing_key(uid(7)) == there.existing_key(uid(7)) == keys[7]
    assert here.study_key(uid(1000)) == there.existing_key(uid(1000))
    here.shred(uid(8))
    rotation.carry_on()
    assert here.existing_key(uid(9)) == there.existing_key(uid(9)) == keys[9]
    with reading(engine) as db:
        assert set(db.scalars(select(KeyRow.generation))) == {2}
    with pytest.raises(KeyMissing):
        there.existing_key(uid(8))
    assert rotation.finish()
    assert here.existing_key(uid(10)) == keys[10]


def test_a_process_that_slept_through_it_reads_the_file_again(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "master.key"
    file.write_bytes(OLD)
    sleeper = ring(engine, OLD, read_again=file.read_bytes)
    key = sleeper.study_key(uid(1))
    rotate(engine)
    file.write_bytes(NEW)

    assert sleeper.existing_key(uid(1)) == key


def test_a_second_rotation_waits_for_the_first(engine: Engine) -> None:
    ring(engine, OLD).study_key(uid(1))
    first = Rotation(engine, ring(engine, OLD).masters)
    first.begin(NEW)

    Rotation(engine, ring(engine, OLD).masters).begin(bytes(32))

    assert [one.state for one in generations(engine)] == [RETIRING, CURRENT]
    assert first.new_key() == NEW


def test_rotations_follow_one_another(engine: Engine) -> None:
    key = ring(engine, OLD).study_key(uid(1))
    masters = [OLD, NEW, b"c" * 32, b"d" * 32]
    for old, new in pairwise(masters):
        rotate(engine, old, new)

    assert ring(engine, masters[-1]).existing_key(uid(1)) == key


MOMENTS = [2, 3, 4, "rewrapped"]  #: after how many words of the process it is killed: it has begun, one batch of keys, two …


def test_kill_nine_at_any_moment_and_begin_again(engine: Engine, tmp_path: Path) -> None:
    """Killed four times, each time somewhere else, while another process makes keys: nothing is lost, all ends under the new key."""
    (tmp_path / "old").write_bytes(OLD)
    (tmp_path / "new").write_bytes(NEW)
    busy = ring(engine, OLD)
    keys = many(engine, range(1500))
    ending = threading.Event()

    def go_on() -> None:
        number = 10_000
        while not ending.is_set():
            keys[number] = busy.study_key(uid(number))
            number += 1
            ending.wait(0.1)

    other = threading.Thread(target=go_on)
    other.start()
    try:
        for moment in MOMENTS:
            said, status = _run(tmp_path, kill_at=moment)
            assert status == -signal.SIGKILL
            assert said[-1] == moment or len(said) == moment
            assert all(busy.existing_key(uid(n)) == keys[n] for n in (0, 599, 1499, 10_000))
        said, status = _run(tmp_path)
    finally:
        ending.set()
        other.join()

    assert (said[-1], status) == ("finished", 0)
    after = ring(engine, NEW)
    assert {n: after.existing_key(uid(n)) for n in keys} == keys
    with reading(engine) as db:
        assert set(db.scalars(select(KeyRow.generation))) == {2}


def _run(folder: Path, kill_at: str | int = "") -> tuple[list[str], int]:
    """What the process said, and how it ended. It is killed with -9 when it says `kill_at`, or has said as much."""
    arguments = [str(folder / "identified.sqlite"), str(folder / "old"), str(folder / "new")]
    command = [sys.executable, "-m", "tests.rooms.rotate_slowly", *arguments]
    said: list[str] = []
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            said.append(line.strip())
            if kill_at in (said[-1], len(said)):
                process.kill()
                break
            process.stdin.write("go on\n")
            process.stdin.flush()
        return said, process.wait()


def test_a_key_file_is_replaced_whole_and_the_old_one_kept(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(base64.b64encode(OLD))

    write_key(path, NEW)

    assert base64.b64decode(path.read_bytes()) == NEW
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert base64.b64decode((tmp_path / "master.key.old").read_bytes()) == OLD
    assert {p.name for p in tmp_path.iterdir()} == {"master.key", "master.key.old"}


def test_a_vault_of_the_first_release_gets_its_first_generation(tmp_path: Path) -> None:
    """The migration keeps the check value, so that the wrong master key is still noticed."""
    engine = open_engine(sqlite_url(tmp_path / "old.sqlite"))
    home = Path(migrations.__file__).parent
    with engine.begin() as connection:
        command.upgrade(alembic_config(home, connection), "0001")
    with engine.begin() as connection:
        row = {"wrapped": sealed_check(OLD), "at": "2026-01-02 03:04:05.000000"}
        connection.execute(text("INSERT INTO keys (name, wrapped, created_at) VALUES ('check', :wrapped, :at)"), row)
    engine.dispose()

    engine = open_identified(sqlite_url(tmp_path / "old.sqlite"))

    assert ring(engine, OLD).study_key(uid(1))
    with pytest.raises(MasterKeyWrong):
        ring(engine, NEW)
    assert [(one.number, one.state) for one in generations(engine)] == [(1, CURRENT)]


@contextmanager
def on_postgres() -> Iterator[Engine]:
    with postgres_server() as url:
        engine = open_identified(url)
        yield engine
        engine.dispose()


def test_on_postgresql_nobody_makes_a_key_under_the_old_one_unseen() -> None:
    with on_postgres() as engine:
        rings = [ring(engine, OLD) for _ in range(4)]
        keys = many(engine, range(250))
        ending = threading.Event()

        def make(number: int) -> None:
            n = number * 10_000
            while not ending.is_set():
                keys[n] = rings[number].study_key(uid(n))
                n += 1

        threads = [threading.Thread(target=make, args=(number,)) for number in (1, 2, 3)]
        for thread in threads:
            thread.start()
        rotation = Rotation(engine, rings[0].masters)
        rotation.begin(NEW)
        rotation.carry_on()
        while not rotation.finish():
            rotation.carry_on()
        ending.set()
        for thread in threads:
            thread.join()

        after = ring(engine, NEW)
        assert {n: after.existing_key(uid(n)) for n in keys} == keys


def test_on_the_command_line_with_the_default_key_file(settings: Path, tmp_path: Path) -> None:
    file = tmp_path / "data" / "identified" / "master.key"
    public = radnode("proof", "key", config=settings).stdout
    before = file.read_bytes()

    done = radnode("keys", "rotate", config=settings)

    assert done.returncode == 0, done.stderr
    assert file.read_bytes() != before
    assert base64.b64encode(before) not in done.stdout.encode()
    assert radnode("proof", "key", config=settings).stdout == public
    listed = json.loads(radnode("keys", "list", "--json", config=settings).stdout)
    assert [(one["generation"], one["state"]) for one in listed] == [(1, "retired"), (2, "current")]
    assert "master key changed" in radnode("audit", "tail", config=settings).stdout
    assert "intact" in radnode("audit", "verify", config=settings).stdout


def test_on_the_command_line_with_a_key_of_the_administrators(settings: Path, tmp_path: Path) -> None:
    key, new, other = tmp_path / "site.key", tmp_path / "next.key", tmp_path / "other.key"
    key.write_bytes(base64.b64encode(OLD))
    new.write_bytes(base64.b64encode(NEW))
    settings.write_text(settings.read_text() + f"\nvault: {{master_key_file: {key}}}\n")
    public = radnode("proof", "key", config=settings).stdout

    without = radnode("keys", "rotate", config=settings)
    first = json.loads(radnode("keys", "rotate", "--new-key-file", new, "--json", config=settings).stdout)
    between = radnode("proof", "key", config=settings).stdout
    other.write_bytes(base64.b64encode(bytes(range(64, 96))))
    another = radnode("keys", "rotate", "--new-key-file", other, config=settings)
    key.write_bytes(new.read_bytes())
    second = json.loads(radnode("keys", "rotate", "--json", config=settings).stdout)
    third = radnode("keys", "rotate", "--new-key-file", new, config=settings)  # the same line once more

    assert (another.returncode, third.returncode) == (2, 2)
    assert "another key is under way" in another.stderr
    assert without.returncode == 2
    assert "--new-key-file" in without.stderr
    assert (first["finished"], second["finished"]) == (False, True)
    assert between == public == radnode("proof", "key", config=settings).stdout
    key.write_bytes(base64.b64encode(OLD))
    assert radnode("proof", "key", config=settings).returncode == 1
    assert sqlite3.connect(tmp_path / "data" / "identified" / "identified.sqlite").execute("SELECT count(*) FROM keys").fetchone()[0] > 0
