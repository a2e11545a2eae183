"""`/api/v1/rules`: the revisions of the rules, and how they are changed: checked, kept as a draft, watched, published, approved, rolled back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field

from node.errors import NotThere, RevisionRefused
from node.ledger.rule_revisions import Revision
from node.ledger.tokens import Role
from node.rules.book import Problem as Wrong
from node.rules.book import RuleBook
from node.rules.difference import Difference
from node.web.api.parts import ApiParts
from node.web.api.route import takes_a_key
from node.web.api.words import MISSING, REFUSED, Listed, Why
from node.web.auth import needs
from node.web.bodies import MOST_BYTES
from node.web.notes import Notes

LOOKS = (Role.AUDITOR, Role.INTEGRATOR)
Number = Annotated[int, Path(ge=1, le=2**31 - 1, description="Of a revision.")]


class Text(BaseModel):
    """Rules as YAML."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    text: Annotated[str, Field(min_length=1, max_length=MOST_BYTES)]


class Change(Why, Text):
    """A text, why it is to be used, and what it was made from."""

    base: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = (
        None  #: the revision that was active when it was begun; None: whatever is active
    )


class Back(Why):
    """Why, and what is thought to be active."""

    base: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionShown:
    """One revision without its text."""

    number: int
    state: str  #: draft, proposed, published
    step: str  #: file, publish, rollback, watch, keep
    active: bool
    watched: bool
    base: int  #: the revision it was made from; 0: none
    sha256: str
    who: str
    reason: str
    at: datetime
    approved_by: str
    approved_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeRevision(RevisionShown):
    """And with it."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What is wrong with a text; nothing: it may be published."""

    problems: Sequence[Wrong]


def routes(parts: ApiParts, notes: Notes, route: type[APIRoute]) -> APIRouter:
    """Looking and checking, for integrators and auditors; changing, for administrators. The book writes every change down."""
    book = parts.book
    router = APIRouter(prefix="/rules", tags=["rules"], route_class=route)
    looks, admin = [Depends(needs(*LOOKS))], [Depends(needs()), Depends(takes_a_key)]

    @router.get("", dependencies=looks)
    def find() -> Listed[RevisionShown]:
        """Every revision, the newest first."""
        active = _active(book)
        return Listed(items=[RevisionShown(**_facts(one, active)) for one in reversed(book.history())], next="")

    @router.get("/{number}", responses={**MISSING}, dependencies=looks)
    def one(number: Number) -> WholeRevision:
        """A revision with its text."""
        found = _known(book, number)
        return WholeRevision(**_facts(found, _active(book)), text=found.text)

    @router.get("/{number}/difference/{other}", responses={**MISSING}, dependencies=looks)
    def difference(number: Number, other: Number) -> Difference:
        """From one revision to another: which rules, and which lines."""
        return book.diff(_known(book, number).number, _known(book, other).number)

    @router.post("/validate", dependencies=looks)
    def validate(asked: Text) -> Checked:
        """What is wrong with a text, with line and column, at most one problem a rule. Nothing is kept."""
        return Checked(problems=book.validate(asked.text))

    @router.post("", responses={**REFUSED}, dependencies=admin)
    def publish(asked: Change, request: Request) -> RevisionShown:
        """The text becomes active, or a proposal where a second person must approve. 409 when somebody published since `base`."""
        return shown(book.publish(asked.text, who=notes.who(request), reason=asked.reason, base=asked.base))

    @router.post("/drafts", responses={**REFUSED}, dependencies=admin)
    def keep(asked: Change, request: Request) -> RevisionShown:
        """Keep a draft that need not be right yet."""
        return shown(book.keep(asked.text, who=notes.who(request), reason=asked.reason, base=asked.base or 0))

    @router.post("/watch", responses={**REFUSED}, dependencies=admin)
    def watch(asked: Change, request: Request) -> RevisionShown:
        """A draft is asked beside the active rules from now on, and does nothing."""
        return shown(book.watch(asked.text, who=notes.who(request), reason=asked.reason))

    @router.post("/{number}/approve", responses={**MISSING, **REFUSED}, dependencies=admin)
    def approve(number: Number, why: Why, request: Request) -> RevisionShown:
        """A second person's word: the proposal becomes active."""
        _known(book, number)
        with notes.does(request, f"rules {number}: approval", reason=why.reason):
            return shown(book.approve(number, who=notes.who(request)))

    @router.post("/{number}/rollback", responses={**MISSING, **REFUSED}, dependencies=admin)
    def rollback(number: Number, asked: Back, request: Request) -> RevisionShown:
        """The text of an earlier published revision becomes active again, as a new revision."""
        _known(book, number)
        return shown(book.rollback(number, who=notes.who(request), reason=asked.reason, base=asked.base))

    def shown(made: Revision) -> RevisionShown:
        return RevisionShown(**_facts(made, _active(book)))

    return router


def _known(book: RuleBook, number: int) -> Revision:
    try:
        return book.get(number)
    except RevisionRefused:
        raise NotThere from None


def _active(book: RuleBook) -> int:
    found = book.active()
    return found.number if found else 0


def _facts(one: Revision, active: int) -> dict[str, Any]:
    same = ("number", "base", "sha256", "who", "reason", "at", "approved_by", "approved_at", "watched")
    facts = {name: getattr(one, name) for name in same}
    return {**facts, "state": one.state.value, "step": one.step.value, "active": one.number == active}
