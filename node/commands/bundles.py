"""`radnode bundles`: the models that are installed, whether they are intact, and another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from node.bundle import Bundle
from node.commands import bundle_versions
from node.commands.bundles_add import add
from node.commands.options import Config, Json, house
from node.errors import NodeError
from node.guests import allowed

app = typer.Typer(help="Model bundles: add, list, verify, and which version of each pipeline runs.", no_args_is_help=True)
bundle_versions.join(app)
app.command()(add)


@app.command("list")
def list_(config: Config = None, as_json: Json = False) -> None:
    """Every bundle: pipeline, version, digest, licence; its state, since when, by whom and why."""
    home = house(config, quiet=True)
    standing = bundle_versions.standing(home)
    found = [facts | standing.get(facts["folder"], {}) for facts in map(_facts, home.bundle_folders())]
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for facts in found:
        if "error" in facts:
            typer.echo(f"{facts['folder']:28} BROKEN: {facts['error']}")
        else:
            typer.echo(f"{facts['pipeline']:20} {facts['version']:8} {facts['digest'][:12]}  {facts['title']} [{facts['licence']}]")
            typer.echo(f"{'':20} {bundle_versions.in_words(facts)}")


@app.command()
def verify(config: Config = None, as_json: Json = False) -> None:
    """Compare every file of every bundle with its SHA256SUMS. Exit status 1 when one differs."""
    found = [_facts(folder) for folder in house(config, quiet=True).bundle_folders()]
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        for facts in found:
            typer.echo(f"{facts['folder']}: {facts.get('error', 'intact')}")
        if not found:
            typer.echo("No bundles are installed.")
    raise typer.Exit(1 if any("error" in facts for facts in found) else 0)


def _facts(folder: Path) -> dict[str, Any]:
    name = f"{folder.parent.name}/{folder.name}"
    try:
        bundle = Bundle.open(folder)
        if bundle.sidecar:
            allowed.check(bundle)
    except NodeError as why:
        return {"folder": name, "error": str(why)}
    return {
        "folder": name,
        "pipeline": folder.parent.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "title": bundle.title,
        "labels": list(bundle.labels),
        "licence": bundle.licence.get("name", ""),
        "non_commercial": bool(bundle.licence.get("non_commercial")),
        "intended_use": dict(bundle.intended_use),
    }
