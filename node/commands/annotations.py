"""`radnode annotations export | worth-labelling`: readers' answers as data to learn from, and which studies to ask about next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from node.assembly import now, os_user
from node.audit import Action, AuditEvent, Event
from node.commands.options import Config, Json, house
from node.commands.verdicts import Pipeline, Since, utc

app = typer.Typer(help="Readers' answers as training data: export, worth-labelling.", no_args_is_help=True)


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", file_okay=False, help="A folder for this label set; every call adds a version: v1, v2, …")],
    format: Annotated[str, typer.Option("--format", help="coco, voc, seg or folder.")] = "folder",
    pipeline: Pipeline = "",
    since: Since = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write a version of a label set from what readers said. De-identified; recorded in the audit trail."""
    from node.annotations.examples import gather
    from node.annotations.label_sets import export as write

    home = house(config, quiet=True)
    gathered = gather(home.verdicts.heard(pipeline=pipeline, since=utc(since)), home.told)
    chosen = {"pipeline": pipeline, "since": since.isoformat() if since else ""}
    what = f"exported as {format} into a label set"
    home.trail.record_all(
        AuditEvent(event=Event.EXPORT, action=Action.READ, who=os_user(), peer="folder", study=study, patient=patient, what=what)
        for study, patient in sorted({(one.study, one.pseudonym) for one in gathered.examples})
    )
    done = write(gathered.examples, format, out, at=now(), chosen=chosen, left_out=gathered.left_out)
    if as_json:
        typer.echo(json.dumps({"folder": str(done.folder), "new": done.new, **done.manifest}, indent=1))
        return
    if not done.new:
        typer.echo(f"Nothing has changed since version {done.version}: {done.folder}")
        return
    changes = ", ".join(f"{len(names)} {what}" for what, names in done.manifest["since_last"].items())
    typer.echo(
        f"Version {done.version}: {len(gathered.examples)} images of {sum(done.manifest['patients'].values())} patients in {done.folder}"
    )
    typer.echo(f"files: {changes}; {', '.join(f'{count} {what}' for what, count in done.manifest['counts'].items())}")
    for reason, count in gathered.left_out.items():
        typer.echo(f"left out: {count} results, {reason}")


@app.command("worth-labelling")
def worth_labelling(
    pipeline: Pipeline = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many.")] = 20,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Results that nobody has answered, the most uncertain first: near a threshold, spread over dropout, or versions that disagree."""
    found = house(config, quiet=True).worth_labelling(pipeline)[:limit]
    if as_json:
        names = ("job", "study", "series", "pipeline", "version")
        facts = [{**{name: getattr(one.read, name) for name in names}, "score": one.score, "reasons": one.reasons} for one in found]
        typer.echo(json.dumps(facts, indent=1))
        return
    for one in found:
        typer.echo(
            f"{one.score:.2f}  {one.read.study}  {one.read.pipeline} {one.read.version}  {'; '.join(one.reasons)}  (job {one.read.job})"
        )
    if not found:
        typer.echo("No result is uncertain, or all were answered.")
