"""Breast ultrasound: one U-Net that outlines the lesion and names the picture normal, benign or malignant.

Two maps (lesion; malignant lesion) and a three-class head on the bottleneck. Burned-in calipers and words
stand more often beside lesions, so they are painted on every class and inpainted away at random.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.nn import functional

from node.imaging.letterbox import Box, Letterbox
from node.pipelines.breast_ultrasound import LABELS, SIZE
from training.augment import placed, shaded
from training.course import Course
from training.datasets import busi_breast_us
from training.datasets.table import ensure_there
from training.evaluate import auc
from training.loop import Batch, train
from training.processes import keep, write
from training.splits import ensure_disjoint

BATCH = 16
STAGES = ((0.5, 128), (1.01, SIZE))  #: until progress, canvas
NETWORK: dict[str, Any] = {
    "_target_": "segmentation_models_pytorch.Unet",
    "encoder_name": "resnet18",
    "encoder_weights": None,
    "in_channels": 1,
    "classes": 2,
    "aux_params": {"classes": 3, "pooling": "avg", "dropout": 0.3},
}
WORDS = ("LEFT BREAST", "RIGHT BREAST", "LT LOQ", "RT UOQ", "L", "R", "AXILLA", "12 OCLOCK", "1 CM FN", "TRANS", "LONG", "D1", "1")

Picture = npt.NDArray[np.float32]


def network() -> nn.Module:
    options = {k: v for k, v in NETWORK.items() if k != "_target_"}
    made: nn.Module = smp.Unet(**options)
    return made


def without_marks(grey: Picture) -> Picture:
    """Thin bright marks (calipers, letters) painted over from their surroundings."""
    picture = (grey * 255).astype(np.uint8)
    thin = cv2.morphologyEx(picture, cv2.MORPH_TOPHAT, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
    marks = ((thin > 70) & (picture > 170)).astype(np.uint8)
    marks = cv2.dilate(marks, np.ones((3, 3), np.uint8))
    return (cv2.inpaint(picture, marks, 3, cv2.INPAINT_TELEA).astype(np.float32) / 255).astype(np.float32)


def with_marks(grey: Picture, rng: np.random.Generator) -> Picture:
    """Calipers, dotted lines and words at random places, as operators leave them."""
    size = grey.shape[0]
    ink = np.zeros((size, size), np.uint8)
    for _ in range(int(rng.integers(0, 3))):
        a, b = rng.integers(int(0.1 * size), int(0.9 * size), (2, 2))
        b = a + ((b - a) * rng.uniform(0.2, 0.8)).astype(int)
        for x, y in (a, b):
            cv2.drawMarker(
                ink, (int(x), int(y)), 255, int(rng.choice([cv2.MARKER_CROSS, cv2.MARKER_TILTED_CROSS])), int(rng.integers(5, 12)), 1
            )
        if rng.random() < 0.6:
            for t in np.linspace(0, 1, int(rng.integers(6, 25))):
                x, y = (a + t * (b - a)).astype(int)
                ink[np.clip(y, 0, size - 1), np.clip(x, 0, size - 1)] = 255
    for _ in range(int(rng.integers(0, 3))):
        place = (int(rng.integers(0, int(0.8 * size))), int(rng.integers(10, size)))
        font = float(rng.uniform(0.25, 0.5))
        cv2.putText(ink, str(rng.choice(WORDS)), place, cv2.FONT_HERSHEY_SIMPLEX, font, int(rng.integers(150, 256)), 1, cv2.LINE_AA)
    return np.maximum(grey, ink.astype(np.float32) / 255)


def with_black_borders(grey: Picture, mask: Picture, rng: np.random.Generator) -> tuple[Picture, Picture]:
    """Margins or the corners of a sector are black, as on other machines."""
    size = grey.shape[0]
    keep = np.ones((size, size), np.uint8)
    if rng.random() < 0.5:
        for side in range(4):
            if rng.random() < 0.4:
                w = int(rng.uniform(0, 0.12) * size)
                np.rot90(keep, side)[:w] = 0
    else:
        slope = rng.uniform(0.15, 0.5)
        apex = rng.uniform(0.2, 0.4) * size
        rows, columns = np.mgrid[:size, :size]
        keep[np.abs(columns - size / 2) > apex + slope * rows] = 0
    if (mask * keep).sum() < 0.7 * mask.sum():
        return grey, mask
    return grey * keep, mask * keep


def run(data: Path, out: Path, course: Course) -> None:
    """Train; `data` is the folder that holds images/busi_breast_us."""
    scans = busi_breast_us.load(data / "images" / "busi_breast_us")
    ensure_disjoint((s.split, s.group) for s in scans)
    training = [s for s in scans if s.split == "train"]
    validation = [s for s in scans if s.split == "val"]
    for split, some in (("train", training), ("val", validation)):
        ensure_there({f"{split} {label}": sum(s.label == k for s in some) for k, label in enumerate(LABELS)})
        ensure_there({f"{split} with a mask that shows something": sum(bool(s.mask.any()) for s in some)})
    clean = {s.name: without_marks(s.grey) for s in training}
    counts = np.bincount([s.label for s in training], minlength=3)
    weight = torch.tensor(1 / np.sqrt(counts) / np.mean(1 / np.sqrt(counts)), dtype=torch.float32)
    share = np.sqrt(counts) / np.sqrt(counts).sum()  # drawn a little more evenly than they occur
    by_label = [[s for s in training if s.label == k] for k in range(3)]

    def draw(rng: np.random.Generator, progress: float) -> Batch:
        size = next(s for until, s in STAGES if progress < until)
        images, masks, labels = [], [], []
        for _ in range(BATCH):
            label = int(rng.choice(3, p=share))
            scan = by_label[label][int(rng.integers(len(by_label[label])))]
            grey = clean[scan.name] if rng.random() < 0.5 else scan.grey
            image, mask = placed(
                grey, scan.mask.astype(np.float32), size, rng, rotate_deg=15, scale=(0.75, 1.25), stretch=0.12,
                elastic=0.008, fills=(0.0, 0.0, 0.0, -1.0),
            )  # fmt: skip
            image = shaded(image, rng, gain=0.2, bias=0.05, gamma=0.4, noise=0.04)
            if rng.random() < 0.4:
                grain = rng.normal(0, 1, image.shape).astype(np.float32)
                grain = cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.5, 1.5))
                image = np.clip(image * (1 + rng.uniform(0.03, 0.15) * grain / (grain.std() + 1e-6)), 0, 1)
            if rng.random() < 0.25:
                image, mask = with_black_borders(image, mask, rng)
            if rng.random() < 0.4:
                image = with_marks(np.ascontiguousarray(image, np.float32), rng)
            images.append(image.astype(np.float32))
            masks.append(np.stack([mask, mask * (label == 2)]))
            labels.append(label)
        return {
            "image": torch.from_numpy(np.stack(images))[:, None],
            "mask": torch.from_numpy(np.stack(masks).astype(np.float32)),
            "label": torch.tensor(labels),
        }

    dice = smp.losses.DiceLoss(mode="multilabel", from_logits=True)

    def loss_of(model: nn.Module, batch: Batch) -> torch.Tensor:
        maps, classes = model(batch["image"].contiguous(memory_format=torch.channels_last))
        maps = maps.float()
        outline = functional.binary_cross_entropy_with_logits(maps, batch["mask"]) + dice(maps, batch["mask"])
        named = functional.cross_entropy(classes.float(), batch["label"], weight=weight.to(maps.device), label_smoothing=0.05)
        loss: torch.Tensor = outline + 0.5 * named
        return loss

    def evaluate(model: nn.Module) -> dict[str, float]:
        scores, malignant, lesion = [], [], []
        for scan in validation:
            maps, classes = outputs(model, scan.grey)
            if scan.mask.any():
                found = maps[0] > 0.5
                scores.append(2 * float(found[scan.mask].sum()) / float(found.sum() + scan.mask.sum()))
            malignant.append(float(classes[2]))
            lesion.append(1 - float(classes[0]))
        labels = np.array([s.label for s in validation])
        return {
            "val_dice": round(float(np.mean(scores)), 4),
            "val_auc_malignant": round(auc(np.asarray(malignant), labels == 2), 4),
            "val_auc_lesion": round(auc(np.asarray(lesion), labels > 0), 4),
        }

    cv2.setNumThreads(1)
    state = train(
        network(), draw=draw, loss_of=loss_of, evaluate=evaluate, out=out, course=course,
        peak_rate=1e-3, weight_decay=2e-3, decay=0.99,
    )  # fmt: skip
    keep(state, out)
    write(out / "labels.json", json.dumps(LABELS))


@torch.inference_mode()
def outputs(model: nn.Module, grey: Picture) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(maps (2, rows, columns), class probabilities (3,)) of one picture, averaged over its mirror image."""
    frame = Letterbox(Box(0, 0, *grey.shape), SIZE)
    canvas = torch.from_numpy(frame.forward(grey))[None, None]
    both = torch.cat([canvas, canvas.flip(-1)]).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps, classes = model(both)
    maps = torch.sigmoid(maps.float())
    mean = ((maps[0] + maps[1].flip(-1)) / 2).numpy()
    named = torch.softmax(classes.float(), dim=1).mean(dim=0).numpy()
    return np.stack([frame.backward(m, *grey.shape) for m in mean]), named
