"""`radnode-train PIPELINE --data DIR --out DIR [--minutes N] [--resume] [--search N | --tuned FILE]`."""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from training import processes
from training.course import Course, Diverged, RunRefused, Stopped

RECIPES = {p.stem for p in (Path(__file__).parent / "recipes").glob("[a-z]*.py")}
AGAIN_S = 2.0  #: between two signals that mean two: torchrun hands on what its processes have had from the terminal as well
app = typer.Typer(add_completion=False, help="From a folder of images to weights.")


def _minutes(value: float) -> float:
    if not (0 < value < math.inf):
        raise typer.BadParameter("a number above 0 is expected")
    return value


@app.command()
def train(
    pipeline: Annotated[str, typer.Argument(help="name of a recipe, e.g. covid_ct")],
    data: Annotated[Path, typer.Option(help="folder with images/ and dicom/")],
    out: Annotated[Path, typer.Option(help="where checkpoint, log and weights go")],
    minutes: Annotated[float, typer.Option(help="wall-clock budget; of each run of a search", callback=_minutes)] = 40.0,
    resume: Annotated[bool, typer.Option(help="go on from the checkpoint in --out; a search always goes on")] = False,
    search: Annotated[int, typer.Option(help="look for better values in so many short runs: --out/best.json", min=0)] = 0,
    tuned: Annotated[Path | None, typer.Option(help="best.json of a search: train with those values")] = None,
    patience: Annotated[
        int, typer.Option(help="end when so many evaluations in a row are no better, with the best weights; 0: never", min=0)
    ] = 0,
) -> None:
    """Train the recipe of PIPELINE for a number of minutes. With torchrun, several processes train together.

    Ctrl-C and SIGTERM leave a checkpoint after the step that is being taken, from which --resume goes on; a second Ctrl-C ends at once.
    """
    if pipeline not in RECIPES:
        raise typer.BadParameter(f"no recipe {pipeline}; there are {', '.join(sorted(RECIPES))}")
    if search:
        _search(pipeline, data, out, runs=search, minutes=minutes)
    else:
        _train(pipeline, data, out, minutes=minutes, resume=resume, factors=_factors(tuned, pipeline), patience=patience)


def _train(pipeline: str, data: Path, out: Path, *, minutes: float, resume: bool, factors: dict[str, float], patience: int) -> None:
    left = [*out.glob("checkpoint.pt"), *out.glob("*/checkpoint.pt")]
    if left and not resume:
        raise typer.BadParameter(f"{left[0].parent} holds a run: --resume goes on with it; for a new one take another --out")
    if resume and not left:
        typer.echo(f"radnode-train: {out} holds no checkpoint: the run begins anew", err=True)
    out.mkdir(parents=True, exist_ok=True)
    recipe = importlib.import_module(f"training.recipes.{pipeline}")
    with processes.together(), _asked_to_stop() as stopped:
        aim = getattr(recipe, "AIM", ())
        course = Course(minutes=minutes, resume=resume, factors=factors, stopped=stopped, patience=patience, aim=aim)
        recipe.run(data, out, course)
        if factors:
            notes = out / "notes.json"  # the model card's metadata takes them from here
            processes.write(notes, json.dumps((json.loads(notes.read_text()) if notes.exists() else {}) | {"tuned": factors}, indent=2))


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM has come; the next one, a little later, does what it always does."""
    asked: list[float] = []

    def ask(number: int, _: object) -> None:
        asked.append(time.monotonic())
        if asked[-1] - asked[0] > AGAIN_S:
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)
        elif len(asked) == 1:
            os.write(2, b"radnode-train: stopping after this step\n")

    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    for one in before:
        signal.signal(one, ask)
    try:
        yield lambda: bool(asked)
    finally:
        for one, was in before.items():
            signal.signal(one, was)


def _search(pipeline: str, data: Path, out: Path, *, runs: int, minutes: float) -> None:
    from training.search import SearchRefused, search

    if processes.count() > 1:
        raise typer.BadParameter("a search is one process: start it without torchrun")
    recipe = importlib.import_module(f"training.recipes.{pipeline}")
    try:
        best = search(
            pipeline,
            lambda folder, course: recipe.run(data, folder, course),
            out,
            trials=runs,
            minutes=minutes,
            aim=getattr(recipe, "AIM", ()),
        )
    except SearchRefused as why:
        raise typer.BadParameter(str(why)) from None
    except ModuleNotFoundError as missing:
        if missing.name != "optuna":
            raise
        raise typer.BadParameter("a search needs Optuna: pip install -r requirements-training.txt") from None
    typer.echo(best.read_text(), nl=False)


def _factors(tuned: Path | None, pipeline: str) -> dict[str, float]:
    from training.search import BestUnreadable, factors_in

    if tuned is None:
        return {}
    try:
        return factors_in(tuned, pipeline)
    except BestUnreadable as why:
        raise typer.BadParameter(str(why)) from None


def main() -> None:
    """The console entry: what a person can put right is said in a line, everything else in full."""
    from training.datasets.table import DataRefused

    status: int | str | None = 0
    try:
        app()
    except SystemExit as end:
        status = end.code
    except (DataRefused, RunRefused, Diverged, Stopped, OSError) as why:
        typer.echo(f"radnode-train: {why}", err=True)
        status = 1
    processes.leave(status)


if __name__ == "__main__":
    main()
