"""Which learning rate, weight decay and averaging suit a recipe here: short runs, the worse ones broken off, the best written down.

`OUT/study.db` (SQLite, Optuna's format) remembers every run, so that a search that was stopped goes on. The first run has the recipe's
own values: what is found is never worse than those on the same minutes. A run is worth what its recipe reports on the validation split,
with patients apart as always; the best of many is therefore a little better on that split than elsewhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training import best
from training.course import FACTORS, Course, Diverged

if TYPE_CHECKING:
    import optuna

RANGES = {"peak_rate": (0.2, 5.0), "weight_decay": (0.1, 10.0), "averaging": (0.25, 4.0)}  #: of the factors, drawn by their logarithm
LOOKS = 4  #: at a run; after each but the last it may be broken off
UNBROKEN = 3  #: runs that are finished whatever they show: the others are compared with their median

Run = Callable[[Path, Course], None]


class SearchRefused(ValueError):
    """The search can't be made or gone on with; the message says why."""


class BestUnreadable(ValueError):
    """The file of best values can't be used; the message says why."""


def search(pipeline: str, run: Run, out: Path, *, trials: int, minutes: float, aim: Sequence[str] = ()) -> Path:
    """Try values until the study holds `trials` runs, each of at most `minutes`, and write the best to `OUT/best.json`.

    `run(folder, course)` trains once. `aim` names the figures whose mean a run is worth; without it all that it reports.

    Raises
    ------
    SearchRefused
        When `out` holds a search of another pipeline or of other minutes, a run reports no figure, or every one diverged.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    out.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{out / 'study.db'}",
        study_name="search",
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=UNBROKEN),
    )
    _is_the_same(study, {"pipeline": pipeline, "minutes": minutes})
    _begin(study)
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))  # another seed when it goes on, or the same values come again

    def one(trial: optuna.Trial) -> float:
        factors = {name: trial.suggest_float(name, *RANGES[name], log=True) for name in FACTORS}
        seen: list[float] = []

        def watch(look: int, figures: Mapping[str, float]) -> None:
            seen.append(worth(figures, aim))
            trial.report(seen[-1], look)
            if look < LOOKS and trial.should_prune():
                raise optuna.TrialPruned

        folder = out / "trials" / str(trial.number)
        try:
            run(folder, Course(minutes=minutes, factors=factors, looks=LOOKS, watch=watch))
        except Diverged:  # of a rate that is too high, say: an answer, and no reason to end the search
            raise optuna.TrialPruned from None
        finally:
            for weights in folder.rglob("*.pt"):  # its log stays
                weights.unlink()
        if not seen:
            raise SearchRefused(f"{pipeline} reports no figure while it trains: there is nothing to search by")
        return seen[-1]

    while (left := trials - len(_ended(study))) > 0:
        study.optimize(one, n_trials=left)
    return _best(study, out / "best.json")


def worth(figures: Mapping[str, float], aim: Sequence[str] = ()) -> float:
    """What a run's figures are worth. Raises SearchRefused when none of them can be said."""
    found = best.worth(figures, aim)
    if math.isnan(found):
        raise SearchRefused("the validation split is too small: none of its figures can be said")
    return found


def factors_in(path: Path, pipeline: str) -> dict[str, float]:
    """The factors that a search of the same pipeline has written. Raises BestUnreadable."""
    try:
        best = json.loads(path.read_text())
        found = {name: float(best["factors"][name]) for name in FACTORS}
    except (OSError, ValueError, KeyError, TypeError):
        raise BestUnreadable(f"{path} is no best.json of a search: it needs factors with {', '.join(FACTORS)}") from None
    if best.get("pipeline") != pipeline:
        raise BestUnreadable(f"{path} was found for {best.get('pipeline')}, not for {pipeline}")
    if not all(0 < value < 1000 for value in found.values()):
        raise BestUnreadable(f"{path}: factors are numbers above 0")
    return found


# --- the study ------------------------------------------------------------------------------------------------------------
def _is_the_same(study: optuna.Study, facts: Mapping[str, Any]) -> None:
    for name, value in facts.items():
        if study.user_attrs.setdefault(name, value) != value:
            raise SearchRefused(f"the folder holds a search with {name} {study.user_attrs[name]}: go on with that, or take another --out")
        study.set_user_attr(name, value)


def _begin(study: optuna.Study) -> None:
    """The recipe's own values first; what was cut off is tried again."""
    from optuna.trial import TrialState

    if not study.trials:
        study.enqueue_trial(dict.fromkeys(FACTORS, 1.0))
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
    for trial in study.get_trials(states=[TrialState.FAIL]):
        if trial.params and trial.params not in [ended.params for ended in _ended(study)]:
            study.enqueue_trial(trial.params)


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED])


def _best(study: optuna.Study, path: Path) -> Path:
    ended = _ended(study)
    if not any(trial.state.name == "COMPLETE" for trial in ended):
        raise SearchRefused("every run ended in steps that gave no numbers: there is nothing to choose from")
    own = next((trial.value for trial in ended if set(trial.params.values()) == {1.0}), None)
    best = {
        **study.user_attrs,
        "factors": study.best_params,
        "worth": round(study.best_value, 4),
        "worth_of_the_recipe": own and round(own, 4),
        "runs": len(ended),
        "broken_off": sum(trial.value is None or trial.state.name == "PRUNED" for trial in ended),
    }
    path.write_text(json.dumps(best, indent=2) + "\n")
    return path
