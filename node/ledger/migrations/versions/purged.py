"""What is left of purged studies: readers' answers as counts, and digests of the UIDs of our own objects."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_purged"
down_revision = "0004_roles"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tallies",
        sa.Column("pipeline", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("accept", "modify", "reject", "missed", "compared")),
        sa.Column("dice", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("pipeline", "version"),
    )
    op.create_table("ours", sa.Column("sha256", sa.String(length=64), nullable=False), sa.PrimaryKeyConstraint("sha256"))


def downgrade() -> None:
    op.drop_table("ours")
    op.drop_table("tallies")
