"""`/api/v1/quarantine`: studies that were refused, and on with one that a person has looked at."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute

from node.ledger.shown import Refused
from node.ledger.tokens import Role
from node.web.api.parts import ApiParts
from node.web.api.route import takes_a_key
from node.web.api.words import MISSING, REFUSED, Cursor, Done, Limit, Listed, Uid, Why, listed
from node.web.auth import needs
from node.web.notes import Notes

LOOKS = (Role.RADIOLOGIST, Role.AUDITOR, Role.PRIVACY, Role.INTEGRATOR)


def routes(parts: ApiParts, notes: Notes, route: type[APIRoute]) -> APIRouter:
    """Refused studies."""
    router = APIRouter(prefix="/quarantine", tags=["quarantine"], route_class=route)

    @router.get("", dependencies=[Depends(needs(*LOOKS))])
    def find(request: Request, response: Response, limit: Limit = 50, cursor: Cursor = "") -> Listed[Refused]:
        """Refused studies and why, the latest first."""
        found = parts.refusals.find(limit=limit, cursor=cursor)
        notes.searched(request, "quarantine listed", rows=str(len(found.items)))
        return listed(request, response, found)

    @router.post("/{study}/release", responses={**MISSING, **REFUSED}, dependencies=[Depends(needs(Role.PRIVACY)), Depends(takes_a_key)])
    def release(study: Uid, why: Why, request: Request) -> Done:
        """Send it on its way again because a person has looked at it: `radnode quarantine show` and `mask`."""
        parts.arrival(study)
        reason = parts.check_reason(study, why.reason)
        parts.release(study, notes.who(request), reason)
        return Done(done="released", what=[study])

    return router
