"""How a run goes, whatever its recipe: its minutes, whether it goes on, what was found for it by search, and who looks on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

FACTORS = ("peak_rate", "weight_decay", "averaging")  #: what may be tuned, each a factor on the recipe's own value
Watch = Callable[[int, Mapping[str, float]], None]


class RunRefused(ValueError):
    """The run can't begin or go on as it was asked for; the message says why."""


class Diverged(ArithmeticError):
    """Step after step gave no numbers; the message says how many."""


class Stopped(Exception):
    """The run was asked to end before its time; its checkpoint holds where it was."""


def _nobody(look: int, figures: Mapping[str, float]) -> None:
    """Nobody looks on."""


def _never() -> bool:
    """Nobody stops the run."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What a run is told beside its data.

    `factors` multiply the recipe's own values: its peak learning rate, its weight decay, and how fast the averaged weights follow
    (1 - decay). `looks` is how often the run is evaluated, evenly, its end included; None leaves that to the recipe. `watch` is told
    the number and the figures of each look and may end the run by raising. When `stopped` says so, the run leaves a checkpoint after the
    step it is at and ends with `Stopped`. With a `patience` the run ends before its time when so many looks in a row were no better, and gives
    the weights of the best look; better by the mean of the figures, or of those in `aim`.
    """

    minutes: float
    resume: bool = False
    factors: Mapping[str, float] = field(default_factory=dict)
    looks: int | None = None
    watch: Watch = _nobody
    stopped: Callable[[], bool] = _never
    patience: int = 0
    aim: Sequence[str] = ()

    def part(self, share: float, *, watched: bool = False) -> Course:
        """One step of a recipe that trains in several: its share of the minutes. Only the step that makes the weights is watched."""
        return replace(self, minutes=share * self.minutes, **({} if watched else {"looks": None, "watch": _nobody, "patience": 0}))

    def times(self, name: str, value: float) -> float:
        """The recipe's own value, as tuned."""
        return value * self.factors.get(name, 1.0)
