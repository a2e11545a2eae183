"""`radnode destinations`: where results go, and what is accepted there."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from pydicom.uid import UID
from rich.table import Table

from node.commands.conformance import name_of
from node.commands.options import Config, Json, house, wide_console
from node.errors import DestinationUnknown
from node.profiles import SOP_CLASSES

app = typer.Typer(help="Where results go: list, probe, forget.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="A name below `destinations` in the settings.")]


@app.callback()
def destinations() -> None:
    """Where results go."""


@app.command("list")
def list_(config: Config = None, as_json: Json = False) -> None:
    """The destinations of the settings, and when each was last asked what it accepts."""
    home = house(config, quiet=True)
    kinds = {name: str(keys["kind"]) for name, keys in home.settings.destinations.items() if name in home.destinations}
    probed = home.probes.all()
    if as_json:
        asked = {name: {"at": one.at.isoformat(), "accepted": one.accepted} for name, one in probed.items()}
        typer.echo(json.dumps([{"name": name, "kind": kind, "probed": asked.get(name)} for name, kind in kinds.items()], indent=1))
        return
    table = Table("destination", "kind", "asked", "gets", "in place of its profile", "segmentations", box=None)
    for name, kind in kinds.items():
        one = probed.get(name)
        [(_, roles)], said = home.kinds_for([name])
        table.add_row(name, kind, f"{one.at:%Y-%m-%d %H:%M}" if one else "never", ", ".join(roles), "; ".join(said), home.packing(name))
    wide_console().print(table)


@app.command()
def probe(name: Name, config: Config = None, as_json: Json = False) -> None:
    """Ask NAME which of the node's objects it accepts, and remember it: what it does not take is sent in another form, or not at all.

    Exit status 1 when it does not answer; what was remembered stays then.
    """
    home = house(config, quiet=True)
    if name not in home.destinations:
        raise DestinationUnknown(f"known: {', '.join(home.destinations) or 'none'}")
    accepted = home.probe(name, [uid for classes in SOP_CLASSES.values() for uid in classes])
    if as_json:
        typer.echo(
            json.dumps({"destination": name, "accepted": accepted and {uid: list(found) for uid, found in accepted.items()}}, indent=1)
        )
        return
    if accepted is None:
        typer.echo(f"{name} can't be asked beforehand; what it refuses is seen when it is sent.")
        return
    table = Table("object", "SOP Class", "transfer syntaxes", box=None)
    for role, classes in SOP_CLASSES.items():
        for uid in classes:
            syntaxes = ", ".join(UID(one).name for one in accepted.get(uid, ())) or "not accepted"
            table.add_row(role.value, name_of(uid), syntaxes)
    wide_console().print(table)


@app.command()
def forget(name: Name, config: Config = None) -> None:
    """Forget what NAME accepted: it gets everything again that its profile names."""
    house(config, quiet=True).forget_probe(name)
    typer.echo(f"{name} is taken to accept everything")
