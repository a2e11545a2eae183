"""Sign in and out. The page needs no script, and says the same whether the name or the password was wrong."""

from __future__ import annotations

import re
from html import escape
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse
from starlette.responses import Response

from node.ledger.people import AT_ONCE
from node.ledger.reception import Reception
from node.web.auth import ELSEWHERE, SIGN_IN, SIGN_OUT, Alarm, cookie_name, peer_of, session_of
from node.web.ui.plain import field, form, page, signed_in

MOST_WAITING = 40  #: sign-ins that wait for their turn; more are sent away
WRONG = "Name and password do not open this node. After several wrong ones the account is locked for a while."

_LOCAL = re.compile(r"/(?![/\\])[\x21-\x7e]*")


def routes(reception: Reception, alarm: Alarm, elsewhere: str = "") -> APIRouter:
    """`/login` and `/logout`. `elsewhere`: what the identity provider is called, where there is one."""
    router = APIRouter(include_in_schema=False)
    turns: list[CapacityLimiter] = []  # made in the event loop: hashing must not take the threads that everything else runs in

    @router.get(SIGN_IN)
    def ask(request: Request, next: str = "/") -> Response:
        """The form, or straight on for somebody who is in."""
        if "radnode.signed" in request.scope:
            return RedirectResponse(local(next), 303)
        return _ask(request, elsewhere, local(next))

    @router.post(SIGN_IN)
    async def come_in(request: Request) -> Response:
        """A session, and on to the page that was asked for."""
        given = await form(request)
        there, name = local(given.get("next", "/")), given.get("name", "")
        if not turns:
            turns.append(CapacityLimiter(AT_ONCE))
        if turns[0].statistics().tasks_waiting >= MOST_WAITING:
            return _ask(request, elsewhere, there, said="Many sign in at this moment. Try again in a minute.", status=503)
        peer = peer_of(request.scope)
        id = await to_thread.run_sync(reception.sign_in, name, given.get("password", ""), peer, limiter=turns[0])
        if id is None:
            await to_thread.run_sync(alarm.raise_it, peer, "sign-in failed")
            return _ask(request, elsewhere, there, name=name, said=WRONG, status=403)
        return signed_in(request, RedirectResponse(there, 303), id)

    @router.post(SIGN_OUT)
    def go(request: Request) -> Response:
        """The session ends."""
        reception.sign_out(session_of(request.scope), peer_of(request.scope))
        answer = RedirectResponse(SIGN_IN, 303)
        answer.delete_cookie(cookie_name(request.scope), path="/")
        return answer

    return router


def local(path: str) -> str:
    """A path of this node, or its first page: a link must not lead a person who signs in to another site."""
    return path if _LOCAL.fullmatch(path) and not path.startswith((SIGN_IN, SIGN_OUT)) else "/"


def _ask(request: Request, elsewhere: str, next: str, *, name: str = "", said: str = "", status: int = 200) -> Response:
    body = (
        f'<form method="post" action="{SIGN_IN}"><input type="hidden" name="next" value="{escape(next)}">'
        + field("Name", "name", autocomplete="username", value=name, focus=not name)
        + field("Password", "password", type="password", autocomplete="current-password", focus=bool(name))
        + '<button type="submit">Sign in</button></form>'
    )
    if elsewhere:
        body += f'<a class="button" href="{ELSEWHERE}?next={quote(next, safe="")}">Sign in with {escape(elsewhere)}</a>'
    return page(request, "Sign in", body, said=said, status=status)
