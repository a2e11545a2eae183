"""MeshNet: a fully convolutional 3-D network of very few weights, its view widened by dilation (Fedorov et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def mesh_net(
    *,
    in_channels: int,
    channels: int,
    out_channels: int,
    dilations: Sequence[int],
    normalised: bool = True,
    bias: bool = False,
    activation: str = "GELU",
) -> Any:
    """A torch module: (batch, in_channels, i, j, k) → (batch, out_channels, i, j, k), logits.

    One 3 x 3 x 3 convolution for each of `dilations`, each with instance normalisation and GELU, then a 1 x 1 x 1 convolution. The
    published networks of brainchop differ: without normalisation and with biases, `activation` "ReLU" or "ELU".
    """
    from torch import nn

    act = {"GELU": nn.GELU, "ELU": nn.ELU, "ReLU": nn.ReLU}[activation]
    layers: list[Any] = []
    before = in_channels
    for dilation in dilations:
        convolution = nn.Conv3d(before, channels, 3, padding=dilation, dilation=dilation, bias=bias)
        if normalised:
            layers.append(nn.Sequential(convolution, nn.GroupNorm(channels, channels, affine=False), act()))
        else:
            layers += [convolution, act()]  # named 0, 2, 4 … as in the published weights
        before = channels
    return nn.Sequential(*layers, nn.Conv3d(before, out_channels, 1))
