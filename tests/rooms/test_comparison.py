"""Two versions on the same series, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from node.ledger.comparison import Reading, compare


def reading(series: int, *, analysed: bool = True, label: str = "benign", inputs: tuple[str, ...] = ("2.25.1",), **chances: Any) -> Reading:
    """One series and the probabilities of its findings; from 0.5 on they are called."""
    findings = [{"name": n, "probability": p, "present": None if p is None else p >= 0.5} for n, p in chances.items()]
    summary = {"analysed": analysed, "label": label if analysed else None, "findings": findings}
    return Reading(study="2.25.9", series=f"2.25.9.{series}", inputs=inputs, summary=summary)


def test_agreement_and_distance_over_what_both_have_read() -> None:
    a = [reading(1, benign=0.9, malignant=0.1), reading(2, benign=0.6, malignant=0.4), reading(3, benign=0.2), reading(4, benign=0.2)]
    b = [
        reading(1, benign=0.7, malignant=0.2),
        reading(2, benign=0.4, malignant=0.6, label="malignant"),
        reading(3, analysed=False),
        reading(5, benign=0.9),
    ]

    found = compare(a, b)

    assert (found.series, found.analysed, found.only_a, found.only_b, found.same_label) == (3, 2, 1, 0, 1)
    benign, malignant = found.findings
    assert (benign.name, benign.read, benign.agree) == ("benign", 2, 1)
    assert benign.mean_difference == pytest.approx(-0.2)
    assert benign.mean_distance == pytest.approx(0.2)
    assert (malignant.agree, malignant.mean_difference) == (1, pytest.approx(0.15))


def test_a_series_that_grew_is_another_one_and_what_is_untrained_is_not_counted() -> None:
    a = [reading(1, benign=0.9), reading(2, fracture=None)]
    b = [reading(1, benign=0.9, inputs=("2.25.1", "2.25.2")), reading(2, fracture=None)]

    found = compare(a, b)

    assert found.series == 1
    [fracture] = found.findings
    assert (fracture.read, fracture.agree, fracture.mean_difference) == (0, 0, None)


def test_nothing_in_common_is_no_error() -> None:
    assert compare([reading(1)], []).findings == ()
    assert compare([], []).series == 0
