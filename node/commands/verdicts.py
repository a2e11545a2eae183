"""`radnode verdicts list | show | link`: what readers say of the results."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from node.commands.options import Config, Json, house, wide_console
from node.domain import ReaderRegion
from node.errors import VerdictRefused
from node.ledger.verdicts import Heard, Rates

app = typer.Typer(help="What readers say of results: list, show, link.", no_args_is_help=True)

Pipeline = Annotated[str, typer.Option("--pipeline", help="Of this pipeline only.")]
Since = Annotated[datetime | None, typer.Option("--since", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="From this day on (UTC).")]


@app.command("list")
def listing(pipeline: Pipeline = "", since: Since = None, study: str = "", config: Config = None, as_json: Json = False) -> None:
    """Every answer, the oldest first, and how often readers agreed with each version."""
    home = house(config, quiet=True)
    found = home.verdicts.heard(pipeline=pipeline, study=study, since=utc(since))
    rates = {f"{name} {version}": one for (name, version), one in home.verdicts.rates().items() if pipeline in ("", name)}
    if as_json:
        agreement = {version: one.agreement for version, one in rates.items()}
        typer.echo(json.dumps({"verdicts": [facts(one) for one in found], "agreement": agreement}, indent=1))
        return
    if not found:
        typer.echo("No reader has answered.")
        return
    table = Table("verdict", "at", "pipeline", "finding", "opinion", "by", "Dice", "from", "reason", box=None, pad_edge=False)
    for one in found:
        said = one.verdict
        when, dice = f"{said.at:%Y-%m-%d %H:%M}", "" if said.dice is None else f"{said.dice:.2f}"
        about = said.finding or "(whole result)"
        version = f"{one.pipeline} {one.version}"
        table.add_row(said.id[:12], when, version, about, said.opinion, said.reader, dice, said.source, said.reason)
    wide_console().print(table)
    for version, all_of in rates.items():
        typer.echo(readers_in_words(version, all_of))


@app.command()
def show(verdict: Annotated[str, typer.Argument(help="Its id, or how it begins.")], config: Config = None) -> None:
    """One answer with all that is known of it, as JSON."""
    found = house(config, quiet=True).verdicts.get(verdict)
    if found is None:
        raise VerdictRefused("there is none of that id; `radnode verdicts list` shows them", id=verdict[:32])
    typer.echo(json.dumps(facts(found), indent=1))


@app.command()
def link(
    job: Annotated[str, typer.Argument(help="The job whose result is to be read.")],
    tracking_uid: Annotated[str, typer.Option("--finding", help="Tracking UID of one finding; without it the whole result.")] = "",
    config: Config = None,
) -> None:
    """A signed link to the reading page; without `web.address` in the settings only its token."""
    home = house(config, quiet=True)
    if home.jobs.get(job) is None:
        raise VerdictRefused("there is no job of that id", job=job[:64])
    typer.echo(home.reading_link(job, tracking_uid).url)


def readers_in_words(version: str, rates: Rates) -> str:
    """`readers of 1.0.0: 80 % accepted (8 of 10; 1 modified, 1 rejected, 0 missed), Dice 0.83`."""
    if rates.agreement is None:
        return f"readers of {version}: nobody has answered"
    dice = f", Dice {rates.mean_dice:.2f}" if rates.mean_dice is not None else ""
    counts = f"{rates.accept} of {rates.total}; {rates.modify} modified, {rates.reject} rejected, {rates.missed} missed"
    return f"readers of {version}: {100 * rates.agreement:.0f} % accepted ({counts}){dice}"


def facts(one: Heard) -> dict[str, Any]:
    """A verdict in JSON values."""
    said = one.verdict
    names = ("id", "job", "opinion", "source", "finding", "tracking_uid", "reader", "reason", "object", "dice")
    about = {name: str(getattr(one, name)) for name in ("study", "series", "pseudonym", "pipeline", "version", "digest")}
    return {**{name: getattr(said, name) for name in names}, "at": said.at.isoformat(), **about, "region": _where(said.region)}


def _where(region: ReaderRegion | None) -> dict[str, Any] | None:
    if region is None:
        return None
    outline = [list(point) for point in region.outline]
    file = str(region.file or "")
    return {"image": region.image, "frame": region.frame, "outline": outline, "file": file, "segment": region.segment}


def utc(moment: datetime | None) -> datetime | None:
    """What was typed without a zone means UTC."""
    return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC)
