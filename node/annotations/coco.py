"""COCO: `instances_<split>.json` and pictures. Masks as uncompressed run lengths, column by column; one annotation a connected part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from node.annotations.examples import SPLITS, Example, Mask
from node.annotations.pictures import box_of, parts_of, rendered, write_png


def write(examples: Sequence[Example], out: Path) -> dict[str, int]:
    """`annotations/instances_<split>.json` for each split, and `images/`. Gives how many annotations there are."""
    findings = sorted({name for one in examples for name in one.labels})
    categories = [{"id": number, "name": name, "supercategory": "finding"} for number, name in enumerate(findings, 1)]
    total = 0
    for split, _ in SPLITS:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, one in enumerate((one for one in examples if one.split == split), 1):
            file = f"{one.pipeline}/{one.name}.png"
            write_png(out / "images" / file, rendered(one))
            images.append({"id": number, "file_name": file, "height": one.shape[0], "width": one.shape[1], **_about(one)})
            for label in one.labels.values():
                for part in parts_of(label.mask) if label.mask is not None else ():
                    category = findings.index(label.finding) + 1
                    annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": category, **_of(part)})
        total += len(annotations)
        facts = {"info": {"description": "Readers' answers, Radnode"}, "licenses": [], "categories": categories}
        path = out / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**facts, "images": images, "annotations": annotations}, indent=1))
    return {"annotations": total}


def _about(one: Example) -> dict[str, Any]:
    """What COCO has no key for: labels of the image as a whole, and the patient, so that nobody splits one."""
    return {"labels": {name: int(label.present) for name, label in sorted(one.labels.items())}, "patient": one.pseudonym}


def _of(mask: Mask) -> dict[str, Any]:
    box = box_of(mask)
    return {
        "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
        "area": int(mask.sum()),
        "bbox": [box.left, box.top, box.right - box.left, box.bottom - box.top],
        "iscrowd": 0,
    }


def run_lengths(mask: Mask) -> list[int]:
    """How many pixels off, on, off …, down the columns; the first count is of pixels that are off."""
    flat = mask.ravel(order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], changes, [len(flat)]]))
    return ([0] if flat[0] else []) + [int(count) for count in counts]
