"""How readers answered, for Prometheus: by pipeline, version and opinion. Read from the ledger when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Rates(Protocol):
    """Answers about one version of a pipeline."""

    @property
    def accept(self) -> int: ...
    @property
    def modify(self) -> int: ...
    @property
    def reject(self) -> int: ...
    @property
    def missed(self) -> int: ...
    @property
    def mean_dice(self) -> float | None: ...


Agreement = Callable[[], Mapping[tuple[str, str], Rates]]  #: (pipeline, version) → answers


class _Answers(Collector):
    def __init__(self, ask: Agreement) -> None:
        self._ask = ask

    def describe(self) -> Iterator[Metric]:
        """Says what it counts without asking the ledger."""
        yield from _families()

    def collect(self) -> Iterator[Metric]:
        answers, dice = _families()
        for version, rates in self._ask().items():
            for opinion in ("accept", "modify", "reject", "missed"):
                answers.add_metric([*version, opinion], getattr(rates, opinion))
            if rates.mean_dice is not None:
                dice.add_metric(list(version), rates.mean_dice)
        yield from (answers, dice)


def count(registry: CollectorRegistry, ask: Agreement) -> None:
    """`radnode_verdicts` and `radnode_verdicts_dice`. A reader who thinks again changes an answer, so they are gauges."""
    registry.register(_Answers(ask))


def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily("radnode_verdicts", "Readers' answers to results", labels=["pipeline", "version", "opinion"]),
        GaugeMetricFamily("radnode_verdicts_dice", "Mean Dice of readers' regions with ours", labels=["pipeline", "version"]),
    )
