"""COVID-19 infection on chest CT: U-Net with ResNet34 encoder, 448 x 448, BCE + Jaccard.

Forty expert slices, four hundred with model-made masks whose share fades out, and slices of one CT
without COVID-19 as empty examples. Trained upright, in the Hounsfield window the node uses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.nn import functional

from node.imaging.letterbox import Box, Letterbox, box_of
from node.imaging.lungs import find_lungs
from node.pipelines.covid_ct import SIZE, windowed
from training.augment import placed, shaded
from training.course import Course
from training.datasets import covid_ct_medseg, dicom_ct
from training.datasets.table import ensure_there
from training.loop import Batch, train
from training.processes import keep
from training.splits import ensure_disjoint, without_groups_of

EMPTY_SHARE = 0.12  #: of the draws, slices without infection
LOWER_PART = 30  #: slices of the CT without COVID-19, from below, that train; the rest is held out
STAGES = ((0.30, 256, 12), (0.60, 352, 8), (1.01, SIZE, 6))  #: until progress, canvas, batch
NETWORK: dict[str, Any] = {
    "_target_": "segmentation_models_pytorch.Unet",
    "encoder_name": "resnet34",
    "encoder_weights": None,
    "in_channels": 1,
    "classes": 1,
}

Example = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def network() -> nn.Module:
    made: nn.Module = smp.Unet("resnet34", encoder_weights=None, in_channels=1, classes=1)
    return made


def within_the_lungs(one: covid_ct_medseg.Slice) -> npt.NDArray[np.bool_]:
    """A model-made mask without what it marked outside the lungs (spine, skin)."""
    padded = np.pad(one.hu, 12, constant_values=40.0)[None]
    lungs = find_lungs(padded, (5.0, 0.8, 0.8))
    return one.mask if lungs is None else one.mask & lungs.both[0, 12:-12, 12:-12]


def slices_without_infection(folder: Path) -> list[Example]:
    """The lower part of a chest CT without COVID-19, cut to the lungs, with empty masks; none where there is no such CT."""
    if not (files := sorted(folder.rglob("*.dcm"))):
        return []
    ct = dicom_ct.read(files)
    hu, lungs = ct.hu, find_lungs(ct.hu, ct.spacing_mm)
    if lungs is None:
        return []
    box = box_of(lungs.both.any(axis=0))
    assert box is not None
    examples = []
    for z in range(LOWER_PART):
        here = box_of(lungs.both[z])
        if here is None or here.height * here.width < 4000:
            continue
        for cut in (box, here):  # the box of the series and the box of the slice
            b = cut.grown(0.03, *hu.shape[1:])
            part = windowed(hu[z, b.top : b.bottom, b.left : b.right])
            examples.append((part, np.zeros_like(part)))
    return examples


def run(data: Path, out: Path, course: Course) -> None:
    """Train; `data` is the folder that holds images/covid_ct_medseg and dicom/ct_chest_lungpetctdx."""
    slices = covid_ct_medseg.load(data / "images" / "covid_ct_medseg")
    held = without_groups_of(((s.split, s.group) for s in slices), "val")
    slices = [s for s in slices if s.split == "val" or s.group not in held]
    ensure_disjoint((s.split, s.group) for s in slices)
    expert: list[Example] = [(windowed(s.hu), s.mask.astype(np.float32)) for s in slices if s.split == "train"]
    pseudo: list[Example] = [(windowed(s.hu), within_the_lungs(s).astype(np.float32)) for s in slices if s.split == "pseudo"]
    empty = slices_without_infection(data / "dicom" / "ct_chest_lungpetctdx")
    validation = [s for s in slices if s.split == "val"]
    ensure_there({"train that does not look like val": len(expert), "val": len(validation)})
    ensure_there(
        {f"{s} with a mask that shows something": sum(bool(one.mask.any()) for one in slices if one.split == s) for s in ("train", "val")}
    )

    def draw(rng: np.random.Generator, progress: float) -> Batch:
        size, count = next((s, n) for until, s, n in STAGES if progress < until)
        images, masks = [], []
        for _ in range(count):
            u = rng.random()
            source = expert
            if empty and u < EMPTY_SHARE:
                source = empty
            elif pseudo and u < EMPTY_SHARE + 0.5 * (1 - progress) ** 1.5:
                source = pseudo
            image, mask = source[int(rng.integers(len(source)))]
            image, mask = placed(
                image, mask, size, rng, rotate_deg=20, scale=(0.6, 1.25), flip_vertical=0.1,
                elastic=0.012, fills=(0.0, 0.0, 0.0, 0.93, -1.0, 0.3),
            )  # fmt: skip
            images.append(shaded(image, rng))
            masks.append(mask)
        return {
            "image": torch.from_numpy(np.stack(images))[:, None],
            "mask": torch.from_numpy(np.stack(masks))[:, None],
        }

    jaccard = smp.losses.JaccardLoss(mode="binary", from_logits=True)

    def loss_of(model: nn.Module, batch: Batch) -> torch.Tensor:
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        logits = model(image).float()
        bce = functional.binary_cross_entropy_with_logits(logits, batch["mask"])
        loss: torch.Tensor = bce + jaccard(logits, batch["mask"])
        return loss

    def evaluate(model: nn.Module) -> dict[str, float]:
        dice = []
        for one in validation:
            p = probability(model, one.hu)
            both = float((p > 0.5)[one.mask].sum())
            dice.append(2 * both / max(1.0, float((p > 0.5).sum() + one.mask.sum())))
        return {"val_dice": round(float(np.mean(dice)), 4)}

    cv2.setNumThreads(1)
    state = train(network(), draw=draw, loss_of=loss_of, evaluate=evaluate, out=out, course=course)
    keep(state, out)


@torch.inference_mode()
def probability(model: nn.Module, hu: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The infection map of one upright slice that is already cut to the lungs, on its own grid."""
    frame = Letterbox(Box(0, 0, *hu.shape), SIZE)
    canvas = torch.from_numpy(frame.forward(windowed(hu)))[None, None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(canvas.contiguous(memory_format=torch.channels_last))
    return frame.backward(torch.sigmoid(logits.float())[0, 0].numpy(), *hu.shape)
