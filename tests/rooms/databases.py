"""Databases that tests run against: SQLite in a temporary folder, and a real PostgreSQL server of the tests' own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from sqlalchemy import Engine, text

from node.ledger.database import open_engine, open_ledger, sqlite_url
from node.ledger.tables import Base
from tests.conftest import need
from tests.ports import free_port

_QUIET = {"check": True, "cwd": "/tmp", "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@cache
def _empty_ledger() -> bytes:
    """A SQLite ledger at its newest revision: made once, copied often."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        open_ledger(sqlite_url(path)).dispose()
        return path.read_bytes()


def sqlite(folder: Path) -> Engine:
    """A fresh ledger in SQLite."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ledger.sqlite").write_bytes(_empty_ledger())
    return open_engine(sqlite_url(folder / "ledger.sqlite"))


class PostgresServer:
    """A real PostgreSQL server on loopback, which may go away and come back."""

    def __init__(self, pg_ctl: list[str], folder: Path, port: int) -> None:
        self._pg_ctl, self._folder, self._port = pg_ctl, folder, port

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://radnode@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self._port} -k {self._folder}"
        subprocess.run([*self._pg_ctl, "-w", "-o", options, "-l", f"{self._folder}/log", "start"], **_QUIET)

    def stop(self) -> None:
        subprocess.run([*self._pg_ctl, "-m", "immediate", "stop"], **_QUIET)

    def statement(self, *statements: str) -> None:
        """Run by the server's administrator, each in a transaction of its own."""
        engine = open_engine(self.url())
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for one in statements:
                connection.execute(text(one))
        engine.dispose()


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as the block: loopback, free port, temporary folder."""
    with restartable_postgres() as server:
        yield server.url()


@contextmanager
def restartable_postgres() -> Iterator[PostgresServer]:
    """The same server, to be stopped and started again."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if programs:
        os.environ["PATH"] = f"{os.environ['PATH']}:{programs[-1]}"
    initdb, pg_ctl = need("initdb", "postgresql"), need("pg_ctl", "postgresql")
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="radnode-pg-"))
    mine: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        mine = ["runuser", "-u", "postgres", "--"]
    subprocess.run([*mine, initdb, "-D", f"{folder}/data", "-U", "radnode", "-A", "trust", "--no-sync"], **_QUIET)
    server = PostgresServer([*mine, pg_ctl, "-D", f"{folder}/data"], folder, port)
    server.start()
    try:
        yield server
    finally:
        with suppress(subprocess.CalledProcessError):  # it was stopped, and not started again
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def postgres(url: str) -> Engine:
    """An empty ledger in that server."""
    engine = open_ledger(url)
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {', '.join(Base.metadata.tables)}"))
    return engine
