"""`radnode status`: studies, jobs, deliveries, disk, at a glance."""

from __future__ import annotations

import json

import typer
from rich.table import Table

from node.commands.options import Config, Json, house, wide_console


def status(config: Config = None, as_json: Json = False) -> None:
    """Studies, jobs, deliveries, quarantine and disk of this node."""
    facts = house(config, quiet=True).overview()
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    console = wide_console()
    console.print("studies    ", "  ".join(f"{count} {state.lower()}" for state, count in facts["studies"].items()))
    console.print("proven     ", f"{facts['proven']} by a leak scan with a signed report")
    console.print("jobs       ", "  ".join(f"{count} {state.lower()}" for state, count in facts["jobs"].items()))
    console.print("disk       ", f"{facts['free_mb']} MB above the watermark")
    console.print("rules      ", facts["rules"], " pipelines", ", ".join(f"{n} {v}" for n, v in facts["pipelines"].items()))
    if facts["shadows"]["pipelines"] or any(facts["shadows"]["jobs"].values()):
        jobs = "  ".join(f"{count} {state.lower()}" for state, count in facts["shadows"]["jobs"].items())
        beside = ", ".join(f"{name} {' '.join(found)}" for name, found in facts["shadows"]["pipelines"].items()) or "none now"
        console.print("shadows    ", f"{beside}; of the jobs {jobs}, delivered nowhere")
    if facts["deliveries"]:
        table = Table("destination", "queued", "sent", "confirmed", "refused", "latest trouble", box=None)
        for name, one in facts["deliveries"].items():
            counts = [str(one[state]) for state in ("QUEUED", "SENT", "CONFIRMED", "REFUSED")]
            table.add_row(name if one["configured"] else f"{name} (not in the settings)", *counts, one["reason"])
        console.print(table)
    for version, rates in facts["verdicts"].items():
        agreed = f"{rates['agreement']:.0%} accepted" if rates["agreement"] is not None else "nobody has answered"
        console.print(f"readers     {version}: {agreed} of {rates['total']} answers")
    for refused in facts["quarantine"]:
        console.print(f"quarantine  {refused['study']} revision {refused['revision']}: {refused['reason']}")
