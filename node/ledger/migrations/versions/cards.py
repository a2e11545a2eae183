"""Cards of studies with the words they are found by; answers kept for Idempotency-Key; jobs listed by time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_cards"
down_revision = "0003_people"
branch_labels = None
depends_on = None

JOBS = {
    "jobs_by_time": ["scheduled_at", "id"],
    "jobs_in_state": ["state", "scheduled_at", "id", "shadow"],
    "jobs_of_pipeline": ["pipeline", "scheduled_at", "id"],
    "jobs_ended": ["ended_at", "state", "shadow"],
}


def upgrade() -> None:
    op.create_table(
        "cards",
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("pseudonym", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("arrived_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("series", sa.Integer(), nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("source", sa.String(length=100), nullable=False),
        sa.PrimaryKeyConstraint("study"),
    )
    op.create_index(op.f("ix_cards_pseudonym"), "cards", ["pseudonym"], unique=False)
    op.create_index("cards_by_time", "cards", ["arrived_at", "study"], unique=False)
    op.create_index("cards_in_state", "cards", ["state", "arrived_at", "study"], unique=False)
    op.create_table(
        "card_tags",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("value", sa.String(length=100), nullable=False),
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("kind", "value", "study"),
    )
    op.create_index(op.f("ix_card_tags_study"), "card_tags", ["study"], unique=False)
    op.create_index("card_tags_by_time", "card_tags", ["kind", "value", "at", "study"], unique=False)
    op.create_table(
        "answers",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("request", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index(op.f("ix_answers_at"), "answers", ["at"], unique=False)
    for name, columns in JOBS.items():
        op.create_index(name, "jobs", columns, unique=False)


def downgrade() -> None:
    for name in JOBS:
        op.drop_index(name, table_name="jobs")
    op.drop_table("answers")
    op.drop_table("card_tags")
    op.drop_table("cards")
