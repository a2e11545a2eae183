"""`radnode reveal`: who a study belongs to, with a reason, audited; requests and approvals where a second person must agree."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from node.commands.options import Config, Json, house

app = typer.Typer(help="Who is this? Audited, with a reason.", invoke_without_command=True)


@app.callback()
def reveal(
    context: typer.Context,
    study: Annotated[str, typer.Option("--study", help="Clean Study Instance UID.")] = "",
    reason: Annotated[str, typer.Option("--reason", help="Why you must know. Kept in the audit trail; name no patient.")] = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Who a study belongs to. Written down in the audit trail before it is shown."""
    if context.invoked_subcommand:
        return
    if not study:
        raise typer.BadParameter("name the study with --study")
    answer = house(config, quiet=True).reveal_study(study, reason)
    if answer.waiting:
        typer.echo(f"Request {answer.waiting.id} waits for another person: `radnode reveal approve {answer.waiting.id}`,")
        typer.echo(f"until {answer.waiting.expires_at:%Y-%m-%d %H:%M} UTC. Then ask again.")
        raise typer.Exit(1)
    if as_json:
        typer.echo(json.dumps(dict(answer.who), indent=1, ensure_ascii=False))
        return
    for keyword, value in answer.who.items():
        typer.echo(f"{keyword:17} {value}")


@app.command()
def requests(config: Config = None, as_json: Json = False) -> None:
    """Requests that wait for a second person, or were approved and not used."""
    found = house(config, quiet=True).reveal.requests()
    if as_json:
        names = ("id", "state", "purpose", "study", "requester", "reason", "approver")
        facts = [{**{name: getattr(one, name) for name in names}, "expires_at": one.expires_at.isoformat()} for one in found]
        typer.echo(json.dumps(facts, indent=1))
        return
    for one in found:
        typer.echo(
            f"{one.id}  {one.state:8}  {one.purpose} {one.study}  by {one.requester} until {one.expires_at:%Y-%m-%d %H:%M}: {one.reason}"
        )


@app.command()
def approve(id: Annotated[str, typer.Argument(help="The request.")], config: Config = None) -> None:
    """Agree to another person's request. Who asked can't approve."""
    request = house(config, quiet=True).approve_reveal(id)
    typer.echo(f"{request.requester} may {request.purpose} once, until {request.expires_at:%Y-%m-%d %H:%M} UTC.")
