"""One process of a node, started by the supervisor: `radnode part receiver|gateway|web|worker`.

Each part imports what it needs and no other part's libraries: a node is six processes, and all of them start at once.
"""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import closing
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from node import log
from node.assembly import AnyName, House
from node.commands.options import EXAMPLE_RULES, Config, house
from node.ledger.database import is_away
from node.supervisor import end_with_parent, say_ready, say_where_when_asked

if TYPE_CHECKING:
    from uvicorn import Server

AWAY_S = 2.0  #: until the worker asks a ledger again that did not answer

_log = log.get(__name__)


def part(
    name: Annotated[str, typer.Argument()],
    config: Config = None,
    fd: Annotated[int, typer.Option("--fd", help="Inherited listening socket of the DICOM port.")] = -1,
    tls_fd: Annotated[int, typer.Option("--tls-fd", help="The same of the port that speaks TLS.")] = -1,
    number: Annotated[int, typer.Option("--number")] = 0,
) -> None:
    """One process of a node. For the supervisor."""
    end_with_parent()
    say_where_when_asked()
    home = house(config)
    match name:
        case "receiver":
            _receive(home, number, *(socket.socket(fileno=one) if one >= 0 else None for one in (fd, tls_fd)))
        case "gateway":
            _until_the_end(home)
        case "web":
            _serve_web(home)
        case "worker":
            _work(House(home.settings, known_destinations=AnyName()))  # whoever only computes need not know where results go
        case _:
            raise typer.BadParameter(f"{name} is no part of a node")


def _receive(home: House, number: int, plain: socket.socket | None, secure: socket.socket | None) -> None:
    from node import scp

    say_ready()
    scp.serve(plain, home.door(f"receiver-{number}"), secure=secure)


class _EndAsked:
    """Whether SIGTERM or SIGINT has come. A handler may not set an Event that its own thread waits for: the two can block each other."""

    def __init__(self) -> None:
        self._signals: SimpleQueue[int] = SimpleQueue()
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, lambda number, _: self._signals.put(number))

    def wait(self, seconds: float | None = None) -> bool:
        """True once one has come, False after `seconds`."""
        try:
            self._signals.get(timeout=seconds)
        except Empty:
            return False
        return True


def _until_the_end(home: House) -> None:
    from node.gateway import Gateway
    from node.housekeeping import Housekeeping

    ending = _EndAsked()
    chores = Housekeeping(Gateway(home).chores())
    with home.noted("gateway"):
        chores.start()
        say_ready()
        ending.wait()
        chores.close()
        home.close()


def _serve_web(home: House) -> None:
    from node.commands.web_parts import web_parts, web_server
    from node.visits import Visits
    from node.web.app import create_app

    visits = Visits(home, EXAMPLE_RULES)
    server = web_server(home, create_app(web_parts(home, visits)))
    _EndAsked()  # uvicorn raises the signal once more when it has ended, and what comes after it must still be done
    threading.Thread(target=_tell_when_started, args=(server,), daemon=True).start()
    with closing(visits):
        server.run()


def _tell_when_started(server: Server) -> None:
    while not server.started:
        threading.Event().wait(0.05)
    say_ready()


def _work(home: House) -> None:
    ending = _EndAsked()
    with home.runner() as runner:
        say_ready()
        away = False
        while not ending.wait(AWAY_S if away else 0.1):
            try:
                runner.run_waiting()
                away = False
            except SQLAlchemyError as why:  # the models stay warm, and what they are at goes on
                if not is_away(why):
                    raise
                if not away:
                    _log.error("the ledger is away; jobs wait for it", extra={"where": log.where_it_failed(why)})
                away = True
