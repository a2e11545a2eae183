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

from config import Settings
from node.assembly import House


class AnyName(frozenset[str]):
    """Holds every name: rules are read, nothing is sent."""

    def __contains__(self, name: object) -> bool:
        return True


@contextmanager
def own_house(given: Settings, *, known_destinations: Collection[str] | None = None, **changes: Any) -> Iterator[House]:
    """The given settings with an empty data folder, SQLite, and a key of its own; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="radnode-") as folder:
        key = SecretStr(base64.b64encode(os.urandom(32)).decode())  # gone with the process
        own = {
            "data_dir": Path(folder) / "data",
            "database": type(given.database)(),
            "vault": type(given.vault)(master_key=key, segment_mb=16),
            "orthancs": {},
        }
        home = House(given.model_copy(update={**own, **changes}), known_destinations=known_destinations)
        yield home
        home.close()
