"""The front door: `radnode COMMAND`. Exit status 0 done, 1 the work failed, 2 wrong usage or settings."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from node.commands import (
    audit,
    bundles,
    demo,
    explain,
    folders,
    keys,
    parts,
    process,
    proof,
    purge,
    quarantine,
    reveal,
    rules,
    serve,
    status,
    tokens,
)
from node.errors import NodeError, RulesInvalid, SettingsInvalid

app = typer.Typer(
    name="radnode",
    help="A DICOM inference node: studies in, results back into the patient's own study. Research use only.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
for command in (demo.demo, serve.serve, serve.gateway, serve.worker, process.process, explain.explain, status.status, purge.purge):
    app.command()(command)
app.command()(folders.deidentify)
app.command()(folders.reidentify)
app.command("deidentification")(folders.table)
app.add_typer(rules.app, name="rules")
app.add_typer(bundles.app, name="bundles")
app.add_typer(audit.app, name="audit")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(tokens.app, name="tokens")
app.add_typer(keys.app, name="keys")
app.add_typer(proof.app, name="proof")
app.add_typer(reveal.app, name="reveal")
app.command("part", hidden=True)(parts.part)


def main() -> None:
    """Run the command; a failure that the node knows becomes one sentence and an exit status."""
    try:
        app()
    except NodeError as why:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"radnode: {why}", markup=False)
        sys.exit(2 if isinstance(why, SettingsInvalid | RulesInvalid) else 1)


if __name__ == "__main__":
    main()
