"""How two versions of a pipeline compare on what both have read: the same decision, and how far apart their probabilities lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one version found in one series, in the JSON values of its summary."""

    study: str
    series: str
    inputs: tuple[str, ...]
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One finding over the series that both versions analysed."""

    name: str
    read: int  #: series in which both decided
    agree: int  #: of these, with the same decision
    mean_difference: float | None  #: B's probability minus A's; None when none has one
    mean_distance: float | None  #: the same without its sign


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two versions on the same series."""

    series: int  #: read by both, image for image
    analysed: int  #: of these, analysed by both
    only_a: int  #: analysed by A, refused by B
    only_b: int
    same_label: int  #: of those analysed by both, with the same headline
    findings: tuple[Agreement, ...]


def compare(a: Iterable[Reading], b: Iterable[Reading]) -> Comparison:
    """Over the series that both have read from the same images. The latest reading of a series counts."""
    of_a, of_b = ({(one.study, one.series, one.inputs): one.summary for one in readings} for readings in (a, b))
    pairs = [(of_a[key], of_b[key]) for key in of_a if key in of_b]
    both = [(x, y) for x, y in pairs if x["analysed"] and y["analysed"]]
    names = list(dict.fromkeys(finding["name"] for pair in both for summary in pair for finding in summary["findings"]))
    return Comparison(
        series=len(pairs),
        analysed=len(both),
        only_a=sum(x["analysed"] and not y["analysed"] for x, y in pairs),
        only_b=sum(y["analysed"] and not x["analysed"] for x, y in pairs),
        same_label=sum(x["label"] == y["label"] for x, y in both),
        findings=tuple(_agreement(name, both) for name in names),
    )


def _agreement(name: str, both: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Agreement:
    found = [(x, y) for x, y in ((_finding(a, name), _finding(b, name)) for a, b in both) if x and y]
    decided = [(x["present"], y["present"]) for x, y in found if x["present"] is not None and y["present"] is not None]
    apart = [y["probability"] - x["probability"] for x, y in found if x["probability"] is not None and y["probability"] is not None]
    return Agreement(
        name=name,
        read=len(decided),
        agree=sum(x == y for x, y in decided),
        mean_difference=sum(apart) / len(apart) if apart else None,
        mean_distance=sum(map(abs, apart)) / len(apart) if apart else None,
    )


def _finding(summary: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The summary's first finding of that name."""
    return next((finding for finding in summary["findings"] if finding["name"] == name), None)
