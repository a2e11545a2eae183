"""The door to a database: SQLite in the data folder, or PostgreSQL by URL. Values never reach a log or an exception."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, DateTime, Dialect, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.types import TypeDecorator

from node.errors import DatabaseNewer

if TYPE_CHECKING:
    from alembic.config import Config

BUSY_TIMEOUT_S = 60
MIGRATING = 7_236_001  #: advisory lock in PostgreSQL: one process migrates, the others wait
NOT_ALLOWED = "42501"  #: SQLSTATE, insufficient privilege
LEDGER = Path(__file__).parent / "migrations"
IDENTIFIED = Path(__file__).parents[1] / "identified" / "migrations"
READING = {"reading": True}
_alembic = threading.Lock()  #: a process has one set of its operations: what two threads migrate would go to one of their databases


class Instant(TypeDecorator[datetime]):
    """A moment, with its time zone on every database: SQLite forgets the zone, so it is kept in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return f"sqlite:///{path.absolute()}"


def open_engine(url: str | URL) -> Engine:
    """An engine whose commit is durable.

    SQLite: write-ahead log, `synchronous=FULL` (a commit survives a power cut), foreign keys on, and every transaction takes
    the write lock at its beginning unless it was opened with `reading`: a transaction that reads first and writes later
    would fail at once, whatever the busy timeout says, when another process wrote in between.
    """
    url = make_url(url)
    if url.get_backend_name() != "sqlite":
        engine = create_engine(url, hide_parameters=True, pool_pre_ping=True)
        event.listen(engine, "handle_error", _without_values)
        return engine
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads: it never waits for a writer."""
    with engine.connect().execution_options(**READING) as connection, connection.begin():
        yield connection


def insert_of(connection: Connection) -> Any:
    """The database's own INSERT, which can say what to do about a row that is there already (`on_conflict_do_nothing`, `…_do_update`)."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    return insert


def is_away(why: BaseException) -> bool:
    """Whether a database can't be reached or can't work now: no fault of what was asked of it, which may be asked again."""
    return isinstance(why, OperationalError | InterfaceError | NoConnectionFree)


def is_unfit(why: BaseException) -> bool:
    """Whether a value never came to the database because no text there can hold it: PostgreSQL takes no NUL. What the database itself refuses is another fault."""
    return isinstance(why, DataError) and getattr(why.orig, "sqlstate", None) is None


def said(why: BaseException) -> str:
    """What a database says that is away, or that lets this user do nothing: one line without values. Empty: it is something else."""
    original = getattr(why, "orig", None)
    if not is_away(why) and getattr(original, "sqlstate", "") != NOT_ALLOWED:
        return ""
    return " ".join(str(original or type(why).__name__).split())


def forget_pages(engine: Engine) -> None:
    """Empty SQLite's write-ahead log, which holds what was deleted since; as far as nobody works in it at this moment."""
    if engine.dialect.name != "sqlite":
        return
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout = 200")  # who waits for every reader waits long; the next call tries again
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
    finally:
        connection.close()


def open_ledger(url: str | URL) -> Engine:
    """The clean database, at its newest revision."""
    return _newest(url, LEDGER)


def open_identified(url: str | URL) -> Engine:
    """The database of the identified wing, at its newest revision."""
    return _newest(url, IDENTIFIED)


def migrate(engine: Engine, migrations: Path) -> None:
    """Bring the database to the newest revision below `migrations`. Safe when several processes or threads start at once."""
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATING})
        if (at := revision_of(connection, migrations)) != _newest_revision(migrations):
            if at is not None and at not in {name for what, name in _revisions(migrations) if what == "revision"}:
                raise DatabaseNewer(revision=at)
            from alembic import command

            with _alembic:
                command.upgrade(alembic_config(migrations, connection), "head")


def _newest(url: str | URL, migrations: Path) -> Engine:
    engine = open_engine(url)
    migrate(engine, migrations)
    return engine


def alembic_config(migrations: Path, connection: Connection | None = None) -> Config:
    """What Alembic is told: where the revisions lie, and the connection to use."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["version_table"] = version_table(migrations)
    return config


def revision_of(connection: Connection, migrations: Path) -> str | None:
    """The revision the database stands at; None when it is empty."""
    table = version_table(migrations)
    if not inspect(connection).has_table(table):
        return None
    found = connection.scalar(text(f"SELECT version_num FROM {table}"))  # noqa: S608 - a name of ours
    return None if found is None else str(found)


def version_table(migrations: Path) -> str:
    """Each side counts its own revisions, so that a small site may keep both in one database."""
    return f"{migrations.resolve().parent.name}_revision"


_REVISION = re.compile(r"""^(revision|down_revision)\b[^=\n]*= *["']([^"']+)["']""", re.MULTILINE)


def _revisions(migrations: Path) -> list[tuple[str, str]]:
    """What the files say: (revision or down_revision, its name)."""
    return [(found[1], found[2]) for path in (migrations / "versions").glob("*.py") for found in _REVISION.finditer(path.read_text())]


def _newest_revision(migrations: Path) -> str | None:
    """The revision that none follows. Alembic knows as well, but it takes longer to load than a database to open."""
    said = _revisions(migrations)
    newest = {name for what, name in said if what == "revision"} - {name for what, name in said if what == "down_revision"}
    return newest.pop() if len(newest) == 1 else None  # branches: Alembic says what is wrong


def _without_values(context: ExceptionContext) -> None:
    """PostgreSQL quotes the failing row in its errors: keep the first line, or the state where that one quotes too."""
    original: Any = context.original_exception
    first = str(original).partition("\n")[0]
    if isinstance(context.sqlalchemy_exception, IntegrityError | DataError):
        first = f"SQLSTATE {getattr(original, 'sqlstate', '')} {getattr(original.diag, 'constraint_name', None) or ''}".strip()
    original.args = (first,)
    if context.sqlalchemy_exception is not None:
        context.sqlalchemy_exception.args = (f"({type(original).__name__}) {first}",)


def _set_up_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # the driver begins no transaction by itself; `_begin_sqlite` does
    cursor = connection.cursor()
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] not in {"wal", "memory"}:
        cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten: a wrapped key must not stay in a free page
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("reading") else "BEGIN IMMEDIATE")
