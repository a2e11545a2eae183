"""Links to the reading page that reports carry."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_reading_links"
down_revision = "0004_purged"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("reading_link", sa.JSON(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("reading_link")
