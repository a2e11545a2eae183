"""`radnode rules`: check a file, see the revisions, publish, roll back, and what a draft would do."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from node.assembly import os_user
from node.commands.options import Config, Json, house, wide_console
from node.errors import RevisionRefused, RulesInvalid
from node.ledger.rule_revisions import Revision, RevisionState
from node.router import Rule, read_all, text_of_file
from node.rules.book import written_out
from node.rules.replay import Comparison

app = typer.Typer(help="The routing rules: check, list, show, diff, publish, approve, rollback, replay, watch.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="A rules file.")]
Number = Annotated[int, typer.Argument(help="A revision's number, as `radnode rules list` shows it.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept with the revision and in the audit trail. It must name nobody.")]
Base = Annotated[int | None, typer.Option("--base", help="The revision it was made from: refused when another one is active by now.")]


@app.callback()
def rules() -> None:
    """The routing rules."""


@app.command()
def check(file: File, config: Config = None, as_json: Json = False) -> None:
    """Read the file as the node would; name every line that is wrong, and the known words. Exit status 2 then."""
    home = house(config, quiet=True)
    found, wrong = read_all(text_of_file(file), pipelines=home.needs, destinations=home.settings.destinations, source=file.name)
    if as_json:
        problems = [{"line": why.line, "column": why.column, "what": why.what or why.detail} for why in wrong]
        typer.echo(json.dumps({"valid": not wrong, "rules": [rule.name for rule in found.rules], "problems": problems}, indent=1))
        raise typer.Exit(2 if wrong else 0)
    for why in wrong[:-1]:
        typer.echo(why.detail, err=True)
    if wrong:
        raise RulesInvalid(wrong[-1].detail)
    for rule in found.rules:
        typer.echo(f"line {rule.line}: {_in_words(rule)}")
    typer.echo(f"{len(found.rules)} rules are valid.")


@app.command("list")
def list_(config: Config = None, as_json: Json = False) -> None:
    """Every revision: who, when, why, and which one is active."""
    book = house(config, quiet=True).rule_book
    active = book.active()
    found = book.history()
    if as_json:
        typer.echo(json.dumps([_facts(one, active) for one in found], indent=1))
        return
    table = Table("revision", "state", "by", "when", "why", box=None)
    for one in found:
        table.add_row(str(one.number), _state(one, active), _by(one), f"{one.at:%Y-%m-%d %H:%M}", one.reason)
    wide_console().print(table if found else "no rules were published yet")


@app.command()
def show(
    number: Annotated[int, typer.Argument(help="A revision; without it the active one.")] = 0,
    config: Config = None,
) -> None:
    """A revision's text, under a line that says which one it is: change it, and `publish` knows what it was made from."""
    book = house(config, quiet=True).rule_book
    found = book.get(number) if number else book.active()
    if found is None:
        raise RevisionRefused("no rules were published yet")
    typer.echo(written_out(found), nl=False)


@app.command()
def diff(a: Number, b: Number, config: Config = None, as_json: Json = False) -> None:
    """What changes from revision A to revision B, line by line and rule by rule."""
    found = house(config, quiet=True).rule_book.diff(a, b)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
        return
    typer.echo("\n".join((*found.lines, f"{a} → {b}: {found.in_words}")))


@app.command()
def publish(file: File, reason: Reason, base: Base = None, config: Config = None) -> None:
    """Make the file the active rules: the running node routes the next study by them. Or propose it, where a second person approves."""
    home = house(config, quiet=True)
    made = home.rule_book.publish(text_of_file(file), who=os_user(), reason=reason, base=base)
    if made.state is RevisionState.PROPOSED:
        typer.echo(f"revision {made.number} is proposed: another person approves it with `radnode rules approve {made.number}`")
    else:
        typer.echo(f"revision {made.number} is active")


@app.command()
def approve(number: Number, config: Config = None) -> None:
    """A second person's word: the proposal becomes active."""
    made = house(config, quiet=True).rule_book.approve(number, who=os_user())
    typer.echo(f"revision {made.number} is active")


@app.command()
def rollback(number: Number, reason: Reason, base: Base = None, config: Config = None) -> None:
    """Make the rules of an earlier revision active again, as a new revision."""
    made = house(config, quiet=True).rule_book.rollback(number, who=os_user(), reason=reason, base=base)
    typer.echo(f"revision {made.number} is active: the rules of revision {number}")


@app.command()
def replay(
    file: File,
    days: Annotated[float, typer.Option("--days", min=0, help="Studies routed in so many days.")] = 30,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """What the file would have done with past studies, beside the rules in force. Nothing is run."""
    home = house(config, quiet=True)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        step = progress.add_task("asking the rules", total=None)
        found = home.replay(text_of_file(file), days, lambda done, of: progress.update(step, completed=done, total=of))
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=1))
        return
    typer.echo(_compared(found))


@app.command()
def watch(
    file: Annotated[Path | None, typer.Argument(help="A rules file.")] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why.")] = "to see what it would do",
    stop: Annotated[bool, typer.Option("--stop", help="Watch no draft any more.")] = False,
    config: Config = None,
) -> None:
    """Evaluate a draft beside the active rules, from the next study on; it does nothing."""
    book = house(config, quiet=True).rule_book
    if stop == (file is not None):
        raise typer.BadParameter("give a rules file, or --stop")
    if file is None:
        typer.echo(f"revision {book.stop_watching(who=os_user())} is not watched any more")
    else:
        made = book.watch(text_of_file(file), who=os_user(), reason=reason)
        typer.echo(f"revision {made.number} is watched: `radnode rules watched` lists what it would do otherwise")


@app.command()
def watched(
    number: Annotated[int, typer.Argument(help="A draft; without it the one that is watched now.")] = 0,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """What the watched draft would have done otherwise, the newest first."""
    home = house(config, quiet=True)
    draft = home.rule_book.get(number) if number else home.rule_book.watched()
    if draft is None:
        raise RevisionRefused("no draft is watched; begin with `radnode rules watch FILE`")
    studies, differences = home.watched.studies(draft.number), home.watched.of_draft(draft.number)
    if as_json:
        listed = [{**one, "at": one["at"].isoformat()} for one in differences]
        typer.echo(json.dumps({"draft": draft.number, "studies": studies, "differences": listed}, indent=1))
        return
    typer.echo(f"draft {draft.number}, {studies} studies: {len(differences)} differences")
    for one in differences:
        typer.echo(
            f"{one['at']:%Y-%m-%d %H:%M} {one['kind']:9} {one['rule']} → {one['pipeline']}: "
            f"{one['modality']} series {one['series']} ({one['because']})"
        )


# --- saying how things stand --------------------------------------------------------------------------------------------
def _in_words(rule: Rule) -> str:
    return f"{rule.name} → {', '.join(rule.run)} → {', '.join(rule.send_to) or 'nowhere'}"


def _state(one: Revision, active: Revision | None) -> str:
    if active is not None and one.number == active.number:
        return "active"
    return "watched" if one.watched else one.state.value


def _by(one: Revision) -> str:
    return f"{one.who}, approved by {one.approved_by}" if one.approved_by else one.who


def _facts(one: Revision, active: Revision | None) -> dict[str, Any]:
    facts = {name: value for name, value in asdict(one).items() if name != "text"}
    approved = one.approved_at.isoformat() if one.approved_at else None
    return {**facts, "at": one.at.isoformat(), "approved_at": approved, "active": active is not None and one.number == active.number}


def _compared(found: Comparison) -> str:
    """Each group in a line, and its examples below."""
    lines = [f"{found.studies} studies, {found.series} series"]
    for _, group in sorted(found.groups.items()):
        lines.append(group.in_words)
        lines += [f"    {one.kind:9} series {one.series} of study {one.study}: {one.because}" for one in group.examples[:5]]
    return "\n".join(lines if found.groups else [*lines, "the draft would have done the same"])
