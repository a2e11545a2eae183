"""A command in this very process: what it says and exits with, without the seconds that a new process takes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from node.__main__ import front_door
from node.errors import NodeError, RulesInvalid, SettingsInvalid


@dataclass(frozen=True)
class Said:
    """As a finished process would be."""

    returncode: int
    stdout: str
    stderr: str


def radnode(*words: str | Path, config: Path) -> Said:
    """`radnode WORDS --config CONFIG`; exit status and messages as `node.__main__.main` gives them."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.getLogger("node").level)
    try:
        done = CliRunner().invoke(front_door(str(words[0])), [*map(str, words), "--config", str(config)], env={"RADNODE_CONFIG": None})
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        logging.getLogger("node").setLevel(before[2])
    if isinstance(done.exception, NodeError):
        status = 2 if isinstance(done.exception, SettingsInvalid | RulesInvalid) else 1
        return Said(status, done.stdout, f"{done.stderr}radnode: {done.exception}\n")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Said(done.exit_code, done.stdout, done.stderr)
