"""`radnode bundles promote | shadow | retire | rollback | compare`: which version of a pipeline runs, and how two of them agree."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from node.assembly import House, os_user
from node.commands.desks import compared
from node.commands.evaluate import evaluate
from node.commands.options import Config, Json, house
from node.commands.verdicts import readers_in_words
from node.ledger.comparison import Comparison
from node.ledger.verdicts import Rates
from node.shelf import Standing

Name = Annotated[str, typer.Argument(help="The pipeline, e.g. covid_ct.")]
Version = Annotated[str, typer.Argument(help="One of those that `radnode bundles list` shows.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the ledger and in the audit trail. It must name nobody.")]


def promote(name: Name, version: Version, reason: Reason, config: Config = None) -> None:
    """Make VERSION the active one: its results go home from the next study on. The one before retires."""
    house(config, quiet=True).shelf.promote(name, version, who=os_user(), reason=reason)
    typer.echo(f"{name} {version} is active")


def shadow(name: Name, version: Version, reason: Reason, config: Config = None) -> None:
    """Let VERSION run beside the active one: its results are kept, nothing is delivered."""
    house(config, quiet=True).shelf.shadow(name, version, who=os_user(), reason=reason)
    typer.echo(f"{name} {version} runs in the shadow")


def retire(name: Name, version: Version, reason: Reason, config: Config = None) -> None:
    """Let VERSION run no more. What it found stays."""
    house(config, quiet=True).shelf.retire(name, version, who=os_user(), reason=reason)
    typer.echo(f"{name} {version} is retired")


def rollback(name: Name, reason: Reason, config: Config = None) -> None:
    """Make the version active again that was active before the present one."""
    version = house(config, quiet=True).shelf.rollback(name, who=os_user(), reason=reason)
    typer.echo(f"{name} {version} is active again")


def compare_(name: Name, a: Version, b: Version, config: Config = None, as_json: Json = False) -> None:
    """Over the series that versions A and B have both read: the same decision? How far apart are the probabilities (B minus A)?"""
    home = house(config, quiet=True)
    found = compared(home, name, a, b)
    rates = home.verdicts.rates()
    readers = {version: rates.get((name, version), Rates()) for version in (a, b)}
    if as_json:
        said = {version: {**asdict(one), "agreement": one.agreement} for version, one in readers.items()}
        typer.echo(json.dumps({**asdict(found), "readers": said}, indent=1))
        return
    typer.echo("\n".join([_in_words(found, a, b), *(readers_in_words(version, one) for version, one in readers.items())]))


def join(app: typer.Typer) -> None:
    """Give `radnode bundles` these commands, and `evaluate`."""
    for command in (promote, shadow, retire, rollback):
        app.command()(command)
    app.command("compare")(compare_)
    app.command("evaluate")(evaluate)


# --- saying how things stand --------------------------------------------------------------------------------------------
def standing(home: House) -> dict[str, dict[str, Any]]:
    """`<pipeline>/<version>` → state, since when, by whom and why. Without `since` nobody has decided."""
    return {f"{name}/{one.installed.version}": _facts(one) for name, versions in home.shelf.all().items() for one in versions}


def in_words(facts: dict[str, Any]) -> str:
    """`active since 2026-03-01 09:30 by os:eve: better on thin slices`."""
    if not facts["since"]:
        return f"{facts['state']:8} nobody has decided"
    by = f" by {facts['by']}" if facts["by"] else ""
    trouble = f" NOT RUN: {facts['trouble']}" if facts["trouble"] else ""
    return f"{facts['state']:8} since {facts['since'][:16].replace('T', ' ')}{by}: {facts['reason']}{trouble}"


def _facts(one: Standing) -> dict[str, Any]:
    decided = one.decided
    return {
        "state": one.state.value,
        "since": decided.at.isoformat() if decided else "",
        "by": decided.who if decided else "",
        "reason": decided.reason if decided else "",
        "trouble": one.trouble,
    }


def _in_words(found: Comparison, a: str, b: str) -> str:
    lines = [
        f"{found.series} series read by both {a} and {b}; {found.analysed} analysed by both, {found.only_a} by {a} only, {found.only_b} by {b} only"
    ]
    if found.analysed:
        lines.append(f"the same headline in {found.same_label} of {found.analysed}")
    for one in found.findings:
        apart = "no probabilities"
        if one.mean_difference is not None and one.mean_distance is not None:
            apart = f"probability {one.mean_difference:+.3f} on average ({one.mean_distance:.3f} apart)"
        lines.append(f"  {one.name}: the same decision in {one.agree} of {one.read}, {apart}")
    return "\n".join(lines)
