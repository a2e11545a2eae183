"""`radnode tokens`: bearer tokens of programs that call the node."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from node.audit import Action, Type
from node.commands.options import Config, Json, house
from node.errors import TokenInvalid
from node.ledger.tokens import Role, in_words

app = typer.Typer(help="Bearer tokens for the HTTP interface.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Whose token it is.")]


@app.command()
def create(
    name: Name,
    role: Annotated[list[Role], typer.Option("--role", help="May be given again.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help='Only this path and what lies below it, e.g. /dicom-web or "GET /metrics"; may be given again.'),
    ] = None,
    config: Config = None,
) -> None:
    """Make a token and print it. It is shown once; only its digest is kept."""
    home, scopes = house(config, quiet=True), scope or []
    roles = in_words(home.tokens.check(name, *role, scopes=scopes))
    changed = Type.USER_SECURITY_ATTRIBUTES_CHANGED
    with home.by_hand(f"token {name} added", changed, Action.CREATE, role=roles, scopes=", ".join(scopes)):
        token = home.tokens.create(name, *role, scopes=scopes)
    typer.echo(token)


@app.command("list")
def list_(config: Config = None, as_json: Json = False) -> None:
    """All tokens, without the tokens."""
    found = house(config, quiet=True).tokens.list()
    if as_json:
        facts = [
            {
                "name": token.name,
                "roles": [role for role in Role if role in token.roles],
                "created_at": token.created_at.isoformat(),
                "disabled": token.disabled,
                "scopes": token.scopes,
            }
            for token in found
        ]
        typer.echo(json.dumps(facts, indent=1))
        return
    for token in found:
        scopes = f"  only {', '.join(token.scopes)}" if token.scopes else ""
        typer.echo(
            f"{token.name:24} {in_words(token.roles):12} since {token.created_at:%Y-%m-%d}{scopes}{'  disabled' if token.disabled else ''}"
        )


@app.command()
def disable(name: Name, config: Config = None) -> None:
    """From now on the token opens nothing."""
    home = house(config, quiet=True)
    if name not in {one.name for one in home.tokens.list()}:
        raise TokenInvalid("there is no token of that name")
    with home.by_hand(f"token {name} disabled", Type.USER_SECURITY_ATTRIBUTES_CHANGED, Action.UPDATE):
        home.tokens.disable(name)
    typer.echo(f"{name} opens nothing any more.")
