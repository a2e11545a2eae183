"""What a person decided about the pixels of a refused study."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_by_hand"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "by_hand",
        sa.Column("instance", sa.String(length=64), nullable=False),
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("boxes", sa.JSON(), nullable=False),
        sa.Column("released", sa.Boolean(), nullable=False),
        sa.Column("who", sa.String(length=100), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["study"], ["studies.study"]),
        sa.PrimaryKeyConstraint("instance"),
    )
    with op.batch_alter_table("by_hand", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_by_hand_study"), ["study"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("by_hand", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_by_hand_study"))
    op.drop_table("by_hand")
