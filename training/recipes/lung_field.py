"""Lungs on a frontal chest radiograph: a small U-Net with one map for the lung at each edge of the image.

Few outlines, all of one disease and one collection: so they are bent, exposed, clouded, framed and written on; a first network
outlines films of other collections, and those it is sure of teach the second together with the outlines of people. Pictures of other
things, and films that lie on their side or head, have no lungs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from monai.networks.nets.unet import UNet
from torch import nn
from torch.nn import functional

from node.imaging.radiograph import LUNG_SIZE, Radiograph, lungs_of, radiograph_of
from training.augment import Picture, placed
from training.augment_xray import clouded, exposed, framed, marked, two_lungs_placed
from training.course import Course
from training.datasets import cxr_adult224
from training.datasets.table import ensure_there
from training.loop import Batch, train
from training.processes import keep
from training.splits import ensure_disjoint

BATCH = 16
AIM = ("val_dice",)  #: what a search looks at; a film without lungs counts nothing in it
FIRST = 0.35  #: of the time for the network that outlines the films without outlines
CERTAIN = 0.93  #: mean probability from which its outline is learned from
NETWORK: dict[str, Any] = {
    "_target_": "UNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [16, 32, 64, 96, 128, 192],
    "strides": [2, 2, 2, 2, 2],
    "num_res_units": 0,
    "act": "relu",
    "norm": "batch",
}
OTHER_FILMS = ("cxr_figure1", "cxr_nih64", "cxr_pediatric224")
NO_CHEST = ("brain_tumor_mri/train", "busi_breast_us/train", "covid_ct_medseg/train/images")

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Outlined:
    """A film and its lungs by image side."""

    grey: Picture
    left: Mask
    right: Mask


def network() -> nn.Module:
    options = {k: v for k, v in NETWORK.items() if k != "_target_"}
    return UNet(**options)


def of_people(films: list[cxr_adult224.Film], split: str) -> list[Outlined]:
    """The films of a split with outlines by people."""
    return [Outlined(f.grey, *cxr_adult224.sides(f.lungs)) for f in films if f.split == split and f.lungs is not None]


def pictures(folder: Path, most: int, *, seed: int = 0) -> list[Picture]:
    """At most `most` grey pictures from under `folder`, 0 to 1, at most 256 pixels long."""
    files = sorted(f for f in folder.rglob("*") if f.suffix in (".jpg", ".png") and "mask" not in f.as_posix())
    chosen = np.random.default_rng(seed).permutation(len(files))[:most]
    found = []
    for i in chosen:
        read = cv2.imread(str(files[i]), cv2.IMREAD_GRAYSCALE)
        if read is not None:
            shrink = min(1.0, 256 / max(read.shape))
            small = cv2.resize(read, (round(read.shape[1] * shrink), round(read.shape[0] * shrink)), interpolation=cv2.INTER_AREA)
            found.append(np.asarray(small, np.float32) / np.float32(255))
    return found


def outlined_by(model: nn.Module, films: list[Picture]) -> list[Outlined]:
    """The films on which the network is sure of two lungs."""
    model.eval()
    found = []
    for grey in films:
        film = radiograph_of(grey)
        if isinstance(film, Radiograph):
            lungs = lungs_of(film, model)
            if not isinstance(lungs, str) and lungs.certainty >= CERTAIN:
                found.append(Outlined(grey, lungs.right, lungs.left))
    return found


def nothing_there(nowhere: list[Picture], films: list[Outlined], rng: np.random.Generator) -> Picture:
    """A picture without an upright chest: of something else, noise, or a film on its side or head."""
    kind = rng.random()
    if kind < 0.5:
        grey = nowhere[int(rng.integers(len(nowhere)))]
    elif kind < 0.85:
        grey = np.rot90(films[int(rng.integers(len(films)))].grey, int(rng.integers(1, 4)))
    else:
        cells = int(rng.integers(2, 40))
        grey = cv2.resize(rng.random((cells, cells)).astype(np.float32), (224, 224), interpolation=cv2.INTER_CUBIC)
    grey = np.ascontiguousarray(np.clip(grey, 0, 1), np.float32)
    picture, _ = placed(grey, np.zeros_like(grey), LUNG_SIZE, rng, rotate_deg=15, scale=(0.8, 1.4), fills=(0.0, 1.0, -1.0))
    return picture


def run(data: Path, out: Path, course: Course) -> None:
    """Train both networks; `data` is the folder that holds images/."""
    films = cxr_adult224.load(data / "images" / "cxr_adult224")
    ensure_disjoint((f.split, f.group) for f in films)
    training, validation = of_people(films, "train"), of_people(films, "val")
    nowhere = [p for name in NO_CHEST for p in pictures(data / "images" / name, 150)]
    unlabelled = [f.grey for f in films if f.split == "train" and f.lungs is None]
    unlabelled += [p for name in OTHER_FILMS for p in pictures(data / "images" / name, 300)]
    outlined = {f"{split} with an outline of the lungs": len(some) for split, some in (("train", training), ("val", validation))}
    ensure_there(outlined | {f"pictures of {' or '.join(NO_CHEST)}": len(nowhere)})
    learned: list[Outlined] = []

    def draw(rng: np.random.Generator, progress: float) -> Batch:
        images, masks = [], []
        for _ in range(BATCH):
            if rng.random() < 0.12:
                image = exposed(nothing_there(nowhere, training + learned, rng), rng)
                images.append(image)
                masks.append(np.zeros((2, *image.shape), np.float32))
                continue
            pool = learned if learned and rng.random() < 0.5 else training
            one = pool[int(rng.integers(len(pool)))]
            image, left, right = two_lungs_placed(one.grey, one.left, one.right, LUNG_SIZE, rng)
            if rng.random() < 0.35:
                image = clouded(image, np.maximum(left, right), rng)
            if rng.random() < 0.5:
                image = marked(image, rng)
            image = exposed(image, rng)
            if rng.random() < 0.3:
                image, (left, right) = framed(image, [left, right], rng)
            images.append(np.asarray(image, np.float32))
            masks.append(np.stack([left, right]))
        return {"image": torch.from_numpy(np.stack(images))[:, None], "mask": torch.from_numpy(np.stack(masks).astype(np.float32))}

    def loss_of(model: nn.Module, batch: Batch) -> torch.Tensor:
        logits = model(batch["image"].contiguous(memory_format=torch.channels_last)).float()
        truth = batch["mask"]
        chance = torch.sigmoid(logits)
        overlap = (chance * truth).sum(dim=(2, 3))
        soft_dice = (2 * overlap + 20) / (chance.sum(dim=(2, 3)) + truth.sum(dim=(2, 3)) + 20)
        loss: torch.Tensor = functional.binary_cross_entropy_with_logits(logits, truth) + (1 - soft_dice).mean()
        return loss

    def evaluate(model: nn.Module) -> dict[str, float]:
        scores, unseen = [], 0
        for one in validation:
            film = radiograph_of(one.grey)
            assert isinstance(film, Radiograph)
            lungs = lungs_of(film, model)
            if isinstance(lungs, str):
                unseen += 1
                scores.append(0.0)
            else:
                truth = one.left | one.right
                scores.append(2 * float((lungs.both & truth).sum()) / float(lungs.both.sum() + truth.sum()))
        return {"val_dice": round(float(np.mean(scores)), 4), "val_unseen": unseen}

    cv2.setNumThreads(1)
    first = network()
    state = train(
        first, draw=draw, loss_of=loss_of, evaluate=evaluate, out=out / "first", course=course.part(FIRST),
        peak_rate=2e-3, weight_decay=1e-3, decay=0.99, evaluate_every_s=120,
    )  # fmt: skip
    first.load_state_dict(state)
    learned = outlined_by(first, unlabelled)
    second = network()
    second.load_state_dict(state)
    state = train(
        second, draw=draw, loss_of=loss_of, evaluate=evaluate, out=out, course=course.part(1 - FIRST, watched=True),
        peak_rate=1e-3, weight_decay=1e-3, decay=0.99, seed=1, evaluate_every_s=180,
    )  # fmt: skip
    keep(state, out)
