"""What may be done with a study by hand: each asks why, is written down before it is done, and is only for those who may now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from nicegui import run, ui

from node.errors import NodeError
from node.ledger.shown import Delivery
from node.ledger.tokens import Role
from node.web.api.parts import ApiParts
from node.web.api.story import Story
from node.web.notes import Notes
from node.web.parts import WebParts
from node.web.ui.pages import Visitor
from node.web.ui.words import Words

SHORTEST, LONGEST = 8, 300  #: characters of a reason
Do = Callable[[str], None]  #: with the reason


class Acts:
    """The buttons of a story. `renew` shows what became of it."""

    def __init__(
        self, api: ApiParts, notes: Notes, parts: WebParts, visitor: Visitor, study: str, renew: Callable[[], Awaitable[None]]
    ) -> None:
        self._api, self._notes, self._visitor, self._study, self._renew = api, notes, visitor, study, renew
        self._sessions = parts.reception.sessions if parts.reception else None

    # --- where they stand -----------------------------------------------------------------------------------------------
    def for_study(self, told: Story) -> None:
        """Beside the head: ask the rules again, purge."""
        with ui.element("div").classes("strip"):
            if self._visitor.may(Role.INTEGRATOR) and told.arrival.state == "PROCESSED":
                words = "The rules are asked again, as they are now. Work that is done stays done; only what is new is scheduled."
                self._button("Route again", words, self._reroute, Role.INTEGRATOR)
            if self._visitor.may():
                name = told.card.pseudonym if told.card and told.card.pseudonym else self._study
                words = (
                    "The study's key, its sealed instances, its clean copy and its results here are deleted for good. "
                    "Objects already delivered stay where they are."
                )
                self._button("Purge", words, self._purge, confirm=name)

    def beside(self, step: str, told: Story) -> None:
        """Below a step: try jobs and deliveries again."""
        if not self._visitor.may(Role.INTEGRATOR):
            return
        with ui.element("div").classes("strip"):
            if step == "jobs":
                for job in told.jobs:
                    if job.state == "CANCELED":
                        words = (
                            "The job that was given up waits again. What it had reported is withdrawn here and replaced by its next result."
                        )
                        self._button(f"Retry {job.pipeline}", words, partial(self._retry, job.id), Role.INTEGRATOR)
            elif step == "delivered":
                refused: dict[str, list[Delivery]] = {}
                for one in told.deliveries:
                    if one.state == "REFUSED":
                        refused.setdefault(one.destination, []).append(one)
                for destination, some in refused.items():
                    words = f"What {destination} did not take is queued once more: {', '.join(one.role for one in some)}."
                    self._button(f"Send again to {destination}", words, partial(self._send_again, some), Role.INTEGRATOR)

    # --- what they do ---------------------------------------------------------------------------------------------------
    def _reroute(self, reason: str) -> None:
        self._notes.did(self._visitor.request, "study routed again", self._study, reason=reason)
        self._api.send_again(self._study)

    def _purge(self, reason: str) -> None:
        self._notes.did(self._visitor.request, "purge asked for", self._study, reason=reason)
        self._api.purge(self._study)

    def _retry(self, job: str, reason: str) -> None:
        self._notes.did(self._visitor.request, "job tried again", self._study, job=job, reason=reason)
        self._api.try_again(job)

    def _send_again(self, some: list[Delivery], reason: str) -> None:
        for one in some:
            self._notes.did(self._visitor.request, "delivery queued again", self._study, destination=one.destination, reason=reason)
            self._api.outgoing.replay(one.id)

    # --- asking ---------------------------------------------------------------------------------------------------------
    def _button(self, title: str, words: str, do: Do, *roles: Role, confirm: str = "") -> None:
        button = Words("button", title).props('type="button"').classes("act" + (" danger" if confirm else ""))
        button.on("click", partial(self._ask, title, words, do, roles, confirm))

    def _ask(self, title: str, words: str, do: Do, roles: tuple[Role, ...], confirm: str) -> None:
        with ui.dialog() as dialog, ui.card().classes("ask"):
            Words("h2", title).props('id="ask-title"')
            Words("p", words)
            name = ui.input(f"Type {confirm} to go on").props("outlined dense autocomplete=off").classes("full") if confirm else None
            reason = (
                ui.input("Why? It goes into the audit trail and must name nobody")
                .props(f"outlined dense maxlength={LONGEST}")
                .classes("full")
            )
            said = Words("p", "").classes("said").props('role="alert"')
            said.set_visibility(False)

            async def go() -> None:
                why = (reason.value or "").strip()
                trouble = ""
                if name is not None and (name.value or "").strip() != confirm:
                    trouble = "What you typed is not the study's name here. Nothing was done."
                elif len(why) < SHORTEST or not why.isprintable():
                    trouble = f"Say why, in {SHORTEST} to {LONGEST} characters on one line."
                elif not await run.io_bound(self._may_still, roles):
                    trouble = "You may not do this any more; sign in again."
                trouble = trouble or await run.io_bound(self._tried, do, why) or ""
                if trouble:
                    said.set_text(trouble)
                    said.set_visibility(True)
                    return
                dialog.close()
                ui.notify(f"{title}: done.", type="positive")
                await self._renew()

            with ui.element("div").classes("strip"):
                Words("button", title).props('type="button"').classes("act" + (" danger" if confirm else "")).on("click", go)
                Words("button", "Cancel").props('type="button"').classes("act").on("click", dialog.close)
        dialog.props('aria-labelledby="ask-title"')
        dialog.on("hide", dialog.delete)
        dialog.open()

    def _tried(self, do: Do, why: str) -> str:
        """What went wrong, or nothing."""
        try:
            do(self._api.check_reason(self._study, why))
        except NodeError as refusal:
            return getattr(refusal, "detail", "") or str(refusal)
        return ""

    def _may_still(self, roles: tuple[Role, ...]) -> bool:
        """As things are now: the page may have been open for long."""
        signed = self._visitor.signed
        now = self._sessions.by_key(signed.key) if self._sessions and signed else None
        return now is not None and not now.roles.isdisjoint({*roles, Role.ADMIN})
