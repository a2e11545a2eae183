"""Options that several commands take, and how each reads the settings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import config
from node import log
from node.assembly import House

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLE_RULES = Path(__file__).parents[2] / "rules.example.yaml"

Config = Annotated[Path | None, typer.Option("--config", help="Settings file (YAML); default: RADNODE_CONFIG.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]


def wide_console() -> Console:
    """Standard output for tables: as wide as the terminal, and wide enough where nobody watches."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=160)


def house(file: Path | None, *, quiet: bool = False) -> House:
    """The node that the settings describe. Nothing is opened yet. `quiet`: only warnings, for commands that a person watches."""
    settings = config.load(file)
    log.set_up("WARNING" if quiet and settings.log_level == "INFO" else settings.log_level)
    return House(settings)
