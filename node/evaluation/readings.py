"""A pipeline reads every image of a set; what it said stands beside what is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from node import codes
from node.bundle import Bundle
from node.domain import Result
from node.errors import EvaluationRefused, NotAnalysed, OutsideIntendedUse
from node.evaluation.images import Case, mask_of, volume_of
from node.interlock import Interlock
from node.pipelines.interface import Pipeline

#: what a finding's own column says; table tools write 1.0 where some are missing
YES_OR_NO = {"1": True, "0": False, "1.0": True, "0.0": False, "true": True, "false": False}
Truth = Mapping[str, frozenset[str]]  #: finding → the labels that mean it is there


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One image: what is known of it and what was found."""

    case: Case
    analysed: bool
    reason: str = ""  #: why not
    label: str = ""  #: the headline
    probabilities: Mapping[str, float]
    called: Mapping[str, bool]
    truth: Mapping[str, bool]  #: of the findings whose answer the index knows
    pixels: tuple[int, int, int, int] | None = None  #: true positive, false positive, false negative, true negative; None without a mask


def read_all(
    cases: Sequence[Case],
    pipeline: Pipeline,
    model: Any,
    *,
    truth: Truth,
    interlock: Interlock,
    window_hu: tuple[float, float] | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Reading]:
    """Every image through the pipeline, one by one, as the node does it."""
    found = []
    for number, case in enumerate(cases, 1):
        found.append(_read(case, pipeline, model, interlock, truth, window_hu))
        progress(number, len(cases))
    return found


def truth_of(cases: Sequence[Case], bundle: Bundle, given: Truth) -> Truth:
    """Which labels mean which finding: as given, or where a label has the finding's name.

    Raises
    ------
    EvaluationRefused
        When nothing in the index answers any finding; it names the findings and the labels.
    """
    labels = {case.label for case in cases if case.label}
    for finding, wanted in given.items():
        if unknown := wanted - labels:
            raise EvaluationRefused(f"no image has the label {', '.join(sorted(unknown))}; known: {', '.join(sorted(labels))}")
        if finding not in bundle.labels:
            raise EvaluationRefused(f"the bundle has no finding {finding}; it has {', '.join(bundle.labels)}")
    columns = set(cases[0].row)
    found = {label: frozenset({label}) for label in bundle.labels if label in labels} | dict(given)
    if not found and not columns & set(bundle.labels) and "mask" not in columns:
        raise EvaluationRefused(
            f"no label of {', '.join(sorted(labels))} is a finding of {', '.join(bundle.labels)}: say which mean it, as --truth FINDING=LABEL,LABEL"
        )
    return found


def _read(case: Case, pipeline: Pipeline, model: Any, interlock: Interlock, truth: Truth, window_hu: tuple[float, float] | None) -> Reading:
    known = _known(case, pipeline.bundle, truth)
    try:
        volume = volume_of(case, pipeline.bundle, window_hu)
        if why := pipeline.bundle.refusal(volume.series.header):
            raise OutsideIntendedUse(why)
        interlock.check(pipeline.bundle, volume)
        result = pipeline.run(volume, model)
    except NotAnalysed as refused:
        return Reading(case=case, analysed=False, reason=type(refused).__name__, probabilities={}, called={}, truth=known)
    return Reading(
        case=case,
        analysed=True,
        label=result.label,
        probabilities={one.name: one.probability for one in result.findings if one.probability is not None},
        called={one.name: one.present for one in result.findings if one.present is not None},
        truth=known,
        pixels=_pixels(case, result, volume.pixels.shape[1:3]),
    )


def _known(case: Case, bundle: Bundle, truth: Truth) -> dict[str, bool]:
    """The given labels, or a label of the finding's name; else a column of its name that says 1 or 0. A row without a label tells nothing by it."""
    found: dict[str, bool] = {}
    for finding in bundle.labels:
        if finding in truth and case.label:
            found[finding] = case.label in truth[finding]
        elif (said := YES_OR_NO.get(case.row.get(finding, "").lower())) is not None:
            found[finding] = said
    return found


def _pixels(case: Case, result: Result, shape: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    truth = mask_of(case, (shape[0], shape[1]))
    if truth is None:
        return None
    found = np.zeros(truth.shape, bool)
    told = {finding.segment for finding in result.findings}
    for segment in result.segments:
        if segment.category != codes.ANATOMICAL_STRUCTURE or segment.number in told:  # lungs round an opacity are no part of the answer
            found |= segment.mask.any(axis=0)
    return int((found & truth).sum()), int((found & ~truth).sum()), int((~found & truth).sum()), int((~found & ~truth).sum())
