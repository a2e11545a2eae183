"""Metrics with intervals: of masks, of decisions, of probabilities. Pure numpy (and scipy's ranks)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


# --- one picture --------------------------------------------------------------------------------------------------------
def dice(found: Mask, truth: Mask) -> float:
    """2|A∩B| / (|A|+|B|); 1 when both are empty."""
    total = int(found.sum()) + int(truth.sum())
    return 1.0 if total == 0 else 2.0 * int((found & truth).sum()) / total


def iou(found: Mask, truth: Mask) -> float:
    """|A∩B| / |A∪B|; 1 when both are empty."""
    union = int((found | truth).sum())
    return 1.0 if union == 0 else int((found & truth).sum()) / union


# --- many pictures ------------------------------------------------------------------------------------------------------
def counts(found: Sequence[Mask], truth: Sequence[Mask]) -> npt.NDArray[np.int64]:
    """(pictures, 4): true positive, false positive, false negative, true negative pixels of each picture."""
    return np.array(
        [[(f & t).sum(), (f & ~t).sum(), (~f & t).sum(), (~f & ~t).sum()] for f, t in zip(found, truth, strict=True)],
        dtype=np.int64,
    )


def mean_dice(table: npt.NDArray[np.int64]) -> float:
    """Mean over pictures; a picture with neither truth nor finding counts 1."""
    tp, fp, fn = table[:, 0], table[:, 1], table[:, 2]
    whole = 2 * tp + fp + fn
    return float(np.where(whole == 0, 1.0, 2 * tp / np.maximum(whole, 1)).mean())


def lesion_dice(table: npt.NDArray[np.int64]) -> float:
    """Mean over the pictures that hold a lesion."""
    with_lesion = table[(table[:, 0] + table[:, 2]) > 0]
    return mean_dice(with_lesion) if len(with_lesion) else float("nan")


def pooled_dice(table: npt.NDArray[np.int64]) -> float:
    """Over all pixels of all pictures at once; NaN where no pixel is lesion or found."""
    tp, fp, fn = (int(n) for n in table[:, :3].sum(axis=0))
    whole = 2 * tp + fp + fn
    return 2 * tp / whole if whole else float("nan")


def mean_iou(table: npt.NDArray[np.int64]) -> float:
    """Mean over the pictures that hold a lesion."""
    with_lesion = table[(table[:, 0] + table[:, 2]) > 0].astype(float)
    return float((with_lesion[:, 0] / with_lesion[:, :3].sum(axis=1)).mean()) if len(with_lesion) else float("nan")


def auc(scores: npt.NDArray[np.float64], truth: Mask) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties half."""
    from scipy.stats import rankdata

    positive, negative = int(truth.sum()), int((~truth).sum())
    if positive == 0 or negative == 0:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


def sensitivity(called: Mask, truth: Mask) -> float:
    """Share of the positives that are called positive."""
    return float(called[truth].mean()) if truth.any() else float("nan")


def specificity(called: Mask, truth: Mask) -> float:
    """Share of the negatives that are called negative."""
    return float((~called[~truth]).mean()) if (~truth).any() else float("nan")


def confusion(called: Sequence[int], truth: Sequence[int], classes: int) -> list[list[int]]:
    """Rows are the truth, columns what was called."""
    table = np.zeros((classes, classes), int)
    for t, c in zip(truth, called, strict=True):
        table[t, c] += 1
    return [[int(n) for n in row] for row in table]


def balanced_accuracy(table: Sequence[Sequence[int]]) -> float:
    """Mean over classes of the share called rightly."""
    return float(np.mean([row[i] / sum(row) for i, row in enumerate(table) if sum(row)]))


def calibration_error(chances: npt.NDArray[np.float64], truth: Mask, *, bins: int = 10) -> float:
    """Expected calibration error: how far chances lie from how often they came true, over bins of as many cases each."""
    parts = reliability(chances, truth, bins=bins)
    return float(sum(count * abs(chance - share) for chance, share, count in parts) / max(1, chances.size))


def reliability(chances: npt.NDArray[np.float64], truth: Mask, *, bins: int = 10) -> list[tuple[float, float, int]]:
    """(mean chance, share that came true, cases) of each bin; the bins hold as many cases each.

    Cases of one chance share what came true of them: where a bin ends among them, their order in the set tells nothing.
    """
    if not chances.size:
        return []
    _, level, count = np.unique(chances, return_inverse=True, return_counts=True)
    share = (np.bincount(level, truth) / count)[level]
    parts = [part for part in np.array_split(np.argsort(chances, kind="stable"), bins) if part.size]
    return [(float(chances[part].mean()), float(share[part].mean()), int(part.size)) for part in parts]


def roc(scores: npt.NDArray[np.float64], truth: Mask) -> npt.NDArray[np.float64]:
    """(points, 2): false positive rate and sensitivity at every threshold, from (0, 0) to (1, 1)."""
    levels, level = np.unique(scores, return_inverse=True)
    called = [np.bincount(level, which, minlength=len(levels))[::-1].cumsum() for which in (~truth, truth)]  # from the highest level down
    points = [of / max(1, int(which.sum())) for of, which in zip(called, (~truth, truth), strict=True)]
    return np.concatenate([np.zeros((1, 2)), np.stack(points, axis=1)])


def bootstrap(
    groups: Sequence[str],
    statistic: Callable[[npt.NDArray[np.int64]], float],
    *,
    rounds: int = 2000,
    seed: int = 0,
    coverage: float = 0.95,
) -> tuple[float, float]:
    """The percentile interval of `statistic(indices)` when whole groups (patients) are drawn with replacement.

    NaN for both ends where there is none: of one group nothing can be drawn but itself.
    """
    rng = np.random.default_rng(seed)
    names, place, count = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if len(names) < 2:
        return float("nan"), float("nan")
    members = np.split(np.argsort(place, kind="stable"), np.cumsum(count)[:-1])
    values = []
    for _ in range(rounds):
        drawn = np.concatenate([members[i] for i in rng.integers(0, len(names), len(names))])
        value = statistic(drawn)
        if not np.isnan(value):
            values.append(value)
    tail = (1 - coverage) / 2 * 100
    if not values:
        return float("nan"), float("nan")
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def figure(
    groups: Sequence[str], statistic: Callable[[npt.NDArray[np.int64]], float], *, digits: int = 3, rounds: int = 2000
) -> dict[str, Any]:
    """`{"value", "interval"}`: the statistic over everything and its 95 % interval; None where there is none, as for the AUC of one class:
    JSON knows no NaN.
    """
    value = statistic(np.arange(len(groups)))
    if np.isnan(value):
        return {"value": None, "interval": None}
    low, high = bootstrap(groups, statistic, rounds=rounds)
    return {"value": round(value, digits), "interval": None if np.isnan(low) else [round(low, digits), round(high, digits)]}


def written(one: dict[str, Any]) -> str:
    """A figure as it stands in a model card: `0.71 (0.63–0.78)`; a dash for what can't be said."""
    if one["value"] is None:
        return "–"
    return f"{one['value']:.3f} (" + ("–".join(f"{end:.3f}" for end in one["interval"]) if one["interval"] else "no interval") + ")"
