"""What is known of the patient, as tokens: one for each field, and one that was learned for "not known"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn


class ClinicalTokens(nn.Module):
    """(batch, fields) → (batch, fields, width).

    `fields` describes the columns: `{"name", "values": [...]}` holds the index of a word, `{"name", "mean", "scale"}` a number.
    NaN is "not known": it has an embedding of its own, for each field, and training hides known values at random so that this
    embedding stands for every kind of patient.
    """

    def __init__(self, fields: Sequence[Mapping[str, Any]], width: int) -> None:
        super().__init__()
        self.fields = [dict(one) for one in fields]
        self.unknown = nn.Parameter(torch.randn(len(fields), width) * 0.02)
        self.known = nn.ModuleList(
            nn.Embedding(len(one["values"]), width)
            if "values" in one
            else nn.Sequential(nn.Linear(1, width), nn.GELU(), nn.Linear(width, width))
            for one in fields
        )

    def forward(self, told: torch.Tensor) -> torch.Tensor:
        """Tokens of what was told; NaN where it was not."""
        tokens = []
        for column, (one, embed) in enumerate(zip(self.fields, self.known, strict=True)):
            value = told[:, column]
            missing = torch.isnan(value)
            value = torch.where(missing, torch.zeros_like(value), value)
            if "values" in one:
                token = embed(value.long().clamp(0, len(one["values"]) - 1))
            else:
                scaled = ((value - float(one["mean"])) / float(one["scale"])).clamp(-3, 3)
                scaled = torch.where(missing, torch.zeros_like(scaled), scaled)
                token = embed(scaled[:, None])
            tokens.append(torch.where(missing[:, None], self.unknown[column].to(token.dtype), token))
        return torch.stack(tokens, dim=1)
