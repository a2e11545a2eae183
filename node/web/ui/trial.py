"""*Try it*: somebody hands in files, a model looks at them once, and nothing of them is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicegui import run, ui
from nicegui.element import Element

from node.web.notes import Notes
from node.web.parts import WebParts
from node.web.predict import PredictParts
from node.web.predictions import DISCLAIMER
from node.web.trial import TRIES
from node.web.ui.pages import Pages, Place, Visitor
from node.web.ui.words import Words

TRY = Place(path="/try", title="Try it", roles=frozenset(TRIES), icon="upload_file", order=25)

_FIELDS = {  #: of `clinical`, in the order of the page
    "age_years": ("Age", "years"),
    "sex": ("Sex", ""),
    "temperature_c": ("Temperature", "°C"),
    "spo2_percent": ("Oxygen saturation", "%"),
    "weight_kg": ("Weight", "kg"),
    "height_m": ("Height", "m"),
    "view": ("View of a film", ""),
}
_CHOICES = {"sex": ["F", "M"], "view": ["PA", "AP", "LATERAL"]}


class TrialDesk(Element, component="trial.js"):
    """Files in, progress, and what was found. All of it is in the browser; the node keeps nothing between two uploads."""

    def __init__(self, meta: Mapping[str, Any]) -> None:
        super().__init__()
        names = ("name", "title", "accepts", "clinical")
        self._props["pipelines"] = [{name: one[name] for name in names} for one in meta["pipelines"]]
        self._props["fields"] = [_field(name, span) for name in _FIELDS if (span := meta["clinical"].get(name)) is not None]
        self._props["limits"] = dict(meta["limits"])


def _field(name: str, span: str) -> dict[str, Any]:
    title, unit = _FIELDS[name]
    low, _, high = span.partition(" to ")
    return {"name": name, "title": title, "unit": unit, "low": low, "high": high, "choices": _CHOICES.get(name, [])}


def register(pages: Pages, parts: WebParts) -> None:
    """`/try`."""
    if parts.predict is None:
        return
    predict, notes = parts.predict, Notes(parts.record)

    async def build(visitor: Visitor) -> None:
        meta = await run.io_bound(predict.meta)
        assert meta is not None
        place = ui.element("div").classes("try")

        def desk() -> None:
            place.clear()
            with place:
                TrialDesk(meta)

        if predict.terms.accepted(visitor.request.scope):
            desk()
            return
        with place:
            _ask(pages, predict, notes, visitor, desk)

    pages.add(TRY, build)


def _ask(pages: Pages, predict: PredictParts, notes: Notes, visitor: Visitor, then: Any) -> None:
    async def accept() -> None:
        if not await pages.still(TRY, visitor):
            return

        def accepted() -> None:
            with notes.does(visitor.request, "accepted that uploads are for research use only"):
                predict.terms.accept(visitor.request.scope)

        await run.io_bound(accepted)
        then()

    with ui.element("section").classes("result terms").props('aria-labelledby="terms"'):
        Words("h2", "Before the first upload").props('id="terms"')
        Words("p", DISCLAIMER)
        for line in (
            "The files go to this node only. They are de-identified, looked at once, and deleted with the answer.",
            "That you looked is written into the audit trail; what you looked at is not kept.",
            "A picture or a table on this page is no report and must not be filed as one.",
        ):
            Words("p", line)
        with ui.element("div").classes("strip"):
            Words("button", "I accept: research use only").props('type="button"').classes("act main").on("click", accept)
