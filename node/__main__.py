"""The front door: `radnode COMMAND`. Exit status 0 done, 1 the work failed, 2 wrong usage or settings."""

from __future__ import annotations

import ast
import gc
import sys
from importlib import import_module
from pathlib import Path

import typer

from node.errors import DatabaseAway, NodeError, PlaceUnusable, RulesInvalid, SettingsInvalid

#: each command's file below `commands/` and its name there; an `app` has commands of its own
COMMANDS = {
    "demo": "demo.demo",
    "serve": "serve.serve",
    "gateway": "serve.gateway",
    "worker": "serve.worker",
    "process": "process.process",
    "explain": "explain.explain",
    "status": "status.status",
    "purge": "purge.purge",
    "deidentify": "folders.deidentify",
    "reidentify": "folders.reidentify",
    "deidentification": "folders.table",
    "conformance": "conformance.conformance",
    "destinations": "destinations.app",
    "rules": "rules.app",
    "bundles": "bundles.app",
    "verdicts": "verdicts.app",
    "annotations": "annotations.app",
    "audit": "audit.app",
    "quarantine": "quarantine.app",
    "tokens": "tokens.app",
    "users": "users.app",
    "keys": "keys.app",
    "proof": "proof.app",
    "reveal": "reveal.app",
    "notify": "notify.app",
    "part": "parts.part",
}
HIDDEN = frozenset({"part"})


def front_door(asked: str = "") -> typer.Typer:
    """The program with the one command that was asked for: what a command does not need is not imported for it.

    Without one it can only say what commands there are, from their sources: to import all of them takes two seconds.
    """
    app = typer.Typer(
        name="radnode",
        help="A DICOM inference node: studies in, results back into the patient's own study. Research use only.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        rich_markup_mode=None,
    )
    app.callback()(lambda: None)  # without it, a program of one command takes no command
    for name in [asked] if asked in COMMANDS else COMMANDS:
        file, inside = COMMANDS[name].split(".")
        if name != asked:
            app.command(name, short_help=_first_sentence(file, inside), hidden=name in HIDDEN)(lambda: None)
            continue
        command = getattr(import_module(f"node.commands.{file}"), inside)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name, hidden=name in HIDDEN)(command)
    return app


def _first_sentence(file: str, inside: str) -> str:
    """What a command says of itself: in its docstring, or as `help` where it has commands of its own."""
    for part in ast.parse((Path(__file__).parent / "commands" / f"{file}.py").read_text(encoding="utf-8")).body:
        match part:
            case ast.FunctionDef(name=name) if name == inside:
                return (ast.get_docstring(part) or "").partition("\n")[0].partition(". ")[0].removesuffix(".") + "."
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(keywords=keywords)) if name == inside:
                return str(next(ast.literal_eval(keyword.value) for keyword in keywords if keyword.arg == "help"))
    raise LookupError(f"{inside} is not in {file}.py")


def main() -> None:
    """Run the command; a failure that the node knows becomes one sentence and an exit status."""
    gc.disable()  # what is loaded now stays: looking through it for garbage again and again is a tenth of a start
    try:
        door = front_door(next((word for word in sys.argv[1:] if word != "--"), ""))
        gc.freeze()
        gc.enable()
        door()
    except Exception as why:
        known = _known(why)
        if known is None:
            raise
        from rich.console import Console

        Console(stderr=True, soft_wrap=True, highlight=False).print(f"radnode: {known}", markup=False)
        sys.exit(2 if isinstance(known, SettingsInvalid | RulesInvalid) else 1)


def _known(why: Exception) -> NodeError | None:
    """A failure that the node has a sentence for: one of its own, what a database says of itself, or a place that can't be used."""
    if isinstance(why, NodeError):
        return why
    if isinstance(why, OSError) and why.strerror and not isinstance(why, ConnectionError | TimeoutError):  # those are of a network
        from node.log import where_it_failed

        return PlaceUnusable(": ".join([*_as_typed(why.filename), why.strerror]), where=where_it_failed(why))
    if "sqlalchemy" not in sys.modules:
        return None
    from node.ledger.database import said

    return DatabaseAway(words) if (words := said(why)) else None


def _as_typed(path: object) -> list[str]:
    """The word of the command line that names a path or a folder it lies in: what lies below may be called after a patient."""
    if not isinstance(path, str | Path):
        return []
    place = Path(path).absolute()
    return [word for word in sys.argv[1:] if word and place.is_relative_to(Path(word).absolute())][-1:]


if __name__ == "__main__":
    main()
