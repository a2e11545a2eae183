"""One step of a study's way: a mark, a heading, a time, and what there is to say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from nicegui import ui

from node.web.ui.markup import Html, at, show
from node.web.ui.words import Words

_MARKS = {"good": "check_circle", "bad": "error", "busy": "pending", "plain": "radio_button_unchecked"}
_WORDS = {"good": "done", "bad": "failed", "busy": "under way", "plain": ""}


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of the time line says."""

    name: str
    title: str
    when: datetime | None
    kind: str  #: good, bad, busy or plain
    says: Html


@contextmanager
def filled(item: ui.element, one: Step) -> Iterator[None]:
    """The step written into an item of the list; the block's elements follow what it says."""
    item.clear()
    item.classes(replace=one.kind)
    with item:
        ui.icon(_MARKS[one.kind]).props('aria-hidden="true"').classes("mark")
        with ui.element("div").classes("title"):
            with Words("h2", one.title):
                if _WORDS[one.kind]:
                    Words("span", f", {_WORDS[one.kind]}").classes("hide")
            if one.when:
                show(at(one.when)).classes("soft")
        show(one.says)
        yield
