"""`radnode quarantine`: look at refused studies, mask by hand, release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from node.commands.options import Config, Json, house

app = typer.Typer(help="Studies that were refused: list, show, mask, release.", no_args_is_help=True)

Study = Annotated[str, typer.Argument(help="Clean Study Instance UID, as `list` shows it.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the audit trail. No names.")]


@app.command("list")
def listing(config: Config = None, as_json: Json = False) -> None:
    """What was refused, and why."""
    refused = house(config, quiet=True).overview()["quarantine"]
    if as_json:
        typer.echo(json.dumps(refused, indent=1))
        return
    for one in refused:
        typer.echo(f"{one['study']} revision {one['revision']} {one['kind']}: {one['reason']}")
    if not refused:
        typer.echo("Nothing is in quarantine.")


@app.command()
def show(
    study: Study,
    out: Annotated[Path, typer.Option("--out", file_okay=False, help="A folder for PNG files. They show what the pixels show, names too.")],
    instance: Annotated[str, typer.Option("--instance", help="Only this one (clean SOP Instance UID).")] = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write every image as it came and as it would leave, and print the boxes that would be masked. Recorded in the audit trail."""
    shown = house(config, quiet=True).show_refused(study, out, instance)
    if as_json:
        typer.echo(json.dumps(shown, indent=1))
        return
    table = Table("instance", "columns x rows", "frames", "would be masked: X,Y,W,H", "trouble", box=None, pad_edge=False)
    for one in shown:
        boxes = " ".join(",".join(map(str, box)) for box in one["boxes"])
        table.add_row(one["instance"], f"{one['columns']} x {one['rows']}", str(one["frames"]), boxes, one["trouble"])
    Console(soft_wrap=True).print(table)


@app.command()
def mask(
    study: Study,
    instance: Annotated[str, typer.Option("--instance", help="Clean SOP Instance UID.")],
    box: Annotated[list[str], typer.Option("--box", help="X,Y,W,H in pixels from the upper left. May be given again and again.")],
    reason: Reason = "text seen by a person",
    config: Config = None,
) -> None:
    """Paint over boxes at the next de-identification, in every frame. Nothing leaves before `release`."""
    boxes = [_box(one) for one in box]
    house(config, quiet=True).mask_by_hand(study, instance, boxes, reason)
    typer.echo(f"{len(boxes)} {'boxes' if len(boxes) > 1 else 'box'} will be masked; `radnode quarantine release` sends the study on.")


@app.command()
def release(
    study: Study,
    reason: Annotated[str, typer.Option("--reason", help="Why it may go on, for the audit trail. No names.")],
    config: Config = None,
) -> None:
    """Send a study on its way again. Where the detector is not sure, what was masked by hand is all that is masked: look first."""
    house(config, quiet=True).release_refused(study, reason)
    typer.echo("Released; a running node takes it from here.")


def _box(text: str) -> tuple[int, int, int, int]:
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text} is no box; give X,Y,W,H in pixels, e.g. 0,0,200,24") from None
    if min(x, y) < 0 or min(width, height) < 1:
        raise typer.BadParameter(f"{text} is no box; X and Y start at 0, W and H at 1")
    return x, y, width, height
