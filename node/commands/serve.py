"""`radnode serve`, `gateway`, `worker`: the node as long-running processes."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time

import typer

from node import log, scp
from node.commands.options import Config, house
from node.errors import NodeError
from node.supervisor import Part, Supervisor, part_command

PORT_PATIENCE_S = 10
_SPEAKS = {"scp": "DICOM", "web": "HTTP"}

_log = log.get(__name__)


def serve(config: Config = None) -> None:
    """The whole node on this machine: receivers, gateway, web, workers. SIGTERM ends it; what is unfinished is carried on next time."""
    _run(config, gateway=True, worker=True)


def gateway(config: Config = None) -> None:
    """The half that knows names: C-STORE, HTTP, de-identification, delivery. Needs the vault, the keys and the clean volume."""
    _run(config, gateway=True, worker=False)


def worker(config: Config = None) -> None:
    """The half that runs models. Needs the clean volume and the ledger, and no key."""
    _run(config, gateway=False, worker=True)


def _listen(host: str, port: int, setting: str) -> socket.socket:
    """A port of the node. Parts of a node that was killed hold it for a moment longer."""
    end = time.monotonic() + PORT_PATIENCE_S
    while True:
        try:
            return scp.bind(host, port)
        except OSError as why:
            if why.errno != errno.EADDRINUSE or time.monotonic() > end:
                room = setting.partition(".")[0]
                words = f"the {_SPEAKS[room]} port can't be opened: {why.strerror}. Choose another {room}.host or {setting}"
                raise NodeError(words, port=port) from None
            time.sleep(0.2)


def _run(config: Config, *, gateway: bool, worker: bool) -> None:
    home = house(config)
    settings = home.settings
    where = {"RADNODE_CONFIG": str(config.absolute())} if config else {}
    parts, said = [], []
    if gateway:
        home.check()
        if not settings.scp.callers:
            _log.warning("nobody may send by C-STORE; name callers in `scp.callers`")
        if made := home.reception.first():
            typer.echo(f"First start: sign in as {made[0]} with the one-time password  {made[1]}  and choose another.", err=True)
        door = settings.scp
        asked = {"--fd": ("scp.port", door.port), "--tls-fd": ("scp.tls_port", door.tls_port)}
        listening = {option: _listen(door.host, port, setting) for option, (setting, port) in asked.items() if port}
        _listen(settings.web.host, settings.web.port, "web.port").close()  # opened anew by the web, which would begin again and again
        for listener in listening.values():
            os.set_inheritable(listener.fileno(), True)
        sockets = [word for option, listener in listening.items() for word in (option, str(listener.fileno()))]
        parts += [
            Part(
                name=f"receiver {n}",
                command=part_command("receiver", *sockets, "--number", str(n)),
                keep_fds=[listener.fileno() for listener in listening.values()],
                environment=where,
            )
            for n in range(door.processes)
        ]
        parts += [Part(name=name, command=part_command(name), environment=where) for name in ("gateway", "web")]
        said += [
            *([f"DICOM {door.ae_title}@{door.host}:{door.port}"] if door.port else []),
            *([f"DICOM over TLS {door.ae_title}@{door.host}:{door.tls_port}"] if door.tls_port else []),
            f"HTTP {'https' if settings.web.tls_cert_file else 'http'}://{settings.web.host}:{settings.web.port}",
        ]
    if worker:
        parts.append(Part(name="worker", command=part_command("worker"), environment=where))
        said.append(f"{settings.workers.count} worker{'s' if settings.workers.count > 1 else ''}")
    home.close()
    sys.exit(Supervisor(parts).run(on_ready=lambda: typer.echo(f"Radnode is ready: {', '.join(said)}")))
