"""A route of the API: errors of the house become problems, and a POST with an Idempotency-Key is done once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Annotated

from fastapi import Header, Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from node.errors import (
    CursorInvalid,
    KeyBusy,
    KeyMissing,
    KeyReused,
    NodeError,
    NotNow,
    NotThere,
    ReasonRefused,
    ReviewFailed,
    RevisionRefused,
    RulesInvalid,
    VersionRefused,
)
from node.ledger.answers import Answers
from node.web.bodies import Handler, bounded
from node.web.problems import Problem

KEY = re.compile(r"[\x21-\x7e]{1,100}")
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=100,
        description="The same key again within 24 hours gets the same answer; nothing is done twice.",
    ),
]
Who = Callable[[Request], str]

_STATUS: dict[type[NodeError], int] = {
    NotThere: 404,
    KeyMissing: 404,
    NotNow: 409,
    KeyBusy: 409,
    VersionRefused: 409,
    ReviewFailed: 409,
    RevisionRefused: 409,
    RulesInvalid: 422,
    CursorInvalid: 422,
    KeyReused: 422,
    ReasonRefused: 422,
}


def takes_a_key(key: IdempotencyKey = None) -> None:
    """A dependency that says in the OpenAPI page that the route takes an Idempotency-Key; `route_class` sees to it."""


def route_class(answers: Answers, who: Who) -> type[APIRoute]:
    """The class of routes for routers of the API."""

    class Route(APIRoute):
        def get_route_handler(self) -> Handler:
            handler = super().get_route_handler()

            async def answer(request: Request) -> Response:
                try:
                    if request.method == "POST":
                        return await _once(await bounded(request), handler, answers, who)
                    return await handler(request)
                except tuple(_STATUS) as why:
                    words = why.detail if isinstance(why, ReasonRefused) else str(why)
                    raise Problem(_STATUS[type(why)], words) from None

            return answer

    return Route


async def _once(request: Request, handler: Handler, answers: Answers, who: Who) -> Response:
    key = request.headers.get("idempotency-key")
    if key is None:
        return await handler(request)
    if not KEY.fullmatch(key):
        raise Problem(422, "Idempotency-Key: 1 to 100 visible ASCII characters, a new one for each thing that is to be done.")
    # the roles are part of it: an answer is not given to somebody who may not ask any more
    caller = f"{await run_in_threadpool(who, request)} {' '.join(sorted(request.scope.get('radnode.roles', ())))}"
    same = f"{request.method} {request.url.path}\n".encode() + await request.body()
    if kept := await run_in_threadpool(answers.begin, caller, key, same):
        return JSONResponse(json.loads(kept.body), kept.status, {"Idempotency-Replayed": "true"})
    done = False
    try:
        answer = await handler(request)
        done = answer.status_code < 300
        if done:
            await run_in_threadpool(answers.end, caller, key, answer.status_code, bytes(answer.body).decode())
        return answer
    finally:
        if not done:
            await run_in_threadpool(answers.drop, caller, key)
