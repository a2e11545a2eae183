"""What the routes of the API take and give: bounded words, pages, reasons."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import urlencode

from fastapi import Path, Query, Request, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from node.ledger.paging import MOST, Page

T = TypeVar("T")


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("a moment between the years 1 and 9999") from None


def _one_line(text: str) -> str:
    text = text.strip()
    if any(unicodedata.category(character).startswith("C") for character in text):
        raise ValueError("one line, without control characters")
    if len(text) < 8:
        raise ValueError("say why, in 8 to 300 characters")
    return text


Uid = Annotated[str, Path(max_length=64, pattern=r"^[0-9.]+$", description="Clean Study Instance UID.")]
JobId = Annotated[str, Path(max_length=64, pattern=r"^[0-9a-f-]+$")]
Name = Annotated[str, Path(max_length=100, pattern=r"^[\w .@:+-]+$")]
Word = Annotated[str, Query(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
UidAsked = Annotated[str, Query(max_length=64, pattern=r"^[0-9.]*$", description="Clean Study Instance UID.")]
Moment = Annotated[AwareDatetime, AfterValidator(_utc)]
Since = Annotated[Moment | None, Query(description="From this moment on, ISO 8601 with a time zone.")]
Until = Annotated[Moment | None, Query(description="Before this moment, ISO 8601 with a time zone.")]
Limit = Annotated[int, Query(ge=1, le=MOST, description="Rows of a page.")]
Cursor = Annotated[str, Query(max_length=300, description="What `next` of the page before said.")]


class Why(BaseModel):
    """The reason, for the audit trail. It must name nobody."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    reason: Annotated[str, Field(min_length=8, max_length=300), AfterValidator(_one_line)]


class Listed(BaseModel, Generic[T]):
    """A page of a list."""

    items: Sequence[T]
    next: str = Field("", description="Cursor of the next page; empty on the last one. The Link header has its address (RFC 8288).")


class Done(BaseModel):
    """Something was done."""

    done: str
    what: Sequence[str] = ()


def listed(request: Request, response: Response, page: Page[T]) -> Listed[T]:
    """The page, with the address of the next one in the Link header."""
    if page.next:
        asked = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
        response.headers["Link"] = f'<{request.url.path}?{urlencode([*asked, ("cursor", page.next)])}>; rel="next"'
    return Listed(items=page.items, next=page.next)


#: what a route may answer beside its result, for the OpenAPI page
PROBLEM: dict[str, Any] = {"content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}
PROBLEMS: Mapping[int | str, dict[str, Any]] = {
    401: {"description": "No token, no session.", **PROBLEM},
    403: {"description": "Not with this role.", **PROBLEM},
    422: {"description": "The request is malformed.", **PROBLEM},
}
MISSING: Mapping[int | str, dict[str, Any]] = {404: {"description": "Not known here, or purged.", **PROBLEM}}
REFUSED: Mapping[int | str, dict[str, Any]] = {409: {"description": "Not as it stands.", **PROBLEM}}
