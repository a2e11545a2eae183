"""What the API is handed by assembly: the clean side's read models, and of the wing what has no name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from node.audit import Record
from node.ledger.answers import Answers
from node.ledger.cards import Cards
from node.ledger.job_list import JobList
from node.ledger.paging import Page
from node.ledger.shown import Arrival, Delivery, DestinationShown, Disk, Echo, Proven, Refused, Turnaround
from node.ledger.today import Today
from node.ledger.trail import Verdict
from node.ledger.trail_list import TrailList
from node.rules.book import RuleBook
from node.shelf import Shelf
from node.web.results import ResultsParts


class Outgoing(Protocol):
    """The outbox as lists (`identified/deliveries.py`)."""

    def find(self, *, limit: int, cursor: str = "", state: str = "", destination: str = "", study: str = "") -> Page[Delivery]: ...
    def one(self, id: int) -> Delivery: ...
    def replay(self, id: int) -> Delivery: ...
    def counts(self) -> Mapping[str, Mapping[str, int]]: ...
    def turnaround(self, since: datetime) -> Turnaround: ...
    def destinations(self) -> Sequence[DestinationShown]: ...
    def echo(self, name: str) -> Echo: ...


class Refusals(Protocol):
    """The quarantine as a list."""

    def find(self, *, limit: int, cursor: str = "") -> Page[Refused]: ...
    def one(self, uid: str) -> Refused | None: ...


class Chain(Protocol):
    """The audit trail as a whole."""

    def verify(self) -> Verdict: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiParts:
    """Handed in once, at the start."""

    cards: Cards
    jobs: JobList
    today: Today
    trail: TrailList
    chain: Chain
    answers: Answers
    shelf: Shelf
    book: RuleBook
    outgoing: Outgoing
    refusals: Refusals
    results: ResultsParts
    record: Record
    decisions: Callable[[str], Sequence[Mapping[str, Any]]]  #: of the router about a study
    arrival: Callable[[str], Arrival]  #: raises NotThere
    proof: Callable[[str], Proven | None]
    disk: Callable[[], Disk]
    check_reason: Callable[[str, str], str]  #: (study, reason), raises ReasonRefused: a reason may not name the patient
    try_again: Callable[[str], None]  #: a job that was given up, by its id; raises NotThere, NotNow
    send_again: Callable[[str], None]  #: a study, by the rules as they are now; raises NotThere, NotNow
    purge: Callable[[str], None]  #: a study, for good
    release: Callable[[str, str, str], None]  #: (study, who, why) from quarantine; raises ReviewFailed
