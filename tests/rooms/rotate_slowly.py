"""A rotation in a process of its own, which says how far it is and waits for an answer: for tests that kill it.

Arguments: the database, the file of the old key, the file of the new one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from node.identified.masters import Masters
from node.identified.rotation import Rotation
from node.ledger.database import open_identified, sqlite_url


def say(what: str) -> None:
    print(what, flush=True)
    sys.stdin.readline()


engine = open_identified(sqlite_url(Path(sys.argv[1])))
rotation = Rotation(engine, Masters(engine, Path(sys.argv[2]).read_bytes()))
say("ready")
rotation.begin(Path(sys.argv[3]).read_bytes())
say("begun")
rotation.carry_on(lambda done, of: say(f"{done} of {of}"))
say("rewrapped")
while not rotation.finish():
    rotation.carry_on()
say("finished")
