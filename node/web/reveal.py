"""Who is this? `POST /api/v1/studies/{clean UID}/reveal`, for administrators and the privacy officer: audited, with a reason, before the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from node.errors import KeyMissing, ReasonRefused, RevealRefused
from node.ledger.tokens import Role
from node.web.auth import needs, who_of
from node.web.bodies import FewWords
from node.web.notes import Notes
from node.web.problems import Problem

_HEADERS = {"Cache-Control": "no-store", "Pragma": "no-cache"}
Uid = Annotated[str, Path(max_length=64, pattern=r"^[0-9.]+$")]


class Waiting(Protocol):
    """A request that a second person must approve."""

    @property
    def id(self) -> str: ...

    @property
    def study(self) -> str: ...

    @property
    def purpose(self) -> str: ...

    @property
    def state(self) -> str: ...

    @property
    def requester(self) -> str: ...

    @property
    def reason(self) -> str: ...

    @property
    def expires_at(self) -> datetime: ...


class Answer(Protocol):
    """Who it is, or the request that waits."""

    @property
    def who(self) -> Mapping[str, str]: ...

    @property
    def waiting(self) -> Waiting | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RevealParts:
    """Handed in by assembly."""

    reveal: Callable[[str, str, str], Answer]  #: (clean Study Instance UID, who asks, why); returns when it is in the audit trail
    requests: Callable[[], list[Waiting]]
    approve: Callable[[str, str], Waiting]  #: (request, who approves)


class Why(BaseModel):
    """What must be said."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    reason: str = Field(max_length=2000)


def routes(parts: RevealParts, notes: Notes) -> APIRouter:
    """The doors to a name. Nobody but `admin` and `privacy` opens them."""
    router = APIRouter(prefix="/api/v1", tags=["reveal"], route_class=FewWords, dependencies=[Depends(needs(Role.PRIVACY))])

    @router.post("/studies/{study}/reveal")
    def reveal(study: Uid, why: Why, request: Request) -> JSONResponse:
        """Who the study belongs to; 202 when a second person must approve first."""
        try:
            answer = parts.reveal(study, who_of(request.scope), why.reason)
        except ReasonRefused as no:
            raise Problem(422, str(no)) from None
        except KeyMissing:
            raise Problem(404, "No identity is kept of this study: it is not known here, or was purged.") from None
        if answer.waiting:
            return JSONResponse(_said(answer.waiting), 202, _HEADERS)
        return JSONResponse(dict(answer.who), 200, _HEADERS)

    @router.get("/reveal-requests")
    def requests(request: Request) -> JSONResponse:
        """Requests that wait, or were approved and not used."""
        found = parts.requests()
        notes.searched(request, "reveal requests listed", rows=str(len(found)))
        return JSONResponse([_said(one) for one in found], 200, _HEADERS)

    @router.post("/reveal-requests/{id}/approve")
    def approve(id: Annotated[str, Path(max_length=16, pattern="^[0-9a-f]+$")], request: Request) -> JSONResponse:
        """A second person agrees."""
        try:
            return JSONResponse(_said(parts.approve(id, who_of(request.scope))), 200, _HEADERS)
        except RevealRefused as no:
            raise Problem(409, str(no)) from None

    return router


def _said(one: Waiting) -> dict[str, str]:
    facts = {"request": one.id, "state": one.state, "study": one.study, "purpose": one.purpose}
    return {**facts, "requester": one.requester, "reason": one.reason, "expires_at": one.expires_at.isoformat(timespec="seconds")}
