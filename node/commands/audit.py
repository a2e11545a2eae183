"""`radnode audit`: verify the chain, export it, look at its end."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer
from rich.table import Table

from node.commands.options import Config, Json, house, wide_console

app = typer.Typer(help="The audit trail: verify, export, tail.", no_args_is_help=True)


@app.command()
def verify(config: Config = None, as_json: Json = False) -> None:
    """Follow the chain; name the first record that was altered, removed or reordered. Exit status 1 when there is one."""
    verdict = house(config, quiet=True).trail.verify()
    if as_json:
        typer.echo(json.dumps({"intact": verdict.intact, "records": verdict.records, "seq": verdict.seq, "reason": verdict.reason}))
    elif verdict.intact:
        typer.echo(f"The audit trail is intact: {verdict.records} records, head {verdict.head}.")
    else:
        typer.echo(f"The audit trail is BROKEN at record {verdict.seq}: {verdict.reason}.")
    raise typer.Exit(0 if verdict.intact else 1)


@app.command()
def export(
    config: Config = None,
    format: Annotated[Literal["xml", "json"], typer.Option("--format", help="AuditMessage of PS3.15 A.5, or lines of JSON.")] = "xml",
) -> None:
    """Print every record in order."""
    for record in house(config, quiet=True).trail.export(format):
        typer.echo(record)


@app.command()
def tail(
    config: Config = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1)] = 20,
    study: Annotated[str, typer.Option("--study", help="Only this study (clean Study Instance UID).")] = "",
    as_json: Json = False,
) -> None:
    """The last records."""
    trail = house(config, quiet=True).trail
    records = trail.of_study(study)[-count:] if study else trail.tail(count)
    if as_json:
        typer.echo(json.dumps(records, indent=1))
        return
    table = Table("#", "when", "event", "who", "with", "study", "what", "outcome", box=None, pad_edge=False)
    for record in records:
        table.add_row(
            str(record["seq"]),
            record["at"][:19],
            str(record.get("event", "")),
            record.get("who", ""),
            record.get("peer", ""),
            record.get("study", "")[-12:],
            record.get("what", ""),
            str(record.get("outcome", "")),
        )
    wide_console().print(table)
