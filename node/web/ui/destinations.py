"""*Destinations and sources*: where results go and how that goes, what was refused and is sent once more, and where studies come from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from nicegui import run, ui

from node.errors import DeliveryRefused, NoAnswer, NotNow, NotThere
from node.ledger.shown import Delivery, DestinationShown, SourceShown
from node.ledger.tokens import Role
from node.web.api.parts import ApiParts
from node.web.desks import Gets, SendingDesk
from node.web.notes import Notes
from node.web.parts import WebParts
from node.web.ui.asking import Act, Asking, it_failed
from node.web.ui.grid import Cell, grid
from node.web.ui.markup import Html, at, chip, counted, facts, joined, more, show, table, tag, zone
from node.web.ui.pages import Pages, Place, Visitor
from node.web.ui.told import CHANNELS
from node.web.ui.words import Words

LOOKS = frozenset({Role.RADIOLOGIST, Role.AUDITOR, Role.INTEGRATOR})
DESTINATIONS = Place(path="/destinations", title="Destinations and sources", roles=LOOKS, icon="send", order=50)
EVERY_S, SOURCES_EVERY_S = 4.0, 60.0
ROWS = 50  #: dead letters that are shown
AT_ONCE = 1000  #: that are queued again by one press


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that the page shows."""

    destinations: Sequence[DestinationShown]
    gets: Mapping[str, Gets]
    dead: Sequence[Delivery]
    sources: Sequence[SourceShown]

    @property
    def dead_count(self) -> int:
        """Of all destinations, shown or not."""
        return sum(one.counts.get("REFUSED", 0) for one in self.destinations)


def register(pages: Pages, parts: WebParts) -> None:
    """`/destinations`, where results go anywhere."""
    if parts.api is None or parts.sending is None:
        return
    api, desk = parts.api, parts.sending

    async def build(visitor: Visitor) -> None:
        await _Page(pages, api, desk, parts, visitor).build()

    pages.add(DESTINATIONS, build)


class _Page:
    """Three pieces: each is written anew only when it says something else."""

    def __init__(self, pages: Pages, api: ApiParts, desk: SendingDesk, parts: WebParts, visitor: Visitor) -> None:
        self._pages, self._api, self._desk, self._visitor = pages, api, desk, visitor
        self._notes = Notes(parts.record)
        self._asking = Asking(parts, visitor, self._renew)
        self._said: dict[str, object] = {}
        self._found: Sequence[SourceShown] = ()
        self._counted_at = float("-inf")

    async def build(self) -> None:
        """Destinations, dead letters, sources."""
        Words("h2", "Destinations")
        self._cards = ui.element("div").classes("cards two")
        self._letters = ui.element("section").props('aria-label="Dead letters"')
        Words("h2", "Sources")
        self._sources = ui.html("", sanitize=False)
        self._answers: dict[str, ui.html] = {}
        await self._renew()
        ui.timer(EVERY_S, self._renew, immediate=False)

    async def _renew(self) -> None:
        seen = await run.io_bound(self._look)
        if seen is None:
            return
        if self._is_new("cards", (seen.destinations, seen.gets)):
            kept = {name: answer.content for name, answer in self._answers.items()}
            self._cards.clear()
            with self._cards:
                for one in seen.destinations:
                    self._card(one, seen.gets.get(one.name), kept.get(one.name, ""))
                if not seen.destinations:
                    Words("p", "No destination is configured: results stay here.").classes("soft")
        if self._is_new("letters", (seen.dead, seen.dead_count)):
            self._letters.clear()
            with self._letters:
                self._dead(seen)
        if self._is_new("sources", seen.sources):
            self._sources.set_content(sources(seen.sources))

    def _look(self) -> Seen:
        dead = self._api.outgoing.find(limit=ROWS, state="REFUSED").items
        if dead and self._said.get("noted") != [one.id for one in dead]:
            self._said["noted"] = [one.id for one in dead]
            self._notes.searched(self._visitor.request, "dead letters listed", rows=str(len(dead)))
        return Seen(destinations=self._api.outgoing.destinations(), gets=self._desk.gets(), dead=dead, sources=self._count_sources())

    def _count_sources(self) -> Sequence[SourceShown]:
        """All studies are counted for it, so not at every beat."""
        if time.monotonic() - self._counted_at > SOURCES_EVERY_S:
            self._found, self._counted_at = self._desk.sources(), time.monotonic()
        return self._found

    def _is_new(self, piece: str, says: object) -> bool:
        if piece in self._said and self._said[piece] == says:
            return False
        self._said[piece] = says
        return True

    # --- a destination ----------------------------------------------------------------------------------------------------
    def _card(self, one: DestinationShown, gets: Gets | None, answer: str) -> None:
        with ui.element("article").classes("model"):
            with ui.element("div").classes("card-head"):
                Words("h3", one.name)
                show(up(one))
            show(_facts(one, gets))
            with ui.element("div").classes("strip"):
                may = self._visitor.may(Role.INTEGRATOR) and one.configured
                for label, do in (("Echo", self._echo), ("Probe", self._probe)):
                    button = Words("button", label).props('type="button"').classes("act")
                    button.props["aria-label"] = f"{label} {one.name}"
                    if may:
                        button.on("click", partial(do, one.name))
                    else:
                        button.props["disabled"] = True
                if gets and gets.probed_at:
                    act = Act(
                        title=f"Forget what {one.name} accepts",
                        words="It is taken to accept everything again that its profile names.",
                        do=partial(self._forget, one.name),
                        roles=(Role.INTEGRATOR,),
                    )
                    self._asking.button(act, label="Forget the probe", about=act.title)
            self._answers[one.name] = ui.html(answer, sanitize=False).props('role="status"')

    async def _echo(self, name: str) -> None:
        await self._asked(name, self._echoed)

    async def _probe(self, name: str) -> None:
        await self._asked(name, self._probed)
        await self._renew()

    async def _asked(self, name: str, ask: object) -> None:
        assert callable(ask)
        self._answers[name].set_content(tag("p", "Asking …", class_="soft"))
        if not await self._pages.still(DESTINATIONS, self._visitor) or not await run.io_bound(self._asking.may_still, (Role.INTEGRATOR,)):
            return
        try:
            said = await run.io_bound(ask, name)
        except Exception as why:
            said = tag("p", it_failed(why), class_="said")
        self._answers[name].set_content(said or "")

    def _echoed(self, name: str) -> Html:
        try:
            with self._notes.does(self._visitor.request, "echo", destination=name):
                echo = self._api.outgoing.echo(name)
        except NotThere:
            return tag("p", "The settings name it no more.", class_="said")
        return tag("p", chip("answers", "good") if echo.answered else chip("no answer", "bad"), f" {echo.words} ({echo.seconds:.2f} s)")

    def _probed(self, name: str) -> Html:
        try:
            with self._notes.does(self._visitor.request, "destination probed", destination=name):
                found = self._desk.probe(name)
        except (NoAnswer, DeliveryRefused) as why:
            return tag("p", f"No answer: {why.detail or why.message} What was remembered stays.", class_="said")
        if found is None:
            return tag("p", "It can't be asked beforehand; what it refuses is seen when it is sent.", class_="soft")
        rows = [[role, chip("accepted", "good") if taken else chip("not accepted", "bad")] for role, taken in found]
        return more(
            f"{sum(taken for _, taken in found)} of {len(found)} kinds are accepted",
            table(("Kind", ""), rows, caption=f"What {name} accepts"),
        )

    def _forget(self, name: str, reason: str) -> None:
        with self._notes.does(self._visitor.request, "probe forgotten", destination=name, reason=reason):
            self._desk.forget(name)

    # --- dead letters -----------------------------------------------------------------------------------------------------
    def _dead(self, seen: Seen) -> None:
        Words("h2", "Dead letters")
        if not seen.dead:
            Words("p", "Nothing was refused.").classes("soft")
            return
        shown = f", the latest {len(seen.dead)} of them here" if seen.dead_count > len(seen.dead) else ""
        with ui.element("div").classes("strip"):
            Words("p", f"{counted(seen.dead_count, 'object')} that a destination refused or did not take in time{shown}.")
            title = f"Send all again ({min(seen.dead_count, AT_ONCE):,})"
            words = "Everything that was refused is queued once more, at all destinations."
            self._asking.button(Act(title=title, words=words, do=self._all_again, roles=(Role.INTEGRATOR,)))
        rows: list[list[Cell]] = [
            [
                tag("a", one.study, href=f"/studies/{one.study}", class_="uid"),
                one.destination,
                one.role,
                one.attempts,
                at(one.updated_at),
                one.reason,
                partial(self._again_button, one),
            ]
            for one in seen.dead
        ]
        grid(("Study", "Destination", "Object", "Tries", "Refused", "It said", "Actions"), rows, caption="Dead letters")

    def _again_button(self, one: Delivery) -> None:
        act = Act(
            title=f"Send {one.role} again to {one.destination}",
            words="The object is queued once more.",
            do=partial(self._again, [one]),
            roles=(Role.INTEGRATOR,),
        )
        self._asking.button(act, label="Send again", about=f"{act.title}, study {one.study}")

    def _all_again(self, reason: str) -> None:
        some: list[Delivery] = []
        cursor = ""
        while len(some) < AT_ONCE:
            found = self._api.outgoing.find(limit=200, cursor=cursor, state="REFUSED")
            some += found.items
            if not (cursor := found.next):
                break
        self._again(some[:AT_ONCE], reason)

    def _again(self, some: Sequence[Delivery], reason: str) -> None:
        """The reason is looked at for each study before anything is sent: it may not name a patient."""
        for study in {one.study for one in some}:
            reason = self._api.check_reason(study, reason)
        for one in some:
            try:
                with self._notes.does(
                    self._visitor.request, "delivery queued again", one.study, destination=one.destination, reason=reason
                ):
                    self._api.outgoing.replay(one.id)
            except (NotNow, NotThere):
                if len(some) == 1:
                    raise  # of many, some may have gone their way meanwhile


# --- what is said -------------------------------------------------------------------------------------------------------------
def up(one: DestinationShown) -> Html:
    """By what became of the latest delivery."""
    if not one.configured:
        return chip("not configured")
    if one.last_failure and (one.last_success is None or one.last_failure > one.last_success):
        return chip("down", "bad")
    return chip("up", "good") if one.last_success else chip("not used yet")


def _facts(one: DestinationShown, gets: Gets | None) -> Html:
    counts = [
        f"{one.counts.get(state, 0):,} {word}"
        for state, word in (("QUEUED", "waiting"), ("SENT", "sent"), ("CONFIRMED", "confirmed"), ("REFUSED", "refused"))
    ]
    settings = ", ".join(f"{name} {value}" for name, value in one.settings.items() if value not in (None, "", {}, []))
    told = {
        "Kind": one.kind,
        "Settings": settings,
        "Profile": gets.profile if gets else "",
        "Gets": ", ".join(gets.roles) if gets else "",
        "Instead": "; ".join(gets.instead) if gets else "",
        "Segmentations": gets.packing if gets else "",
        "Probed": (at(gets.probed_at) if gets.probed_at else "never: it is taken to accept its whole profile") if gets else "",
        "Queue": ", ".join(counts),
        "Waits since": at(one.oldest_queued),
        "Last success": at(one.last_success),
        "Last failure": joined([at(one.last_failure), f" {one.last_reason}"]) if one.last_failure else "",
    }
    return facts(told)


def sources(found: Sequence[SourceShown]) -> Html:
    """Each door and who came through it."""
    if not found:
        return tag("p", "Nothing came yet, and the settings name nobody who may send.", class_="soft")
    rows = [
        [
            one.name or "not told",
            CHANNELS.get(one.channel, one.channel),
            f"{one.studies:,}",
            at(one.last) if one.last else chip("nothing yet"),
        ]
        for one in found
    ]
    return joined(
        [table(("Source", "Door", "Studies here", "Last image"), rows, caption="Sources"), tag("p", f"Times in {zone()}.", class_="soft")]
    )
