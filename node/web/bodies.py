"""A body of a few words is read up to a limit and no further, whatever length it says it has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import Message

from node.web.problems import Problem

MOST_BYTES = 64 << 10

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class FewWords(APIRoute):
    """A route whose body is a few words of JSON."""

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            return await handler(await bounded(request))

        return answer


async def bounded(request: Request) -> Request:
    """The request with its body read: no more than `MOST_BYTES`."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            raise Problem(413, f"The body is larger than {MOST_BYTES >> 10} kB; this route takes a few words of JSON.")
    read = _replay(bytes(body), request.receive)
    return Request(request.scope, read)


def _replay(body: bytes, then: Callable[[], Awaitable[Message]]) -> Callable[[], Awaitable[Message]]:
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            return await then()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
