"""`GET /api/v1/today`: how the node does, in counts. Nothing of a patient, so nothing is written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Depends
from fastapi.routing import APIRoute

from node.ledger.shown import Disk, Turnaround
from node.ledger.today import Work
from node.ledger.tokens import Role
from node.web.api.parts import ApiParts
from node.web.auth import needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """Today, both sides of the house."""

    work: Work
    turnaround: Turnaround
    deliveries: Mapping[str, Mapping[str, int]]  #: destination → state → how many
    disk: Disk


def routes(parts: ApiParts, route: type[APIRoute]) -> APIRouter:
    """The one route."""
    router = APIRouter(tags=["today"], route_class=route)

    @router.get("/today", dependencies=[Depends(needs(*Role))])
    def today() -> Whole:
        """Studies and instances received, jobs by state, queue, failures, turnaround, deliveries, disk; the last 24 hours, hour by hour."""
        return whole(parts)

    return router


def whole(parts: ApiParts) -> Whole:
    """For the page too."""
    work = parts.today.work()
    return Whole(work=work, turnaround=parts.outgoing.turnaround(work.since), deliveries=parts.outgoing.counts(), disk=parts.disk())
