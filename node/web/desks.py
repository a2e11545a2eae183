"""What the pages of rules, models and destinations are handed by assembly. Nothing here knows a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from node.ledger.comparison import Comparison as VersionsCompared
from node.ledger.shown import SourceShown
from node.rules.book import RuleBook
from node.rules.replay import Comparison as Replayed

Compare = Callable[[str, str, str], VersionsCompared]  #: (pipeline, version A, version B); raises VersionRefused
MOST_WATCHED = 200  #: differences of a watched draft that are shown, the latest
Told = Callable[[int, int], None]  #: studies done, of how many


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesDesk:
    """The rule book, and what is asked of a draft before it is published."""

    book: RuleBook
    words: Callable[[], Mapping[str, Any]]  #: what a form offers, `rules/form.py`
    try_on: Callable[[str, str], list[dict[str, Any]] | None]
    """(text, study): every rule with its reasons; None when nothing is kept of the study. Raises RulesInvalid."""

    replay: Callable[[str, float, Told], Replayed]  #: (text, days, progress); raises RulesInvalid
    watched: Callable[[int], tuple[int, list[dict[str, Any]]]]  #: of a draft: studies it was asked about, and differences
    second_person: bool  #: what somebody publishes waits for another person


@dataclass(frozen=True, slots=True, kw_only=True)
class Gets:
    """What a destination is sent."""

    profile: str
    roles: Sequence[str]
    instead: Sequence[str]  #: in words: what stands in the place of something that it does not take
    packing: str  #: in words: how segmentations go there
    probed_at: datetime | None  #: when it was asked; None: never


@dataclass(frozen=True, slots=True, kw_only=True)
class SendingDesk:
    """What each destination gets, what it accepts, and where studies come from."""

    gets: Callable[[], Mapping[str, Gets]]
    probe: Callable[[str], Sequence[tuple[str, bool]] | None]
    """Each object the node can write and whether the destination takes it; None: it can't be asked. Raises DeliveryFailed, DeliveryRefused."""

    forget: Callable[[str], None]  #: what it accepts
    sources: Callable[[], Sequence[SourceShown]]
