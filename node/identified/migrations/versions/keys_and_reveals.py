"""Generations of the master key, and requests to reveal."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_keys_and_reveals"
down_revision = "0002_by_hand"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "masters",
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("sealed_check", sa.LargeBinary(), nullable=False),
        sa.Column("handover", sa.LargeBinary(), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("generation"),
    )
    with op.batch_alter_table("keys", schema=None) as batch_op:
        batch_op.add_column(sa.Column("generation", sa.Integer(), nullable=False, server_default="1"))
        batch_op.create_index(batch_op.f("ix_keys_generation"), ["generation"], unique=False)
    op.execute(
        "INSERT INTO masters (generation, state, sealed_check, since) SELECT 1, 'current', wrapped, created_at FROM keys WHERE name = 'check'"
    )
    op.execute("DELETE FROM keys WHERE name = 'check'")
    op.create_table(
        "reveal_requests",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("purpose", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("requester", sa.String(length=120), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("approver", sa.String(length=120), nullable=False),
        sa.Column("approved_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("reveal_requests", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_reveal_requests_state"), ["state"], unique=False)
        batch_op.create_index(batch_op.f("ix_reveal_requests_study"), ["study"], unique=False)


def downgrade() -> None:
    op.drop_table("reveal_requests")
    op.execute(
        "INSERT INTO keys (name, wrapped, created_at, generation) "
        "SELECT 'check', sealed_check, since, generation FROM masters WHERE state = 'current'"
    )
    with op.batch_alter_table("keys", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_keys_generation"))
        batch_op.drop_column("generation")
    op.drop_table("masters")
