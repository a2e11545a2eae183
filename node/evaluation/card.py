"""What an evaluation found, on the bundle's model card: one section a set and split below *Figures*, replaced when it is measured again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from node.bundle import Bundle, write_sums
from node.errors import EvaluationRefused
from node.evaluation import metrics

CARD = "MODEL_CARD.md"
BY = "Measured by `radnode bundles evaluate`"
_FIGURES = re.compile(r"^##\s+Figures\s*$.*?(?=^##?\s|\Z)", re.MULTILINE | re.DOTALL)
_SECTION = re.compile(rf"^### [^\n]*\n{re.escape(BY)}.*?(?=^#|\Z)", re.MULTILINE | re.DOTALL)
_OF_FINDINGS = {
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "false_negative_rate": "false negative rate",
    "calibration_error": "calibration error",
}
_OF_MASKS = {
    "lesion_dice": "Dice, images with a lesion",
    "lesion_iou": "IoU, images with a lesion",
    "dice": "Dice, all images (empty and empty is 1)",
    "pooled_dice": "Dice, all pixels together",
}


def renew(bundle: Bundle, found: dict[str, Any]) -> None:
    """Write the figures of `report.figures` on the bundle's card, and its sums anew. The weights, and so the model's digest, stay.

    Raises
    ------
    EvaluationRefused
        When the bundle dropped in and its files stay as they came, or its folder can't be written.
    """
    if bundle.sidecar:
        raise EvaluationRefused("the card of a bundle that was added stays as it came, since its digest counts every file; take --out")
    card = bundle.path / CARD
    try:
        text = card.read_text(encoding="utf-8") if card.exists() else f"# {bundle.title} {bundle.version}\n"
        card.write_text(with_section(text, section(found)), encoding="utf-8")
        write_sums(bundle.path)
    except OSError:
        raise EvaluationRefused("the folder of the bundle can't be written: run the command as who owns it, or take --out") from None


def section(found: dict[str, Any]) -> str:
    """The figures of one set and split in Markdown."""
    return "\n".join(_lines(found)) + "\n"


def with_section(card: str, section: str) -> str:
    """The card with the section below *Figures*: in the place of that with the same heading, else after what is there."""
    heading = section.partition("\n")[0]
    for old in sections(card):
        if old.partition("\n")[0] == heading:
            return card.replace(old, section)
    if figures := _FIGURES.search(card):
        before, after = card[: figures.end()].rstrip("\n"), card[figures.end() :]
        return f"{before}\n\n{section}" + (f"\n{after}" if after else "")
    return f"{card.rstrip()}\n\n## Figures\n\n{section}"


def sections(card: str, *, weights: str = "") -> list[str]:
    """What evaluations have written on a card; with a digest only what was measured with those weights."""
    return [one.rstrip("\n") + "\n" for one in _SECTION.findall(card) if _of(weights) in one]


def _of(weights: str) -> str:
    return f"with weights {weights[:12]}"


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"### On {found['data']}, split {found['split']}"
    refused = ", ".join(f"{count} {why}" for why, count in found["not_analysed"].items())
    yield (
        f"{BY} {_of(found['digest'])}: {found['analysed']} of {found['images']} images analysed "
        f"({found['groups']} groups){f'; not: {refused}' if refused else ''}. Value (95 % interval, bootstrap over groups)."
    )
    if found["findings"]:
        yield ""
        yield f"| finding | positive | {' | '.join(_OF_FINDINGS.values())} |"
        yield "|---" * (len(_OF_FINDINGS) + 2) + "|"
        for name, one in found["findings"].items():
            yield f"| {name} | {one['positives']} of {one['images']} | {' | '.join(metrics.written(one[key]) for key in _OF_FINDINGS)} |"
    if masks := found["segmentation"]:
        yield ""
        yield f"| masks, {masks['images']} images, {masks['with_lesion']} with a lesion | |"
        yield "|---|---|"
        for key, words in _OF_MASKS.items():
            yield f"| {words} | {metrics.written(masks[key])} |"
