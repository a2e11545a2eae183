"""Which studies are worth a reader's time: where the model is least sure, or two versions of it disagree."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from node.ledger.read_studies import Read

NEAR = 0.25  #: a probability that far from its threshold is sure
MOST_SPREAD = 0.25  #: standard deviation over dropout passes that could not well be higher
THRESHOLD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """One result that nobody has answered. `score` is 0 to 1: the highest of its reasons."""

    read: Read
    score: float
    reasons: tuple[str, ...]


def worth_labelling(reads: Iterable[Read], answered: Collection[str], thresholds: Mapping[str, Mapping[str, float]]) -> list[Worth]:
    """Results by how uncertain they are, the most uncertain first; those that were answered or not analysed are left out.

    Parameters
    ----------
    thresholds
        By pipeline and finding; a result that carries its own (`facts.thresholds`) is measured against those.
    """
    told = list(reads)
    beside: dict[tuple[object, ...], list[Read]] = {}
    for one in told:
        if one.shadow and one.summary["analysed"]:
            beside.setdefault(_same(one), []).append(one)
    found = []
    for one in told:
        if one.shadow or one.job in answered or not one.summary["analysed"]:
            continue
        limits = {**thresholds.get(one.pipeline, {}), **one.summary["facts"].get("thresholds", {})}
        scored = sorted([*_near(one, limits), *_spread(one), *_disagreement(one, beside.get(_same(one), []))], reverse=True)
        if scored and scored[0][0] > 0:
            found.append(Worth(read=one, score=round(scored[0][0], 3), reasons=tuple(reason for score, reason in scored if score > 0)[:3]))
    return sorted(found, key=lambda one: (-one.score, one.read.job))


def _same(one: Read) -> tuple[object, ...]:
    return one.study, one.series, one.pipeline, one.inputs


def _near(one: Read, limits: Mapping[str, float]) -> Iterable[tuple[float, str]]:
    for finding in one.summary["findings"]:
        probability = finding["probability"]
        if probability is not None:
            limit = float(limits.get(finding["name"], THRESHOLD))
            yield max(0.0, 1 - abs(probability - limit) / NEAR), f"{finding['name']} {probability:.2f}, threshold {limit:.2f}"


def _spread(one: Read) -> Iterable[tuple[float, str]]:
    """Of Monte Carlo dropout, where the result has it."""
    spread: Any = one.summary["facts"].get("spread")
    for name, value in spread.items() if isinstance(spread, Mapping) else ():
        yield min(1.0, float(value) / MOST_SPREAD), f"{name} spreads by {float(value):.2f} over dropout"


def _disagreement(one: Read, others: Iterable[Read]) -> Iterable[tuple[float, str]]:
    mine = {finding["name"]: finding for finding in one.summary["findings"]}
    for other in others:
        for theirs in other.summary["findings"]:
            ours = mine.get(theirs["name"])
            if ours is None:
                continue
            if ours["present"] is not None and theirs["present"] is not None and ours["present"] != theirs["present"]:
                yield 1.0, f"{theirs['name']}: version {other.version} in the shadow decides otherwise"
            elif ours["probability"] is not None and theirs["probability"] is not None:
                apart = abs(ours["probability"] - theirs["probability"])
                yield apart, f"{theirs['name']}: version {other.version} in the shadow is {apart:.2f} apart"
