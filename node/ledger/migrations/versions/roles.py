"""People and tokens may have several roles."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_roles"
down_revision = "0003_notices"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("people", "tokens"):
        op.add_column(table, sa.Column("roles", sa.String(length=100), server_default="", nullable=False))
        op.execute(sa.update(sa.table(table, sa.column("roles"))).values(roles=sa.column("role")))
        op.drop_column(table, "role")


def downgrade() -> None:
    """The first role stays."""
    for table in ("people", "tokens"):
        op.add_column(table, sa.Column("role", sa.String(length=32), server_default="", nullable=False))
        rows = sa.table(table, sa.column("role"), sa.column("roles"))
        for role in ("admin", "integrator", "radiologist", "auditor", "privacy"):
            op.execute(sa.update(rows).where(rows.c.roles.startswith(role)).values(role=role))
        op.drop_column(table, "roles")
