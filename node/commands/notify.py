"""`radnode notify`: do notices arrive, and what would they say now?"""

from __future__ import annotations

import json

import typer

from node.assembly import now
from node.commands.options import Config, Json, house
from node.errors import NodeError, NoticeNotSent
from node.post import Letter

app = typer.Typer(help="Notices by mail and webhook: test the channels, list what is wrong.", no_args_is_help=True)


@app.command("test")
def try_out(config: Config = None) -> None:
    """Send a test to every channel of the settings and say what became of it."""
    post = house(config, quiet=True).post
    if not post.channels:
        raise NodeError("nobody is told: name `smtp` or `webhooks` below `notifications` in the settings")
    failed = 0
    for channel in post.channels:
        try:
            channel.send(Letter(node=post.node, at=now(), notices=(), link=post.link))
            typer.echo(f"{channel.name}: sent")
        except NoticeNotSent as why:
            failed += 1
            typer.echo(f"{channel.name}: not sent, {why.detail}")
    if failed:
        raise typer.Exit(1)


@app.command("list")
def listing(config: Config = None, as_json: Json = False) -> None:
    """What is wrong now, in the words of a notice. Verifies the audit trail."""
    home = house(config, quiet=True)
    verdict = home.trail.verify()
    troubles = home.troubles((verdict.intact, verdict.seq), now()).troubles
    if as_json:
        typer.echo(
            json.dumps([{"kind": one.kind.value, "key": one.key, "count": one.count, "text": one.text} for one in troubles], indent=1)
        )
        return
    for one in troubles:
        typer.echo(one.text)
    if not troubles:
        typer.echo("Nothing is wrong.")
