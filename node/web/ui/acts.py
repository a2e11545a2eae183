"""What may be done with a study by hand: each asks why, is written down before it is done, and is only for those who may now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from nicegui import ui

from node.ledger.shown import Delivery
from node.ledger.tokens import Role
from node.web.api.parts import ApiParts
from node.web.api.story import Story
from node.web.notes import Notes
from node.web.parts import WebParts
from node.web.ui.asking import Act, Asking, Do
from node.web.ui.pages import Visitor


class Acts:
    """The buttons of a story. `renew` shows what became of it."""

    def __init__(
        self, api: ApiParts, notes: Notes, parts: WebParts, visitor: Visitor, study: str, renew: Callable[[], Awaitable[None]]
    ) -> None:
        self._api, self._notes, self._visitor, self._study = api, notes, visitor, study
        self._asking = Asking(parts, visitor, renew, lambda why: api.check_reason(study, why))

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
        with self._notes.does(self._visitor.request, "study routed again", self._study, reason=reason):
            self._api.send_again(self._study)

    def _purge(self, reason: str) -> None:
        with self._notes.does(self._visitor.request, "purge asked for", self._study, reason=reason):
            self._api.purge(self._study)

    def _retry(self, job: str, reason: str) -> None:
        with self._notes.does(self._visitor.request, "job tried again", self._study, job=job, reason=reason):
            self._api.try_again(job)

    def _send_again(self, some: list[Delivery], reason: str) -> None:
        for one in some:
            with self._notes.does(self._visitor.request, "delivery queued again", self._study, destination=one.destination, reason=reason):
                self._api.outgoing.replay(one.id)

    def _button(self, title: str, words: str, do: Do, *roles: Role, confirm: str = "") -> None:
        self._asking.button(Act(title=title, words=words, do=do, roles=roles, confirm=confirm))
