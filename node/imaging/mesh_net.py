"""MeshNet: a fully convolutional 3-D network of very few weights, its view widened by dilation (Fedorov et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def mesh_net(*, in_channels: int, channels: int, out_channels: int, dilations: Sequence[int]) -> Any:
    """A torch module: (batch, in_channels, i, j, k) → (batch, out_channels, i, j, k), logits.

    One 3 x 3 x 3 convolution for each of `dilations`, each with instance normalisation and GELU, then a 1 x 1 x 1 convolution.
    """
    from torch import nn

    blocks: list[Any] = []
    before = in_channels
    for dilation in dilations:
        blocks.append(
            nn.Sequential(
                nn.Conv3d(before, channels, 3, padding=dilation, dilation=dilation, bias=False),
                nn.GroupNorm(channels, channels, affine=False),
                nn.GELU(),
            )
        )
        before = channels
    return nn.Sequential(*blocks, nn.Conv3d(before, out_channels, 1))
