"""`/api/v1/deliveries`: what is on its way out, and once more for what was refused."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.routing import APIRoute

from node.ledger.shown import Delivery
from node.ledger.tokens import Role
from node.web.api.parts import ApiParts
from node.web.api.route import takes_a_key
from node.web.api.words import MISSING, REFUSED, Cursor, Limit, Listed, UidAsked, Word, listed
from node.web.auth import needs
from node.web.notes import Notes

LOOKS = (Role.RADIOLOGIST, Role.AUDITOR, Role.INTEGRATOR)
State = Annotated[str, Query(pattern="^(QUEUED|SENT|CONFIRMED|REFUSED|)$", description="REFUSED: dead letters.")]
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]


def routes(parts: ApiParts, notes: Notes, route: type[APIRoute]) -> APIRouter:
    """The outbox."""
    router = APIRouter(prefix="/deliveries", tags=["deliveries"], route_class=route)

    @router.get("", dependencies=[Depends(needs(*LOOKS))])
    def find(
        request: Request,
        response: Response,
        state: State = "",
        destination: Word = "",
        study: UidAsked = "",
        limit: Limit = 50,
        cursor: Cursor = "",
    ) -> Listed[Delivery]:
        """Objects on their way, the latest queued first."""
        found = parts.outgoing.find(limit=limit, cursor=cursor, state=state, destination=destination, study=study)
        notes.searched(request, "deliveries listed", rows=str(len(found.items)), study=study)
        return listed(request, response, found)

    @router.post(
        "/{delivery}/replay", responses={**MISSING, **REFUSED}, dependencies=[Depends(needs(Role.INTEGRATOR)), Depends(takes_a_key)]
    )
    def replay(delivery: Number, request: Request) -> Delivery:
        """Queue the object once more, whatever became of it."""
        found = parts.outgoing.one(delivery)
        with notes.does(request, "delivery queued again", found.study, destination=found.destination):
            return parts.outgoing.replay(delivery)

    return router
