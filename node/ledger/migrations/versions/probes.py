"""What destinations accept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_probes"
down_revision = "0002_versions"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "probes",
        sa.Column("destination", sa.String(length=100), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("accepted", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("destination"),
    )


def downgrade() -> None:
    op.drop_table("probes")
