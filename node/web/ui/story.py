"""The story of one study on one page: how it came, what was done to it, what was found, where that went, and who looked."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import partial

from nicegui import run, ui

from node.errors import NotThere
from node.ledger.job_list import WholeJob
from node.ledger.tokens import Role
from node.web.api.parts import ApiParts
from node.web.api.story import Story, story
from node.web.notes import Notes
from node.web.parts import WebParts
from node.web.ui.acts import Acts
from node.web.ui.answers import ANSWERS, answers_of
from node.web.ui.film import FilmView
from node.web.ui.markup import show
from node.web.ui.pages import Pages, Place, Visitor
from node.web.ui.told import arrived, deidentified, delivered, found_words, head, jobs, routed, settled, title_of, trail
from node.web.ui.way import Step, filled
from node.web.ui.words import Words

LOOKS = frozenset({Role.RADIOLOGIST, Role.AUDITOR, Role.INTEGRATOR})
STORY = Place(path="/studies/{study}", title="The story of a study", roles=LOOKS)
EVERY_S = 3.0


def register(pages: Pages, parts: WebParts) -> None:
    """`/studies/{study}`."""
    if parts.api is None:
        return
    api, notes = parts.api, Notes(parts.record)

    async def build(visitor: Visitor) -> None:
        study = str(visitor.request.path_params["study"])

        def look() -> Story:
            api.arrival(study)  # raises NotThere before anything is written down
            notes.looked(visitor.request, study, "the story of a study")
            return story(api, study)

        try:
            told = await run.io_bound(look)
        except NotThere as why:
            ui.context.client.status_code = 404
            Words("p", str(why))
            return
        if told is not None:
            _Page(api, notes, parts, visitor, study, told).build()

    pages.add(STORY, build)


class _Page:
    """Head, steps and results: each is written anew only when it says something else, so that what somebody opened stays open."""

    def __init__(self, api: ApiParts, notes: Notes, parts: WebParts, visitor: Visitor, study: str, told: Story) -> None:
        self._api, self._study, self._told = api, study, told
        self._pictures = parts.light_box is not None
        self._reading = parts.reading if visitor.signed and visitor.may(Role.RADIOLOGIST) else None
        self._visitor = visitor
        self._view = secrets.token_urlsafe(9)
        self._acts = Acts(api, notes, parts, visitor, study, self._renew)
        self._said: dict[str, object] = {}  #: piece → what it says now
        self._films: set[str] = set()  #: jobs whose pictures are open

    def build(self) -> None:
        self._head = ui.element("section").classes("story-head").props('aria-label="Study"')
        with ui.element("div").classes("columns story"):
            with ui.element("section").props('aria-label="The way of the study"'), ui.element("ol").classes("way"):
                self._steps = {one.name: ui.element("li") for one in steps(self._told)}
            self._results = ui.element("section").props('aria-label="Results"')
        self._write()
        ui.timer(EVERY_S, self._renew, immediate=False)

    async def _renew(self) -> None:
        try:
            now = await run.io_bound(story, self._api, self._study)
        except NotThere:
            ui.navigate.to("/studies")
            return
        if now is not None and now != self._told:
            self._told = now
            self._write()

    def _write(self) -> None:
        told = self._told
        if self._is_new("head", (head(told), told.arrival.state)):
            self._head.clear()
            with self._head:
                show(head(told))
                self._acts.for_study(told)
        for one in steps(told):
            if self._is_new(one.name, one):
                with filled(self._steps[one.name], one):
                    self._acts.beside(one.name, told)
        if self._is_new("results", [(job.id, job.result, job.shadow) for job in told.jobs]):
            self._results.clear()
            with self._results:
                self._write_results(told.jobs)

    def _is_new(self, piece: str, says: object) -> bool:
        if piece in self._said and self._said[piece] == says:
            return False
        self._said[piece] = says
        return True

    def _write_results(self, every: Sequence[WholeJob]) -> None:
        done = sorted((job for job in every if job.result), key=lambda job: (job.shadow, -job.scheduled_at.timestamp()))
        Words("h2", "Results")
        if not done:
            waits = self._told.jobs or self._told.arrival.state in ("RECEIVING", "SETTLED")
            Words("p", "No result yet." if waits else "Nothing was asked of a model.").classes("soft")
        for number, job in enumerate(done):
            with ui.element("article").classes("result"):
                show(title_of(job), found_words(job))
                if self._pictures and job.analysed:
                    self._film(job, opened=number == 0 or job.id in self._films)
                if self._reading and job.analysed and not job.shadow:
                    ui.timer(0, partial(self._ask, ui.element("div"), job), once=True)

    async def _ask(self, place: ui.element, job: WholeJob) -> None:
        """What a reader may answer; read from the objects that were sent, so not in the event loop."""
        assert self._reading
        asked = await run.io_bound(answers_of, self._reading, job, f"{ANSWERS}{job.id}", self._visitor.name)
        if asked:
            with place:
                show(asked)

    def _film(self, job: WholeJob, *, opened: bool) -> None:
        label = f"{job.pipeline} {job.version}"
        place = ui.element("div")

        def put() -> None:
            self._films.add(job.id)
            place.clear()
            with place:
                FilmView(job.id, view=self._view, label=label)

        if opened:
            put()
        else:
            with place:
                Words("button", "Show the pictures").props(f'type="button" aria-label="Show the pictures of {label}"').classes("act").on(
                    "click", put
                )


def steps(told: Story) -> list[Step]:
    """The way of the study, step by step."""
    return [
        Step("arrived", "Arrival", told.arrival.arrived_at, "good", arrived(told)),
        Step("settled", "Settled", told.arrival.settled_at, "good" if told.arrival.settled_at else "busy", settled(told)),
        deidentified(told),
        routed(told),
        jobs(told),
        delivered(told),
        Step("audit", "Audit", None, "plain", trail(told)),
    ]
