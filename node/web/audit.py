"""The audit trail over HTTP: `GET /api/v1/audit/export`, for the auditor. Whoever looks is in the trail as well (PS3.15 A.5.3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse

from node.audit import Action, AuditEvent, Event, Record
from node.ledger.tokens import Role
from node.ledger.trail import Verdict
from node.ledger.trail_search import Wanted
from node.web.auth import needs, peer_of
from node.web.problems import Problem

Format = Literal["xml", "json"]


class Find(Protocol):
    """The newest records below a number, newest first."""

    def __call__(self, wanted: Wanted, *, before: int | None, limit: int) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditParts:
    """Handed in by assembly."""

    find: Find
    verify: Callable[[], Verdict]
    export: Callable[[Format, Wanted], Iterator[str]]


def wanted(event: str = "", who: str = "", study: str = "", since: str = "", until: str = "") -> Wanted:
    """From the words of a query; a time that can't be read wants everything. Times without a zone are UTC; `until` is a day's end where it is a day."""
    return Wanted(event=event.strip(), who=who.strip(), study=study.strip(), since=_moment(since), until=_moment(until, end=True))


def unread(**moments: str) -> str:
    """What to say of moments that `wanted` can't read; empty when it can."""
    names = [name for name, said in moments.items() if said.strip() and _moment(said) is None]
    how = "can't be read: write 2026-01-31, or 2026-01-31T08:00:00Z; in an address a + is %2B."
    return f"{' and '.join(names)} {how}" if names else ""


def used(record: Record, who: str, peer: str, what: str, asked: Wanted) -> None:
    """Somebody looks at the trail: Audit Log Used."""
    record(AuditEvent(event=Event.AUDIT_LOG_USED, action=Action.READ, who=who, peer=peer, what=f"audit trail {what}", facts=asked.facts()))


def routes(parts: AuditParts, record: Record) -> APIRouter:
    """The export, as a file."""
    router = APIRouter(prefix="/api/v1/audit", tags=["audit"], dependencies=[Depends(needs(Role.AUDITOR))])

    @router.get("/export")
    def export(
        request: Request, format: Format = "json", event: str = "", who: str = "", study: str = "", since: str = "", until: str = ""
    ) -> StreamingResponse:
        """Every wanted record, the oldest first: lines of JSON, or AuditMessages of PS3.15 A.5 in one XML document."""
        if trouble := unread(since=since, until=until):
            raise Problem(422, trouble)  # else a slip would give out the whole trail
        asked = wanted(event, who, study, since, until)
        used(record, request.scope["radnode.who"], peer_of(request.scope), f"exported as {format}", asked)
        name, kind = ("audit.xml", "application/xml") if format == "xml" else ("audit.jsonl", "application/x-ndjson")
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        return StreamingResponse(_document(parts.export(format, asked), format), media_type=kind, headers=headers)

    return router


def _document(records: Iterator[str], format: Format) -> Iterator[str]:
    if format == "xml":
        yield '<?xml version="1.0" encoding="UTF-8"?>\n<AuditMessages>\n'
    for one in records:
        yield f"{one}\n"
    if format == "xml":
        yield "</AuditMessages>\n"


def _moment(said: str, *, end: bool = False) -> datetime | None:
    try:
        at = datetime.fromisoformat(said.strip())
        if end and len(said.strip()) == len("2026-01-31"):
            at = at.replace(hour=23, minute=59, second=59, microsecond=999999)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # in UTC it may lie before the year 1
        return None
