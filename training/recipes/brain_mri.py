"""Brain MR slices: one network that says whether a slice holds a tumour, and of three kinds the one it is most like.

The pictures without a tumour come from other sources than those with one. What gives the source away and not the tumour (margins,
window, noise, sharpness, plane) is therefore varied strongly on both, the head is cut out, and two DICOM series join in: planes of a
healthy head, and a series after contrast of which some slices hold a tumour and the others don't.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from monai.networks.nets import ResNet
from torch import nn
from torch.nn import functional

from node.imaging.letterbox import Box
from node.pipelines.brain_mri import SIZE, canvas_of, chances, grey_of, head_of
from training.augment import placed, shaded
from training.course import Course
from training.datasets import brain_tumor_mri
from training.datasets.table import ensure_there
from training.evaluate import auc
from training.loop import Batch, train
from training.processes import keep
from training.splits import ensure_disjoint

BATCH = 24
STAGES = ((0.55, 128), (1.01, SIZE))  #: until progress, canvas
NEGATIVE = 0.38  #: share of draws without a tumour
HEALTHY = 0.25  #: share of the negatives that are planes of the healthy head
WHOLE_SERIES = 0.2  #: share of negatives, and of gliomas, that come from the series with a truth for each slice
HEALTHY_HEAD = Path("dicom/mr_brain_t1_brainchop")
GLIOBLASTOMA = Path("dicom/mr_brain_tumor_btp/PGBM_01_pre_T1post")  #: the other patient of this set is never trained on
NETWORK: dict[str, Any] = {
    "_target_": "monai.networks.nets.ResNet",
    "block": "basic",
    "layers": [2, 2, 2, 2],
    "block_inplanes": [32, 64, 128, 256],
    "spatial_dims": 2,
    "n_input_channels": 1,
    "conv1_t_size": 7,
    "conv1_t_stride": 2,
    "num_classes": 4,
}

Picture = npt.NDArray[np.float32]


def network() -> nn.Module:
    return ResNet(**{k: v for k, v in NETWORK.items() if k != "_target_"})


def cut(grey: Picture) -> Picture:
    """The head and a wide margin of a picture, so that augmentation can move the box."""
    box, _ = head_of(grey_of(grey))
    box = (box or Box(0, 0, *grey.shape)).grown(0.08, *grey.shape)
    return np.ascontiguousarray(grey[box.top : box.bottom, box.left : box.right])


def uneven(image: Picture, rng: np.random.Generator) -> Picture:
    """A coil's sensitivity: a smooth field of brightness."""
    field = cv2.resize(rng.uniform(-0.35, 0.35, (3, 3)).astype(np.float32), image.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(image * np.exp(field), 0, 1).astype(np.float32)


def squeezed(image: Picture, rng: np.random.Generator) -> Picture:
    """As a JPEG of some quality, or from fewer pixels, as pictures from elsewhere are."""
    if rng.random() < 0.5:
        small = int(image.shape[0] * rng.uniform(0.45, 0.9))
        image = cv2.resize(cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA), image.shape[::-1])
    if rng.random() < 0.5:
        _, packed = cv2.imencode(".jpg", (image * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])
        image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE), np.float32) / 255
    return np.asarray(image, np.float32)


def run(data: Path, out: Path, course: Course) -> None:
    """Train; `data` is the folder that holds images/brain_tumor_mri and dicom/."""
    train_slices(network(), STAGES, data, out, course)


def train_slices(model: nn.Module, stages: tuple[tuple[float, int], ...], data: Path, out: Path, course: Course) -> None:
    """Train `model`, which answers a batch of slices with four logits: tumour; glioma, meningioma, pituitary given a tumour."""
    slices = brain_tumor_mri.load(data / "images" / "brain_tumor_mri")
    ensure_disjoint((s.split, s.group) for s in slices)
    for split in ("train", "val"):
        ensure_there(
            {f"{split} {label}": sum((s.split, s.label) == (split, k) for s in slices) for k, label in enumerate(brain_tumor_mri.LABELS)}
        )
    by_label = [[cut(s.grey) for s in slices if s.split == "train" and s.label == k] for k in range(4)]
    healthy = [cut(plane) for plane in brain_tumor_mri.healthy_planes(data / HEALTHY_HEAD)]
    series = brain_tumor_mri.slices_with_truth(data / GLIOBLASTOMA, (data / GLIOBLASTOMA).with_name(f"{GLIOBLASTOMA.name}_mask"))
    ensure_there({f"slices of {GLIOBLASTOMA.name}, with tumour and without": len({tumor for _, tumor in series}) == 2})
    of_series = {holds: [cut(grey_of(picture)) for picture, tumor in series if tumor is holds] for holds in (False, True)}
    validation = [(s, heads_canvas(s.grey)) for s in slices if s.split == "val"]

    def draw(rng: np.random.Generator, progress: float) -> Batch:
        size = next(s for until, s in stages if progress < until)
        images, labels = [], []
        for _ in range(BATCH):
            label = 0 if rng.random() < NEGATIVE else int(rng.integers(1, 4))
            chance, pool = rng.random(), by_label[label]
            if label < 2 and chance < WHOLE_SERIES:
                pool = of_series[label == 1]
            elif label == 0 and chance < WHOLE_SERIES + HEALTHY:
                pool = healthy
            grey = pool[int(rng.integers(len(pool)))]
            image, _ = placed(
                grey, np.zeros_like(grey), size, rng, rotate_deg=25, scale=(0.8, 1.15), flip_vertical=0.1, stretch=0.12,
                elastic=0.006, fills=(0.0, 0.0, 0.0, -1.0),
            )  # fmt: skip
            image = uneven(image, rng) if rng.random() < 0.5 else image
            image = shaded(image, rng, gain=0.25, bias=0.06, gamma=0.5, noise=0.06, blur=0.4)
            image = squeezed(image, rng) if rng.random() < 0.5 else image
            images.append(grey_of(image))
            labels.append(label)
        return {"image": torch.from_numpy(np.stack(images))[:, None], "label": torch.tensor(labels)}

    def loss_of(net: nn.Module, batch: Batch) -> torch.Tensor:
        logits = net(batch["image"].contiguous(memory_format=torch.channels_last)).float()
        tumor = (batch["label"] > 0).float()
        loss: torch.Tensor = functional.binary_cross_entropy_with_logits(logits[:, 0], tumor * 0.96 + 0.02)
        kinds = batch["label"] > 0
        return loss + 0.5 * functional.cross_entropy(logits[kinds, 1:], batch["label"][kinds] - 1, label_smoothing=0.05)

    def evaluate(net: nn.Module) -> dict[str, float]:
        read = [chances(net, canvas) for _, canvas in validation]
        labels = np.array([s.label for s, _ in validation])
        kinds = labels > 0
        named = np.array([types.argmax() for _, types in read])
        return {
            "val_auc_tumor": round(auc(np.array([logit for logit, _ in read]), kinds), 4),
            "val_kinds": round(float((named[kinds] == labels[kinds] - 1).mean()), 4),
        }

    cv2.setNumThreads(1)
    state = train(
        model, draw=draw, loss_of=loss_of, evaluate=evaluate, out=out, course=course,
        peak_rate=1.5e-3, weight_decay=1e-2, decay=0.99,
    )  # fmt: skip
    keep(state, out)


def heads_canvas(grey: Picture) -> Picture:
    """As the pipeline shows a slice to the network."""
    grey = grey_of(grey)
    box, _ = head_of(grey)
    return canvas_of(grey, box or Box(0, 0, *grey.shape))[1]
