"""The identified database. Even here no row says who a person is: identities are sealed with the study's key."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Tables of the identified wing."""


class KeyRow(Base):
    """A key wrapped by the master key. `study:<clean UID>` opens one study; deleting the row makes it unreadable."""

    __tablename__ = "keys"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    wrapped: Mapped[bytes] = mapped_column(LargeBinary)
    generation: Mapped[int] = mapped_column(default=1, index=True)  #: of the master key that wraps it
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class MasterRow(Base):
    """A generation of the master key: never the key, but a value that only it opens.

    One is `current`. While a rotation lasts the one before is `retiring`, and `handover` holds the new key wrapped by the old one, so that
    processes that were given the old one go on; afterwards it is `retired` and opens nothing here.
    """

    __tablename__ = "masters"

    generation: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(String(16))
    sealed_check: Mapped[bytes] = mapped_column(LargeBinary)
    handover: Mapped[bytes | None] = mapped_column(LargeBinary)
    since: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class StudyRow(Base):
    """A study on its way: RECEIVING → SETTLED → PROCESSED, or QUARANTINED. A late image makes it RECEIVING again."""

    __tablename__ = "studies"

    study: Mapped[str] = mapped_column(String(64), primary_key=True)  #: clean Study Instance UID
    state: Mapped[str] = mapped_column(String(16), index=True)
    revision: Mapped[int] = mapped_column(default=0)  #: of the last settling; 0 before the first
    first_arrival: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)
    last_arrival: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    expected: Mapped[int | None] = mapped_column()  #: NumberOfStudyRelatedInstances that the source reports, if it does
    settled_reason: Mapped[str] = mapped_column(Text, default="")
    settled_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    origin: Mapped[dict[str, Any]] = mapped_column(JSON)  #: of the first instance


class InstanceRow(Base):
    """A sealed instance and where it lies in the vault."""

    __tablename__ = "instances"

    sop_instance: Mapped[str] = mapped_column(String(64), primary_key=True)  #: clean SOP Instance UID
    study: Mapped[str] = mapped_column(ForeignKey("studies.study"), index=True)
    extents: Mapped[list[list[Any]]] = mapped_column(JSON)  #: [[segment, offset, length], …]
    size: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(String(64))  #: keyed hash of the data set's bytes
    arrived_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    revision: Mapped[int | None] = mapped_column()  #: the revision that first took it in; None: not yet


class SegmentRow(Base):
    """How far a segment of the vault was indexed, and the records that had begun there but not ended."""

    __tablename__ = "segments"

    segment: Mapped[str] = mapped_column(String(100), primary_key=True)
    writer: Mapped[str] = mapped_column(String(32))
    offset: Mapped[int] = mapped_column(BigInteger)
    done: Mapped[bool] = mapped_column(index=True)  #: its writer is gone and all of it was read
    begun: Mapped[dict[str, Any]] = mapped_column(JSON)
    studies: Mapped[dict[str, Any]] = mapped_column(JSON)  #: of the records that had begun


class SegmentStudyRow(Base):
    """A segment holds instances of a study. One that holds none any more is deleted."""

    __tablename__ = "segment_studies"

    segment: Mapped[str] = mapped_column(String(100), primary_key=True)
    study: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)


class IdentityRow(Base):
    """Who the study belongs to, and the original UIDs: sealed with the study's key."""

    __tablename__ = "identities"

    study: Mapped[str] = mapped_column(ForeignKey("studies.study"), primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)


class QuarantineRow(Base):
    """A study refused, and the reason."""

    __tablename__ = "quarantine"

    study: Mapped[str] = mapped_column(ForeignKey("studies.study"), primary_key=True)
    revision: Mapped[int]
    kind: Mapped[str] = mapped_column(String(64))  #: the error's class
    reason: Mapped[str] = mapped_column(Text)
    refused_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)


class ByHandRow(Base):
    """What a person decided about the pixels of one instance of a refused study."""

    __tablename__ = "by_hand"

    instance: Mapped[str] = mapped_column(String(64), primary_key=True)  #: clean SOP Instance UID
    study: Mapped[str] = mapped_column(ForeignKey("studies.study"), index=True)
    boxes: Mapped[list[list[int]]] = mapped_column(JSON)  #: [[left, top, right, bottom], …]
    released: Mapped[bool]
    who: Mapped[str] = mapped_column(String(100))
    why: Mapped[str] = mapped_column(Text)
    decided_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class OutboxRow(Base):
    """One object for one destination: QUEUED → SENT → CONFIRMED, or REFUSED with the reason."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    study: Mapped[str] = mapped_column(String(64), index=True)
    job: Mapped[str] = mapped_column(String(64), index=True)
    role: Mapped[str] = mapped_column(String(16))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    sop_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    path: Mapped[str] = mapped_column(Text)  #: the nameless object, below the clean volume
    destination: Mapped[str] = mapped_column(String(100))
    state: Mapped[str] = mapped_column(String(16), index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    asked: Mapped[int] = mapped_column(default=0)  #: how often the destination was asked whether it holds what it took
    next_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)
    reason: Mapped[str] = mapped_column(Text, default="")
    queued_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))  #: giving up is counted from here
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))

    __table_args__ = (
        UniqueConstraint("sop_instance_uid", "destination"),
        Index("outbox_of_destination", "destination", "state", "updated_at"),
    )


class ChangeRow(Base):
    """How far an Orthanc's change feed was read."""

    __tablename__ = "changes"

    orthanc: Mapped[str] = mapped_column(String(100), primary_key=True)
    last: Mapped[int]


class FetchRow(Base):
    """A study of an Orthanc that waits to be fetched. Gone when every instance of it is in the vault."""

    __tablename__ = "fetches"

    orthanc: Mapped[str] = mapped_column(String(100), primary_key=True)
    study: Mapped[str] = mapped_column(String(44), primary_key=True)  #: Orthanc's id, not a DICOM UID
    asked: Mapped[int] = mapped_column(default=1)  #: how often it was told stable, so that news during a fetch is not lost
    attempts: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)
    reason: Mapped[str] = mapped_column(Text, default="")


class RevealRequestRow(Base):
    """A request to know who somebody is, which waits for a second person: PENDING → APPROVED → USED, within its time. Names no patient."""

    __tablename__ = "reveal_requests"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    study: Mapped[str] = mapped_column(String(64), index=True)  #: clean Study Instance UID; of a folder: a digest of its path
    purpose: Mapped[str] = mapped_column(String(16))  #: reveal, or reidentify (a folder)
    state: Mapped[str] = mapped_column(String(16), index=True)
    requester: Mapped[str] = mapped_column(String(120))
    reason: Mapped[str] = mapped_column(Text)
    requested_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    approver: Mapped[str] = mapped_column(String(120), default="")
    approved_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
