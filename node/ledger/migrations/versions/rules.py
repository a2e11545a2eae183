"""Revisions of the rules, the rules file as last read, kept headers, what a watched draft would do; jobs that wait or send on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_rules"
down_revision = "0003_kinds"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "headers",
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("routed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("study", "revision"),
    )
    with op.batch_alter_table("headers", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_headers_routed_at"), ["routed_at"], unique=False)

    op.create_table(
        "rule_revisions",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("step", sa.String(length=16), nullable=False),
        sa.Column("base", sa.Integer(), nullable=False),
        sa.Column("who", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("approved_by", sa.String(length=200), nullable=False),
        sa.Column("approved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("watched", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "rules_file",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("active", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "watched",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("draft", sa.Integer(), nullable=False),
        sa.Column("active", sa.Integer(), nullable=False),
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("series", sa.String(length=64), nullable=False),
        sa.Column("difference", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("watched", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_watched_draft"), ["draft"], unique=False)
        batch_op.create_index(batch_op.f("ix_watched_study"), ["study"], unique=False)

    with op.batch_alter_table("decisions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("pipeline", sa.String(length=64), server_default="", nullable=False))
        batch_op.add_column(sa.Column("rules_revision", sa.Integer(), nullable=True))

    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("not_before", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("send_if", sa.JSON(), server_default="[]", nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("send_if")
        batch_op.drop_column("not_before")

    with op.batch_alter_table("decisions", schema=None) as batch_op:
        batch_op.drop_column("rules_revision")
        batch_op.drop_column("pipeline")

    with op.batch_alter_table("watched", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_watched_study"))
        batch_op.drop_index(batch_op.f("ix_watched_draft"))

    op.drop_table("watched")
    op.drop_table("rules_file")
    op.drop_table("rule_revisions")
    with op.batch_alter_table("headers", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_headers_routed_at"))

    op.drop_table("headers")
