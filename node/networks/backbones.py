"""The eyes of a network, chosen by name: one grey image in, a grid of features out. Random weights; nothing is ever fetched."""

from __future__ import annotations

import torch
from torch import nn

ENCODERS = ("resnet18", "resnet34", "resnet50", "densenet121", "efficientnet-b3")  #: built by segmentation-models-pytorch
SMALL = "small"
NAMES = (SMALL, *ENCODERS)


class Backbone(nn.Module):
    """(batch, 1, rows, columns) → (batch, `channels`, rows / `stride`, columns / `stride`).

    Raises ValueError for a name that is not one of `NAMES`.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        name = name.lower().replace("_", "-")
        if name == SMALL:
            self.body: nn.Module = SmallResNet()
            self.channels, self.stride = SmallResNet.WIDTHS[-1], 16
        elif name in ENCODERS:
            from segmentation_models_pytorch.encoders import get_encoder

            self.body = get_encoder(name, in_channels=1, depth=5, weights=None)
            self.channels, self.stride = int(self.body.out_channels[-1]), 32
        else:
            raise ValueError(f"no backbone {name}; there are {', '.join(NAMES)}")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The deepest features."""
        found = self.body(image)
        deepest: torch.Tensor = found[-1] if isinstance(found, list | tuple) else found
        return deepest


class SmallResNet(nn.Module):
    """Residual blocks (He et al., 2016) of few channels; the last stage keeps its grid, so that heatmaps point finer."""

    WIDTHS = (24, 48, 96, 160)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, self.WIDTHS[0], 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(self.WIDTHS[0]),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        stages: list[nn.Module] = []
        before = self.WIDTHS[0]
        for width, stride in zip(self.WIDTHS, (1, 2, 2, 1), strict=True):
            stages += [_Residual(before, width, stride), _Residual(width, width, 1)]
            before = width
        self.stages = nn.Sequential(*stages)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """A sixteenth of the image's rows and columns."""
        found: torch.Tensor = self.stages(self.stem(image))
        return found


class _Residual(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        same = before == width and stride == 1
        self.skip = nn.Identity() if same else nn.Sequential(nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = torch.relu(self.second(self.first(x)) + self.skip(x))
        return added
