"""TCP ports for the servers of the tests."""

from __future__ import annotations

import itertools
import os
import random
import re
import socket

# Below the range that Linux takes ports for outgoing connections from (32768 and up), so that no client takes one between
# the asking and the listening; a slice of its own for each process of a parallel run.
FIRST, PER_PROCESS, PROCESSES = 20_000, 1_500, 8

_process = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0) % PROCESSES
_slice = range(FIRST + _process * PER_PROCESS, FIRST + (_process + 1) * PER_PROCESS)
_ports = itertools.islice(itertools.cycle(_slice), random.randrange(PER_PROCESS), None)


def free_port() -> int:
    """A loopback port that nobody listens on; the same one is not given again for a long while."""
    for port in itertools.islice(_ports, PER_PROCESS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")
