"""A receiver process for the tests: `python -m tests.rooms.receiver FD CONFIG`, as the supervisor starts one."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from pathlib import Path

from sqlalchemy import Engine

from node import log, scp
from node.identified.clean_uids import CleanUids
from node.identified.keys import Keyring
from node.identified.vault import Vault
from node.ledger.database import open_identified, sqlite_url

MASTER_KEY = bytes(range(32))


def engine(data: Path) -> Engine:
    return open_identified(sqlite_url(data / "identified.db"))


def main() -> None:
    log.set_up()
    config = json.loads(sys.argv[2])
    data = Path(config["data"])
    keyring = Keyring(engine(data), MASTER_KEY)
    vault = Vault(Path(config.get("vault", data / "vault")), keyring, config.get("segment_bytes", 8 << 20))
    alerts = data / "alerts"

    def alert(calling_ae: str, called_ae: str, address: str, why: str) -> None:
        with alerts.open("a") as file:
            file.write(f"{calling_ae}|{called_ae}|{address}|{why}\n")

    scp.serve(
        socket.socket(fileno=int(sys.argv[1])),
        scp.Door(
            ae_title="RADNODE",
            callers=tuple(scp.CallerRule.of(*caller) for caller in config.get("callers", [["SCANNER", ["127.0.0.0/8"]]])),
            writer=vault.writer(config.get("name", "scp-0")),
            clean_uids=CleanUids(keyring.site_key("uids")),
            free_bytes=lambda: shutil.disk_usage(vault.folder).free - config.get("watermark", 0),
            alert=alert,
            **config.get("door", {}),
        ),
    )


if __name__ == "__main__":
    main()
