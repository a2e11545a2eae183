"""A small vision transformer that reads a chest film in patches, and tells which patches its answer rests on."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

PATCH = 16  #: pixels of a patch's side


class Reading(NamedTuple):
    """What the transformer makes of a batch; patches run row by row from the top left."""

    whole: torch.Tensor  #: (batch, width): the class token
    patches: torch.Tensor  #: (batch, patches, width)
    changed: torch.Tensor  #: (batch,): logit that something in the picture is not as in normal ones
    where: torch.Tensor  #: (batch, patches): the same of each patch
    attention: torch.Tensor  #: (batch, patches): how much the class token rests on a patch, adds up to 1


class Block(nn.Module):  # type: ignore[misc]
    """Attention and two dense layers, each after a norm and beside a residual path (Dosovitskiy et al., 2021)."""

    def __init__(self, width: int, mlp: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, mlp), nn.GELU(), nn.Linear(mlp, width))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The next tokens, and the attention averaged over heads."""
        y = self.norm1(x)
        seen, attention = self.attention(y, y, y, need_weights=True)  # the fused kernel, which gives none, is slower on a CPU
        x = x + seen
        return x + self.mlp(self.norm2(x)), attention


class ChestVit(nn.Module):  # type: ignore[misc]
    """A ViT with a logit for each patch beside the one of the class token.

    Patches of 16 x 16 pixels are embedded by four convolutions: with few films to learn from that is learned far sooner than one linear
    map (Xiao et al., Early Convolutions Help Transformers See Better, 2021).

    Parameters
    ----------
    size : pixels of the square canvas, a multiple of 16
    width, mlp : numbers in a token, and in the layer between
    depth, heads : transformer blocks, attention heads of each
    """

    def __init__(self, *, size: int, width: int, mlp: int, depth: int, heads: int) -> None:
        super().__init__()
        channels = (1, width // 8, width // 4, width // 2, width)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(channels)):
            layers.append(nn.Conv2d(before, after, 3, stride=2, padding=1))
            layers += [nn.BatchNorm2d(after), nn.ReLU()] if i < len(channels) - 2 else []
        self.embedding = nn.Sequential(*layers)
        self.position = nn.Parameter(torch.randn(1, (size // PATCH) ** 2, width) * 0.02)
        self.whole = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList([Block(width, mlp, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.changed = nn.Linear(width, 1)
        self.where = nn.Linear(width, 1)

    def embed(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures (batch, 1, size, size), 0 to 1, as placed patches (batch, patches, width)."""
        return self.embedding(pictures * 2 - 1).flatten(2).transpose(1, 2) + self.position

    def tokens(self, embedded: torch.Tensor) -> torch.Tensor:
        """Class token and patch tokens after the last block, from embedded patches (all, or some of them)."""
        x = torch.cat([self.whole.expand(len(embedded), -1, -1), embedded], dim=1)
        for block in self.blocks:
            x, _ = block(x)
        return self.norm(x)

    def logits(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`changed` and `where` alone: what training needs."""
        tokens = self.tokens(self.embed(pictures))
        return self.changed(tokens[:, 0])[:, 0], self.where(tokens[:, 1:])[..., 0]

    def forward(self, pictures: torch.Tensor) -> Reading:
        """Pictures (batch, 1, size, size), 0 to 1. Attention is followed through all blocks (Abnar and Zuidema, 2020)."""
        embedded = self.embed(pictures)
        x = torch.cat([self.whole.expand(len(embedded), -1, -1), embedded], dim=1)
        identity = torch.eye(x.shape[1], device=x.device)
        followed = identity
        for block in self.blocks:
            x, seen = block(x)
            followed = 0.5 * (seen.float() + identity) @ followed
        x = self.norm(x)
        rests_on = followed[:, 0, 1:]
        rests_on = rests_on / rests_on.sum(dim=1, keepdim=True)
        return Reading(x[:, 0], x[:, 1:], self.changed(x[:, 0])[:, 0], self.where(x[:, 1:])[..., 0], rests_on)
