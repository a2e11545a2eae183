"""What a draft would do: on one study, rule by rule with the reasons, and on the studies of the last days, beside the rules in force."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import BrokenExecutor
from itertools import groupby
from typing import Any

from nicegui import run, ui

from node import log
from node.errors import RulesInvalid
from node.ledger.cards import Wanted
from node.rules.replay import Comparison, Group
from node.web.api.parts import ApiParts
from node.web.desks import RulesDesk
from node.web.notes import Notes
from node.web.ui.markup import Html, chip, counted, joined, more, table, tag
from node.web.ui.pages import Visitor
from node.web.ui.studies import Asked
from node.web.ui.words import Words

_log = log.get(__name__)

MOST_STUDIES = 5  #: of one pseudonym, the latest
LONGEST_DAYS = 3650
NOT_KEPT = "Nothing is kept of that study: it was not routed here, or its headers are past `retention.keep_headers_days`."


class Trials:
    """The two forms and their answers.

    Parameters
    ----------
    text
        The draft as it stands.
    still
        Whether the visitor may still ask.
    one_replay
        Held while any page of this node replays.
    """

    def __init__(
        self,
        desk: RulesDesk,
        api: ApiParts,
        notes: Notes,
        visitor: Visitor,
        text: Callable[[], str],
        still: Callable[[], Awaitable[bool]],
        one_replay: threading.Lock,
    ) -> None:
        self._desk, self._api, self._notes, self._visitor = desk, api, notes, visitor
        self._text, self._still, self._one = text, still, one_replay

    def build(self) -> None:
        """Both, side by side."""
        with ui.element("div").classes("columns halves"):
            with ui.element("section").props('aria-label="Try on a study"'):
                Words("h2", "Try on a study")
                with ui.element("div").classes("strip"):
                    self._study = ui.input("Pseudonym or clean UID").props("outlined dense maxlength=64 spellcheck=false autocomplete=off")
                    self._study.classes("long").on("keydown.enter", self._try)
                    Words("button", "Try").props('type="button"').classes("act").on("click", self._try)
                self._tried = ui.html("", sanitize=False).props('role="status"')
            with ui.element("section").props('aria-label="Replay"'):
                Words("h2", "Replay on past studies")
                with ui.element("div").classes("strip"):
                    self._days = ui.number("Days", value=30, min=1, max=LONGEST_DAYS).props("outlined dense")
                    self._go = Words("button", "Replay").props('type="button"').classes("act").on("click", self._replay)
                self._bar = ui.linear_progress(0, show_value=False).props('aria-label="Studies replayed"')
                self._bar.set_visibility(False)
                self._count = Words("p", "").props('role="status"')
                self._groups = ui.html("", sanitize=False)

    # --- one study --------------------------------------------------------------------------------------------------------
    async def _try(self) -> None:
        if not await self._still():
            return
        found = await run.io_bound(self._try_on, str(self._study.value or ""))
        if found is not None:
            self._tried.set_content(found)

    def _try_on(self, word: str) -> Html:
        try:
            wanted = Asked.of({"study": word}).wanted
            studies = self._studies(wanted)
            if not studies:
                raise ValueError("Type a pseudonym or a clean UID." if not word.strip() else NOT_KEPT)
            pieces = []
            for study in studies:
                decided = self._desk.try_on(self._text(), study)
                self._notes.looked(self._visitor.request, study, "rules tried on a study")
                link = tag("a", study, href=f"/studies/{study}", class_="uid")
                pieces += [link, tried(decided) if decided is not None else tag("p", NOT_KEPT, class_="said")]
            return joined(pieces)
        except RulesInvalid as why:
            return tag("p", f"The draft can't be used: {why.detail}", class_="said")
        except ValueError as why:
            return tag("p", str(why), class_="said")

    def _studies(self, wanted: Wanted) -> list[str]:
        if wanted.study:
            return [wanted.study]
        return [card.study for card in self._api.cards.find(wanted, limit=MOST_STUDIES).items] if wanted.pseudonym else []

    # --- the past ---------------------------------------------------------------------------------------------------------
    async def _replay(self) -> None:
        days = float(self._days.value or 0)
        if not 0 < days <= LONGEST_DAYS:
            self._count.set_text(f"Give a number of days, 1 to {LONGEST_DAYS}.")
            return
        if not await self._still():
            return
        if not self._one.acquire(blocking=False):
            self._count.set_text("Somebody else replays rules now; try again in a moment.")
            return
        at = [0, 0]

        def told(done: int, of: int) -> None:
            at[:] = done, of

        def beat() -> None:
            self._bar.set_value(at[0] / max(1, at[1]))
            self._count.set_text(f"{at[0]:,} of {counted(at[1], 'study', 'studies')}" if at[1] else "Reading what is kept …")

        self._groups.set_content("")
        self._bar.set_visibility(True)
        self._go.props("disabled")
        timer = ui.timer(0.3, beat)
        try:
            found = await run.io_bound(self._replayed, days, told)
        finally:
            self._one.release()
            timer.cancel()
            self._bar.set_visibility(False)
            self._go.props(remove="disabled")
        if found is not None:
            said, groups = found
            self._count.set_text(said)
            self._groups.set_content(groups)

    def _replayed(self, days: float, told: Callable[[int, int], None]) -> tuple[str, Html]:
        try:
            found = self._desk.replay(self._text(), days, told)
        except RulesInvalid as why:
            return f"The draft can't be used: {why.detail}", Html("")
        except BrokenExecutor:
            _log.error("a replay's processes ended before it was done")
            return "The replay was broken off; try it again, with fewer days.", Html("")
        self._notes.searched(self._visitor.request, "rules replayed", days=f"{days:g}", studies=str(found.studies))
        return in_words(found), joined([_group(group) for _, group in sorted(found.groups.items())])


def tried(decided: Sequence[dict[str, Any]]) -> Html:
    """Every rule: met or not for each series, and each thing that was asked."""
    pieces = []
    for rule, some in groupby(decided, key=lambda one: str(one["rule"])):
        mine = list(some)
        met = [one for one in mine if one["met"]]
        series = [
            [
                tag("span", f"{one['modality']} series ", tag("span", one["series"], class_="uid soft")),
                one["pipeline"],
                chip("met" if one["met"] else "not met", "good" if one["met"] else ""),
                joined(_reason(reason) for reason in one["reasons"]),
            ]
            for one in mine
        ]
        where = f" → {', '.join(met[0]['send_to']) or 'nowhere'}" if met else ""
        head = joined(
            [tag("strong", rule), " ", chip("met" if met else "not met", "good" if met else ""), f" {len(met)} of {len(mine)}{where}"]
        )
        pieces.append(more(head, table(("Series", "Pipeline", "", "Because"), series, caption=f"Rule {rule}"), opened=True))
    return joined(pieces) if pieces else tag("p", "The draft has no rule, or the study no images.", class_="soft")


def _reason(reason: dict[str, Any]) -> Html:
    mark = "✓" if reason["met"] else "✗"
    return tag("span", tag("span", "met: " if reason["met"] else "not met: ", class_="hide"), f"{mark} {reason['words']}", class_="reason")


def in_words(found: Comparison) -> str:
    """`41 series more, 3 fewer, of 4,112 studies; here they are.`"""
    groups = found.groups.values()
    counts = {kind: sum(getattr(group, kind) for group in groups) for kind in ("more", "fewer", "otherwise")}
    said = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    of = f"{counted(found.studies, 'study', 'studies')} with {found.series:,} series"
    if not found.studies:
        return "No study was routed in these days, or none is kept."
    return f"{of}: {said}; here they are." if said else f"{of}: the draft would have done the same."


def _group(group: Group) -> Html:
    rows = [
        [
            chip(one.kind, {"more": "good", "fewer": "bad"}.get(one.kind, "busy")),
            tag("a", one.study, href=f"/studies/{one.study}", class_="uid"),
            one.because,
        ]
        for one in group.examples
    ]
    total = group.more + group.fewer + group.otherwise
    shown = "" if total == len(rows) else f"; {len(rows)} of them here"
    return more(group.in_words + shown, table(("", "Study", "Because"), rows, caption=group.in_words), opened=True)
