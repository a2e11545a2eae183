"""`/api/v1/destinations`: where results go, how that goes, and is anybody there? Nothing of a patient."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute

from node.errors import NotThere
from node.ledger.shown import DestinationShown, Echo
from node.ledger.tokens import Role
from node.web.api.parts import ApiParts
from node.web.api.route import takes_a_key
from node.web.api.words import MISSING, Listed, Name
from node.web.auth import needs
from node.web.notes import Notes

LOOKS = (Role.RADIOLOGIST, Role.AUDITOR, Role.INTEGRATOR)


def routes(parts: ApiParts, notes: Notes, route: type[APIRoute]) -> APIRouter:
    """The destinations of the settings."""
    router = APIRouter(prefix="/destinations", tags=["destinations"], route_class=route)

    @router.get("", dependencies=[Depends(needs(*LOOKS))])
    def find() -> Listed[DestinationShown]:
        """Settings without secrets, what waits, the last success and the last failure."""
        return Listed(items=parts.outgoing.destinations(), next="")

    @router.post("/{destination}/echo", responses={**MISSING}, dependencies=[Depends(needs(Role.INTEGRATOR)), Depends(takes_a_key)])
    def echo(destination: Name, request: Request) -> Echo:
        """Ask it whether it is there: C-ECHO, a query, or a look at the folder. Nothing is sent."""
        if destination not in {one.name for one in parts.outgoing.destinations() if one.configured}:
            raise NotThere
        with notes.does(request, "echo", destination=destination):
            return parts.outgoing.echo(destination)

    return router
