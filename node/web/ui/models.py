"""*Models*: each pipeline with its intended use, its licence and its figures; its versions, who decided what, and two of them compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from nicegui import run, ui

from node.errors import VersionRefused
from node.ledger.comparison import Comparison
from node.ledger.tokens import Role
from node.web.agreement import Rates
from node.web.api.models import ModelShown, VersionShown, models
from node.web.api.parts import ApiParts
from node.web.parts import WebParts
from node.web.ui.asking import Act, Asking
from node.web.ui.grid import Cell, grid
from node.web.ui.markup import Html, at, chip, counted, facts, joined, more, show, table, tag
from node.web.ui.model_card import as_html, figures
from node.web.ui.pages import Pages, Place, Visitor
from node.web.ui.words import Words

MODELS = Place(path="/models", title="Models", roles=frozenset(Role), icon="model_training", order=40)
EVERY_S = 5.0
_KINDS = {"active": "good", "shadow": "busy"}
Answers = Mapping[tuple[str, str], Rates]


def register(pages: Pages, parts: WebParts) -> None:
    """`/models`, where bundles are known."""
    if parts.api is None:
        return
    api = parts.api

    async def build(visitor: Visitor) -> None:
        page = _Page(api, parts, visitor)
        await page.build()

    pages.add(MODELS, build)


class _Page:
    """A card a pipeline, each written anew when something was decided about it."""

    def __init__(self, api: ApiParts, parts: WebParts, visitor: Visitor) -> None:
        self._api, self._parts, self._visitor = api, parts, visitor
        self._asking = Asking(parts, visitor, self._renew)
        self._cards: dict[str, tuple[ui.element, tuple[ModelShown, Answers]]] = {}

    async def build(self) -> None:
        """Those that are installed."""
        self._room = ui.element("div").classes("cards")
        await self._renew()
        if not self._cards:
            Words("p", "No bundle is installed. `radnode bundles add` brings one in.")
        ui.timer(EVERY_S, self._renew, immediate=False)

    async def _renew(self) -> None:
        found = await run.io_bound(self._read)
        for one, answers in found or ():
            card, said = self._cards.get(one.pipeline, (None, None))
            if said == (one, answers):
                continue
            if card is None:
                with self._room:
                    card = ui.element("article").classes("model")
                card.props["aria-label"] = one.pipeline
            card.clear()
            with card:
                self._write(one, answers)
            self._cards[one.pipeline] = card, (one, answers)

    def _read(self) -> list[tuple[ModelShown, Answers]]:
        answers = self._parts.agreement() if self._parts.agreement else {}
        return [(one, {key: rates for key, rates in answers.items() if key[0] == one.pipeline}) for one in models(self._api)]

    # --- a card -----------------------------------------------------------------------------------------------------------
    def _write(self, one: ModelShown, answers: Answers) -> None:
        told = next((version for version in one.versions if version.version == one.active), one.versions[-1])
        with ui.element("div").classes("card-head"):
            Words("h2", told.title or one.pipeline)
            show(joined([tag("code", one.pipeline), " ", _licence(told)]))
        with ui.element("div").classes("columns halves"):
            show(_about(told))
            show(_figures(told))
        Words("h3", "Versions")
        rows: list[list[Cell]] = [
            [
                version.version,
                joined(
                    [
                        chip(version.state, _KINDS.get(version.state, "")),
                        *([tag("p", version.trouble, class_="said")] if version.trouble else []),
                    ]
                ),
                tag("code", version.digest[:12], title=version.digest),
                _decided(version),
                _agreement(answers.get((one.pipeline, version.version))),
                partial(self._acts, one, version),
            ]
            for version in reversed(one.versions)
        ]
        grid(("Version", "State", "Digest", "Decided", "Readers", "Actions"), rows, caption=f"Versions of {one.pipeline}")
        if len(one.versions) == 1:
            return
        with ui.element("div").classes("strip"):
            self._asking.button(
                Act(
                    title=f"Roll back {one.pipeline}",
                    words="The version that was active before the present one becomes active again.",
                    do=lambda reason: self._roll_back(one.pipeline, reason),
                ),
                label="Roll back",
                about=f"Roll back {one.pipeline}",
            )
            if self._parts.compare:
                self._comparing(one)

    def _acts(self, one: ModelShown, version: VersionShown) -> None:
        shelf, who = self._api.shelf, self._visitor.who
        offered = {
            "Promote": (shelf.promote, "active", "Its results go home from the next study on. The version before retires."),
            "Shadow": (shelf.shadow, "shadow", "It runs beside the active one. Its results are kept here and delivered nowhere."),
            "Retire": (shelf.retire, "retired", "It runs no more. What it found stays."),
        }
        for label, (do, state, words) in offered.items():
            if version.state == state and not version.trouble:
                continue
            name = f"{label} {one.pipeline} {version.version}"

            def decide(reason: str, do: Any = do) -> None:
                do(one.pipeline, version.version, who=who, reason=reason)

            self._asking.button(Act(title=name, words=words, do=decide), label=label, about=name)

    def _roll_back(self, pipeline: str, reason: str) -> None:
        self._api.shelf.rollback(pipeline, who=self._visitor.who, reason=reason)

    def _comparing(self, one: ModelShown) -> None:
        versions = [version.version for version in one.versions]
        a = ui.select(versions, value=versions[-2], label="Version A").props("outlined dense").classes("asked")
        b = ui.select(versions, value=versions[-1], label="Version B").props("outlined dense").classes("asked")

        async def compare() -> None:
            said.set_content(await run.io_bound(self._compared, one.pipeline, str(a.value), str(b.value)) or "")

        button = Words("button", "Compare").props('type="button"').classes("act").on("click", compare)
        button.props["aria-label"] = f"Compare two versions of {one.pipeline}"
        said = ui.html("", sanitize=False).classes("full").props('role="status"')

    def _compared(self, pipeline: str, a: str, b: str) -> Html:
        assert self._parts.compare
        try:
            return compared(self._parts.compare(pipeline, a, b), a, b)
        except VersionRefused as why:
            return tag("p", why.detail, class_="said")


# --- what is said -------------------------------------------------------------------------------------------------------------
def _licence(told: VersionShown) -> Html:
    name = str(told.licence.get("name") or "no licence is told")
    return joined(
        [chip("non-commercial", "bad") if told.licence.get("non_commercial") else Html(""), " ", tag("span", name, class_="soft")]
    )


def _about(told: VersionShown) -> Html:
    use = {key.replace("_", " ").capitalize(): _word(value) for key, value in told.intended_use.items()}
    findings = {"Findings": ", ".join(told.labels)}
    whole = more("The whole model card", tag("div", told.model_card, class_="card-text", tabindex="0")) if told.model_card else Html("")
    return joined(
        [tag("h3", "Intended use"), facts({**use, **findings}) if use or told.labels else tag("p", "Not told.", class_="soft"), whole]
    )


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _figures(told: VersionShown) -> Html:
    found = figures(told.model_card)
    title = tag("h3", f"Figures of {told.version}")
    return joined(
        [
            title,
            as_html(found, caption=f"Figures of {told.title} {told.version}")
            if found
            else tag("p", "The model card tells none.", class_="soft"),
        ]
    )


def _decided(version: VersionShown) -> Html:
    if version.since is None:
        return tag("span", "nobody has decided", class_="soft")
    return joined([at(version.since), f" {version.by}: " if version.by else " ", version.reason])


def _agreement(rates: Rates | None) -> Html:
    if rates is None:
        return tag("span", "no answers", class_="soft")
    said = {"accepted": rates.accept, "modified": rates.modify, "rejected": rates.reject, "missed": rates.missed}
    dice = [f"mean Dice {rates.mean_dice:.2f}"] if rates.mean_dice is not None else []
    return Html(", ".join([*(f"{count} {word}" for word, count in said.items() if count), *dice]) or "no answers")


def compared(found: Comparison, a: str, b: str) -> Html:
    """Two versions on what both have read."""
    if not found.series:
        return tag("p", f"No series was read by both {a} and {b}. A version in the shadow reads what the active one reads.", class_="soft")
    said = tag(
        "p",
        f"{counted(found.series, 'series', 'series')} read by both, {found.analysed} analysed by both; {found.only_a} by {a} only, "
        f"{found.only_b} by {b} only. The same headline in {found.same_label} of {found.analysed}.",
    )
    rows: Sequence[Sequence[object]] = [
        [
            one.name,
            f"{one.agree} of {one.read}",
            "" if one.mean_difference is None else f"{one.mean_difference:+.3f}",
            "" if one.mean_distance is None else f"{one.mean_distance:.3f}",
        ]
        for one in found.findings
    ]
    heads = ("Finding", "The same decision", f"Probability, {b} minus {a}", "Apart")
    return joined([said, table(heads, rows, caption=f"{a} and {b} compared")]) if rows else said
