"""Decisions about versions of a pipeline; jobs that run in the shadow."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_versions"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "bundle_versions",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("pipeline", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("step", sa.String(length=16), nullable=False),
        sa.Column("who", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("bundle_versions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_bundle_versions_pipeline"), ["pipeline"], unique=False)
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("shadow", sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("shadow")
    with op.batch_alter_table("bundle_versions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_bundle_versions_pipeline"))
    op.drop_table("bundle_versions")
