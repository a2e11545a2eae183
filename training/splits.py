"""No group in two splits: what is learned from may not be what is measured on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from training.datasets.table import DataRefused


class GroupInTwoSplits(DataRefused):
    """A patient or look-alike group stands in training and in validation. Take it out of one of them."""


def ensure_disjoint(rows: Iterable[tuple[str, str]]) -> None:
    """Raise GroupInTwoSplits when a group of the (split, group) pairs stands in two splits."""
    splits: dict[str, set[str]] = defaultdict(set)
    for split, group in rows:
        splits[group].add(split)
    shared = sorted(group for group, where in splits.items() if len(where) > 1)
    if shared:
        raise GroupInTwoSplits(f"{len(shared)} groups in two splits: {', '.join(shared[:8])}")


def without_groups_of(rows: Iterable[tuple[str, str]], keep: str) -> set[str]:
    """The groups of split `keep`: everything else that carries one of them must leave."""
    return {group for split, group in rows if split == keep}
