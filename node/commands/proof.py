"""`radnode proof`: what the leak scan said of a study, whether that still holds, and the key to check it with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from node.commands.options import Config, Json, house
from node.domain import CleanUid
from node.errors import ProofInvalid

#: the letters of Table E.1-1, in the words of PS3.15 E.1.1
ACTIONS = {
    "X": "removed",
    "Z": "emptied",
    "D": "replaced by a dummy, or by the pseudonym",
    "U": "replaced by a clean UID",
    "C": "cleaned: words of the vocabulary, moved dates, codes",
    "K": "kept, or kept because it is of the kind it must be",
}
app = typer.Typer(help="Signed reports of the leak scan: show, verify, key.", no_args_is_help=True)
What = Annotated[str, typer.Argument(help="Clean Study Instance UID; or a report (proof.json, report.json), or the folder it lies in.")]


@app.command()
def show(what: What, config: Config = None, as_json: Json = False) -> None:
    """What was searched for, what was found, which files the report is about."""
    home = house(config, quiet=True)
    report = json.loads(_report(what, home.proofs()).read_text())
    if as_json:
        typer.echo(json.dumps(report, indent=1))
        return
    _say(report)


@app.command()
def verify(
    what: What,
    key: Annotated[Path | None, typer.Option("--key", help="Public key (PEM) of the site that signed; default: this site's.")] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Check the signature and the digest of every file. Exit status 1 names the file that differs."""
    home = house(config, quiet=True)
    path = _report(what, {} if Path(what).exists() else home.proofs())
    checked = home.check_proof(path, key.read_bytes() if key else None)
    if as_json:
        facts = {"good": checked.good, "signed": checked.signed, "signer": checked.signer, "files": checked.files}
        typer.echo(json.dumps({**facts, "differ": checked.differ, "missing": checked.missing, "unnamed": checked.unnamed}, indent=1))
    else:
        typer.echo(f"signature  {'good' if checked.signed else 'BAD: the report was altered, or another key signed it'}")
        typer.echo(f"files      {checked.files} named, {checked.files - len(checked.differ) - len(checked.missing)} as they were")
        for name in checked.differ:
            typer.echo(f"DIFFERS    {name}")
        for name in checked.missing:
            typer.echo(f"MISSING    {name}")
        for name in checked.unnamed:
            typer.echo(f"not named  {name}: the report says nothing of it")
    raise typer.Exit(0 if checked.good else 1)


@app.command()
def key(config: Config = None) -> None:
    """Print this site's public key (PEM): whoever has it can check the site's reports."""
    typer.echo(house(config, quiet=True).signing_key.pem, nl=False)


def _report(what: str, known: dict[CleanUid, Path]) -> Path:
    path = Path(what)
    for found in (path, path / "proof.json", path / "report.json"):
        if found.is_file():
            return found
    if CleanUid(what) in known:
        return known[CleanUid(what)]
    raise ProofInvalid("no report is kept of this study, and no file of that name is there")


def _say(report: dict[str, Any]) -> None:
    scan = report.get("leak_scan") or {}
    pixels = scan.get("pixels") or {}
    if "study" in report:
        typer.echo(f"study      {report['study']} revision {report['revision']}, {report['instances']} instances")
    typer.echo(f"when       {report.get('made_at', '')}")
    typer.echo(f"hits       {scan.get('hits')}")
    typer.echo("searched   " + ", ".join(f"{count} {kind}" for kind, count in scan.get("searched_for", {}).items() if count))
    typer.echo(f"patterns   {scan.get('patterns')}")
    text, again = pixels.get("text"), pixels.get("looked_at") or []
    typer.echo(f"pixels     text {text}" + (f": {len(again)} files, {pixels['texts']} texts read" if text == "looked at again" else ""))
    typer.echo(f"files      {len(report.get('digests', {}))}")
    typer.echo(f"signed by  {report.get('signature', {}).get('key', 'nobody')}")
    typer.echo(f"not searched: {scan.get('not_searched')}")
    if done := report.get("done"):
        typer.echo("")
        for number, what in _done(done):
            typer.echo(f"{number:>9}  {what}")


def _done(done: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """The lines of the table of what was done."""
    for letter, number in done["actions"].items():
        yield number, f"{letter}  {ACTIONS.get(letter, '')}"
    for look, number in done["images"].items():
        yield number, f"images {look}"
    yield done["masked_boxes"], "boxes of text painted over"
    yield done["defaced"], "images without a face that had one"
