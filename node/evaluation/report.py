"""What the readings of a set come to: figures with intervals, in JSON values and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from node.bundle import Bundle
from node.evaluation import metrics
from node.evaluation.readings import Reading

FEWEST = 10  #: images of a subgroup that is worth a line
ROUNDS = 1000  #: of the bootstrap

Figure = dict[str, Any]  #: `{"value", "interval"}` of `metrics.figure`


def figures(readings: Sequence[Reading], bundle: Bundle, *, data: str, split: str) -> dict[str, Any]:
    """Everything that can be said of the set. Images that were not analysed are counted, and left out of the rest."""
    read = [one for one in readings if one.analysed]
    return {
        "pipeline": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "data": data,
        "split": split,
        "images": len(readings),
        "groups": len({one.case.group for one in readings}),
        "analysed": len(read),
        "not_analysed": dict(Counter(one.reason for one in readings if not one.analysed)),
        "findings": _findings(read, bundle),
        "confusion": _confusion(read),
        "segmentation": _segmentation(read),
        "subgroups": _subgroups(read, bundle),
    }


def scored(readings: Sequence[Reading], finding: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """(probabilities, truth) of a finding, over the analysed images whose answer is known."""
    both = [(one.probabilities[finding], one.truth[finding]) for one in readings if finding in one.probabilities and finding in one.truth]
    return np.array([chance for chance, _ in both], float), np.array([truth for _, truth in both], bool)


# --- figures ------------------------------------------------------------------------------------------------------------
def _findings(read: Sequence[Reading], bundle: Bundle) -> dict[str, Any]:
    found = {}
    for name in bundle.labels:
        mine = [one for one in read if name in one.truth and name in one.probabilities and name in one.called]
        if mine:
            found[name] = _of_finding(mine, name)
    return found


def _of_finding(mine: Sequence[Reading], name: str) -> dict[str, Any]:
    chances, truth = scored(mine, name)
    called = np.array([one.called[name] for one in mine], bool)
    groups = [one.case.group for one in mine]

    def figure(statistic: Callable[[npt.NDArray[np.int64]], float]) -> Figure:
        return _figure(groups, statistic)

    return {
        "images": len(mine),
        "positives": int(truth.sum()),
        "auc": figure(lambda i: metrics.auc(chances[i], truth[i])),
        "sensitivity": figure(lambda i: metrics.sensitivity(called[i], truth[i])),
        "specificity": figure(lambda i: metrics.specificity(called[i], truth[i])),
        "false_negative_rate": figure(lambda i: 1 - metrics.sensitivity(called[i], truth[i])),
        "calibration_error": figure(lambda i: metrics.calibration_error(chances[i], truth[i])),
        "confusion": metrics.confusion(called.astype(int).tolist(), truth.astype(int).tolist(), 2),
    }


def _segmentation(read: Sequence[Reading]) -> dict[str, Any]:
    """Over images with a mask; `lesion_…` over those whose mask holds something."""
    mine = [one for one in read if one.pixels is not None]
    if not mine:
        return {}
    table, groups = np.array([one.pixels for one in mine]), [one.case.group for one in mine]
    return {
        "images": len(mine),
        "with_lesion": int((table[:, 0] + table[:, 2] > 0).sum()),
        "dice": _figure(groups, lambda i: metrics.mean_dice(table[i])),
        "lesion_dice": _figure(groups, lambda i: metrics.lesion_dice(table[i])),
        "lesion_iou": _figure(groups, lambda i: metrics.mean_iou(table[i])),
        "pooled_dice": _figure(groups, lambda i: metrics.pooled_dice(table[i])),
    }


def _confusion(read: Sequence[Reading]) -> dict[str, Any]:
    """Rows are the labels of the index, columns the pipeline's headlines."""
    pairs = Counter((one.case.label, one.label) for one in read if one.case.label)
    labels, headlines = sorted({label for label, _ in pairs}), sorted({said for _, said in pairs})
    return {"labels": labels, "headlines": headlines, "counts": [[pairs[label, said] for said in headlines] for label in labels]}


def _subgroups(read: Sequence[Reading], bundle: Bundle) -> dict[str, Any]:
    members: dict[str, dict[str, list[Reading]]] = {}
    for one in read:
        for column, value in one.case.subgroups:
            members.setdefault(column, {}).setdefault(value, []).append(one)
    found: dict[str, Any] = {}
    for column, values in members.items():
        large = {value: mine for value, mine in sorted(values.items()) if len(mine) >= FEWEST}
        if large:
            found[column] = {value: {"images": len(mine), "findings": _findings(mine, bundle)} for value, mine in large.items()}
    return found


def _figure(groups: Sequence[str], statistic: Callable[[npt.NDArray[np.int64]], float]) -> Figure:
    return metrics.figure(groups, statistic, rounds=ROUNDS)


# --- words --------------------------------------------------------------------------------------------------------------
def in_words(found: dict[str, Any]) -> str:
    """The same for a person."""
    return "\n".join(_lines(found))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['pipeline']} {found['version']} ({found['digest'][:12]}) on {found['data']}, split {found['split']}"
    refused = ", ".join(f"{count} {why}" for why, count in found["not_analysed"].items())
    yield f"{found['analysed']} of {found['images']} images analysed ({found['groups']} groups){f'; not: {refused}' if refused else ''}"
    for name, one in found["findings"].items():
        yield from _finding_lines(name, one)
    if segmentation := found["segmentation"]:
        shown = "  ".join(f"{key.replace('_', ' ')} {_said(segmentation[key])}" for key in ("lesion_dice", "lesion_iou", "dice"))
        yield f"masks ({segmentation['images']} images, {segmentation['with_lesion']} with a lesion): {shown}"
    if confusion := found["confusion"]["counts"]:
        yield "called:".rjust(20) + "".join(f"{said[:14]:>16}" for said in found["confusion"]["headlines"])
        for label, row in zip(found["confusion"]["labels"], confusion, strict=True):
            yield f"{label[:19]:>20}" + "".join(f"{count:>16}" for count in row)
    for column, values in found["subgroups"].items():
        for value, group in values.items():
            for name, one in group["findings"].items():
                told = f"auc {_said(one['auc'])}  sensitivity {_said(one['sensitivity'])}  specificity {_said(one['specificity'])}"
                yield f"{column} {value}, {name} ({one['positives']} of {one['images']}): {told}"


def _finding_lines(name: str, one: dict[str, Any]) -> Iterator[str]:
    yield f"{name}: {one['positives']} of {one['images']} images"
    for key in ("auc", "sensitivity", "specificity", "false_negative_rate", "calibration_error"):
        yield f"  {key.replace('_', ' '):20} {_said(one[key])}"


def _said(one: Figure) -> str:
    return "—" if one["value"] is None else metrics.written(one)
