"""Conditions together: which hold of a series, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from node.conditions.interface import Condition
from node.domain import Series, Study


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One condition, under its key."""

    key: str
    condition: Condition = field(compare=False)


Group = tuple[Asked, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One thing that was asked, and the answer, in words without a patient."""

    key: str
    met: bool
    words: str


def answers(study: Study, series: Series, when: Group, any_of: Sequence[Group], none_of: Sequence[Group]) -> list[Reason]:
    """All of `when`, one group of `any_of` in full, no group of `none_of`: met where every reason is."""
    reasons = _each(study, series, when)
    if any_of:
        met, words = _one_of(study, series, any_of)
        reasons.append(Reason(key="any_of", met=met, words=f"{'one' if met else 'none'} of any_of holds: {words}"))
    if none_of:
        hit, words = _one_of(study, series, none_of)
        reasons.append(Reason(key="none_of", met=not hit, words=f"{'one' if hit else 'nothing'} of none_of holds: {words}"))
    return reasons


def holds(study: Study, series: Series, group: Group) -> bool:
    """Whether all of a group hold."""
    return all(reason.met for reason in _each(study, series, group))


def _each(study: Study, series: Series, group: Group) -> list[Reason]:
    out = []
    for one in group:
        met, words = one.condition.ask(study, series)
        out.append(Reason(key=one.key, met=met, words=words))
    return out


def _one_of(study: Study, series: Series, groups: Sequence[Group]) -> tuple[bool, str]:
    """Whether one group holds in full; and the words of that group, or what is missing in each."""
    missing = []
    for group in groups:
        reasons = _each(study, series, group)
        if all(reason.met for reason in reasons):
            return True, " and ".join(reason.words for reason in reasons)
        missing.append(" and ".join(reason.words for reason in reasons if not reason.met))
    return False, "; ".join(missing)
