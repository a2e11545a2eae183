"""Who may come in: every route is closed unless it is named here as open; a bearer token (RFC 6750) or the cookie of a session opens it."""

from __future__ import annotations

import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from urllib.parse import quote, urlsplit

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.audit import Action, AuditEvent, Event, Outcome, Record, Type
from node.ledger.sessions import Signed
from node.ledger.tokens import Bearer, Role
from node.web.problems import Problem, document

CheckToken = Callable[[str], Bearer | None]  #: whose good token it is, else None
CheckSession = Callable[[str, bool], Signed | None]  #: (session id, somebody is there) → who has it, else None

HEALTH = frozenset({"/healthz", "/readyz"})
CHOOSE_PASSWORD, SIGN_IN, SIGN_OUT, STYLE = "/password", "/login", "/logout", "/ui/style.css"
ELSEWHERE, ELSEWHERE_BACK = "/login/oidc", "/login/oidc/back"
FILM, VUE = "/ui/film.js", "/ui/vue.js"
READING = "/read/"  #: below it each path holds a signed link, which its room checks
OPEN = frozenset({SIGN_IN, STYLE, ELSEWHERE, ELSEWHERE_BACK, FILM, VUE})  #: for those who are not in yet, where people may sign in
SOCKETS = "/_nicegui_ws/"

Knock = Callable[[Scope], Awaitable[Response | None]]  #: a door's own check; None lets in
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="radnode"'}  #: RFC 6750 section 3

_READING = {"GET", "HEAD", "OPTIONS"}
_AN_EVENT = '42["event"'  #: Engine.IO message, Socket.IO event: a person did something; all else goes on by itself
_LOAD_AGAIN = '42["run_javascript",{"code":"window.location.reload()"}]'
_GONE = 4401

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class Doorkeeper:
    """ASGI middleware: no token and no session, no route, and no byte of the body is read.

    Puts into the scope: `radnode.roles` (also one that was taken for a while), `radnode.who` ("user:NAME" or "token:NAME"),
    `radnode.still` (for `still`) and, for a session, `radnode.signed`. `own_checks` are doors with a secret of their own, by path; `open_paths`
    are for those who are not in yet.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        check_token: CheckToken,
        own_checks: Mapping[str, Knock],
        alarm: Alarm,
        check_session: CheckSession | None = None,
        open_paths: Collection[str] = (),
    ) -> None:
        self._app, self._check_token, self._own_checks, self._alarm = app, check_token, own_checks, alarm
        self._check_session, self._open = check_session, frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            refusal = await self._check(scope)
            await (self._app if refusal is None else refusal)(scope, receive, send)

    async def _check(self, scope: Scope) -> Response | None:
        path = scope["path"]
        if path in HEALTH:
            return None
        if own := self._own_checks.get(path):
            return await own(scope)
        if token := bearer(scope):
            return await self._by_token(scope, token)
        open = path in self._open or (bool(self._open) and path.startswith(READING))
        by_cookie = open or session_of(scope)
        if by_cookie and scope["method"] not in _READING and not same_origin(scope):
            return document(403, "This request came from another site. Open the node's own page and try again.")
        signed = await self._signed(scope, active=not path.startswith("/_nicegui"))
        if signed:
            _remember(scope, signed)
            scope["radnode.still"] = partial(self._has_session, scope)
        if open:
            return None
        if signed is None:
            return self._stay_out(scope)
        if path.startswith(SOCKETS):
            return document(404, "This is for web sockets only.")
        if signed.must_change and path not in {CHOOSE_PASSWORD, SIGN_OUT}:
            if _wants_a_page(scope):
                return RedirectResponse(CHOOSE_PASSWORD, 303)
            return document(403, "Choose a password of your own first, at /password.")
        return None

    async def _by_token(self, scope: Scope, token: str) -> Response | None:
        found = await run_in_threadpool(self._check_token, token)
        if found is None:
            await run_in_threadpool(self._alarm.raise_it, peer_of(scope), "wrong token")
            return _no_token("The token is not known or was disabled.")
        if not found.reaches(scope["method"], scope["path"]):
            return document(403, f"This token is for {', '.join(found.scopes)} only. Make another one with `radnode tokens create`.")
        scope.update({"radnode.roles": found.roles, "radnode.who": f"token:{found.name}", "radnode.still": partial(self._knows, token)})
        return None

    async def _knows(self, token: str) -> bool:
        return await run_in_threadpool(self._check_token, token) is not None

    async def _has_session(self, scope: Scope) -> bool:
        return await self._signed(scope, active=False) is not None

    def _stay_out(self, scope: Scope) -> Response:
        if self._check_session is None or not _wants_a_page(scope):
            return _no_token("This route needs a token.")
        there = scope["path"] + (f"?{query}" if (query := scope["query_string"].decode("latin-1")) else "")
        return RedirectResponse(SIGN_IN if there == "/" else f"{SIGN_IN}?next={quote(there, safe='')}", 303)

    async def _signed(self, scope: Scope, *, active: bool) -> Signed | None:
        id = session_of(scope)
        return await run_in_threadpool(self._check_session, id, active) if id and self._check_session else None

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A page talks to the node: for a session only, from the page's own origin, and no longer than the session lasts."""
        signed = await self._signed(scope, active=False) if scope["path"].startswith(SOCKETS) and same_origin(scope) else None
        if signed is None or signed.must_change:
            await receive()
            await send({"type": "websocket.close", "code": _GONE})
            return
        _remember(scope, signed)

        async def while_signed_in() -> Message:
            message = await receive()
            if message["type"] == "websocket.receive":
                active = (message.get("text") or "").startswith(_AN_EVENT)
                if await self._signed(scope, active=active) is None:
                    await send({"type": "websocket.send", "text": _LOAD_AGAIN})
                    await send({"type": "websocket.close", "code": _GONE})
                    return {"type": "websocket.disconnect", "code": _GONE}
            return message

        await self._app(scope, while_signed_in, send)


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
    """A dependency of a route: one of these roles, or administrator. Every route says it; `needs(*Role)` is anybody who is in."""
    enough = frozenset({*roles, Role.ADMIN})

    async def allowed(request: Request) -> None:
        if not may(request.scope, enough):
            raise Problem(403, f"This needs the role {' or '.join(sorted(enough))}.")

    allowed.roles = enough  # type: ignore[attr-defined]
    return allowed


def may(scope: Scope, roles: Collection[Role]) -> bool:
    """Whether who came has one of these roles."""
    return not frozenset(roles).isdisjoint(scope.get("radnode.roles", ()))


async def still(scope: Scope) -> bool:
    """Whether the token or the session that opened would open now; for answers that go on for long."""
    good: bool = await scope["radnode.still"]()
    return good


def who_of(scope: Scope) -> str:
    """Whom the doorkeeper let in, as the audit trail names it: `user:NAME` of a session, or `token:NAME`."""
    return str(scope["radnode.who"])


def bearer(scope: Scope) -> str:
    """The token of the Authorization header, or empty."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else ""
    return ""


def same_secret(given: str, wanted: str) -> bool:
    """Compared in a time that says nothing about how near it is. `given` is a header's: a letter for each byte, and Orthanc sends UTF-8."""
    return hmac.compare_digest(given.encode("latin-1"), wanted.encode())


def peer_of(scope: Scope) -> str:
    """The network address of the caller."""
    return str(scope["client"][0]) if scope.get("client") else ""


def session_of(scope: Scope) -> str:
    """The session's id from its cookie, or empty."""
    return HTTPConnection(scope).cookies.get(cookie_name(scope), "")


def cookie_name(scope: Scope) -> str:
    """Over TLS the browser itself sees to it that nobody but this host sets the cookie (RFC 6265bis 4.1.3.2)."""
    return "__Host-radnode" if secure(scope) else "radnode"


def secure(scope: Scope) -> bool:
    """Whether the request came over TLS, here or at a proxy on this machine."""
    return scope.get("scheme") in {"https", "wss"}


def same_origin(scope: Scope) -> bool:
    """Whether a page of this very node sent the request. A browser says so in one of two headers; who says nothing is no page."""
    headers = HTTPConnection(scope).headers
    if (site := headers.get("sec-fetch-site")) is not None and site != "same-origin":
        return False
    if origin := headers.get("origin"):
        return _host_of(origin) == headers.get("host", "")
    return site == "same-origin"


def _host_of(origin: str) -> str | None:
    """Host and port; None when it is no origin that a browser would send."""
    try:
        return urlsplit(origin).netloc
    except ValueError:  # a bracket that nobody closed
        return None


def _remember(scope: Scope, signed: Signed) -> None:
    scope.update({"radnode.roles": signed.roles, "radnode.who": f"user:{signed.name}", "radnode.signed": signed})


def _wants_a_page(scope: Scope) -> bool:
    return scope["method"] in {"GET", "HEAD"} and "text/html" in HTTPConnection(scope).headers.get("accept", "")


def _no_token(why: str) -> Response:
    return document(401, f"{why} Send `Authorization: Bearer TOKEN`; `radnode tokens create` makes a token.", headers=CHALLENGE)
