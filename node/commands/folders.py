"""`radnode deidentify`, `reidentify`: whole folders through the vault of this node; `deidentification`: the attribute table."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from node.commands.options import Config, Json, house

In = Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A tree of DICOM files.")]
Out = Annotated[Path, typer.Argument(file_okay=False, help="A folder for the result.")]


def deidentify(source: In, target: Out, config: Config = None, as_json: Json = False) -> None:
    """Take the names off every DICOM file of a tree. What the way back needs is sealed in the vault of the configured data folder."""
    _apart(source, target)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends it leaves no files that nobody searched
    folders = house(config, quiet=True).folders(workers=len(os.sched_getaffinity(0)))
    report = _with_progress("de-identifying", lambda progress: folders.deidentify(source, target, progress))
    _say(report, as_json)


def reidentify(
    source: In,
    target: Out,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the audit trail. Name no patient.")] = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Give names, original UIDs, dates and file names back to a tree that `deidentify` wrote. Recorded in the audit trail."""
    _apart(source, target)
    home = house(config, quiet=True)
    report = _with_progress("re-identifying", lambda progress: home.reidentify_folder(source, target, progress, reason))
    _say(report, as_json)


def table(config: Config = None) -> None:
    """Print what happens to each attribute: Table E.1-1 of PS3.15 with the options of these settings, by the code that does it."""
    typer.echo(house(config, quiet=True).deidentification_table())


def _apart(source: Path, target: Path) -> None:
    if source.resolve().is_relative_to(target.resolve()):  # what is below the target is a result, and is not read
        raise typer.BadParameter("the result can't go into the tree itself or a folder above it; name another folder")


def _with_progress(what: str, work: Callable[[Callable[[int, int], None]], dict[str, Any]]) -> dict[str, Any]:
    if not sys.stderr.isatty():
        return work(lambda done, total: None)
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        step = bar.add_task(what, total=None)
        return work(lambda done, total: bar.update(step, completed=done, total=total))


def _say(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report, indent=1))
    else:
        numbers = {what: count for what, count in report.items() if what != "format" and isinstance(count, int) and count}
        said = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in numbers.items()) or "no files"
        typer.echo(f"{said}; report.json says why" if report["refused"] else said)
    if report["refused"]:
        raise typer.Exit(1)
