"""`radnode-train PIPELINE --data DIR --out DIR [--minutes N] [--resume]`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

RECIPES = {p.stem for p in (Path(__file__).parent / "recipes").glob("[a-z]*.py")}
app = typer.Typer(add_completion=False, help="From a folder of images to weights.")


@app.command()
def train(
    pipeline: Annotated[str, typer.Argument(help="name of a recipe, e.g. covid_ct")],
    data: Annotated[Path, typer.Option(help="folder with images/ and dicom/")],
    out: Annotated[Path, typer.Option(help="where checkpoint, log and weights go")],
    minutes: Annotated[float, typer.Option(help="wall-clock budget")] = 40.0,
    resume: Annotated[bool, typer.Option(help="go on from the checkpoint in --out")] = False,
) -> None:
    """Train the recipe of PIPELINE for a number of minutes."""
    if pipeline not in RECIPES:
        raise typer.BadParameter(f"no recipe {pipeline}; there are {', '.join(sorted(RECIPES))}")
    recipe = importlib.import_module(f"training.recipes.{pipeline}")
    recipe.run(data, out, minutes=minutes, resume=resume)


def main() -> None:
    """The console entry."""
    app()


if __name__ == "__main__":
    main()
