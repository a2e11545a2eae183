"""The first page: does the node take studies now?"""

from __future__ import annotations

from nicegui import run, ui

from node.ledger.tokens import Role
from node.web.parts import WebParts
from node.web.ui.pages import Pages, Place, Visitor

TODAY = Place(path="/", title="Today", roles=frozenset(Role), icon="today", order=10)


def register(pages: Pages, parts: WebParts) -> None:
    """`/`."""

    async def build(_visitor: Visitor) -> None:
        checks = dict(await run.io_bound(parts.ready) or {})
        ui.label("The node takes studies." if all(checks.values()) else "The node takes no studies now.").classes("text-h6")
        with ui.element("ul"):
            for name, works in checks.items():
                with ui.element("li"):
                    ui.label(f"{name}: {'works' if works else 'does not work'}")

    pages.add(TODAY, build)
