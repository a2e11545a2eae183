"""A database that is away, or a full disk, is no fault of a study: its path waits, and nobody has to release it afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from config import Settings
from node import gateway as gateway_room
from node.assembly import House
from node.gateway import Gateway
from node.testing.studies import a_study, write_study
from tests.rooms.databases import PostgresServer, restartable_postgres
from tests.rooms.test_scp import small_disk

TURNED_AWAY = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'ledger'"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with restartable_postgres() as found:
        found.statement("CREATE DATABASE ledger", "CREATE DATABASE identified")
        yield found


def test_studies_wait_for_the_ledger_and_go_on_by_themselves(server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two databases, as recommended: the one of the wing answers, the clean one does not. Three studies have settled."""
    monkeypatch.setattr(gateway_room, "REST_S", 0.0)
    for patient in (1, 2, 3):
        write_study(a_study("CT", slices=1, rows=64, patient=patient), tmp_path / "in" / str(patient))
    urls = {"url": server.url("ledger"), "identified_url": server.url("identified")}
    home = House(Settings(data_dir=tmp_path / "data", database=urls, intake={"settle_after_s": 0, "min_free_mb": 1}))
    home.take_folder(tmp_path / "in")
    gateway = Gateway(home)

    server.statement("ALTER DATABASE ledger ALLOW_CONNECTIONS false", TURNED_AWAY)
    for _ in range(4):
        with pytest.raises(OperationalError):
            gateway.settle()
    server.statement("ALTER DATABASE ledger ALLOW_CONNECTIONS true")
    gateway.settle()

    assert home.intake.state_counts() == {"RECEIVING": 0, "SETTLED": 0, "PROCESSED": 3, "QUARANTINED": 0}
    assert home.quarantine.list() == []
    home.close()


def test_a_full_disk_stops_no_study_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The clean volume is a disk of its own, and has no room for the clean copy until somebody makes some."""
    monkeypatch.setattr(gateway_room, "REST_S", 0.0)
    write_study(a_study("CT", slices=3, rows=512, patient=1), tmp_path / "in")
    (tmp_path / "data").mkdir()
    with small_disk(tmp_path / "data" / "clean", "8m"):
        home = House(Settings(data_dir=tmp_path / "data", intake={"settle_after_s": 0, "min_free_mb": 1}))
        home.take_folder(tmp_path / "in")
        gateway = Gateway(home)
        assert home.free_bytes() > 0
        ballast = home.clean / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(home.clean).free - (512 << 10)))

        assert home.free_bytes() <= 0
        assert not home.ready()["disk"]
        for _ in range(4):
            with pytest.raises((OSError, OperationalError)):
                gateway.settle()
        ballast.unlink()
        gateway.settle()

        assert home.intake.state_counts()["PROCESSED"] == 1
        assert home.quarantine.list() == []
        home.close()
