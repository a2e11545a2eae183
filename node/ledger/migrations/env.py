"""Alembic runs its steps here, on the connection that `node.ledger.database.migrate` hands in."""

from __future__ import annotations

from alembic import context

from node.ledger.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
