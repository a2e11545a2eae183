"""Who may come in: every route is closed unless it is named here as open, and a bearer token opens it (RFC 6750)."""

from __future__ import annotations

import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.audit import Action, AuditEvent, Event, Outcome, Record, Type
from node.ledger.tokens import Role
from node.web.problems import Problem, document

CheckToken = Callable[[str], str | None]  #: the role of a good token, else None

_HEALTH = {"/healthz", "/readyz"}

Knock = Callable[[Scope], Awaitable[Response | None]]  #: a door's own check; None lets in
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="radnode"'}  #: RFC 6750 section 3

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class Doorkeeper:
    """ASGI middleware: no token, no route, and no byte of the body is read. Puts the role into `scope["radnode.role"]`.

    `own_checks` are doors with a secret of their own, by path.
    """

    def __init__(self, app: ASGIApp, *, check_token: CheckToken, own_checks: Mapping[str, Knock], alarm: Alarm) -> None:
        self._app, self._check_token, self._own_checks, self._alarm = app, check_token, own_checks, alarm

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no web sockets yet: a session of the user interface will open them
        refusal = await self._check(scope)
        await (self._app if refusal is None else refusal)(scope, receive, send)

    async def _check(self, scope: Scope) -> Response | None:
        if scope["path"] in _HEALTH:
            return None
        if own := self._own_checks.get(scope["path"]):
            return await own(scope)
        token = bearer(scope)
        role = await run_in_threadpool(self._check_token, token) if token else None
        if role is None:
            if token:
                await run_in_threadpool(self._alarm.raise_it, peer_of(scope), "wrong token")
            why = "The token is not known or was disabled." if token else "This route needs a token."
            return document(401, f"{why} Send `Authorization: Bearer TOKEN`; `radnode tokens create` makes a token.", headers=CHALLENGE)
        scope["radnode.role"] = role
        return None


class Safe:
    """ASGI middleware, outermost: security headers, unless a route has set its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                more = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *((name, value) for name, value in more if name not in there)]
            await send(message)

        await self._app(scope, receive, safely)


class Alarm:
    """A wrong token or secret is an audit event: at most one a peer and minute, so that a storm fills no disk."""

    def __init__(self, record: Record, *, every_s: float = 60, clock: Callable[[], float] = time.monotonic) -> None:
        self._record, self._every_s, self._clock = record, every_s, clock
        self._last: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._lock = threading.Lock()

    def raise_it(self, peer: str, what: str) -> None:
        """Security Alert, Node Authentication (PS3.15 A.5.3.11)."""
        now = self._clock()
        with self._lock:
            if now - self._last.get((peer, what), -self._every_s) < self._every_s:
                return
            self._last[peer, what] = now
            if len(self._last) > 1000:
                self._last.popitem(last=False)
        failure = Outcome.SERIOUS_FAILURE
        event = Event.SECURITY_ALERT
        self._record(
            AuditEvent(event=event, type=Type.NODE_AUTHENTICATION, action=Action.EXECUTE, outcome=failure, peer=peer, what=f"HTTP: {what}")
        )


def needs(*roles: Role) -> Callable[[Request], Awaitable[None]]:
    """A dependency of a route: one of these roles, or administrator."""

    async def allowed(request: Request) -> None:
        if request.scope.get("radnode.role") not in {*roles, Role.ADMIN}:
            raise Problem(403, f"This needs a token of role {' or '.join(sorted({*roles, Role.ADMIN}))}.")

    return allowed


def bearer(scope: Scope) -> str:
    """The token of the Authorization header, or empty."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else ""
    return ""


def same_secret(given: str, wanted: str) -> bool:
    """Compared in a time that says nothing about how near it is."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def peer_of(scope: Scope) -> str:
    """The network address of the caller."""
    return str(scope["client"][0]) if scope.get("client") else ""
