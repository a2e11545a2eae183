"""Search in the studies: newest first, a page at a time. Names are not known here, so what is typed must be a pseudonym or a clean UID."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from nicegui import run, ui
from nicegui.events import GenericEventArguments

from node.errors import CursorInvalid
from node.ledger.cards import Card, Wanted
from node.ledger.paging import Page
from node.ledger.tokens import Role
from node.web.api.parts import ApiParts
from node.web.notes import Notes
from node.web.parts import WebParts
from node.web.ui.markup import Html, at, chip, counted, joined, safe, table, tag, zone
from node.web.ui.pages import Pages, Place, Visitor
from node.web.ui.words import Words

LOOKS = frozenset({Role.RADIOLOGIST, Role.AUDITOR, Role.INTEGRATOR})
STUDIES = Place(path="/studies", title="Studies", roles=LOOKS, icon="folder_open", order=20)
ROWS = 50
STATES = {"RECEIVING": "arriving", "SETTLED": "settled", "PROCESSED": "processed", "QUARANTINED": "in quarantine"}
_UID, _PSEUDONYM = re.compile(r"[0-9.]{3,64}"), re.compile(r"P[0-9A-F]{16}")
_READ_FORM = "(event) => { event.preventDefault(); emit(Object.fromEntries(new FormData(event.target.closest('form')))); }"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What stands in the form. All of it may stand in an address: none of it can be a name."""

    study: str = ""  #: a pseudonym or a clean UID
    state: str = ""
    modality: str = ""
    pipeline: str = ""
    finding: str = ""
    since: str = ""  #: a day
    until: str = ""  #: a day, which counts

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Asked:
        """From a form or an address. Raises ValueError, with what to do."""
        told = {one.name: str(given.get(one.name) or "").strip()[:100] for one in fields(cls)}
        if (word := told["study"]) and not (_UID.fullmatch(word) or _PSEUDONYM.fullmatch(word.upper())):
            raise ValueError(
                "Type a whole pseudonym (P and 16 letters or digits) or a clean UID. Names and patient numbers are not known here."
            )
        if told["state"] and told["state"] not in STATES:
            raise ValueError("There is no such state.")
        _day(told["since"]), _day(told["until"], over=True)
        return cls(**told)

    @property
    def wanted(self) -> Wanted:
        """As the cards are asked."""
        word = self.study.upper()
        by_pseudonym = bool(_PSEUDONYM.fullmatch(word))
        return Wanted(
            study="" if by_pseudonym else self.study,
            pseudonym=word if by_pseudonym else "",
            state=self.state,
            label=self.finding,
            pipeline=self.pipeline,
            modality=self.modality,
            since=_day(self.since),
            until=_day(self.until, over=True),
        )

    @property
    def address(self) -> str:
        """Where the page shows this."""
        told = {one.name: value for one in fields(self) if (value := getattr(self, one.name))}
        return f"{STUDIES.path}?{urlencode(told)}" if told else STUDIES.path


@dataclass(slots=True)
class _State:
    """Of one open page."""

    asked: Asked
    cursors: list[str] = field(default_factory=lambda: [""])  #: of the pages until this one


def register(pages: Pages, parts: WebParts) -> None:
    """`/studies`, where there is a list to show."""
    if parts.api is None:
        return
    api, notes = parts.api, Notes(parts.record)

    async def build(visitor: Visitor) -> None:
        await _Search(api, notes, visitor).build()

    pages.add(STUDIES, build)


class _Search:
    """The form, the table, and the way to older and newer rows."""

    def __init__(self, api: ApiParts, notes: Notes, visitor: Visitor) -> None:
        self._api, self._notes, self._visitor = api, notes, visitor

    async def build(self) -> None:
        words = await run.io_bound(self._api.cards.words) or {}
        said = ""
        try:
            self._state = _State(Asked.of(self._visitor.request.query_params))
        except ValueError as why:
            self._state, said = _State(Asked()), str(why)
        with ui.element("form").classes("search").props('role="search" aria-label="Studies"') as form:
            ui.html(_fields(self._state.asked, words), sanitize=False).classes("fields")
        form.on("submit", self._searched, js_handler=_READ_FORM)
        form.on("change", self._searched, js_handler=_READ_FORM)
        self._said = Words("p", said).classes("said").props('role="alert"')
        self._said.set_visibility(bool(said))
        self._count = Words("p", "").classes("soft").props('role="status"')
        self._table = ui.html("", sanitize=False)
        with ui.element("nav").classes("strip").props('aria-label="Pages of the list"'):
            self._newest = _button("Newest", self._to_newest)
            self._newer = _button("Newer", self._to_newer)
            self._older = _button("Older", self._to_older)
        await self._show()

    async def _searched(self, event: GenericEventArguments) -> None:
        try:
            asked = Asked.of(event.args if isinstance(event.args, dict) else {})
        except ValueError as why:
            self._said.set_text(str(why))
            self._said.set_visibility(True)
            return
        self._said.set_visibility(False)
        if asked == self._state.asked:
            return
        self._state = _State(asked)
        ui.navigate.history.replace(asked.address)
        await self._show()

    async def _to_newest(self) -> None:
        self._state.cursors = [""]
        await self._show()

    async def _to_newer(self) -> None:
        self._state.cursors = self._state.cursors[:-1] or [""]
        await self._show()

    async def _to_older(self) -> None:
        if self._next:
            self._state.cursors.append(self._next)
            await self._show()

    async def _show(self) -> None:
        found = await run.io_bound(self._find)
        if found is None:
            return
        self._next = found.next
        page = len(self._state.cursors)
        where = f", page {page}" if page > 1 or found.next else ""
        self._count.set_text(
            f"{counted(len(found.items), 'study', 'studies')}{where}. Times in {zone()}." if found.items else "No study fits."
        )
        self._table.set_content(_rows(found) if found.items else "")
        for button, usable in ((self._newest, page > 1), (self._newer, page > 1), (self._older, bool(found.next))):
            button.props(remove="disabled") if usable else button.props("disabled")

    def _find(self) -> Page[Card]:
        wanted = self._state.asked.wanted
        by = [name for name in ("pseudonym", "label", "pipeline", "modality") if getattr(wanted, name)]
        try:
            found = self._api.cards.find(wanted, limit=ROWS, cursor=self._state.cursors[-1])
        except CursorInvalid:
            found = self._api.cards.find(wanted, limit=ROWS)
        facts = {"rows": str(len(found.items)), "study": wanted.study, "state": wanted.state, "by": ", ".join(by)}
        self._notes.searched(self._visitor.request, "studies listed", **facts)
        return found


def _fields(asked: Asked, words: Mapping[str, list[str]]) -> Html:
    chosen = {
        "state": STATES,
        **{
            name: {word: word for word in words.get(kind, ())}
            for name, kind in (("modality", "modality"), ("pipeline", "pipeline"), ("finding", "label"))
        },
    }
    text = _field(
        "Pseudonym or clean UID",
        "study",
        Html(f'<input id="study" name="study" size="34" maxlength="64" autocomplete="off" spellcheck="false" value="{safe(asked.study)}">'),
    )
    lists = [_field(name.capitalize(), name, _choice(name, getattr(asked, name), chosen[name])) for name in chosen]
    days = [
        _field(title, name, Html(f'<input id="{name}" name="{name}" type="date" value="{safe(getattr(asked, name))}">'))
        for title, name in (("From", "since"), ("To", "until"))
    ]
    return joined([text, *lists, *days, tag("button", "Search", type="submit")])


def _field(title: str, name: str, control: Html) -> Html:
    return tag("div", tag("label", title, for_=name), control)


def _choice(name: str, value: str, choices: Mapping[str, str]) -> Html:
    options = {"": "any", **choices, **({value: value} if value and value not in choices else {})}
    inside = [
        Html(f'<option value="{safe(key)}"{" selected" if key == value else ""}>{safe(title)}</option>') for key, title in options.items()
    ]
    return tag("select", *inside, id=name, name=name)


def _rows(found: Page[Card]) -> Html:
    heads = ("Study", "Arrived", "State", "Modality", "Images", "From", "Pipelines", "Findings")
    rows = [
        [
            tag("a", one.pseudonym or "not de-identified", tag("span", one.study, class_="soft uid"), href=f"/studies/{one.study}"),
            at(one.arrived_at),
            chip(STATES.get(one.state, one.state), _kind(one.state)),
            ", ".join(one.modalities),
            f"{one.instances:,}",
            one.source or one.channel,
            ", ".join(one.pipelines),
            "; ".join(one.labels),
        ]
        for one in found.items
    ]
    return table(heads, rows, caption="Studies, newest first")


def _kind(state: str) -> str:
    return {"PROCESSED": "good", "QUARANTINED": "bad"}.get(state, "busy")


def _button(title: str, do: Any) -> Words:
    return Words("button", title).props('type="button"').classes("act").on("click", do)


def _day(text: str, *, over: bool = False) -> datetime | None:
    """The beginning of a day on this machine's clock, or of the next one: a day in which the clock is changed has 23 or 25 hours. Raises ValueError."""
    if not text:
        return None
    try:
        day = date.fromisoformat(text) + timedelta(days=over)
        return datetime(day.year, day.month, day.day).astimezone().astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("A day is written as 2026-05-31.") from None
