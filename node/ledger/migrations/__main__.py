"""Write the next revision: `python -m node.ledger.migrations {ledger|identified} "what changes"`, after the tables were changed.

It compares the tables with what the revisions so far make of an empty SQLite database. Read what it wrote before you keep it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from alembic import command

from node.ledger.database import IDENTIFIED, LEDGER, alembic_config, migrate, open_engine, sqlite_url


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m node.ledger.migrations", description=__doc__)
    parser.add_argument("side", choices=["ledger", "identified"])
    parser.add_argument("message", help="what changes, in a few words")
    parser.add_argument("--id", help="revision number; default: made by Alembic")
    chosen = parser.parse_args()
    migrations = {"ledger": LEDGER, "identified": IDENTIFIED}[chosen.side]
    with tempfile.TemporaryDirectory() as folder:
        engine = open_engine(sqlite_url(Path(folder) / "empty.sqlite"))
        migrate(engine, migrations)
        with engine.begin() as connection:
            command.revision(alembic_config(migrations, connection), message=chosen.message, autogenerate=True, rev_id=chosen.id)
        engine.dispose()


if __name__ == "__main__":
    main()
