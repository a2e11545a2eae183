"""`radnode purge`: make a study unreadable and forget it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from node.commands.options import Config, house
from node.domain import CleanUid
from node.errors import NotThere
from node.gateway import Gateway


def purge(
    study: Annotated[list[str], typer.Option("--study", help="Clean Study Instance UID, as `radnode status` and the logs show it.")],
    config: Config = None,
) -> None:
    """Delete the study's key, its sealed instances, its clean copy and its results here. Objects already delivered stay where they are."""
    home = house(config, quiet=True)
    uids = [CleanUid(uid) for uid in study]
    if set(uids) - {one.study for one in home.arrivals.of(uids)}:  # a folder is deleted by this name
        raise NotThere("nothing was purged; give the clean UID, not the one of the archive")
    with ExitStack() as written:
        for uid in uids:
            written.enter_context(home.by_hand("purge asked for", study=uid))
        Gateway(home).purge(*uids)
    typer.echo(f"{len(study)} {'studies' if len(study) > 1 else 'study'} purged.")
