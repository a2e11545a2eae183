"""`GET /api/v1/events`: what happens, as it happens (Server-Sent Events): steps of studies, and how many jobs stand where.

The steps are read from the audit trail, where each of them is written down anyway; so a client that lost its connection goes on where
it was, by the number of the last record it was told.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from node.ledger.tokens import Role
from node.ledger.trail_list import Record
from node.web.api.parts import ApiParts
from node.web.api.words import UidAsked
from node.web.auth import needs, still
from node.web.notes import Notes
from node.web.problems import Problem

LOOKS = (Role.RADIOLOGIST, Role.AUDITOR, Role.INTEGRATOR)
MOST_STREAMS = 50  #: at once, of this process
LONGEST_S = 3600  #: then the client asks again
EVERY_S = 1.0
HEARTBEAT_S = 15.0
AT_ONCE = 200  #: records of one look

Seconds = Annotated[int, Query(ge=1, le=LONGEST_S, description="How long the stream stays open.")]
LastEventId = Annotated[str, Header(alias="Last-Event-ID", max_length=20)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What the node did with a study."""

    seq: int  #: in the audit trail
    at: str
    study: str
    meaning: str  #: of the event, CID 400
    peer: str
    what: str
    outcome: int


@dataclass(slots=True)
class Pulse:
    """The counts of jobs, asked for once a second however many listen; and how many do."""

    ask: Callable[[], dict[str, int]]
    open: int = 0
    _at: float = -EVERY_S
    _counts: dict[str, int] | None = None

    async def counts(self) -> dict[str, int]:
        if self._counts is None or time.monotonic() - self._at >= EVERY_S:
            self._counts, self._at = await run_in_threadpool(self.ask), time.monotonic()
        return self._counts


def routes(parts: ApiParts, notes: Notes, route: type[APIRoute]) -> APIRouter:
    """The one stream."""
    router = APIRouter(tags=["events"], route_class=route)
    pulse = Pulse(parts.today.jobs)
    stream: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}

    @router.get("/events", response_class=StreamingResponse, responses=stream, dependencies=[Depends(needs(*LOOKS))])
    async def events(
        request: Request, study: UidAsked = "", seconds: Seconds = LONGEST_S, last_event_id: LastEventId = ""
    ) -> StreamingResponse:
        """Events `step` (a study took one: `{seq, at, study, meaning, peer, what, outcome}`) and `jobs` (counts by state, when they changed)."""
        if pulse.open >= MOST_STREAMS:
            raise Problem(503, "Too many listen already. Try again later, or ask /api/v1/today.", headers={"Retry-After": "30"})
        await run_in_threadpool(notes.searched, request, "events followed", study=study)
        known = int(last_event_id) if last_event_id.isdecimal() and last_event_id.isascii() else await run_in_threadpool(parts.trail.last)
        told = _told(parts, pulse, min(known, 2**31 - 1), study, time.monotonic() + seconds, partial(still, request.scope))
        return StreamingResponse(told, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    return router


async def _told(
    parts: ApiParts, pulse: Pulse, seq: int, study: str, end: float, may_still: Callable[[], Awaitable[bool]]
) -> AsyncIterator[str]:
    pulse.open += 1
    try:
        yield "retry: 3000\n\n"
        counts: dict[str, int] = {}
        spoke = time.monotonic()
        while time.monotonic() < end:
            said = ""
            records = await run_in_threadpool(parts.trail.after, seq, AT_ONCE)
            for record in records:
                seq = record.seq
                if is_step(record) and study in ("", record.study):
                    said += _event("step", asdict(_step(record)), id=seq)
            if not study and counts != (now := await pulse.counts()):
                counts = now
                said += _event("jobs", now)
            if not said and time.monotonic() - spoke >= HEARTBEAT_S:
                said = ": still here\n\n"
            if said:
                if not await may_still():
                    return
                spoke = time.monotonic()
                yield said
            if len(records) < AT_ONCE:  # else it has been away for long, and catches up
                await asyncio.sleep(min(EVERY_S, max(0.0, end - time.monotonic())))
    finally:
        pulse.open -= 1


def is_step(record: Record) -> bool:
    """The node itself did it to a study; what people looked at is nobody else's business."""
    return bool(record.study) and (record.who == "radnode" or record.who.startswith("AETITLES="))


def _step(record: Record) -> Step:
    return Step(**{name: getattr(record, name) for name in Step.__slots__})


def _event(name: str, data: dict[str, Any], *, id: int | None = None) -> str:
    number = "" if id is None else f"id: {id}\n"
    return f"{number}event: {name}\ndata: {json.dumps(data)}\n\n"
