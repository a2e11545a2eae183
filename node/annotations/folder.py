"""The folder that `radnode bundles evaluate` and training read: `index.csv` with file, split, label, mask, and a column a finding."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from node.annotations.examples import Example
from node.annotations.pictures import rendered, write_png
from node.evaluation.images import INDEX

NONE = "normal"


def write(examples: Sequence[Example], out: Path) -> dict[str, int]:
    """`images/`, `masks/` and `index.csv`. A single-frame image goes as the clean DICOM file, whose values a model needs; a frame as PNG."""
    findings = sorted({name for one in examples for name in one.labels})
    by_label = all(_whole(one, findings) for one in examples)
    rows = []
    for one in examples:
        name = f"{one.pipeline}/{one.name}"
        file = f"images/{name}.dcm" if one.frames == 1 else f"images/{name}.png"
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        if one.frames == 1:
            shutil.copyfile(one.instance.path, out / file)
        else:
            write_png(out / file, rendered(one))
        masks = [label.mask for label in one.labels.values() if label.mask is not None]
        mask = f"masks/{name}.png" if masks else ""
        if mask:
            write_png(out / mask, np.asarray(np.logical_or.reduce(masks) * 255, np.uint8))
        present = [label.finding for label in one.labels.values() if label.present]
        rows.append(
            {
                **{"file": file, "split": one.split, "label": (present[0] if present else NONE) if by_label else "", "mask": mask},
                **{"patient": one.pseudonym, "pipeline": one.pipeline, "opinion": " ".join(one.opinions)},
                **{finding: int(one.labels[finding].present) if finding in one.labels else "" for finding in findings},
            }
        )
    columns = ["file", "split", "label", "mask", "patient", "pipeline", "opinion", *findings]
    with (out / INDEX).open("w", newline="", encoding="utf-8") as file_:
        writer = csv.DictWriter(file_, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return {"masks": sum(bool(row["mask"]) for row in rows)}


def _whole(one: Example, findings: Sequence[str]) -> bool:
    """Every finding is known, and at most one is there: only then one word says it all. Else the columns speak, and `label` is empty."""
    return not one.unknown and set(findings) <= one.labels.keys() and sum(label.present for label in one.labels.values()) <= 1
