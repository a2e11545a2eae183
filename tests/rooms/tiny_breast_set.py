"""A made-up set in the layout of images/busi_breast_us: bright ovals on noise, small enough that a recipe can train in seconds."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np

SIDE = 64
RADIUS = {"normal": 0, "benign": 8, "malignant": 16}


def a_breast_set(data: Path, *, training: int = 4, validation: int = 1, mixed: bool = False) -> Path:
    """`data` with that many pictures of each label; `mixed` puts one look-alike group into both splits."""
    root = data / "images" / "busi_breast_us"
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for split, count in (("train", training), ("val", validation)):
        for label, radius in RADIUS.items():
            for number in range(count):
                name = f"{split}-{label}-{number}"
                mask = np.zeros((SIDE, SIDE), np.uint8)
                if radius:
                    cv2.circle(mask, tuple(int(x) for x in rng.integers(20, 44, 2)), radius, 255, -1)
                cv2.imwrite(str(root / f"{name}.png"), np.maximum(rng.integers(0, 90, mask.shape, dtype=np.uint8), mask // 2))
                cv2.imwrite(str(root / f"{name}_mask.png"), mask)
                group = "same" if mixed and number == 0 and label == "benign" else name
                files = {"file": f"{name}.png", "mask": f"{name}_mask.png"}
                rows.append({**files, "split": split, "label": label, "group": group, "label_conflict_duplicate": "0"})
    with (root / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return data
