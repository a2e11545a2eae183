"""The vault: what was committed is there after any end of its writer; nothing can be read, altered or moved unseen."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.domain import Channel, CleanUid, Origin
from node.errors import DiskFull, KeyMissing, RecordDamaged, VaultError
from node.identified.blocks import BLOCK_HEAD, CHUNK_BYTES, PAGE_BYTES, Block
from node.identified.keys import Keyring
from node.identified.vault import Meta, Position, Scan, Stored, Vault, VaultWriter
from node.ledger.database import open_identified, sqlite_url

MASTER = bytes(range(32))
STUDY = CleanUid("2.25.99")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(open_identified(sqlite_url(tmp_path / "identified.db")), MASTER, lease_s=0)


@pytest.fixture
def vault(tmp_path: Path, keyring: Keyring) -> Vault:
    return Vault(tmp_path / "vault", keyring, 4 << 20)


def meta(instance: str = "1.2.3", study: CleanUid = STUDY) -> Meta:
    return Meta(
        study=study,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=instance,
        study_instance_uid="1.9.8.7654321",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        origin=Origin(channel=Channel.DIMSE, received_at=datetime(2026, 1, 2, tzinfo=UTC), calling_ae="SCANNERQ", called_ae="RADNODE", peer="127.0.0.1"),
    )  # fmt: skip


def put(writer: VaultWriter, data: bytes, about: Meta | None = None) -> Stored:
    record = writer.begin(about or meta())
    record.write(data)
    return record.commit()


def files(vault: Vault) -> list[Path]:
    return sorted(vault.folder.glob("*.seg"))


def scanned(vault: Vault, positions: list[Position] | None = None) -> Scan:
    return vault.scan(positions or [])


def test_what_is_committed_can_be_read_again_by_another_process(vault, keyring, tmp_path):
    data = os.urandom(527_001)
    stored = put(vault.writer("a"), data)

    other = Vault(tmp_path / "vault", keyring)

    assert other.open(stored.extents, STUDY) == data
    assert other.read_meta(stored.extents, STUDY) == meta()
    assert stored.size == len(data)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 9 * CHUNK_BYTES + 5])
def test_every_size_comes_back_also_over_the_end_of_a_segment(vault, size):
    data = os.urandom(size)
    writer = vault.writer("a")

    stored = put(writer, data)

    assert vault.open(stored.extents, STUDY) == data
    assert all(len(chunk) <= CHUNK_BYTES for chunk in vault.read(stored.extents, STUDY))
    if size > 4 << 20:
        assert len({segment for segment, _, _ in stored.extents}) > 1
    [arrival] = scanned(vault).arrivals
    assert arrival.stored == stored


def test_nothing_on_the_disk_can_be_read(vault):
    put(vault.writer("a"), b"DOE^JANE" * 1000)

    raw = b"".join(path.read_bytes() for path in files(vault))

    for word in (b"DOE^JANE", b"SCANNERQ", b"1.9.8.7654321", b"1.2.840", b"127.0.0.1"):
        assert word not in raw
    assert all(path.stat().st_mode & 0o077 == 0 for path in files(vault))


def test_equal_data_has_an_equal_digest_however_it_was_cut(vault):
    writer = vault.writer("a")
    data = os.urandom(3_000_000)
    record = writer.begin(meta("1.2.4"))
    for at in range(0, len(data), 77_777):
        record.write(memoryview(data)[at : at + 77_777])

    assert record.commit().digest == put(writer, data).digest
    assert put(writer, data[:-1]).digest != put(writer, data).digest
    assert put(writer, data + b"\0").digest != put(writer, data).digest


def test_a_scan_finds_a_record_once_and_goes_on_from_there(vault):
    writer = vault.writer("a")
    put(writer, b"one", meta("1.1"))
    first = scanned(vault)
    put(writer, b"two", meta("1.2"))

    second = scanned(vault, first.positions)

    assert [a.meta.sop_instance_uid for a in first.arrivals] == ["1.1"]
    assert [a.meta.sop_instance_uid for a in second.arrivals] == ["1.2"]
    assert scanned(vault, second.positions).arrivals == []


def test_a_record_in_progress_is_seen_as_arriving_and_found_when_it_ends(vault):
    writer = vault.writer("a")
    slow = writer.begin(meta("1.1"))
    slow.write(os.urandom(6 * CHUNK_BYTES + 7))
    put(writer, b"quick", meta("1.2", CleanUid("2.25.5")))

    midway = scanned(vault)
    stored = slow.commit()
    after = scanned(vault, midway.positions)

    assert [a.meta.sop_instance_uid for a in midway.arrivals] == ["1.2"]
    assert midway.receiving == {STUDY}
    assert [a.stored for a in after.arrivals] == [stored]
    assert after.receiving == set()


def test_an_abandoned_record_leaves_nothing_and_is_not_waited_for(vault):
    writer = vault.writer("a")
    record = writer.begin(meta("1.1"))
    record.write(os.urandom(3 * CHUNK_BYTES))
    record.abandon()
    put(writer, b"next", meta("1.2"))

    found = scanned(vault)

    assert [a.meta.sop_instance_uid for a in found.arrivals] == ["1.2"]
    assert found.receiving == set()


def test_threads_share_a_log_without_mixing_their_records(vault):
    writer = vault.writer("a")
    sent = {f"1.{thread}.{n}": os.urandom(200_000 + thread * 900_000 + n) for thread in range(4) for n in range(5)}
    got: dict[str, Stored] = {}

    def send(thread: int) -> None:
        for n in range(5):
            name = f"1.{thread}.{n}"
            got[name] = put(writer, sent[name], meta(name))

    threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for name, data in sent.items():
        assert vault.open(got[name].extents, STUDY) == data
    assert {a.meta.sop_instance_uid for a in scanned(vault).arrivals} == set(sent)


def test_a_purged_study_cannot_be_read_and_is_stepped_over(vault, keyring):
    writer = vault.writer("a")
    gone = put(writer, b"gone", meta("1.1"))
    kept = put(writer, b"kept", meta("1.2", CleanUid("2.25.5")))

    keyring.shred(STUDY)

    with pytest.raises(KeyMissing):
        vault.open(gone.extents, STUDY)
    assert vault.open(kept.extents, CleanUid("2.25.5")) == b"kept"
    again = put(writer, b"again", meta("1.3"))
    with pytest.raises(KeyMissing):
        vault.open(gone.extents, STUDY)
    assert vault.open(again.extents, STUDY) == b"again"
    found = scanned(vault)
    assert [a.meta.sop_instance_uid for a in found.arrivals] == ["1.2", "1.3"]
    assert found.unreadable == 1


def test_a_record_whose_study_is_purged_before_its_end_is_not_a_success(vault, keyring):
    record = vault.writer("a").begin(meta())
    record.write(b"data")
    keyring.shred(STUDY)

    with pytest.raises(KeyMissing):
        record.commit()


def test_a_disk_that_fills_up_refuses_the_record_and_keeps_the_others(vault, monkeypatch):
    writer = vault.writer("a")
    kept = put(writer, b"kept", meta("1.1"))
    real = os.statvfs

    class Full:
        f_bavail, f_frsize = 0, 4096

    writer._preparing.join()
    monkeypatch.setattr(os, "statvfs", lambda path: Full)
    writer._next and writer._next.discard()
    writer._next = None
    record = writer.begin(meta("1.2"))
    with pytest.raises(DiskFull):
        record.write(os.urandom(9 * CHUNK_BYTES))
    record.abandon()
    monkeypatch.setattr(os, "statvfs", real)
    after = put(writer, os.urandom(3 * CHUNK_BYTES), meta("1.3"))

    assert [a.stored for a in scanned(vault).arrivals] == [kept, after]


def test_a_flush_that_fails_is_no_success_then_or_later(vault, monkeypatch):
    writer = vault.writer("a")
    put(writer, b"before", meta("1.1"))
    real = os.fdatasync

    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(OSError):
        put(writer, b"lost", meta("1.2"))
    monkeypatch.setattr(os, "fdatasync", real)

    after = put(writer, b"after", meta("1.3"))

    assert len({path.stem for path in files(vault)}) == 2
    assert after.extents[0][0] == files(vault)[1].stem


@pytest.mark.parametrize("part", ["header", "meta", "data", "end"])
def test_an_altered_byte_is_noticed(vault, part):
    stored = put(vault.writer("a"), b"x" * 10_000)
    [[segment, offset, _]] = stored.extents
    path = vault.folder / f"{segment}.seg"
    block = Block.parsed(path.read_bytes()[offset : offset + BLOCK_HEAD.size], path.read_bytes()[8:24])
    at = offset + {
        "header": 20,
        "meta": BLOCK_HEAD.size + 30,
        "data": BLOCK_HEAD.size + block.meta_bytes + 5000,
        "end": block.used - 3,
    }[part]  # fmt: skip
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))

    with pytest.raises(RecordDamaged):
        vault.read_meta(stored.extents, STUDY) and vault.open(stored.extents, STUDY)


def test_blocks_cannot_be_cut_swapped_or_taken_from_another_record(vault):
    writer = vault.writer("a")
    one = put(writer, os.urandom(2 * CHUNK_BYTES + 5), meta("1.1"))
    two = put(writer, os.urandom(2 * CHUNK_BYTES + 5), meta("1.2"))
    a, b, c = one.extents

    for extents in ([a, b], [a, c], [b, a, c], [a, b, two.extents[2]], [c], [a, a, c], [a, b, c, c]):
        with pytest.raises(RecordDamaged):
            vault.open(extents, STUDY)
    with pytest.raises((RecordDamaged, KeyMissing)):
        vault.open(one.extents, CleanUid("2.25.5"))


def test_damage_in_a_log_does_not_hide_what_comes_after_it(vault):
    writer = vault.writer("a")
    first, second = put(writer, b"1" * 9000, meta("1.1")), put(writer, b"2" * 9000, meta("1.2"))
    writer.close()
    path = vault.folder / f"{first.extents[0][0]}.seg"
    with path.open("r+b") as file:
        file.seek(first.extents[0][1])
        file.write(b"\xff" * 64)

    found = scanned(vault)

    assert [a.stored for a in found.arrivals] == [second]
    assert found.unreadable == 1


def test_the_unused_rest_of_a_closed_log_is_given_back(vault):
    writer = vault.writer("a")
    stored = put(writer, b"1" * 9000)
    writer.close()

    found = scanned(vault)

    [path] = files(vault)
    assert path.stat().st_size == stored.extents[0][1] + stored.extents[0][2]
    assert found.positions[0].done
    assert vault.open(stored.extents, STUDY) == b"1" * 9000
    assert [p.suffix for p in vault.folder.iterdir()] == [".seg"]


def test_a_draft_that_a_killed_process_left_is_removed(vault):
    (vault.folder / "a-000.new").write_bytes(b"\0" * 4096)

    vault.writer("a")

    assert not list(vault.folder.glob("*.new"))


def test_a_writer_has_a_plain_name_and_a_study_a_clean_uid(vault):
    with pytest.raises(VaultError):
        vault.writer("../a")
    with pytest.raises(VaultError):
        vault.writer("a").begin(meta(study=CleanUid("1.2.3")))


KILLED = """
    import os, sys
    sys.path.insert(0, {root!r})
    from pathlib import Path
    from tests.rooms.test_vault import MASTER, Keyring, Vault, meta, open_identified, put, sqlite_url
    home = Path({home!r})
    vault = Vault(home / "vault", Keyring(open_identified(sqlite_url(home / "identified.db")), MASTER), 4 << 20)
    writer = vault.writer("a")
    open_one = writer.begin(meta("9.9"))
    open_one.write(os.urandom(2 << 20 | 5))
    number = 0
    while True:
        number += 1
        put(writer, bytes([number % 251]) * (number * 9973 % 2_000_000), meta(f"1.{{number}}"))
        print(number, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 23])
def test_every_acknowledged_record_survives_kill_9(vault, tmp_path, after):
    code = textwrap.dedent(KILLED.format(root=str(ROOT), home=str(tmp_path)))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        acknowledged = 0
        positions: dict[str, Position] = {}
        arrivals = []
        for line in process.stdout:
            acknowledged = int(line)
            if acknowledged % 5 == 0:  # the index runs beside, as it does in the gateway
                turn = vault.scan(list(positions.values()))
                positions |= {position.segment: position for position in turn.positions}
                arrivals += turn.arrivals
            if acknowledged >= after:
                process.kill()
                break
        rest = process.stdout.read().split()
        acknowledged = int(rest[-1]) if rest else acknowledged

    last = vault.scan(list(positions.values()))
    arrivals += last.arrivals

    found = {int(a.meta.sop_instance_uid[2:]): a for a in arrivals}
    assert set(range(1, acknowledged + 1)) <= set(found) <= set(range(1, acknowledged + 2))
    assert len(found) == len(arrivals)
    for number, arrival in found.items():
        assert vault.open(arrival.stored.extents, STUDY) == bytes([number % 251]) * (number * 9973 % 2_000_000)
    assert last.receiving == set()
    assert all(position.done for position in last.positions)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_torn_log_gives_whole_records_or_none(vault, data):
    """A power cut may leave any page of the last records unwritten."""
    for path in files(vault):
        path.unlink()
    writer = vault.writer("a")
    sizes = data.draw(st.lists(st.integers(0, 3 * PAGE_BYTES), min_size=1, max_size=6))
    stored = [put(writer, bytes([n + 1]) * size, meta(f"1.{n}")) for n, size in enumerate(sizes)]
    writer.close()
    path = vault.folder / f"{stored[0].extents[0][0]}.seg"
    end = stored[-1].extents[0][1] + stored[-1].extents[0][2]
    torn = data.draw(st.sets(st.integers(1, end // PAGE_BYTES - 1), max_size=4))
    with path.open("r+b") as file:
        for page in torn:
            file.seek(page * PAGE_BYTES)
            file.write(bytes(PAGE_BYTES))

    found = vault.scan([])

    whole = [s for s in stored if not torn & set(range(s.extents[0][1] // PAGE_BYTES, (s.extents[0][1] + s.extents[0][2]) // PAGE_BYTES))]
    assert [a.stored for a in found.arrivals] == whole
    assert [vault.open(s.extents, STUDY) for s in whole] == [
        bytes([n + 1]) * size for n, size in enumerate(sizes) if stored[n] in whole
    ]  # fmt: skip
