"""`radnode tokens`: bearer tokens of programs that call the node."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from node.commands.options import Config, Json, house

app = typer.Typer(help="Bearer tokens for the HTTP interface.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Whose token it is.")]


@app.command()
def create(
    name: Name,
    role: Annotated[str, typer.Option("--role", help="admin, integrator, radiologist, auditor or privacy.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help='Only this path and what lies below it, e.g. /dicom-web or "GET /metrics"; may be given again.'),
    ] = None,
    config: Config = None,
) -> None:
    """Make a token and print it. It is shown once; only its digest is kept."""
    typer.echo(house(config, quiet=True).tokens.create(name, role, scope or ()))


@app.command("list")
def list_(config: Config = None, as_json: Json = False) -> None:
    """All tokens, without the tokens."""
    found = house(config, quiet=True).tokens.list()
    if as_json:
        facts = [
            {"name": t.name, "role": t.role, "created_at": t.created_at.isoformat(), "disabled": t.disabled, "scopes": t.scopes}
            for t in found
        ]
        typer.echo(json.dumps(facts, indent=1))
        return
    for token in found:
        scopes = f"  only {', '.join(token.scopes)}" if token.scopes else ""
        typer.echo(f"{token.name:24} {token.role:12} since {token.created_at:%Y-%m-%d}{scopes}{'  disabled' if token.disabled else ''}")


@app.command()
def disable(name: Name, config: Config = None) -> None:
    """From now on the token opens nothing."""
    house(config, quiet=True).tokens.disable(name)
    typer.echo(f"{name} opens nothing any more.")
