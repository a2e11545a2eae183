"""What became of the rules: every revision with who, when and why, what differs between two, and what a watched draft would do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nicegui import run, ui

from node.ledger.rule_revisions import Revision, RevisionState
from node.rules.difference import Difference
from node.web.desks import MOST_WATCHED, RulesDesk
from node.web.notes import Notes
from node.web.ui.asking import Act, Asking
from node.web.ui.grid import Cell, grid
from node.web.ui.markup import Html, at, chip, counted, joined, safe, show, table, tag
from node.web.ui.pages import Visitor
from node.web.ui.words import Words

SHOWN = 25  #: revisions, the newest; the others when somebody asks
_KINDS = {"active": "good", "watched": "busy", "proposed": "busy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """The rule book as it stands, read at once."""

    history: Sequence[Revision]  #: the oldest first
    active: Revision | None
    watched: Revision | None
    asked: int  #: studies that the watched draft was evaluated on
    differences: Sequence[dict[str, Any]]

    @classmethod
    def of(cls, desk: RulesDesk) -> Book:
        """Now."""
        watched = desk.book.watched()
        asked, differences = desk.watched(watched.number) if watched else (0, [])
        return cls(history=desk.book.history(), active=desk.book.active(), watched=watched, asked=asked, differences=differences)

    def state(self, one: Revision) -> str:
        """In a word."""
        if self.active is not None and one.number == self.active.number:
            return "active"
        return "watched" if one.watched else one.state.value

    @property
    def proposals(self) -> list[Revision]:
        """Those that can still be approved."""
        now = self.active.number if self.active else 0
        return [one for one in self.history if one.state is RevisionState.PROPOSED and one.base == now]


UNREAD = Book(history=(), active=None, watched=None, asked=-1, differences=())  #: like no other


class Past:
    """Below the draft. `open`: put a revision's text into the editor."""

    def __init__(
        self, desk: RulesDesk, notes: Notes, visitor: Visitor, asking: Asking, open: Callable[[Revision], Awaitable[None]]
    ) -> None:
        self._desk, self._notes, self._visitor, self._asking, self._open = desk, notes, visitor, asking, open
        self._all, self._book = False, UNREAD

    def build(self, book: Book) -> None:
        """History, difference, watched draft."""
        self._watched = ui.element("section").props('aria-label="Watched draft"')
        self._history = ui.element("section").props('aria-label="History"')
        with ui.element("section").props('aria-label="Difference"'):
            Words("h2", "Difference")
            with ui.element("div").classes("strip"):
                self._a, self._b = (ui.select({}, label=label).props("outlined dense").classes("asked") for label in ("From", "To"))
                Words("button", "Show the difference").props('type="button"').classes("act").on("click", self._compare)
            self._said = ui.html("", sanitize=False).props('role="status"')
        self.renew(book)

    def renew(self, book: Book) -> None:
        """Written anew where something changed."""
        if book == self._book:
            return
        self._book = book
        self._history.clear()
        with self._history:
            self._write_history(book)
        self._watched.clear()
        with self._watched:
            self._write_watched(book)
        options = {one.number: f"{one.number}, {book.state(one)}" for one in reversed(book.history)}
        numbers = list(options)
        self._a.set_options(options, value=self._a.value or (numbers[1] if len(numbers) > 1 else numbers[0] if numbers else None))
        self._b.set_options(options, value=self._b.value or (numbers[0] if numbers else None))

    # --- history ----------------------------------------------------------------------------------------------------------
    def _write_history(self, book: Book) -> None:
        Words("h2", "History")
        if not book.history:
            Words("p", "No rules were published yet.").classes("soft")
            return
        newest = list(reversed(book.history))
        shown = newest if self._all else newest[:SHOWN]
        rows: list[list[Cell]] = [
            [
                one.number,
                chip(book.state(one), _KINDS.get(book.state(one), "")),
                at(one.at),
                one.who + (f", approved by {one.approved_by}" if one.approved_by else ""),
                one.reason,
                partial(self._acts, book, one),
            ]
            for one in shown
        ]
        grid(("Revision", "State", "When", "Who", "Why", "Actions"), rows, caption="Revisions of the rules")
        if len(shown) < len(newest):
            Words("button", f"Show all {len(newest)}").props('type="button"').classes("act").on("click", self._show_all)

    def _show_all(self) -> None:
        self._all = True
        self._history.clear()
        with self._history:
            self._write_history(self._book)

    def _acts(self, book: Book, one: Revision) -> None:
        button = Words("button", "Open").props('type="button"').classes("act").on("click", partial(self._open, one))
        button.props["aria-label"] = f"Open revision {one.number}"
        state = book.state(one)
        if one in book.proposals:
            mine = one.who == self._visitor.who
            act = Act(
                title=f"Approve {one.number}",
                words="The proposal becomes the active rules. Another person approves than the one who proposed it.",
                do=partial(self._approve, one.number),
                told=partial(self._changes, one),
            )
            approve = self._asking.button(act)
            if mine:
                approve.props["disabled"], approve.props["title"] = True, "another person has to approve it"
        elif one.state is RevisionState.PUBLISHED and state != "active":
            act = Act(
                title=f"Roll back to {one.number}",
                words="These rules become active again, as a new revision. Studies that were routed before stay as they are.",
                do=partial(self._roll_back, one.number, book.active.number if book.active else 0),
                told=partial(self._changes, one),
            )
            self._asking.button(act)

    async def _changes(self, one: Revision) -> Html:
        active = self._book.active
        return lines(await run.io_bound(self._desk.book.diff, active.number, one.number)) if active else Html("")

    def _approve(self, number: int, reason: str) -> None:
        with self._notes.does(self._visitor.request, f"rules {number}: approval", reason=reason):
            self._desk.book.approve(number, who=self._visitor.who)

    def _roll_back(self, number: int, base: int, reason: str) -> None:
        self._desk.book.rollback(number, who=self._visitor.who, reason=reason, base=base)

    async def _compare(self) -> None:
        if self._a.value and self._b.value:
            self._said.set_content(lines(await run.io_bound(self._desk.book.diff, int(self._a.value), int(self._b.value))))

    # --- the watched draft ----------------------------------------------------------------------------------------------------
    def _write_watched(self, book: Book) -> None:
        Words("h2", "Watched draft")
        if book.watched is None:
            Words("p", "No draft is watched. One that is watched is asked beside the active rules, and does nothing.").classes("soft")
            return
        one = book.watched
        most = "the latest " if len(book.differences) >= MOST_WATCHED else ""
        said = f"Revision {one.number}, by {one.who}: {most}{counted(len(book.differences), 'difference')} on {counted(book.asked, 'study', 'studies')}."
        with ui.element("div").classes("strip"):
            Words("p", said)
            self._asking.button(
                Act(title="Stop watching", words="The draft is asked no more. What it would have done stays.", do=self._stop)
            )
        rows = [
            [
                at(found["at"]),
                chip(str(found.get("kind", "")), {"more": "good", "fewer": "bad"}.get(str(found.get("kind")), "busy")),
                f"{found.get('rule', '')} → {found.get('pipeline', '')}",
                tag("a", found.get("study", ""), href=f"/studies/{found.get('study', '')}", class_="uid"),
                str(found.get("because", "")),
            ]
            for found in book.differences
        ]
        if rows:
            show(table(("When", "", "Rule", "Study", "Because"), rows, caption="What the watched draft would have done otherwise"))

    def _stop(self, reason: str) -> None:
        with self._notes.does(self._visitor.request, "watching a draft of the rules ends", reason=reason):
            self._desk.book.stop_watching(who=self._visitor.who)


def lines(found: Difference | None) -> Html:
    """A difference: what it is in words, and line by line."""
    if found is None:
        return Html("")
    named = [
        f"{what}: {', '.join(names)}"
        for what, names in (("added", found.added), ("removed", found.removed), ("changed", found.changed))
        if names
    ]
    each = joined(tag("span", line or " ", class_={"+": "plus", "-": "minus", "@": "soft"}.get(line[:1], "")) for line in found.lines)
    said = tag("p", tag("strong", found.in_words), f" ({'; '.join(named)})" if named else "")
    return joined(
        [said, Html(f'<div class="diff" tabindex="0" role="group" aria-label="Line by line">{safe(each)}</div>') if found.lines else ""]
    )
