"""What went wrong, and what to do about it: problem documents (RFC 9457). Nothing of the request is repeated in them."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node import log
from node.errors import DiskFull, NodeError
from node.ledger.database import is_away, is_unfit

_log = log.get(__name__)

AWAY = "A database of the node does not answer now; send the request again in a moment."
UNFIT = "A text of the request holds a NUL, so it can be neither looked for nor kept; leave it out."
_WHAT_TO_DO = {
    401: "Send `Authorization: Bearer TOKEN`; `radnode tokens create` makes a token.",
    403: "Use a token whose role may do this.",
    404: "Check the path; /openapi.json lists what there is.",
    405: "Use a method that the Allow header names.",
}


class Problem(Exception):
    """Becomes the answer: a status, what went wrong, and what to do."""

    def __init__(self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.more = status, detail, dict(headers or {}), more


def document(status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> JSONResponse:
    """`application/problem+json`: type, title, status, detail (RFC 9457 section 3.1)."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}
    return JSONResponse(body, status, dict(headers or {}), media_type="application/problem+json")


def answer_with_problems(app: FastAPI) -> None:
    """Every error of the app leaves as a problem document."""

    @app.exception_handler(Problem)
    async def said(_request: Request, why: Problem) -> JSONResponse:
        return document(why.status, why.detail, headers=why.headers, **why.more)

    @app.exception_handler(HTTPException)
    async def plain(_request: Request, why: HTTPException) -> JSONResponse:
        return document(why.status_code, _WHAT_TO_DO.get(why.status_code, str(why.detail)), headers=why.headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, why: RequestValidationError) -> JSONResponse:
        errors = [{"at": ".".join(str(part) for part in error["loc"]), "what": error["msg"]} for error in why.errors()]
        return document(422, "The request is malformed; correct what `errors` names.", errors=errors)

    @app.exception_handler(DiskFull)
    async def full(_request: Request, why: DiskFull) -> JSONResponse:
        return document(503, why.message, headers={"Retry-After": "300"})

    @app.exception_handler(NodeError)
    async def ours(_request: Request, why: NodeError) -> JSONResponse:
        _log.error("a request failed", extra={"error": type(why).__name__})
        return document(500, why.message)


class Calm:
    """ASGI middleware: an exception nobody answered for is a 500 that says nothing of the request; the log gets its place only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as why:
            if is_unfit(why) and not begun and scope["type"] == "http":
                await document(422, UNFIT)(scope, receive, send)
                return
            _log.error("a request failed", extra={"where": log.where_it_failed(why)})
            if begun or scope["type"] != "http":
                raise
            if is_away(why):
                await document(503, AWAY, headers={"Retry-After": "10"})(scope, receive, send)
                return
            sorry = "The node failed on this request; its log says where. Try again, then tell the administrator."
            await document(500, sorry)(scope, receive, send)
