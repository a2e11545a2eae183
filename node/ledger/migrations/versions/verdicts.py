"""What readers say of findings."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_verdicts"
down_revision = "0003_cards"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "verdicts",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("tracking_uid", sa.String(length=64), nullable=False),
        sa.Column("finding", sa.String(length=64), nullable=False),
        sa.Column("opinion", sa.String(length=16), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("reader", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("object", sa.String(length=64), nullable=False),
        sa.Column("region", sa.JSON(), nullable=True),
        sa.Column("dice", sa.Double(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("verdicts", schema=None) as batch_op:
        for column in ("at", "job", "tracking_uid"):
            batch_op.create_index(batch_op.f(f"ix_verdicts_{column}"), [column], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("verdicts", schema=None) as batch_op:
        for column in ("tracking_uid", "job", "at"):
            batch_op.drop_index(batch_op.f(f"ix_verdicts_{column}"))
    op.drop_table("verdicts")
