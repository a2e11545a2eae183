"""`docs/models.md`: what each shipped model reaches, beside what is published. `python -m training.models_page > docs/models.md` prints it.

Our figures are read from the bundles; none is typed in here. Published ones stand with their source.
"""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from node.bundle import METADATA, bundles_in
from node.evaluation.metrics import written

MODELS = Path(__file__).parents[1] / "models"


class Row(NamedTuple):
    """One figure: what it says, where it stands in `eval_metrics`, and what others report."""

    what: str
    place: str
    published: str = "–"


ROWS: dict[str, tuple[Row, ...]] = {
    "covid_ct": (
        Row(
            "infection, Dice per slice",
            "dice_mean",
            "0.44 U-Net, 0.68 Inf-Net, 0.74 Semi-Inf-Net, on the 48 official test slices (Fan et al. 2020)",
        ),
        Row("infection, Dice, all pixels together", "dice_pooled"),
        Row("a chest with a tumour and no infection: share of lung marked, %", "no_covid_whole_percent"),
    ),
    "covid_xray": (
        Row("infection, AUC inside RSNA", "auc_inside_rsna"),
        Row(
            "infection, AUC, COVID-19 (ieee8023) against NIH films",
            "auc_covid_films_against_nih",
            "0.995 inside, 0.70 outside (DeGrave et al. 2021)",
        ),
        Row(
            "opacity, Dice against boxes, all pixels together",
            "dice_boxes_pooled",
            "0.83 to 0.88 against outlines (Degerli et al., Tahir et al. 2021)",
        ),
        Row("a collection not trained on: share of infected films called", "figure1.sensitivity"),
        Row("pneumonia against normal, AUC, children (validation patients of a collection)", "children"),
    ),
    "chest_xray": (
        Row("pneumonia against the rest, AUC inside RSNA", "sets.cxr_lungfield256.labels.pneumonia.auc"),
        Row("normal against the rest, AUC inside RSNA and COVID-19 fields", "sets.cxr_lungfield256.labels.normal.auc"),
        Row("COVID-19, AUC, whole films", "sets.cxr_adult224.labels.covid.auc", "0.995 inside, 0.70 outside (DeGrave et al. 2021)"),
        Row(
            "normal against the rest, AUC, NIH at 64 px",
            "sets.cxr_nih64.labels.normal.auc",
            "0.84, mean of 14 labels at 224 px (CheXNet, Rajpurkar et al. 2017)",
        ),
        Row("COVID-19 against normal, a collection not trained on (3 normal films)", "figure1.against_normal.covid"),
        Row("pneumonia against normal, a collection not trained on (children)", "children.labels.pneumonia.auc"),
    ),
    "xray_anomaly": (
        Row(
            "children, AUC, learned from normal films only",
            "sets.cxr_pediatric224.auc",
            "0.81 isolation forest, 0.88 SQUID (Xiang et al. 2023)",
        ),
        Row("one in eight of them, contrast raised tile by tile (CLAHE), AUC", "moves.local contrast (CLAHE).auc"),
        Row("adults, COVID-19 of another source, AUC", "sets.cxr_adult224.auc"),
        Row("adults, NIH at 64 px, AUC", "sets.cxr_nih64.auc"),
    ),
    "breast_ultrasound": (
        Row("lesion, Dice, images with a lesion", "dice_lesion", "0.76 U-Net, 0.79 TransUNet, random split (Valanarasu and Patel 2022)"),
        Row("malignant against the rest, AUC", "auc_malignant", "0.89 to 0.90 ResNet-18, 0.92 best AutoML, BreastMNIST (Yang et al. 2023)"),
    ),
    "brain_mri": (
        Row("tumour against none, AUC of slices", "auc_tumor"),
        Row("four classes, accuracy", "accuracy_four", "0.88 by patient, 0.97 by slice (Badža and Barjaktarović 2020)"),
        Row("one patient never trained on: slices with tumour against without, AUC", "second_source.auc_slices"),
    ),
    "lung_field": (Row("lungs, Dice against outlines", "dice", "0.98 COVID-QU-Ex (Tahir et al. 2021)"),),
    "picture_kinds": (
        Row("chest films refused as no chest film, a set left out of learning", "left_out.cxr_adult224"),
        Row("breast ultrasound refused as no chest film", "refused.chest_radiograph.busi_breast_us"),
    ),
}

HEAD = """# Models

What the shipped models reach on validation images, patients (or look-alikes, where a set has no patients) apart from training; 95 % intervals by bootstrap over them.
**The validation images also set thresholds, and their sources are those of training: elsewhere expect less.** Each model's card says how it was
trained, what it was never shown, and where it fails. Published figures are of other splits and mostly of other images; they tell the size of things.

All are for research only. Networks are small and were trained from random weights within an hour and a half of a shared CPU core.
"""


def page(models: Path = MODELS) -> str:
    """The whole page in Markdown: a section a pipeline, a column a version, the newest first."""
    parts = [HEAD]
    for name, rows in ROWS.items():
        versions = {folder.name: json.loads((folder / METADATA).read_text(encoding="utf-8")) for folder in bundles_in(models / name)}
        newest, *older = reversed(versions)
        parts.append(f"\n## {versions[newest]['name']}\n\n{_linked(name, newest, versions[newest])}\n")
        parts += [f"Beside it, for comparison: {_linked(name, one, versions[one])} {versions[one]['description']}\n" for one in older]
        columns = [newest, *older] if older else ["this node"]
        parts.append(f"\n| | {' | '.join(columns)} | published |\n{'|---' * (len(columns) + 2)}|\n")
        for row in rows:
            told = [_told(_at(versions[one]["eval_metrics"], row.place)) for one in (newest, *older)]
            parts.append(f"| {row.what} | {' | '.join(told)} | {row.published} |\n")
    return "".join(parts)


def _linked(name: str, version: str, metadata: dict[str, Any]) -> str:
    licence = metadata["radnode"]["licence"]["name"]
    return f"[`{name}` {version}](../models/{name}/{version}/MODEL_CARD.md), licence of the weights: {licence}."


def _at(metrics: dict[str, Any], place: str) -> Any:
    return reduce(lambda found, key: found[key], place.split("."), metrics)


def _told(value: Any) -> str:
    return written(value) if isinstance(value, dict) else f"{value:.3g}"


if __name__ == "__main__":
    print(page(), end="")
