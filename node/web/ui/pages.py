"""A page says in one place who may see it; whoever may not gets an answer instead of the page, and no link to it.

Pages are laid out with Quasar's own classes (`row`, `col`, `q-gutter-md` …) and those of `style.css`; there is no Tailwind. A builder
runs in the event loop: what asks a database goes through `nicegui.run.io_bound`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from fastapi import Request
from nicegui import run, ui
from starlette.types import Scope

from node import log
from node.ledger.sessions import Signed
from node.ledger.tokens import Role, in_words

_log = log.get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a page is, what it is called, and who may see it. An administrator sees every page."""

    path: str  #: as FastAPI reads it: "/studies/{study}"
    title: str
    roles: frozenset[Role]
    icon: str = ""  #: of the navigation (Material Icons); empty: the page is reached from another one
    order: int = 100  #: in the navigation

    def open_to(self, roles: frozenset[Role]) -> bool:
        """Whether one of these roles may see the page."""
        return not roles.isdisjoint({*self.roles, Role.ADMIN})


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who looks at a page."""

    who: str  #: as the audit trail names it: "user:NAME" or "token:NAME"
    roles: frozenset[Role]
    request: Request = field(repr=False)  #: `request.path_params` holds what the path names
    signed: Signed | None = None

    @classmethod
    def of(cls, request: Request) -> Visitor:
        """From what the doorkeeper left."""
        scope: Scope = request.scope
        return cls(
            who=scope["radnode.who"],
            roles=scope["radnode.roles"],
            request=request,
            signed=scope.get("radnode.signed"),
        )

    @property
    def name(self) -> str:
        """Without saying whether it is a person or a program."""
        return self.who.partition(":")[2]

    @property
    def peer(self) -> str:
        """The network address, for the audit trail."""
        return self.request.client.host if self.request.client else ""

    def may(self, *roles: Role) -> bool:
        """One of these roles, or administrator."""
        return not self.roles.isdisjoint({*roles, Role.ADMIN})


Build = Callable[[Visitor], Awaitable[None] | None]
Frame = Callable[["Pages", Place, Visitor], AbstractContextManager[None]]  #: what surrounds each page


class Pages:
    """The pages there are. `add` is all that a page's file calls."""

    def __init__(self, frame: Frame, signed: Callable[[str], Signed | None]) -> None:
        self._frame, self._signed = frame, signed
        self.places: list[Place] = []

    def add(self, place: Place, build: Build) -> None:
        """The page at `place`: `build` is called inside the frame, for those who may see it."""
        self.places.append(place)

        @ui.page(place.path, title=f"{place.title} · Radnode", response_timeout=30)
        async def shown(request: Request) -> None:
            visitor = Visitor.of(request)
            with self._frame(self, place, visitor):
                if not place.open_to(visitor.roles):
                    ui.context.client.status_code = 403
                    ui.label(
                        f"This page is for the role {' or '.join(sorted({*place.roles, Role.ADMIN}))}. You are {in_words(visitor.roles)}."
                    )
                    return
                try:
                    building = build(visitor)
                    if inspect.isawaitable(building):
                        await building
                except Exception as why:
                    _log.error("a page failed", extra={"page": place.path, "where": log.where_it_failed(why)})
                    ui.context.client.status_code = 500
                    ui.label("The page failed; the node's log says where. Load it again, then tell the administrator.")

    async def still(self, place: Place, visitor: Visitor) -> bool:
        """Whether the visitor may see the page at this moment: asked before each act, since a page may lie open for hours."""
        found = await run.io_bound(self._signed, visitor.signed.key) if visitor.signed else None
        if found is None or not place.open_to(found.roles):
            ui.navigate.reload()
            return False
        return True

    def links(self, visitor: Visitor) -> list[Place]:
        """What the navigation offers to somebody."""
        offered = [place for place in self.places if place.icon and place.open_to(visitor.roles)]
        return sorted(offered, key=lambda place: place.order)
