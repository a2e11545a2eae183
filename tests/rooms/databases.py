"""Databases that tests run against: SQLite in a temporary folder, and a real PostgreSQL server of the tests' own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from sqlalchemy import Engine, text

from node.ledger.database import open_engine, open_ledger, sqlite_url
from node.ledger.tables import Base
from tests.conftest import need
from tests.ports import free_port


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


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as the block: loopback, free port, temporary folder."""
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
    quiet = {"check": True, "cwd": "/tmp", "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*mine, initdb, "-D", f"{folder}/data", "-U", "radnode", "-A", "trust", "--no-sync"], **quiet)
    options = f"-h 127.0.0.1 -p {port} -k {folder}"
    subprocess.run([*mine, pg_ctl, "-D", f"{folder}/data", "-w", "-o", options, "-l", f"{folder}/log", "start"], **quiet)
    try:
        yield f"postgresql+psycopg://radnode@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*mine, pg_ctl, "-D", f"{folder}/data", "-m", "immediate", "stop"], **quiet)
        shutil.rmtree(folder, ignore_errors=True)


def postgres(url: str) -> Engine:
    """An empty ledger in that server."""
    engine = open_ledger(url)
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {', '.join(Base.metadata.tables)}"))
    return engine
