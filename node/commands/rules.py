"""`radnode rules`: is a rules file valid, and what does it say?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from node.commands.options import Config, house
from node.router import read_rules

app = typer.Typer(help="The routing rules: check.", no_args_is_help=True)


@app.callback()
def rules() -> None:
    """The routing rules."""


@app.command()
def check(file: Annotated[Path, typer.Argument(help="A rules file.")], config: Config = None) -> None:
    """Read the file as the node would; name the line and the known words when something is wrong. Exit status 2 then."""
    home = house(config, quiet=True)
    found = read_rules(file, pipelines=home.needs, destinations=home.settings.destinations)
    for rule in found.rules:
        typer.echo(f"line {rule.line}: {rule.name} → {rule.run} → {', '.join(rule.send_to) or 'nowhere'}")
    typer.echo(f"{len(found.rules)} rules are valid.")
