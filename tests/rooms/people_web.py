"""The web room with people at its door, behind a real server on loopback."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from argon2 import PasswordHasher
from fastapi import FastAPI

from node.assembly import House, now
from node.ledger.database import open_ledger, sqlite_url
from node.ledger.people import People
from node.ledger.reception import Reception
from node.ledger.sessions import Sessions
from node.ledger.tokens import Role, Tokens
from node.ledger.trail import Trail
from node.web.app import WebParts, create_app
from tests.ports import free_port

PASSWORD = "four words in a row"


def nothing(*_: Any) -> Any:
    raise AssertionError("no study comes in here")


class Office:
    """A node's web room with its ledger, and clients of it."""

    def __init__(self, folder: Path, home: House | None = None, **parts: Any) -> None:
        """With the ledger of a house, or with one of its own in `folder`."""
        self.engine = home.ledger if home else open_ledger(sqlite_url(folder / "ledger.sqlite"))
        self.trail = home.trail if home else Trail(self.engine, now)
        self.tokens = Tokens(self.engine)
        people = People(self.engine, now, max_failures=3, hasher=PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        self.reception = Reception(people, Sessions(self.engine, now), self.trail.record)
        self._parts: dict[str, Any] = {
            "accept_instance": nothing,
            "head": nothing,
            "spool": nothing,
            "hook": nothing,
            "bearer": self.tokens.bearer,
            "record": self.trail.record,
            "ready": lambda: {"ledger": True},
            "reception": self.reception,
            **parts,
        }
        self.people: dict[str, str] = {}
        self._clients: list[httpx.Client] = []

    def with_parts(self, **parts: Any) -> Office:
        """More of what assembly hands in."""
        self._parts |= parts
        return self

    def opens(self) -> Office:
        self.parts = WebParts(**self._parts)
        self.app: FastAPI = create_app(self.parts)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(self.app, host="127.0.0.1", port=self.port, access_log=False, log_config=None, server_header=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def closes(self) -> None:
        for client in self._clients:
            client.close()
        self._server.should_exit = True
        self._thread.join(10)

    def session(self, role: Role) -> str:
        """A session of a person with that role, who has a password of their own."""
        if role not in self.people:
            given = self.reception.add(f"a-{role}", role, who="os:test")
            self.people[role] = self.reception.change_password(f"a-{role}", given, PASSWORD)
        elif not self.reception.signed(self.people[role]):
            self.people[role] = self.reception.sessions.open(f"a-{role}")
        return self.people[role]

    def browser(self, role: Role | None = None, *, session: str = "") -> httpx.Client:
        """Asks as a browser does, with the session's cookie where there is one."""
        client = httpx.Client(base_url=self.url, headers={"Accept": "text/html,*/*"}, timeout=30)
        if id := session or (self.session(role) if role else ""):
            client.cookies.set("radnode", id, domain="127.0.0.1")
        self._clients.append(client)
        return client
