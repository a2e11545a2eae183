"""Nothing is done by hand without a reason: a dialog asks why, is told whether somebody still may, and says what went wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial, wraps

from nicegui import run, ui

from node import log
from node.errors import NodeError
from node.ledger.tokens import Role
from node.web.parts import WebParts
from node.web.ui.markup import Html, show
from node.web.ui.pages import Visitor
from node.web.ui.words import Words

_log = log.get(__name__)

SHORTEST, LONGEST = 8, 300  #: characters of a reason
Do = Callable[[str], None]  #: with the reason
Told = Callable[[], Awaitable[Html]]  #: what the dialog shows above the question


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something that may be done by hand."""

    title: str
    words: str  #: what it does
    do: Do
    roles: tuple[Role, ...] = ()  #: beside administrators
    confirm: str = ""  #: has to be typed
    told: Told | None = None


def it_failed(why: Exception) -> str:
    """What somebody is told of an act that failed, once the log knows where."""
    _log.error("an act by hand failed", extra={"where": log.where_it_failed(why)})
    return "It failed; the node's log says where. What can't be written into the audit trail isn't done."


def one_at_a_time(do: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[None]]:
    """What a button does: pressed again while it is still at that, it does nothing more, as after a double click."""
    at_work = False

    @wraps(do)  # whether it takes an event is seen in its parameters
    async def pressed(*event: object) -> None:
        nonlocal at_work
        if at_work:
            return
        at_work = True
        try:
            await do(*event)
        finally:
            at_work = False

    return pressed


class Asking:
    """Of one open page. `renew` shows what became of an act, whether it was done or refused."""

    def __init__(
        self, parts: WebParts, visitor: Visitor, renew: Callable[[], Awaitable[None]], check: Callable[[str], str] = lambda why: why
    ) -> None:
        self._visitor, self._renew, self._check = visitor, renew, check
        self._sessions = parts.reception.sessions if parts.reception else None
        self._room = ui.element("div")  # dialogs stay while pieces of the page are written anew

    def button(self, act: Act, *, label: str = "", about: str = "") -> Words:
        """A button that asks. It is there for everybody who sees the page, and can't be pressed by those who may not.

        `about` is added to what is read out, where several buttons have the same label.
        """
        button = Words("button", label or act.title).props('type="button"').classes("act" + (" danger" if act.confirm else ""))
        if about:
            button.props["aria-label"] = about
        if self._visitor.may(*act.roles):
            button.on("click", partial(self.ask, act))
        else:
            button.props["disabled"] = True
            button.props["title"] = f"for the role {' or '.join(sorted({*act.roles, Role.ADMIN}))}"
        return button

    async def ask(self, act: Act) -> None:
        """The dialog."""
        told = await act.told() if act.told else None
        with self._room, ui.dialog() as dialog, ui.card().classes("ask"):
            Words("h2", act.title).props('id="ask-title"')
            Words("p", act.words)
            if told is not None:
                show(told).classes("full")
            name = (
                ui.input(f"Type {act.confirm} to go on").props("outlined dense autocomplete=off").classes("full") if act.confirm else None
            )
            reason = (
                ui.input("Why? It goes into the audit trail and must name nobody")
                .props(f"outlined dense maxlength={LONGEST}")
                .classes("full")
            )
            (name or reason).props("autofocus")
            said = Words("p", "").classes("said").props('role="alert"')
            said.set_visibility(False)

            async def go() -> None:
                if not dialog.value:  # it was done, and a second click was on its way
                    return
                why = (reason.value or "").strip()
                trouble = ""
                if name is not None and (name.value or "").strip() != act.confirm:
                    trouble = "What you typed is not the study's name here. Nothing was done."
                elif len(why) < SHORTEST or not why.isprintable():
                    trouble = f"Say why, in {SHORTEST} to {LONGEST} characters on one line."
                elif not await run.io_bound(self.may_still, act.roles):
                    trouble = "You may not do this any more; sign in again."
                if not trouble and (trouble := await run.io_bound(self._tried, act.do, why) or ""):
                    await self._renew()
                if trouble:
                    said.set_text(trouble)
                    said.set_visibility(True)
                    return
                dialog.close()
                ui.notify(f"{act.title}: done.", type="positive")
                await self._renew()

            with ui.element("div").classes("strip"):
                Words("button", act.title).props('type="button"').classes("act" + (" danger" if act.confirm else "")).on(
                    "click", one_at_a_time(go)
                )
                Words("button", "Cancel").props('type="button"').classes("act").on("click", dialog.close)
        dialog.props('aria-labelledby="ask-title"')
        dialog.on("hide", dialog.delete)
        dialog.open()

    def _tried(self, do: Do, why: str) -> str:
        """What went wrong, or nothing."""
        try:
            do(self._check(why))
        except NodeError as refusal:
            return refusal.detail or str(refusal)
        except Exception as why:
            return it_failed(why)
        return ""

    def may_still(self, roles: tuple[Role, ...]) -> bool:
        """As things are now: the page may have been open for long."""
        signed = self._visitor.signed
        now = self._sessions.by_key(signed.key) if self._sessions and signed else None
        return now is not None and not now.roles.isdisjoint({*roles, Role.ADMIN})
