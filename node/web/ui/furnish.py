"""The pages put into the app: those of this folder, each behind its roles, and NiceGUI below all other routes."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from nicegui import Client, core, ui
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.web import pictures
from node.web.auth import STYLE, Alarm
from node.web.notes import Notes
from node.web.openid import OpenId
from node.web.parts import WebParts
from node.web.ui import (
    audit,
    destinations,
    emergency,
    label,
    login,
    models,
    openid,
    password,
    rules,
    story,
    studies,
    today,
    trial,
    users,
)
from node.web.ui.frame import frame
from node.web.ui.pages import Pages

#: each file with a `register(pages, parts)`, in the order of the navigation
ROOMS = (today, studies, story, trial, label, rules, models, destinations, audit, users)

_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#0b5f7a"/>'
    '<path d="M4 17h6l3-8 5 15 3-7h7" fill="none" stroke="#fff" stroke-width="2.5" stroke-linejoin="round" stroke-linecap="round"/></svg>'
)
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")  #: what a route may answer to
_SCRIPT = re.compile(rb"<script(?=[\s>])")


def furnish(app: FastAPI, parts: WebParts, alarm: Alarm) -> Pages:
    """Add the pages. NiceGUI has one app a process, so the pages of a second `furnish` take the place of the first one's."""
    assert parts.reception
    app.include_router(login.routes(parts.reception, alarm, parts.openid.label if parts.openid else ""))
    if parts.openid:
        app.include_router(openid.routes(OpenId(parts.openid), parts.reception, alarm, parts.address))
    app.include_router(password.routes(parts.reception))
    app.include_router(emergency.routes(parts.reception))

    @app.get(STYLE, include_in_schema=False)
    def style() -> Response:
        """The looks of every page."""
        return FileResponse(Path(__file__).with_name("style.css"), media_type="text/css", headers={"Cache-Control": "max-age=300"})

    if parts.light_box:
        app.include_router(pictures.routes(parts.light_box, Notes(parts.record)))
    for path in set(Client.page_routes.values()):
        core.app.remove_route(path)
    Client.page_routes.clear()
    pages = Pages(frame, parts.reception.sessions.by_key)
    for room in ROOMS:
        room.register(pages, parts)
    app.state.pages = pages
    _mount(app)
    return pages


def _mount(app: FastAPI) -> None:
    core.app.middleware_stack = None  # of an app before, in the same process
    core.app.user_middleware.clear()
    core.app.config.socket_io_js_transports = ["websocket"]
    core.app.config.quasar_config["loadingBar"]["skipHijack"] = (
        True  # its bar has no name that is read out; pages say themselves what goes on
    )
    ui.run_with(
        app,
        title="Radnode",
        favicon=_ICON,
        language="en-US",
        tailwind=False,
        gzip_middleware_factory=None,
        show_welcome_message=False,
        dark=None,
    )
    app.router.routes[-1] = Mount("/", app=GZipMiddleware(Guarded(core.app, app), minimum_size=1000))


class Guarded:
    """ASGI around NiceGUI: paths that are no page are not found, scripts need a nonce, a socket belongs to the session that its page was made for."""

    def __init__(self, app: ASGIApp, whole: FastAPI) -> None:
        self._app, self._whole = app, whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            if _same_session(scope):
                await self._app(scope, receive, send)
            else:
                await receive()
                await send({"type": "websocket.close", "code": 4403})
            return
        path = scope["path"]
        if path.startswith("/_nicegui/"):
            await self._app(scope, receive, send)
            return
        if _fits(core.app, scope):
            await self._app(scope, receive, _with_nonce(send))
            return
        allowed = [method for method in _METHODS if any(_fits(app, {**scope, "method": method}) for app in (self._whole, core.app))]
        raise HTTPException(405, headers={"Allow": ", ".join(allowed)}) if allowed else HTTPException(404)


def _fits(app: FastAPI, scope: Scope) -> bool:
    """A route of the app, not of one below it, answers this."""
    return any(route.matches(scope)[0] is Match.FULL for route in app.routes if not isinstance(route, Mount))


def _same_session(scope: Scope) -> bool:
    """A page that somebody else opened in this browser before must not be carried on with the next one's session."""
    ids = parse_qs(scope["query_string"].decode("latin-1")).get("client_id", [])
    known = [client for id in ids if (client := Client.instances.get(id))]
    signed = scope.get("radnode.signed")
    return all(getattr(client.request.scope.get("radnode.signed"), "key", None) == getattr(signed, "key", "") for client in known)


def _with_nonce(send: Send) -> Send:
    """Gives NiceGUI's own script elements a nonce, so that a script which came in with data does not run.

    `unsafe-eval` stays: Vue compiles templates in the browser, and NiceGUI sends handlers as text. Styles are inline throughout Quasar.
    """
    nonce = secrets.token_urlsafe(16)
    start: Message = {}
    body = bytearray()

    async def dressed(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
            return
        body.extend(message.get("body", b""))
        if message.get("more_body"):
            return
        page = _SCRIPT.sub(f'<script nonce="{nonce}"'.encode(), bytes(body))
        kept = [(name, value) for name, value in start["headers"] if name.lower() not in {b"content-length", b"cache-control"}]
        policy = (
            f"default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
            "img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        mine = {
            "content-length": str(len(page)),
            "cache-control": "no-store",
            "content-security-policy": policy,
            "referrer-policy": "same-origin",
        }
        start["headers"] = [*kept, *((name.encode(), value.encode()) for name, value in mine.items())]
        await send(start)
        await send({"type": "http.response.body", "body": page})

    return dressed
