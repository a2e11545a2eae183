"""`radnode users`: people who may sign in to the web pages."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from node.assembly import os_user
from node.commands.options import Config, Json, house
from node.ledger.tokens import Role, in_words, roles_named

app = typer.Typer(help="People who may sign in.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="The name to sign in with.")]


@app.command()
def add(
    name: Name,
    role: Annotated[list[Role], typer.Option("--role", help="May be given again.")],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Let somebody in and print a one-time password. It is shown once, and must be changed at the first sign-in."""
    _say(name, house(config, quiet=True).reception.add(name, *role, who=os_user()), as_json)


@app.command("list")
def list_(config: Config = None, as_json: Json = False) -> None:
    """Everybody."""
    found = house(config, quiet=True).reception.list()
    if as_json:
        facts = [
            {
                "name": person.name,
                "roles": [role for role in Role if role in person.roles],
                "created_at": person.created_at.isoformat(),
                "signed_in_at": person.signed_in_at.isoformat() if person.signed_in_at else None,
                "locked_until": person.locked_until.isoformat() if person.locked_until else None,
                "must_change_password": person.one_time,
                "disabled": person.disabled,
            }
            for person in found
        ]
        typer.echo(json.dumps(facts, indent=1))
        return
    for person in found:
        last = f"last here {person.signed_in_at:%Y-%m-%d %H:%M}" if person.signed_in_at else "never here"
        more = [
            word
            for word, so in (("disabled", person.disabled), ("locked", person.locked_until), ("one-time password", person.one_time))
            if so
        ]
        typer.echo(f"{person.name:24} {in_words(person.roles):12} {last:26} {', '.join(more)}".rstrip())


@app.command("role")
def give(
    name: Name,
    role: Annotated[list[Role], typer.Argument(help="One or several.")],
    config: Config = None,
) -> None:
    """Give somebody these roles in place of those until now; whoever is signed in with the name signs in again."""
    reception = house(config, quiet=True).reception
    reception.give(name, *role, who=os_user())
    typer.echo(f"{name} is {in_words(roles_named(role))} now.")


@app.command()
def disable(name: Name, config: Config = None) -> None:
    """Nothing opens for this person any more; whoever is signed in with the name is out at once."""
    house(config, quiet=True).reception.disable(name, who=os_user())
    typer.echo(f"{name} may not come in any more.")


@app.command()
def reset(name: Name, config: Config = None, as_json: Json = False) -> None:
    """A new one-time password, shown once; lets in again who was locked out or disabled."""
    _say(name, house(config, quiet=True).reception.reset(name, who=os_user()), as_json)


def _say(name: str, password: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"name": name, "one_time_password": password}))
    elif not password:
        typer.echo(f"{name} may come in again, by way of the identity provider.")
    else:
        typer.echo(f"{name} signs in once with the password  {password}  and then chooses another.")
