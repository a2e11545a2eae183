"""Studies, refusals and deliveries are listed by time."""

from __future__ import annotations

from alembic import op

revision = "0004_listed_by_time"
down_revision = "0003_keys_and_reveals"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_studies_first_arrival"), "studies", ["first_arrival"], unique=False)
    op.create_index(op.f("ix_quarantine_refused_at"), "quarantine", ["refused_at"], unique=False)
    op.create_index("outbox_of_destination", "outbox", ["destination", "state", "updated_at"], unique=False)


def downgrade() -> None:
    op.drop_index("outbox_of_destination", table_name="outbox")
    op.drop_index(op.f("ix_quarantine_refused_at"), table_name="quarantine")
    op.drop_index(op.f("ix_studies_first_arrival"), table_name="studies")
