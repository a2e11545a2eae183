"""A password of one's own: asked for at the first sign-in and after a reset, and whenever somebody likes."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from node.errors import PasswordRefused
from node.ledger.people import SHORTEST
from node.ledger.reception import Reception
from node.ledger.sessions import Signed
from node.ledger.tokens import Role
from node.web.auth import CHOOSE_PASSWORD, needs, peer_of
from node.web.ui.plain import field, form, page, person, signed_in


def routes(reception: Reception) -> APIRouter:
    """`/password`, for everybody who signed in."""
    router = APIRouter(include_in_schema=False, dependencies=[Depends(needs(*Role))])

    @router.get(CHOOSE_PASSWORD)
    def ask(request: Request) -> Response:
        """The form."""
        return _ask(request, person(request))

    @router.post(CHOOSE_PASSWORD)
    async def choose(request: Request) -> Response:
        """A new password; every other session of the same person ends."""
        given, signed = await form(request), person(request)
        if given.get("new", "") != given.get("again", ""):
            return _ask(request, signed, said="The two new passwords differ.", status=422)
        change = reception.change_password
        try:
            id = await run_in_threadpool(change, signed.name, given.get("old", ""), given.get("new", ""), peer_of(request.scope))
        except PasswordRefused as why:
            return _ask(request, signed, said=str(why), status=422)
        return signed_in(request, RedirectResponse("/", 303), id)

    return router


def _ask(request: Request, signed: Signed, *, said: str = "", status: int = 200) -> Response:
    why = (
        "The password you were given is for the first time only. Choose one of your own."
        if signed.must_change
        else "Choose another password."
    )
    body = (
        f"<p>{why} It has at least {SHORTEST} characters; a few words in a row do well.</p>"
        f'<form method="post" action="{CHOOSE_PASSWORD}">'
        f'<input type="text" name="name" value="{signed.name}" autocomplete="username" hidden>'
        + field("Present password", "old", type="password", autocomplete="current-password", focus=True)
        + field("New password", "new", type="password", autocomplete="new-password")
        + field("New password again", "again", type="password", autocomplete="new-password")
        + '<button type="submit">Change the password</button></form>'
    )
    return page(request, "Your password", body, said=said, status=status)
