"""Sign in at the hospital's identity provider: away, and back with an answer that is checked."""

from __future__ import annotations

from html import escape

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse
from starlette.responses import Response

from node.errors import PersonInvalid, SignInRefused
from node.ledger.reception import Reception
from node.web.auth import ELSEWHERE, ELSEWHERE_BACK, SIGN_IN, Alarm, peer_of, secure
from node.web.openid import LASTS_S, OpenId
from node.web.ui.login import local
from node.web.ui.plain import page, signed_in

STATE = "radnode_openid"  #: cookie: the browser that began must be the one that comes back


def routes(openid: OpenId, reception: Reception, alarm: Alarm, base: str) -> APIRouter:
    """`/login/oidc` and the way back. `base`: this node's address as people see it; empty: as the request says."""
    router = APIRouter(include_in_schema=False)

    @router.get(ELSEWHERE)
    def away(request: Request, next: str = "/") -> Response:
        """To the provider."""
        back = f"{base.rstrip('/') or str(request.base_url).rstrip('/')}{ELSEWHERE_BACK}"
        try:
            address, state = openid.begin(back, local(next))
        except SignInRefused as why:
            return _refused(request, why)
        answer = RedirectResponse(address, 303)
        # Lax, since the provider sends the person back from another site
        answer.set_cookie(STATE, state, max_age=LASTS_S, path=ELSEWHERE, httponly=True, samesite="lax", secure=secure(request.scope))
        return answer

    @router.get(ELSEWHERE_BACK)
    def back(request: Request, state: str = "", code: str = "", iss: str = "") -> Response:
        """From the provider, with a code or an error."""
        peer = peer_of(request.scope)
        try:
            if not state or state != request.cookies.get(STATE):
                raise SignInRefused("it was begun in another browser; sign in again")
            if not code:
                raise SignInRefused("the provider did not let this person in")
            who = openid.finish(state, code, iss)
            id = reception.vouched(who.name, who.roles, who.subject, peer)
        except (SignInRefused, PersonInvalid) as why:
            alarm.raise_it(peer, "sign-in at the identity provider refused")
            return _refused(request, why)
        # a redirect would still count as the other site's, and the browser would keep the new cookie to itself
        there = escape(who.next)
        answer = page(request, "Signed in", f'<p><a href="{there}">Go on</a></p>', refresh=there)
        answer.delete_cookie(STATE, path=ELSEWHERE)
        return signed_in(request, answer, id)

    return router


def _refused(request: Request, why: SignInRefused | PersonInvalid) -> Response:
    return page(request, "Not signed in", f'<p><a href="{SIGN_IN}">Try again</a></p>', said=f"{why.message} {why.detail}.", status=403)
