"""What people are shown of what only the wing knows: nouns without a name, filled in there and handed to the web room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What came with one settling of a study."""

    revision: int  #: 0: not settled yet
    instances: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """How a study came and why it was held to be complete."""

    study: str
    state: str
    channel: str
    calling_ae: str
    called_ae: str
    peer: str
    arrived_at: datetime
    last_at: datetime
    expected: int | None  #: how many instances the source says there are
    settled_at: datetime | None
    settled_because: str
    revisions: Sequence[Revision]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """The signed report of a de-identification."""

    made_at: str
    revision: int
    instances: int
    hits: int  #: of the leak scan
    signature: str  #: good, or bad
    signer: str
    done: Mapping[str, Any] = field(default_factory=dict)  #: how often each action of Table E.1-1 was taken, images looked at, masked
    leak_scan: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A study in quarantine."""

    study: str
    revision: int
    kind: str
    reason: str
    refused_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One object on its way to one destination."""

    id: int
    study: str
    job: str
    role: str
    sop_instance_uid: str
    destination: str
    state: str
    attempts: int
    reason: str
    queued_at: datetime
    updated_at: datetime
    next_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationShown:
    """A destination: what the settings say of it, without secrets, and how it does."""

    name: str
    kind: str  #: empty: rows name it, the settings do not
    configured: bool
    settings: Mapping[str, Any]
    counts: Mapping[str, int]  #: by state: QUEUED, SENT, CONFIRMED, REFUSED
    oldest_queued: datetime | None
    last_success: datetime | None
    last_failure: datetime | None
    last_reason: str  #: of that failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """Whether a destination answered."""

    destination: str
    answered: bool
    words: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceShown:
    """Where studies come from: a door, and who came through it."""

    channel: str
    name: str  #: calling AE title, or the name of an Orthanc; empty where nobody says it
    studies: int
    last: datetime | None  #: None: nothing came yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Turnaround:
    """Seconds from a study's first image to its last result at a destination, over the studies of a day."""

    studies: int
    median_s: float | None
    p95_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The disk of the data folder."""

    free_bytes: int
    total_bytes: int
    above_watermark_bytes: int  #: 0 or less: nothing more is taken
