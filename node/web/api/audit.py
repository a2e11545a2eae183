"""`/api/v1/audit`: who read and did what; is the trail whole? Reading it is itself an event (PS3.15 A.5.3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.routing import APIRoute

from node.ledger.tokens import Role
from node.ledger.trail_list import Record
from node.web.api.parts import ApiParts
from node.web.api.words import Cursor, Limit, Listed, Since, UidAsked, Until, Word, listed
from node.web.auth import needs
from node.web.notes import Notes

Code = Annotated[str, Query(pattern="^([0-9]{6})?$", description="Event code of CID 400, e.g. 110103.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """Whether the chain holds from its first record to its signed head."""

    intact: bool
    records: int
    first_wrong: int | None  #: number of the first record that was altered, removed or reordered
    reason: str
    head: str


def routes(parts: ApiParts, notes: Notes, route: type[APIRoute]) -> APIRouter:
    """For auditors."""
    router = APIRouter(prefix="/audit", tags=["audit"], route_class=route, dependencies=[Depends(needs(Role.AUDITOR, Role.PRIVACY))])

    @router.get("")
    def find(
        request: Request,
        response: Response,
        study: UidAsked = "",
        event: Code = "",
        who: Word = "",
        since: Since = None,
        until: Until = None,
        limit: Limit = 50,
        cursor: Cursor = "",
    ) -> Listed[Record]:
        """Records, newest first."""
        notes.read_the_trail(request, "audit trail read", study=study, event=event)
        found = parts.trail.find(limit=limit, cursor=cursor, study=study, event=event, who=who, since=since, until=until)
        return listed(request, response, found)

    @router.get("/verify")
    def verify(request: Request) -> Whole:
        """Follow the chain from its first record to its head."""
        notes.read_the_trail(request, "audit trail verified")
        found = parts.chain.verify()
        return Whole(intact=found.intact, records=found.records, first_wrong=found.seq, reason=found.reason, head=found.head)

    return router
