"""A node of its own in a temporary folder: for commands that take a study on its path without a socket."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError

from config import Settings
from node import log
from node.assembly import House, now
from node.ledger.versions import VersionDecisions

_log = log.get(__name__)


@contextmanager
def own_house(given: Settings, *, known_destinations: Collection[str] | None = None, **changes: Any) -> Iterator[House]:
    """The given settings with an empty data folder, SQLite, and a key of its own; gone afterwards.

    Of the node that the settings describe, where there is one, it takes the decisions about versions: what is active there runs here.
    """
    with tempfile.TemporaryDirectory(prefix="radnode-") as folder:
        key = SecretStr(base64.b64encode(os.urandom(32)).decode())  # gone with the process
        own = {
            "data_dir": Path(folder) / "data",
            "database": type(given.database)(),
            "vault": type(given.vault)(master_key=key, segment_mb=16),
            "orthancs": {},
        }
        node = House(given)
        decided = _decisions_of(node)
        home = House(given.model_copy(update={**own, **changes}), known_destinations=known_destinations, decided=decided)
        yield home
        home.close()
        node.close()


def _decisions_of(node: House) -> VersionDecisions | None:
    """None where there is no node, or none that this user may ask."""
    if not node.has_ledger:
        return None
    try:
        return VersionDecisions(node.ledger, now)
    except SQLAlchemyError:
        _log.warning("the node's ledger can't be read: the newest versions run, whatever was decided there")
        return None
