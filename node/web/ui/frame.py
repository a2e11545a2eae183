"""What surrounds every page: who is here, where one can go, light or dark, and that all of it is for research."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy

from nicegui import ui

from node.ledger.tokens import Role, in_words
from node.web.auth import SIGN_OUT, STYLE
from node.web.ui.emergency import EMERGENCY
from node.web.ui.pages import Pages, Place, Visitor
from node.web.ui.plain import LOOK, look_of
from node.web.ui.words import Words

RESEARCH = "RESEARCH USE ONLY"

_SWITCH = f"""() => {{
  Quasar.Dark.toggle();
  document.cookie = `{LOOK}=${{Quasar.Dark.isActive ? 'dark' : 'light'}}; path=/; max-age=31536000; samesite=strict`;
}}"""


@contextmanager
def frame(pages: Pages, place: Place, visitor: Visitor) -> Iterator[None]:
    """Header, navigation and heading; the block's elements become the page's content."""
    ui.add_head_html(f'<link rel="stylesheet" href="{STYLE}">')
    ui.colors(
        primary="#0b5f7a", secondary="#37474f", accent="#7b3fa0", positive="#1b7a3d", negative="#b3261e", info="#0b5f7a", warning="#8a5a00"
    )
    client = ui.context.client
    client.page = copy(client.page)  # shared by everybody who looks at it
    client.page.dark = {"dark": True, "light": False}.get(look_of(visitor.request))
    content = ui.element("div").classes("page").props('tabindex="-1"')
    with ui.left_drawer(value=None, bordered=True).classes("places").props("width=210 breakpoint=900") as drawer:
        with ui.element("nav").props('aria-label="Pages"'):
            for link in pages.links(visitor):
                _link(link, here=link.path == place.path)
    with ui.header().classes("top"):
        Words("a", "Skip to the content").classes("skip").props(f'href="#{content.html_id}"')
        ui.button(icon="menu", on_click=drawer.toggle).props('flat round color=white aria-label="Pages"').classes("lt-md")
        Words("a", "Radnode").classes("brand").props('href="/"')
        Words("strong", RESEARCH).classes("research")
        ui.space()
        with ui.element("span").classes("who"):
            Words("span", visitor.name).classes("name")
            Words("span", _roles(visitor)).classes("role")
        switch = ui.button(icon="contrast").props('flat round color=white aria-label="Light or dark"')
        switch.on("click", js_handler=_SWITCH)
        if visitor.signed and Role.RADIOLOGIST in visitor.roles and Role.PRIVACY not in visitor.roles:
            Words("a", "Emergency access").props(f'href="{EMERGENCY}"').classes("emergency")
        if visitor.signed:
            with ui.element("form").props(f'method="post" action="{SIGN_OUT}"'):
                Words("button", "Sign out").props('type="submit"').classes("sign-out")
    with content:
        Words("h1", place.title)
        yield


def _link(place: Place, *, here: bool) -> None:
    current = ' aria-current="page"' if here else ""
    with ui.element("a").props(f'href="{place.path}"{current}'):
        ui.icon(place.icon).props('aria-hidden="true"')
        Words("span", place.title)


def _roles(visitor: Visitor) -> str:
    own, until = (visitor.signed.own, visitor.signed.more_until) if visitor.signed else (visitor.roles, None)
    taken = in_words(visitor.roles - own)
    return in_words(own) + (f", {taken} until {until:%H:%M} UTC" if taken and until else "")
