"""The best look at a run: when it is long ago the run may end, and what was best is what it gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


def worth(figures: Mapping[str, float], aim: Sequence[str] = ()) -> float:
    """One number of a look's figures: the mean of those in `aim`, or of all; what can't be said (AUC of one class) is left out. NaN for none."""
    known = [value for name, value in figures.items() if (not aim or name in aim) and not np.isnan(value)]
    return float(np.mean(known)) if known else math.nan


@dataclass(slots=True)
class Best:
    """What the best look saw. With a patience of 0 nothing is kept and no run ends."""

    patience: int  #: looks in a row that are no better, before the run ends
    aim: Sequence[str] = ()
    worth: float = -math.inf
    since: int = 0  #: looks since then
    state: dict[str, torch.Tensor] = field(default_factory=dict)

    def see(self, figures: Mapping[str, float], state: Mapping[str, torch.Tensor]) -> None:
        """One look: its figures, and the weights that they are of."""
        if not self.patience:
            return
        found = worth(figures, self.aim)
        self.since += 1
        if found > self.worth:  # never true of NaN
            self.worth, self.since = found, 0
            self.state = {key: value.detach().cpu().clone() for key, value in state.items()}

    def put_back(self, state: Mapping[str, torch.Tensor]) -> None:
        """The weights of the best look into those of now."""
        for key, value in self.state.items():
            state[key].copy_(value)

    @property
    def is_over(self) -> bool:
        """Whether the run has had its chances."""
        return bool(self.patience) and self.since >= self.patience

    def facts(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"worth": self.worth, "since": self.since, "state": self.state}

    def take(self, facts: Mapping[str, Any]) -> None:
        """As a checkpoint has it."""
        self.worth, self.since, self.state = float(facts["worth"]), int(facts["since"]), dict(facts["state"])
