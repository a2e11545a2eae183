"""A table whose cells may hold buttons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from nicegui import ui

from node.web.ui.markup import Html, safe
from node.web.ui.words import Words

Cell = Html | str | int | Callable[[], object]  #: a callable puts elements into the cell


def grid(heads: Sequence[str], rows: Iterable[Sequence[Cell]], *, caption: str) -> None:
    """Looks like `markup.table`. The first cell of a row is its header; `caption` is for those who can't see where it stands."""
    scroll = ui.element("div").classes("scroll").props('tabindex="0" role="group"')  # a wide one is moved with the keyboard
    scroll.props["aria-label"] = caption
    with scroll, ui.element("table").classes("plain"):
        Words("caption", caption).classes("hide")
        with ui.element("thead"), ui.element("tr"):
            for head in heads:
                Words("th", head).props('scope="col"')
        with ui.element("tbody"):
            for row in rows:
                with ui.element("tr"):
                    for number, cell in enumerate(row):
                        _put("td" if number else "th", cell)


def _put(tag: str, cell: Cell) -> None:
    if callable(cell):
        with ui.element(tag).classes("acts"):
            cell()
        return
    told = ui.html(safe(cell), sanitize=False, tag=tag)
    if tag == "th":
        told.props('scope="row"')
