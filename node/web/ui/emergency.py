"""Emergency access: a radiologist takes the role `privacy` for half an hour, with a reason that is written down first."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from node.errors import ReasonRefused
from node.ledger.reception import BREAK_GLASS_MINUTES, Reception
from node.ledger.tokens import Role
from node.web.auth import needs, peer_of
from node.web.ui.plain import field, form, page, person

EMERGENCY = "/emergency"


def routes(reception: Reception) -> APIRouter:
    """`/emergency`, for radiologists."""
    router = APIRouter(include_in_schema=False, dependencies=[Depends(needs(Role.RADIOLOGIST))])

    @router.get(EMERGENCY)
    def ask(request: Request) -> Response:
        """The form."""
        person(request)
        return _ask(request)

    @router.post(EMERGENCY)
    async def take(request: Request) -> Response:
        """The role, once the reason is in the audit trail."""
        given, signed = await form(request), person(request)
        try:
            await run_in_threadpool(reception.break_glass, signed, given.get("reason", ""), peer_of(request.scope))
        except ReasonRefused as why:
            return _ask(request, said=f"{why.detail}.", status=422)
        return RedirectResponse("/", 303)

    return router


def _ask(request: Request, *, said: str = "", status: int = 200) -> Response:
    body = (
        f"<p>For {BREAK_GLASS_MINUTES} minutes you may ask who a patient is. That you asked, and why, is in the audit trail.</p>"
        f'<form method="post" action="{EMERGENCY}">'
        + field("Why? Name nobody.", "reason", autocomplete="off", focus=True)
        + '<button type="submit">Take emergency access</button></form><p><a href="/">Go back</a></p>'
    )
    return page(request, "Emergency access", body, said=said, status=status)
