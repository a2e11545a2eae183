"""`radnode keys`: change the master key while the node runs; look at its generations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from node.commands.options import Config, Json, house

app = typer.Typer(help="The vault's keys: rotate, list.", no_args_is_help=True)


@app.command()
def rotate(
    new_key_file: Annotated[
        Path | None, typer.Option("--new-key-file", exists=True, dir_okay=False, help="The new master key: 32 bytes in base64.")
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Wrap every key with a new master key, online; called again after an interruption, it carries on.

    The default key file is replaced. Where the settings name another file or give the key themselves, change it there afterwards, and
    call this once more: then the old key opens nothing any more.
    """
    home = house(config, quiet=True)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        step = bar.add_task("wrapping keys", total=None)
        done = home.rotate_keys(new_key_file, lambda count, of: bar.update(step, completed=count, total=of))
    if as_json:
        typer.echo(json.dumps({"old": done.old, "new": done.new, "rewrapped": done.rewrapped, "finished": done.finished}))
    elif done.finished:
        typer.echo(f"{done.rewrapped} keys wrapped anew. Generation {done.new} of the master key is in use; {done.old} opens nothing here.")
        typer.echo("Keep the old key apart, for backups of the database that are older; without such backups, destroy it.")
    else:
        typer.echo(f"{done.rewrapped} keys wrapped anew with generation {done.new} of the master key.")
        typer.echo("Now give the node the new key (vault.master_key_file or RADNODE_VAULT__MASTER_KEY), start it again where the key comes")
        typer.echo(
            "from the environment, and call `radnode keys rotate` once more with the new key: until then the old one still opens all."
        )


@app.command("list")
def list_(config: Config = None, as_json: Json = False) -> None:
    """Generations of the master key, and how many keys each wraps. Never a key."""
    found = house(config, quiet=True).key_generations()
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for one in found:
        typer.echo(f"generation {one['generation']}  {one['state']:9} since {one['since']}  {one['keys']} keys")
