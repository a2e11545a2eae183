"""The story of one study: all that the node knows of its way, on one page, without a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from node.ledger.cards import Card
from node.ledger.job_list import WholeJob
from node.ledger.shown import Arrival, Delivery, Proven, Refused
from node.ledger.trail_list import Record
from node.web.api.parts import ApiParts

MOST_DELIVERIES = 500
MOST_RECORDS = 500  #: of the audit trail, the latest


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What the router decided about one series and one rule."""

    revision: int
    series: str
    rule: str
    pipeline: str  #: of those that the rule runs
    met: bool
    reasons: Sequence[str]
    decided_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Arrival, de-identification, routes, jobs with results, deliveries, audit; and why it was refused, if it was."""

    card: Card | None  #: None for a moment after its first image came
    arrival: Arrival
    deidentified: Proven | None  #: None: not yet, or the leak scan is switched off
    refused: Refused | None
    decisions: Sequence[Decided]
    jobs: Sequence[WholeJob]
    deliveries: Sequence[Delivery]
    audit: Sequence[Record]


def story(parts: ApiParts, study: str) -> Story:
    """The story, as it stands. Raises NotThere."""
    arrival = parts.arrival(study)
    return Story(
        card=parts.cards.one(study),
        arrival=arrival,
        deidentified=parts.proof(study),
        refused=parts.refusals.one(study),
        decisions=[_decided(dict(one)) for one in parts.decisions(study)],
        jobs=parts.jobs.of_study(study),
        deliveries=parts.outgoing.find(limit=MOST_DELIVERIES, study=study).items,
        audit=parts.trail.of_study(study, MOST_RECORDS),
    )


def _decided(one: dict[str, object]) -> Decided:
    known = {name: one[name] for name in Decided.__slots__ if name in one}
    return Decided(**known)  # type: ignore[arg-type]
