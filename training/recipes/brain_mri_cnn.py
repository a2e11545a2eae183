"""Brain MR slices by a plain network: three convolution blocks and a dense layer. A yardstick for the deeper one; same images, same loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.networks.nets import Classifier
from torch import nn

from node.pipelines.brain_mri import SIZE
from training.course import Course
from training.recipes.brain_mri import train_slices

NETWORK: dict[str, Any] = {
    "_target_": "monai.networks.nets.Classifier",
    "in_shape": [1, SIZE, SIZE],
    "classes": 4,
    "channels": [32, 64, 128],
    "strides": [2, 2, 2],
    "kernel_size": 5,
    "num_res_units": 0,
    "act": "RELU",
    "norm": "BATCH",
    "dropout": 0.15,
}


def network() -> nn.Module:
    made: nn.Module = Classifier(**{k: v for k, v in NETWORK.items() if k != "_target_"})
    return made


def run(data: Path, out: Path, course: Course) -> None:
    """Train; the dense layer asks for the whole canvas from the first step."""
    train_slices(network(), ((1.01, SIZE),), data, out, course)
