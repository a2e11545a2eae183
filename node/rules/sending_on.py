"""Where a result goes beyond its rule's destinations, because of what was found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from node.domain import SendIf
from node.router import in_words


def sent_on(send_if: Iterable[SendIf], summary: Mapping[str, Any] | None) -> dict[str, str]:
    """Destinations, and what was asked of the findings for each.

    `summary` is what a job found, as the ledger keeps it; a job that was not analysed found nothing.
    """
    out: dict[str, str] = {}
    for one in send_if:
        if was_found(one, summary):
            for destination in one.destinations:
                out.setdefault(destination, in_words(one))
    return out


def was_found(one: SendIf, summary: Mapping[str, Any] | None) -> bool:
    """Whether a job found what is asked for."""
    return any(_meets(one, finding) for finding in (summary or {}).get("findings") or [])


def _meets(one: SendIf, finding: Mapping[str, Any]) -> bool:
    """Whether a finding is the one that is asked for. Without a probability (not trained, or a drawn mask) a range is not met."""
    if str(finding.get("name", "")).casefold() != one.finding.casefold():
        return False
    if one.present is not None and finding.get("present") is not one.present:
        return False
    probability = finding.get("probability")
    if probability is None:
        return one.low <= 0 and one.high >= 1
    return one.low <= float(probability) <= one.high
