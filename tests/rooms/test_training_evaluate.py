"""The metrics of the model cards, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training import evaluate as e
from training.splits import GroupInTwoSplits, ensure_disjoint, without_groups_of

A = np.array([[1, 1, 0, 0]], bool)
B = np.array([[0, 1, 1, 1]], bool)
NONE = np.zeros((1, 4), bool)


def test_dice_and_iou_of_one_picture() -> None:
    assert e.dice(A, B) == pytest.approx(2 / 5)  # 2*1 / (2+3)
    assert e.iou(A, B) == pytest.approx(1 / 4)
    assert e.dice(A, NONE) == 0.0
    assert e.dice(NONE, NONE) == e.iou(NONE, NONE) == 1.0


def test_dice_over_pictures_mean_lesion_only_and_pooled() -> None:
    table = e.counts([A, A, NONE], [B, A, NONE])
    assert table.tolist() == [[1, 1, 2, 0], [2, 0, 0, 2], [0, 0, 0, 4]]
    assert e.mean_dice(table) == pytest.approx((0.4 + 1 + 1) / 3)
    assert e.lesion_dice(table) == pytest.approx((0.4 + 1) / 2)
    assert e.pooled_dice(table) == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert e.mean_iou(table) == pytest.approx((0.25 + 1) / 2)


def test_a_finding_where_there_is_no_lesion_counts_nothing_in_the_mean() -> None:
    assert e.mean_dice(e.counts([A], [NONE])) == 0.0
    assert math.isnan(e.lesion_dice(e.counts([A], [NONE])))


def test_auc_counts_pairs_and_ties_half() -> None:
    truth = np.array([True, True, False, False, False])
    scores = np.array([0.9, 0.4, 0.4, 0.1, 0.6])
    # pairs won: 0.9 beats three; 0.4 beats one, ties one, loses one → 4.5 of 6
    assert e.auc(scores, truth) == pytest.approx(4.5 / 6)
    assert math.isnan(e.auc(scores, np.ones(5, bool)))


def test_sensitivity_specificity_and_the_table_behind_them() -> None:
    truth = np.array([True, True, True, False, False])
    called = np.array([True, False, True, True, False])
    assert e.sensitivity(called, truth) == pytest.approx(2 / 3)
    assert e.specificity(called, truth) == pytest.approx(1 / 2)
    table = e.confusion([0, 1, 1, 2], [0, 0, 1, 2], 3)
    assert table == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert e.balanced_accuracy(table) == pytest.approx((0.5 + 1 + 1) / 3)


def test_the_interval_draws_whole_patients() -> None:
    """Two patients, one all right and one all wrong: a draw gives 0, a half or 1 and nothing between."""
    right = np.array([1.0] * 5 + [0.0] * 5)
    seen: set[float] = set()

    def share(indices: np.ndarray) -> float:
        seen.add(float(right[indices].mean()))
        return float(right[indices].mean())

    low, high = e.bootstrap(["p1"] * 5 + ["p2"] * 5, share, rounds=200)

    assert seen == {0.0, 0.5, 1.0}
    assert (low, high) == (0.0, 1.0)


def test_the_interval_is_the_same_each_time_and_holds_the_value() -> None:
    values = np.linspace(0, 1, 40)
    groups = [str(i) for i in range(40)]

    first = e.figure(groups, lambda i: float(values[i].mean()))

    assert first == e.figure(groups, lambda i: float(values[i].mean()))
    assert first["value"] == 0.5
    low, high = first["interval"]
    assert 0.38 < low < 0.46 < 0.54 < high < 0.62  # ± 1.96 · 0.296 / √40 = ± 0.092
    assert e.written(first).startswith("0.500 (0.4")


def test_a_group_in_two_splits_stops_the_training() -> None:
    rows = [("train", "p1"), ("train", "p1"), ("val", "p2")]
    ensure_disjoint(rows)
    with pytest.raises(GroupInTwoSplits, match="p1"):
        ensure_disjoint([*rows, ("val", "p1")])
    assert without_groups_of(rows, "val") == {"p2"}
