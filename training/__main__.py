"""`radnode-train PIPELINE --data DIR --out DIR [--minutes N] [--resume] [--search N | --tuned FILE]`."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Annotated

import typer

from training import processes
from training.course import Course

RECIPES = {p.stem for p in (Path(__file__).parent / "recipes").glob("[a-z]*.py")}
app = typer.Typer(add_completion=False, help="From a folder of images to weights.")


@app.command()
def train(
    pipeline: Annotated[str, typer.Argument(help="name of a recipe, e.g. covid_ct")],
    data: Annotated[Path, typer.Option(help="folder with images/ and dicom/")],
    out: Annotated[Path, typer.Option(help="where checkpoint, log and weights go")],
    minutes: Annotated[float, typer.Option(help="wall-clock budget; of each run of a search")] = 40.0,
    resume: Annotated[bool, typer.Option(help="go on from the checkpoint in --out; a search always goes on")] = False,
    search: Annotated[int, typer.Option(help="look for better values in so many short runs: --out/best.json", min=0)] = 0,
    tuned: Annotated[Path | None, typer.Option(help="best.json of a search: train with those values")] = None,
) -> None:
    """Train the recipe of PIPELINE for a number of minutes. With torchrun, several processes train together."""
    if pipeline not in RECIPES:
        raise typer.BadParameter(f"no recipe {pipeline}; there are {', '.join(sorted(RECIPES))}")
    recipe = importlib.import_module(f"training.recipes.{pipeline}")
    if search:
        _search(pipeline, data, out, runs=search, minutes=minutes)
        return
    factors = _factors(tuned, pipeline)
    with processes.together():
        recipe.run(data, out, Course(minutes=minutes, resume=resume, factors=factors))
        if factors:
            notes = out / "notes.json"  # the model card's metadata takes them from here
            processes.write(notes, json.dumps((json.loads(notes.read_text()) if notes.exists() else {}) | {"tuned": factors}, indent=2))


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
    """The console entry."""
    app()


if __name__ == "__main__":
    main()
