"""Joins the rooms of the API: one router for all of them."""

from __future__ import annotations

from fastapi import APIRouter

from node.web import results
from node.web.api import audit, deliveries, destinations, docs, events, jobs, models, quarantine, rules, studies, today
from node.web.api.parts import ApiParts
from node.web.api.route import route_class
from node.web.api.words import PROBLEMS
from node.web.notes import Notes


def routes(parts: ApiParts) -> APIRouter:
    """`/api/v1/…`, `GET /dicom-web/…` and `/docs`."""
    notes = Notes(parts.record)
    route = route_class(parts.answers, notes.who)
    api = APIRouter(prefix="/api/v1", responses={**PROBLEMS})
    api.include_router(today.routes(parts, route))
    for room in (studies, jobs, deliveries, destinations, quarantine, models, rules, audit, events):
        api.include_router(room.routes(parts, notes, route))
    whole = APIRouter()
    whole.include_router(api)
    whole.include_router(results.routes(parts.results, notes, route), responses={**PROBLEMS})
    whole.include_router(docs.routes())
    return whole
