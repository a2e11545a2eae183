"""Alembic runs its steps here, on the connection that `node.ledger.database.migrate` hands in."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy.types import TypeDecorator

from node.ledger.tables import Base


def _plain_type(kind: str, thing: Any, _context: AutogenContext) -> str | Literal[False]:
    """A revision names the column's own type, so that it stays what it is when the code changes."""
    if kind == "type" and isinstance(thing, TypeDecorator):
        return f"sa.{thing.impl!r}"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=context.config.attributes["version_table"],
    render_as_batch=True,  # SQLite changes a column by copying the table
    render_item=_plain_type,
)
with context.begin_transaction():
    context.run_migrations()
