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
    kinds: Mapped[list[Any] | None] = mapped_column(JSON)  #: what each destination gets; NULL in jobs from before there were profiles
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
    not_before: Mapped[datetime | None] = mapped_column(Instant)  #: off-peak: it waits until then
    send_if: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list, server_default="[]")  #: what it finds sends on
    reading_link: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))  #: what its reports carry; NULL: none

    __table_args__ = (
        Index("jobs_waiting", "state", "priority", "scheduled_at"),
        Index("jobs_to_hand_over", "handed_over", "state"),
        Index("jobs_by_time", "scheduled_at", "id"),
        Index("jobs_in_state", "state", "scheduled_at", "id", "shadow"),
        Index("jobs_of_pipeline", "pipeline", "scheduled_at", "id"),
        Index("jobs_ended", "ended_at", "state", "shadow"),
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
    pipeline: Mapped[str] = mapped_column(String(64), default="", server_default="")
    rules_revision: Mapped[int | None]  #: of the rules; None: they stood in no revision
    met: Mapped[bool]
    reasons: Mapped[list[str]] = mapped_column(JSON)
    decided_at: Mapped[datetime] = mapped_column(Instant)


class RuleRevisionRow(Base):
    """A revision of the rules: its text never changes. The published one with the highest number is active."""

    __tablename__ = "rule_revisions"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    text: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))  #: draft, proposed, published
    step: Mapped[str] = mapped_column(String(16))  #: file, publish, rollback, watch, keep
    base: Mapped[int] = mapped_column(Integer)  #: the revision it was made from; 0: none
    who: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(Instant)
    approved_by: Mapped[str] = mapped_column(String(200), default="")
    approved_at: Mapped[datetime | None] = mapped_column(Instant)
    watched: Mapped[bool] = mapped_column(default=False, server_default=false())  #: evaluated beside the active one


class RulesFileRow(Base):
    """The rules file of the settings as it was last read: one row."""

    __tablename__ = "rules_file"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    sha256: Mapped[str] = mapped_column(String(64))
    active: Mapped[int]  #: the revision in force when it had been read
    at: Mapped[datetime] = mapped_column(Instant)


class HeaderRow(Base):
    """What rules can ask about one study when it was routed (`rules/kept.py`), and no more: for replay."""

    __tablename__ = "headers"

    study: Mapped[str] = mapped_column(String(64), primary_key=True)
    revision: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    routed_at: Mapped[datetime] = mapped_column(Instant, index=True)
    facts: Mapped[str] = mapped_column(Text)  #: JSON


class WatchedRow(Base):
    """One difference between the active rules and a watched draft, on one study of today."""

    __tablename__ = "watched"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    draft: Mapped[int] = mapped_column(Integer, index=True)
    active: Mapped[int]
    study: Mapped[str] = mapped_column(String(64), index=True)
    revision: Mapped[int]
    series: Mapped[str] = mapped_column(String(64))  #: empty: the study met both alike, and was counted
    difference: Mapped[dict[str, Any]] = mapped_column(JSON)
    at: Mapped[datetime] = mapped_column(Instant)


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


class VerdictRow(Base):
    """A reader's answer (`domain.Verdict`). Rows are added, never changed; those of a purged study are counted and go."""

    __tablename__ = "verdicts"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    tracking_uid: Mapped[str] = mapped_column(String(64), index=True)
    finding: Mapped[str] = mapped_column(String(64))
    opinion: Mapped[str] = mapped_column(String(16))
    source: Mapped[str] = mapped_column(String(16))
    reader: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(Text)
    object: Mapped[str] = mapped_column(String(64))
    region: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    dice: Mapped[float | None]
    at: Mapped[datetime] = mapped_column(Instant, index=True)


class TallyRow(Base):
    """How readers answered to results of studies that were purged since: for a version of a pipeline, and of no study."""

    __tablename__ = "tallies"

    pipeline: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(String(64), primary_key=True)
    accept: Mapped[int] = mapped_column(default=0)
    modify: Mapped[int] = mapped_column(default=0)
    reject: Mapped[int] = mapped_column(default=0)
    missed: Mapped[int] = mapped_column(default=0)
    compared: Mapped[int] = mapped_column(default=0)  #: regions with a Dice
    dice: Mapped[float] = mapped_column(default=0.0)  #: the sum over them


class OursRow(Base):
    """An object that this node wrote about a study that was purged since: a digest of its UID, so that it is no work if it comes back."""

    __tablename__ = "ours"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)


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
    """A bearer token: only its SHA-256 is kept. `scopes`: one a line, none: whatever the roles may do."""

    __tablename__ = "tokens"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    roles: Mapped[str] = mapped_column(String(100), server_default="")  #: with a blank between
    created_at: Mapped[datetime] = mapped_column(Instant)
    disabled: Mapped[bool] = mapped_column(default=False)
    scopes: Mapped[str] = mapped_column(Text, default="", server_default="")


class ProbeRow(Base):
    """What a destination accepted when it was last asked."""

    __tablename__ = "probes"

    destination: Mapped[str] = mapped_column(String(100), primary_key=True)
    at: Mapped[datetime] = mapped_column(Instant)
    accepted: Mapped[dict[str, list[str]]] = mapped_column(JSON)  #: SOP Class UID → Transfer Syntax UIDs


class PersonRow(Base):
    """Somebody who may sign in. The password is an argon2id hash, or empty where another place vouches for the person."""

    __tablename__ = "people"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    roles: Mapped[str] = mapped_column(String(100), server_default="")  #: with a blank between
    password: Mapped[str] = mapped_column(String(200))
    subject: Mapped[str] = mapped_column(String(64), index=True, default="")  #: digest of issuer and subject, where another place vouches
    one_time: Mapped[bool]  #: must be changed at the next sign-in
    disabled: Mapped[bool] = mapped_column(default=False)
    failures: Mapped[int] = mapped_column(default=0)  #: wrong passwords since the last right one
    locked_until: Mapped[datetime | None] = mapped_column(Instant)
    created_at: Mapped[datetime] = mapped_column(Instant)
    signed_in_at: Mapped[datetime | None] = mapped_column(Instant)


class SessionRow(Base):
    """Somebody is signed in: only the SHA-256 of the session's id is kept."""

    __tablename__ = "sessions"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    person: Mapped[str] = mapped_column(ForeignKey("people.name"), index=True)
    opened_at: Mapped[datetime] = mapped_column(Instant)
    seen_at: Mapped[datetime] = mapped_column(Instant)
    more_role: Mapped[str] = mapped_column(String(32), default="")  #: taken for a while, with a reason
    more_until: Mapped[datetime | None] = mapped_column(Instant)


class CardRow(Base):
    """What a list of studies shows of one: follows the wing's own state of the study, and never leads it (`ledger/cards.py`)."""

    __tablename__ = "cards"

    study: Mapped[str] = mapped_column(String(64), primary_key=True)
    pseudonym: Mapped[str] = mapped_column(String(64), index=True, default="")  #: empty until it is de-identified
    state: Mapped[str] = mapped_column(String(16))
    revision: Mapped[int] = mapped_column(default=0)
    arrived_at: Mapped[datetime] = mapped_column(Instant)  #: its first instance
    last_at: Mapped[datetime] = mapped_column(Instant)
    instances: Mapped[int] = mapped_column(default=0)
    series: Mapped[int] = mapped_column(default=0)  #: of what was de-identified
    channel: Mapped[str] = mapped_column(String(16), default="")
    source: Mapped[str] = mapped_column(String(100), default="")  #: calling AE title, or peer

    __table_args__ = (Index("cards_by_time", "arrived_at", "study"), Index("cards_in_state", "state", "arrived_at", "study"))


class CardTagRow(Base):
    """A word by which a study is found: a modality, a pipeline, a finding's label. `at` is the card's `arrived_at`."""

    __tablename__ = "card_tags"

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    value: Mapped[str] = mapped_column(String(100), primary_key=True)
    study: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    at: Mapped[datetime] = mapped_column(Instant)

    __table_args__ = (Index("card_tags_by_time", "kind", "value", "at", "study"),)


class AnswerRow(Base):
    """The answer to a request that carried an Idempotency-Key: the same key again gets it again."""

    __tablename__ = "answers"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)  #: digest of who asked and the key
    request: Mapped[str] = mapped_column(String(64))  #: digest of method, path and body
    status: Mapped[int] = mapped_column(default=0)  #: 0 while the first request is still at work
    body: Mapped[str] = mapped_column(Text, default="")
    at: Mapped[datetime] = mapped_column(Instant, index=True)


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
