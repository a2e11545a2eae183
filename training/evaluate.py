"""What a bundle scores on a set: the figures of its model card. The metrics are the node's own (`node/evaluation/metrics.py`).

`python -m training.evaluate PIPELINE --bundle DIR --data DIR [--split val]` runs the bundle through the node's own
preprocessing, so a figure here is a figure of the node.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from node.evaluation.metrics import (
    Mask,
    auc,
    balanced_accuracy,
    bootstrap,
    calibration_error,
    confusion,
    counts,
    dice,
    figure,
    iou,
    lesion_dice,
    mean_dice,
    mean_iou,
    pooled_dice,
    reliability,
    roc,
    sensitivity,
    specificity,
    written,
)

__all__ = [
    "Mask",
    "auc",
    "balanced_accuracy",
    "bootstrap",
    "calibration_error",
    "confusion",
    "counts",
    "dice",
    "evaluate",
    "figure",
    "iou",
    "lesion_dice",
    "mean_dice",
    "mean_iou",
    "pooled_dice",
    "reliability",
    "roc",
    "sensitivity",
    "specificity",
    "written",
]

# --- the command ----------------------------------------------------------------------------------------------------------
app = typer.Typer(add_completion=False, help="What a bundle scores on a set.")


@app.command()
def evaluate(
    pipeline: Annotated[str, typer.Argument(help="name of a recipe, e.g. covid_ct")],
    bundle: Annotated[Path, typer.Option(help="the bundle's folder")],
    data: Annotated[Path, typer.Option(help="folder with images/ and dicom/")],
    split: Annotated[str, typer.Option(help="which rows of index.csv")] = "val",
) -> None:
    """Print the figures of BUNDLE on the set's split, as JSON."""
    from node.bundle import Bundle

    recipe = importlib.import_module(f"training.bundles.{pipeline}")
    json.dump(recipe.figures(Bundle.open(bundle), data, split), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    app()
