"""*Labelling*: results that the models are least sure of, and a desk to draw on one: the model's outlines first, then the reader's."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from nicegui import run, ui
from nicegui.element import Element
from nicegui.events import GenericEventArguments

from node.annotations.drawn import Drawn, answers, proposals
from node.annotations.worth import Worth
from node.errors import NodeError, NotThere, VerdictRefused
from node.ledger.job_list import WholeJob
from node.ledger.tokens import Role
from node.viewing.light_box import LightBox, Place
from node.web.api.parts import ApiParts
from node.web.notes import Notes
from node.web.parts import WebParts
from node.web.reading import ReadingParts
from node.web.ui.answers import ANSWERS, REASONS, answers_of
from node.web.ui.asking import one_at_a_time
from node.web.ui.markup import Html, counted, joined, show, table, tag
from node.web.ui.pages import Pages, Visitor
from node.web.ui.pages import Place as PagePlace
from node.web.ui.told import found_words, title_of
from node.web.ui.words import Words

LABELS = PagePlace(path="/label", title="Labelling", roles=frozenset({Role.RADIOLOGIST}), icon="draw", order=28)
LABEL = PagePlace(path="/label/{job}", title="Draw on a result", roles=frozenset({Role.RADIOLOGIST}))
ROWS = 50


class LabelDesk(Element, component="label.js"):
    """An image with outlines: boxes and polygons, by mouse and by keyboard. Sends `save` with what is drawn."""

    def __init__(self, job: str, places: Sequence[Place], first: Sequence[Drawn], names: Sequence[str]) -> None:
        super().__init__()
        self._props.update(
            {
                "job": job,
                "view": secrets.token_urlsafe(9),
                "places": [asdict(one) for one in places],
                "proposals": [asdict(one) for one in first],
                "names": list(names),
                "reasons": list(REASONS),
            }
        )


def register(pages: Pages, parts: WebParts) -> None:
    """`/label` and `/label/{job}`."""
    if parts.api is None or parts.reading is None or parts.light_box is None:
        return
    api, reading, box, notes = parts.api, parts.reading, parts.light_box, Notes(parts.record)

    async def listed(visitor: Visitor) -> None:
        def look() -> list[Worth]:
            notes.searched(visitor.request, "results worth labelling")
            return _worth(reading)

        found = await run.io_bound(look) or []
        Words("p", "Results on single images that nobody has answered; the models are least sure of the first.").classes("soft")
        if found:
            show(_table(found[:ROWS]))
        else:
            Words("p", "No result is uncertain, or all were answered.")
        if len(found) > ROWS:
            Words("p", f"And {counted(len(found) - ROWS, 'other')}.").classes("soft")

    async def one(visitor: Visitor) -> None:
        await _Desk(pages, api, reading, box, notes, visitor).show()

    pages.add(LABELS, listed)
    pages.add(LABEL, one)


def _worth(reading: ReadingParts) -> list[Worth]:
    return [one for one in reading.worth() if reading.shows_images(one.read.pipeline)]


def _table(found: Sequence[Worth]) -> Html:
    heads = ("Result", "Model", "Uncertainty", "Because")
    rows = [
        [
            tag("a", one.read.job[:12], href=f"/label/{one.read.job}"),
            f"{one.read.pipeline} {one.read.version}",
            f"{one.score:.2f}",
            joined([tag("div", reason) for reason in one.reasons]),
        ]
        for one in found
    ]
    return table(heads, rows, caption="Results worth labelling")


class _Desk:
    """One open result."""

    def __init__(self, pages: Pages, api: ApiParts, reading: ReadingParts, box: LightBox, notes: Notes, visitor: Visitor) -> None:
        self._pages, self._api, self._reading, self._box, self._notes = pages, api, reading, box, notes
        self._visitor, self._id = visitor, str(visitor.request.path_params["job"])

    async def show(self) -> None:
        try:
            opened = await run.io_bound(self._open)
        except NotThere as why:
            ui.context.client.status_code = 404
            Words("p", str(why))
            return
        if isinstance(opened, str):
            Words("p", opened).classes("said bad")
            return
        assert opened is not None
        job, places, first, names = opened
        show(
            title_of(job),
            tag("p", tag("a", "The story of its study", href=f"/studies/{job.study}"), " · ", tag("a", "The list", href=LABELS.path)),
        )
        self._said = Words("p", "").classes("said").props('role="status"')
        self._said.set_visibility(False)
        self._on = ui.element("div").classes("strip")
        desk = LabelDesk(job.id, places, first, names)
        desk.on("save", one_at_a_time(self._saved))
        with ui.element("section").classes("result").props('aria-label="Findings"'):
            show(found_words(job))
            self._form = ui.element("div")
        await self._ask(job)

    def _open(self) -> tuple[WholeJob, list[Place], list[Drawn], list[str]] | str:
        job = self._api.jobs.one(self._id)
        self._notes.looked(self._visitor.request, job.study, "labelling", job=job.id)
        if job.shadow or not job.analysed or not self._reading.shows_images(job.pipeline):
            return "Only results on single images can be drawn on, and none of a version in the shadow."
        ours, places = self._reading.told(job.id), self._box.places(job.id)
        if ours is None or not places:
            return "The images are not here any more."
        self._places = places
        self._first = proposals(ours, job.id, self._sizes())
        names = sorted({one.finding for one in ours.told.values() if one.job == job.id})
        return job, places, self._first, names

    def _sizes(self) -> dict[str, tuple[int, int]]:
        return {one.image: (one.rows, one.columns) for one in self._places}

    async def _ask(self, job: WholeJob) -> None:
        asked = await run.io_bound(answers_of, self._reading, job, f"{ANSWERS}{job.id}", self._visitor.name)
        self._form.clear()
        if asked:
            with self._form:
                show(asked)

    async def _saved(self, event: GenericEventArguments) -> None:
        if not await self._pages.still(LABEL, self._visitor):
            return
        kept, said = await run.io_bound(self._keep, event.args) or (False, "Nothing was kept; try again.")
        self._said.set_text(said)
        self._said.classes(replace="said" if kept else "said bad")
        self._said.set_visibility(True)
        if not kept:
            return
        await self._ask(await run.io_bound(self._api.jobs.one, self._id))  # type: ignore[arg-type]
        following = next(iter(await run.io_bound(_worth, self._reading) or []), None)
        self._on.clear()
        with self._on:
            Words("a", "The next result" if following else "The list").props(
                f'href="{LABELS.path}{"/" + following.read.job if following else ""}"'
            )

    def _keep(self, given: Any) -> tuple[bool, str]:
        """Whether it is kept, and what there is to say."""
        try:
            said = answers(self._id, self._first, _drawn(given), self._sizes(), str(given.get("reason") or "")[:300])
            if not said:
                return False, "Nothing is drawn and nothing was proposed: answer by the buttons below."
            heard = self._reading.answers(self._id, said, self._visitor.name)
        except NodeError as why:
            return False, f"{why.message} {why.detail[:1].upper()}{why.detail[1:]}."
        return True, "Kept: " + ", ".join(f"{one.verdict.opinion} of {one.verdict.finding or 'something else'}" for one in heard) + "."


def _drawn(given: Any) -> list[Drawn]:
    """What the browser sent. Raises VerdictRefused."""
    try:
        return [
            Drawn(
                uid=str(one["uid"]),
                finding=str(one["finding"]),
                image=str(one["image"]),
                frame=int(one["frame"]),
                outline=tuple((round(float(x), 2), round(float(y), 2)) for x, y in one["outline"]),
            )
            for one in given["regions"]
        ]
    except (KeyError, TypeError, ValueError):
        raise VerdictRefused("the drawing can't be read; load the page again") from None
