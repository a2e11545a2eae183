"""Findings from an image and from what is known of the patient, brought together by attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from node.networks.backbones import Backbone
from node.networks.clinical import ClinicalTokens


class ImageAndClinical(nn.Module):
    """(image, clinical) → one logit for each of `labels`, then for each of `severity`.

    Every place of the image asks the clinical tokens (cross-attention); a gate that opens from the image's side decides how much of
    the answer it takes. Then places are averaged, and two small layers with dropout between them give the logits.

    Parameters
    ----------
    backbone : one of `node.networks.backbones.NAMES`
    clinical : descriptions of the clinical fields, see `ClinicalTokens`
    labels, severity : names of the outputs; each output is a sigmoid of its own
    width, heads : of the attention
    dropout : chance that a unit is left out; also drawn when the network is asked how sure it is (`passes`)
    """

    def __init__(
        self,
        *,
        backbone: str,
        clinical: Sequence[Mapping[str, Any]],
        labels: Sequence[str],
        severity: Sequence[str] = (),
        width: int = 96,
        heads: int = 4,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.labels, self.severity, self.dropout = tuple(labels), tuple(severity), dropout
        self.backbone = Backbone(backbone)
        self.places = nn.Sequential(nn.Conv2d(self.backbone.channels, width, 1, bias=False), nn.BatchNorm2d(width))
        self.tokens = ClinicalTokens(clinical, width)
        self.ask = nn.MultiheadAttention(width, heads, batch_first=True)
        self.gate = nn.Sequential(nn.Linear(2 * width, width), nn.Sigmoid())
        self.mix = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, len(self.labels) + len(self.severity))

    def forward(self, image: torch.Tensor, clinical: torch.Tensor) -> torch.Tensor:
        """Logits, (batch, labels + severity).

        Parameters
        ----------
        image : float32 (batch, 1, rows, columns)
        clinical : float32 (batch, fields), NaN where a field is not known
        """
        return self.answer(self._pooled(image, clinical))

    def asked(self, grid: torch.Tensor, clinical: torch.Tensor) -> torch.Tensor:
        """What the places of a grid of features, as `backbone` gives it, make of the clinical tokens, averaged, (batch, width)."""
        places = self.places(grid).flatten(2).transpose(1, 2)
        tokens = self.tokens(clinical).to(places.dtype)
        answers, _ = self.ask(places, tokens, tokens, need_weights=False)
        places = places + self.gate(torch.cat([places, answers], dim=-1)) * answers
        mixed: torch.Tensor = self.mix(places).mean(dim=1)
        return mixed

    def answer(self, pooled: torch.Tensor) -> torch.Tensor:
        """Logits of what `asked` gives."""
        return self._answer(pooled, torch.rand)

    def passes(self, image: torch.Tensor, clinical: torch.Tensor, *, count: int, seed: int = 0) -> torch.Tensor:
        """Logits of `count` passes with other units left out each time, (count, batch, labels + severity); the same seed, the same logits.

        Monte Carlo dropout (Gal and Ghahramani, 2016). The image is looked at once: dropout stands behind it.
        """
        draw = torch.Generator().manual_seed(seed)
        pooled = self._pooled(image, clinical)
        return torch.stack([self._answer(pooled, lambda *shape: torch.rand(*shape, generator=draw), always=True) for _ in range(count)])

    def of(self, clinical: torch.Tensor) -> OfOnePatient:
        """The network of one patient, (1, fields): a module that takes images alone, as tools that look into networks want it."""
        one = OfOnePatient(self, clinical)
        one.training = self.training  # a new module is in training, and tools put all of it back as they found its top
        return one

    def _pooled(self, image: torch.Tensor, clinical: torch.Tensor) -> torch.Tensor:
        return self.asked(self.backbone(image), clinical)

    def _answer(self, pooled: torch.Tensor, rand: Any, *, always: bool = False) -> torch.Tensor:
        hidden = torch.nn.functional.gelu(self.hidden(self._dropped(pooled, rand, always=always)))
        logits: torch.Tensor = self.out(self._dropped(hidden, rand, always=always))
        return logits

    def _dropped(self, x: torch.Tensor, rand: Any, *, always: bool) -> torch.Tensor:
        if not (self.training or always) or self.dropout == 0:
            return x
        keep = (rand(*x.shape) >= self.dropout).to(x)
        return x * keep / (1 - self.dropout)


class OfOnePatient(nn.Module):
    """`ImageAndClinical` with the patient already told: images in, logits out."""

    def __init__(self, network: ImageAndClinical, clinical: torch.Tensor) -> None:
        super().__init__()
        self.network, self.clinical = network, clinical

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits, (batch, labels + severity)."""
        logits: torch.Tensor = self.network(image, self.clinical.expand(image.shape[0], -1))
        return logits
