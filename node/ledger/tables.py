"""The clean database. Nothing here names a person: pseudonyms and clean UIDs only."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, Integer, String, Text, false
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from node.ledger.database import Instant


class Base(DeclarativeBase):
    """Tables of the ledger."""


class JobRow(Base):
    """A Job (`domain.Job`). Claimed by one worker at a time, until `lease_until`."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    study: Mapped[str] = mapped_column(String(64), index=True)
    revision: Mapped[int]
    pseudonym: Mapped[str] = mapped_column(String(64))
    folder: Mapped[str] = mapped_column(Text)  #: below the clean volume, where it lies there
    series: Mapped[str] = mapped_column(String(64))
    pipeline: Mapped[str] = mapped_column(String(64))
    rule: Mapped[str] = mapped_column(String(200))
    destinations: Mapped[list[str]] = mapped_column(JSON)
    priority: Mapped[str] = mapped_column(String(16))
    reasons: Mapped[list[str]] = mapped_column(JSON)
    algorithm: Mapped[dict[str, Any]] = mapped_column(JSON)
    inputs: Mapped[list[str]] = mapped_column(JSON)
    predecessor: Mapped[str] = mapped_column(String(64), default="")
    state: Mapped[str] = mapped_column(String(16), index=True)
    attempts: Mapped[int] = mapped_column(default=0)  #: how often a worker took it up
    failures: Mapped[int] = mapped_column(default=0)  #: how often it failed there
    reason: Mapped[str] = mapped_column(Text, default="")
    worker: Mapped[str] = mapped_column(String(100), default="")
    lease_until: Mapped[datetime | None] = mapped_column(Instant)
    scheduled_at: Mapped[datetime] = mapped_column(Instant)
    started_at: Mapped[datetime | None] = mapped_column(Instant)
    ended_at: Mapped[datetime | None] = mapped_column(Instant)
    handed_over: Mapped[bool] = mapped_column(default=False)  #: its objects stand in the outbox
    shadow: Mapped[bool] = mapped_column(default=False, server_default=false())  #: its objects go nowhere

    __table_args__ = (
        Index("jobs_waiting", "state", "priority", "scheduled_at"),
        Index("jobs_to_hand_over", "handed_over", "state"),
    )


class ObjectRow(Base):
    """A written object of a completed job (`domain.WrittenObject`), and what `radnode status` shows of the result."""

    __tablename__ = "objects"

    sop_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    study: Mapped[str] = mapped_column(String(64), index=True)
    role: Mapped[str] = mapped_column(String(16))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    path: Mapped[str] = mapped_column(Text)  #: below the clean volume
    sha256: Mapped[str] = mapped_column(String(64))


class SummaryRow(Base):
    """What a job found, in a few JSON values: label, confidence, findings, notes, seconds."""

    __tablename__ = "summaries"

    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    summary: Mapped[dict[str, Any]] = mapped_column(JSON)


class DecisionRow(Base):
    """What the router decided about one series and one rule, with its reasons."""

    __tablename__ = "decisions"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    study: Mapped[str] = mapped_column(String(64), index=True)
    revision: Mapped[int]
    series: Mapped[str] = mapped_column(String(64))
    rule: Mapped[str] = mapped_column(String(200))
    met: Mapped[bool]
    reasons: Mapped[list[str]] = mapped_column(JSON)
    decided_at: Mapped[datetime] = mapped_column(Instant)


class VersionRow(Base):
    """One decision about a version of a pipeline's bundle. The latest one about a version holds; none is ever changed."""

    __tablename__ = "bundle_versions"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    pipeline: Mapped[str] = mapped_column(String(64), index=True)
    version: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))  #: of the weights that the decision is about
    state: Mapped[str] = mapped_column(String(16))
    step: Mapped[str] = mapped_column(
        String(16)
    )  #: promote, shadow, retire, rollback; or "found": what was active when somebody first decided
    who: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(Instant)


class AuditRow(Base):
    """One link of the audit trail: `hash` covers `seq`, `at`, `event` and the `previous` hash."""

    __tablename__ = "audit"

    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    at: Mapped[str] = mapped_column(String(40))  #: ISO 8601 with time zone, as hashed
    event: Mapped[str] = mapped_column(Text)  #: canonical JSON, as hashed
    study: Mapped[str] = mapped_column(String(64), index=True, default="")
    previous: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


class TokenRow(Base):
    """A bearer token: only its SHA-256 is kept."""

    __tablename__ = "tokens"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(32))
    created_at: Mapped[datetime] = mapped_column(Instant)
    disabled: Mapped[bool] = mapped_column(default=False)


class NoticeRow(Base):
    """What a channel (mail, a webhook) was told about one trouble (`notices.Told`)."""

    __tablename__ = "notices"

    channel: Mapped[str] = mapped_column(String(100), primary_key=True)
    key: Mapped[str] = mapped_column(String(300), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    title: Mapped[str] = mapped_column(Text)
    count: Mapped[int]
    since: Mapped[datetime] = mapped_column(Instant)
    told_at: Mapped[datetime | None] = mapped_column(Instant)
    open: Mapped[bool]  #: it was there when last looked
    said: Mapped[bool]  #: the channel knows that it is there
