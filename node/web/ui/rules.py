"""*Rules*: what is in force, a draft of it as a form and as YAML, what the draft would do, and who published what, when and why."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

from nicegui import run, ui
from nicegui.events import GenericEventArguments

from node.errors import RulesInvalid
from node.ledger.rule_revisions import Revision, RevisionState
from node.ledger.tokens import Role
from node.rules.book import Problem
from node.rules.difference import difference
from node.rules.form import form_of, text_of
from node.web.api.parts import ApiParts
from node.web.desks import RulesDesk
from node.web.notes import Notes
from node.web.parts import WebParts
from node.web.ui.asking import Act, Asking
from node.web.ui.markup import Html, at, chip, joined, more, tag
from node.web.ui.pages import Pages, Place, Visitor
from node.web.ui.rules_editor import Editor
from node.web.ui.rules_form import SENDS, Sheet, acted, focus_after, rules_from
from node.web.ui.rules_past import UNREAD, Book, Past, lines
from node.web.ui.rules_trials import Trials
from node.web.ui.words import Words

RULES = Place(path="/rules", title="Rules", roles=frozenset({Role.INTEGRATOR, Role.AUDITOR}), icon="alt_route", order=30)
EVERY_S = 5.0
EMPTY = "rules: []\n"


def register(pages: Pages, parts: WebParts) -> None:
    """`/rules`, where there is a rule book."""
    if parts.rules is None or parts.api is None:
        return
    desk, api, one_replay = parts.rules, parts.api, threading.Lock()

    async def build(visitor: Visitor) -> None:
        words = await run.io_bound(desk.words)
        if words is not None:
            await _Page(pages, desk, api, parts, visitor, Sheet(words), one_replay).build()

    pages.add(RULES, build)


class _Page:
    """One open page: a text, the revision it was made from, and all that is shown of both."""

    def __init__(
        self, pages: Pages, desk: RulesDesk, api: ApiParts, parts: WebParts, visitor: Visitor, sheet: Sheet, one_replay: threading.Lock
    ) -> None:
        self._desk, self._visitor, self._sheet = desk, visitor, sheet
        self._notes = notes = Notes(parts.record)
        self._book = UNREAD
        self._text, self._base = EMPTY, 0
        self._rules: list[dict[str, Any]] | None = []  #: of the text; None: it can't be read as a form
        self._opened: Sequence[bool] = ()
        self._turn = asyncio.Lock()  # form and editor change the same text, one after the other
        self._asking = Asking(parts, visitor, self._renew)
        self._trials = Trials(desk, api, notes, visitor, lambda: self._text, lambda: pages.still(RULES, visitor), one_replay)
        self._past = Past(desk, notes, visitor, self._asking, self._open)

    async def build(self) -> None:
        """All of it."""
        book = await run.io_bound(self._look)
        if book is None:  # the node is going down
            return
        self._book = book
        self._build_head()
        with ui.element("div").classes("columns halves"):
            with ui.element("section").props('aria-label="The draft as a form"'):
                Words("h2", "As a form")
                with ui.element("form").classes("sheet") as form:
                    self._form = ui.html("", sanitize=False)
                for event in ("change", "click", "submit"):
                    form.on(event, self._filled, js_handler=SENDS)
            with ui.element("section").classes("beside").props('aria-label="The draft as YAML"'):
                Words("h2", "As YAML")
                self._editor = Editor(self._typed)
        self._trials.build()
        self._past.build(book)
        self._write_head()
        await self._take(book.active.text if book.active else EMPTY, book.active.number if book.active else 0)
        ui.timer(EVERY_S, self._renew, immediate=False)

    def _look(self) -> Book:
        """The book as it stands. What a watched draft would have done is told study by study, so that is written down before it is shown."""
        book = Book.of(self._desk)
        if book.differences and book != self._book:
            self._notes.searched(self._visitor.request, "differences of a watched draft listed", rows=str(len(book.differences)))
        return book

    # --- the text changes -------------------------------------------------------------------------------------------------
    async def _take(self, text: str, base: int) -> None:
        """Another text altogether."""
        async with self._turn:
            self._base = base
            self._editor.write(text)
            await self._changed(text, form=True)

    async def _typed(self, text: str) -> None:
        async with self._turn:
            await self._changed(text, form=True)

    async def _filled(self, event: GenericEventArguments) -> None:
        told = event.args if isinstance(event.args, dict) else {}
        async with self._turn:
            if self._rules is None:
                return
            self._opened = [bool(one) for one in told.get("opened") or ()]
            if "fields" not in told:
                return
            rules = rules_from(_entries(told.get("fields")), self._rules, self._sheet.kinds)
            if "act" in told:
                rules = acted(rules, told["act"], self._sheet.kinds)
                self._opened = _opened_by(told["act"], self._opened, added=len(rules) > len(self._rules))
            try:
                text = await run.io_bound(text_of, {"rules": rules}, self._text)
            except RulesInvalid as why:
                ui.notify(why.detail, type="negative")
                return
            if text is not None and (text != self._text or "act" in told):
                self._editor.write(text)
                await self._changed(text, form="act" in told)
            if "act" in told and self._rules is not None:
                where = json.dumps(focus_after(told["act"], len(self._rules)))
                ui.run_javascript(f"setTimeout(() => document.querySelector({where})?.focus(), 0)")

    async def _changed(self, text: str, *, form: bool) -> None:
        """Check it, and show it where it is not shown yet."""
        self._text = text
        self._rules, problems = await run.io_bound(self._checked, text) or (self._rules, [])
        self._editor.say(problems, len(self._rules or ()))
        if form or self._rules is None:
            self._form.set_content(
                self._sheet.html(self._rules, self._opened)
                if self._rules is not None
                else tag("p", "The form is back as soon as the YAML beside it can be read.", class_="said")
            )
        self._write_head()

    def _checked(self, text: str) -> tuple[list[dict[str, Any]] | None, list[Problem]]:
        try:
            rules: list[dict[str, Any]] | None = form_of(text)["rules"]
        except RulesInvalid:
            rules = None
        return rules, self._desk.book.validate(text)

    async def _open(self, one: Revision) -> None:
        """A draft goes on from what it was made from; a published text would take the place of what is active now."""
        now = self._book.active.number if self._book.active else 0
        await self._take(one.text, now if one.state is RevisionState.PUBLISHED else one.base)
        ui.notify(f"Revision {one.number} stands in the form and in the YAML.")

    # --- the head ---------------------------------------------------------------------------------------------------------
    async def _renew(self) -> None:
        book = await run.io_bound(self._look)
        if book is not None and book != self._book:
            self._book = book
            self._past.renew(book)
        self._write_head()

    def _build_head(self) -> None:
        """The buttons stay where they are, whatever is said beside them."""
        with ui.element("section").classes("story-head").props('aria-label="Rules in force"'):
            self._says = ui.html("", sanitize=False)
            with ui.element("div").classes("strip"):
                for act in self._acts():
                    self._asking.button(act)
                self._back = self._button("Take back all changes", self._take_back)
        self._alert = ui.element("div").props('role="alert"')
        self._stale = 0  #: the revision that the alert is about

    def _write_head(self) -> None:
        active = self._book.active
        changed = self._text != (active.text if active else EMPTY)
        self._says.set_content(_in_force(active, changed, self._base, self._book.proposals))
        self._back.set_visibility(changed)
        stale = active.number if active is not None and active.number != self._base else 0
        if stale != self._stale:
            self._stale = stale
            self._alert.clear()
            if stale:
                with self._alert:
                    self._after_somebody_else(active)

    async def _take_back(self) -> None:
        active = self._book.active
        await self._take(active.text if active else EMPTY, active.number if active else 0)

    def _after_somebody_else(self, active: Revision | None) -> None:
        assert active
        with ui.element("div").classes("said bad"):
            Words("p", f"Revision {active.number} was published by {active.who} after your draft was begun: {active.reason}")
            held = ui.html("", sanitize=False)
            with ui.element("div").classes("strip"):

                async def what() -> None:
                    found = await run.io_bound(self._desk.book.diff, self._base, active.number)
                    held.set_content(more("What it changed", lines(found), opened=True))

                async def go_on() -> None:
                    self._base = active.number
                    self._write_head()

                if self._base:
                    self._button("What did it change?", what)
                self._button(f"I saw it: mine takes the place of {active.number}", go_on)

    def _button(self, label: str, do: Any) -> Words:
        return Words("button", label).props('type="button"').classes("act").on("click", do)

    # --- acts -------------------------------------------------------------------------------------------------------------
    def _acts(self) -> list[Act]:
        publish = (
            Act(
                title="Propose",
                words="The draft waits for another administrator, who approves it. Nothing changes until then.",
                do=self._publish,
                told=self._difference,
            )
            if self._desk.second_person
            else Act(
                title="Publish",
                words="The next study is routed by this draft. What was routed before stays as it is.",
                do=self._publish,
                told=self._difference,
            )
        )
        keep = Act(
            title="Save as draft", words="The draft is kept as a revision that does nothing. It need not be right yet.", do=self._keep
        )
        watch = Act(
            title="Watch", words="The draft is asked beside the active rules from the next study on. It does nothing.", do=self._watch
        )
        return [publish, keep, watch]

    def _publish(self, reason: str) -> None:
        made = self._desk.book.publish(self._text, who=self._visitor.who, reason=reason, base=self._base)
        if made.state is RevisionState.PUBLISHED:
            self._base = made.number

    def _keep(self, reason: str) -> None:
        self._desk.book.keep(self._text, who=self._visitor.who, reason=reason, base=self._base)

    def _watch(self, reason: str) -> None:
        self._desk.book.watch(self._text, who=self._visitor.who, reason=reason)

    async def _difference(self) -> Html:
        active = self._book.active
        return lines(await run.io_bound(difference, active.text if active else "", self._text))


def _entries(told: Any) -> list[tuple[str, str]]:
    """The fields that a browser sent."""
    listed = told if isinstance(told, list) else []
    return [(str(one[0]), str(one[1])) for one in listed if isinstance(one, list | tuple) and len(one) == 2]


def _opened_by(act: Any, before: Sequence[bool], *, added: bool) -> list[bool]:
    """Which rules lie open after a button."""
    opened = [*before, True] if added else list(before)
    if isinstance(act, list) and len(act) == 2 and act[0] == "open" and isinstance(act[1], int) and 0 <= act[1] < len(opened):
        opened[act[1]] = True
    return opened


def _in_force(active: Revision | None, changed: bool, base: int, proposals: Sequence[Revision]) -> Html:
    if active is None:
        said = tag("p", chip("no rules", "bad"), " Nothing was published yet: no study meets a pipeline.")
    else:
        by = active.who + (f", approved by {active.approved_by}" if active.approved_by else "")
        said = joined(
            [tag("p", f"Revision {active.number}", class_="pseudonym"), tag("p", "since ", at(active.at), f" by {by}: {active.reason}")]
        )
    draft = tag("p", chip("draft", "busy"), f" Changed, made from revision {base}." if base else " Changed.") if changed else Html("")
    waits = joined(
        tag("p", chip("proposed", "busy"), f" Revision {one.number} by {one.who} waits for a second person: {one.reason}")
        for one in proposals
    )
    return tag("div", said, draft, waits)
