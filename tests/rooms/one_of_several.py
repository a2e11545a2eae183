"""One process of several that torchrun starts, for `test_training_processes.py`: it trains a line and leaves what it saw and has."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from training import processes
from training.course import Course
from training.loop import Batch, train


def main(out: Path, minutes: float, resume: bool) -> None:
    seen: list[float] = []

    def draw(rng: np.random.Generator, progress: float) -> Batch:
        image = torch.from_numpy(rng.random((4, 1, 8, 8), dtype=np.float32))
        seen.append(float(image[0, 0, 0, 0]))
        return {"image": image, "mask": (image > 0.5).float()}

    def loss_of(model: nn.Module, batch: Batch) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(model(batch["image"]).float(), batch["mask"])

    rank = processes.rank()
    torch.manual_seed(rank)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1))
    nn.init.constant_(model[1].weight, 0.1 + rank)  # each begins elsewhere: they must begin with the first one's
    with processes.together():
        evaluate = lambda net: {"val_weight": float(net[1].weight)}  # noqa: E731
        state = train(
            model, draw=draw, loss_of=loss_of, evaluate=evaluate, out=out, course=Course(minutes=minutes, resume=resume), peak_rate=0.05
        )
    torch.save({"state": state, "model": model.state_dict(), "seen": seen[:8]}, out / f"told-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "resume")
    processes.leave(0)
