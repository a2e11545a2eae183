"""Chest films: a small vision transformer that learns without labels what films look like."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from node.imaging.chest_vit import PATCH, ChestVit
from training.loop import Batch, train

SIZE = 160
NETWORK: dict[str, Any] = {"size": SIZE, "width": 128, "mlp": 384, "depth": 4, "heads": 4}
BATCH = 48
HIDDEN = 0.6  #: share of patches that are painted over
SETS = ("cxr_pediatric224", "cxr_adult224", "cxr_nih64", "cxr_figure1")

Picture = npt.NDArray[np.float32]


class Painter(nn.Module):
    """The transformer with a linear layer that paints the patches it could not see (Xie et al., SimMIM, 2022)."""

    def __init__(self, reader: ChestVit, width: int) -> None:
        super().__init__()
        self.reader = reader
        self.paint = nn.Linear(width, (PATCH // 2) ** 2)

    def loss(self, pictures: torch.Tensor) -> torch.Tensor:
        """Mean absolute error in the hidden patches, at half resolution, each scaled to mean 0 and deviation 1."""
        side = pictures.shape[-1] // PATCH
        hidden = (torch.rand(len(pictures), 1, side, side) < HIDDEN).float()
        shown = torch.where(nn.functional.interpolate(hidden, scale_factor=PATCH) > 0, 0.5, pictures)
        painted = self.paint(self.reader.tokens(self.reader.embed(shown))[:, 1:]).float()
        target = nn.functional.unfold(nn.functional.avg_pool2d(pictures, 2), PATCH // 2, stride=PATCH // 2).transpose(1, 2)
        target = (target - target.mean(dim=2, keepdim=True)) / (target.std(dim=2, keepdim=True) + 0.02)
        error = (painted - target).abs().mean(dim=2)
        return error[hidden.flatten(1) > 0].mean()


def films(data: Path, split: str) -> list[npt.NDArray[np.uint8]]:
    out = []
    for name in SETS:
        root = data / "images" / name
        with (root / "index.csv").open(newline="") as index:
            out += [cv2.imread(str(root / row["file"]), cv2.IMREAD_GRAYSCALE) for row in csv.DictReader(index) if row["split"] == split]
    return out


def view(film: npt.NDArray[np.uint8], rng: np.random.Generator) -> Picture:
    """A part of a film, turned a little, in another window, as the pipeline equalises it."""
    rows, columns = film.shape
    zoom = rng.uniform(0.55, 1.0)
    height, width = rows * zoom, columns * np.clip(zoom * np.exp(rng.uniform(-0.15, 0.15)), 0.4, 1.0)
    top, left = rng.uniform(0, rows - height), rng.uniform(0, columns - width)
    turn = cv2.getRotationMatrix2D((left + width / 2, top + height / 2), rng.uniform(-6, 6), 1.0)
    scale = np.array([[SIZE / width, 0, -left * SIZE / width], [0, SIZE / height, -top * SIZE / height], [0, 0, 1]])
    matrix = (scale @ np.vstack([turn, [0, 0, 1]]))[:2]
    picture = cv2.warpAffine(film, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    return equalised(picture, np.exp(rng.uniform(-0.35, 0.35)))


def equalised(picture: Picture, gamma: float = 1.0) -> Picture:
    low, high = np.percentile(picture, [0.5, 99.5])
    scaled = np.clip((picture - low) / max(high - low, 1e-6), 0, 1) ** gamma
    return cv2.createCLAHE(2.0, (6, 6)).apply((scaled * 255).astype(np.uint8)).astype(np.float32) / 255


def pretrain(data: Path, out: Path, *, minutes: float, resume: bool) -> dict[str, torch.Tensor]:
    pool, held_out = films(data, "train"), films(data, "val")
    rng = np.random.default_rng(1)
    check = torch.from_numpy(np.stack([view(held_out[i], rng) for i in rng.permutation(len(held_out))[:128]]))[:, None]

    def draw(rng: np.random.Generator, progress: float) -> Batch:
        return {"image": torch.from_numpy(np.stack([view(pool[int(rng.integers(len(pool)))], rng) for _ in range(BATCH)]))[:, None]}

    def evaluate(net: nn.Module) -> dict[str, float]:
        torch.manual_seed(1)
        with torch.no_grad():
            return {"val_error": round(float(net.loss(check)), 4)}

    cv2.setNumThreads(1)
    torch.manual_seed(0)
    return train(
        Painter(ChestVit(**NETWORK), NETWORK["width"]), draw=draw, loss_of=lambda net, batch: net.loss(batch["image"]), evaluate=evaluate,
        out=out, minutes=minutes, resume=resume, peak_rate=1.2e-3, weight_decay=0.05, decay=0.99, evaluate_every_s=100,
    )  # fmt: skip
