"""*Users*: who may sign in; let somebody in, give a new one-time password, send somebody away. For administrators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui import events, run, ui

from node.errors import PersonInvalid
from node.ledger.people import Person
from node.ledger.reception import Reception
from node.ledger.tokens import Role
from node.web.parts import WebParts
from node.web.ui.pages import Pages, Place, Visitor
from node.web.ui.words import Words

USERS = Place(path="/users", title="Users", roles=frozenset({Role.ADMIN}), icon="group", order=80)

_COLUMNS: list[dict[str, Any]] = [
    {"name": "name", "label": "Name", "field": "name", "align": "left", "sortable": True},
    {"name": "role", "label": "Role", "field": "role", "align": "left", "sortable": True},
    {"name": "state", "label": "State", "field": "state", "align": "left", "sortable": True},
    {"name": "last", "label": "Last sign-in (UTC)", "field": "last", "align": "left", "sortable": True},
    {"name": "acts", "label": "Actions", "field": "acts", "align": "left"},
]
_ACTS = """
<q-td :props="props">
  <q-btn flat dense no-caps color="primary" label="New password" :aria-label="'New password for ' + props.row.name"
         @click="() => $parent.$emit('reset', props.row.name)" />
  <q-btn v-if="props.row.enabled" flat dense no-caps color="negative" label="Disable" :aria-label="'Disable ' + props.row.name"
         @click="() => $parent.$emit('disable', props.row.name)" />
</q-td>
"""


def register(pages: Pages, parts: WebParts) -> None:
    """`/users`."""
    reception = parts.reception
    assert reception

    async def build(visitor: Visitor) -> None:
        await _Users(pages, reception, visitor).show()

    pages.add(USERS, build)


class _Users:
    """One open page."""

    def __init__(self, pages: Pages, reception: Reception, visitor: Visitor) -> None:
        self._pages, self._reception, self._visitor = pages, reception, visitor

    async def show(self) -> None:
        Words("h2", "Let somebody in")
        with ui.row().classes("items-center"):
            name = ui.input("Name").props('outlined dense autocomplete="off" maxlength=100')
            role = (
                ui.select([str(role) for role in Role], value=str(Role.RADIOLOGIST), label="Role")
                .props("outlined dense")
                .classes("role-choice")
            )

            async def add() -> None:
                if await self._act(self._reception.add, name.value.strip(), role.value):
                    name.set_value("")

            ui.button("Add", icon="person_add", on_click=add).props("unelevated no-caps")
            name.on("keydown.enter", add)
        Words("h2", "Who may sign in")
        search = ui.input("Search").props("outlined dense clearable").classes("q-mb-sm")
        self._table = ui.table(columns=_COLUMNS, rows=[], row_key="name", pagination={"rowsPerPage": 25, "sortBy": "name"})
        self._table.props("flat").classes("full-width").bind_filter_from(search, "value")
        self._table.add_slot("body-cell-acts", _ACTS)
        self._table.on("reset", lambda event: self._sure(event, "Give {} a new one-time password?", "New password", self._reception.reset))
        self._table.on(
            "disable", lambda event: self._sure(event, "Disable {}? Open sessions end at once.", "Disable", self._reception.disable)
        )
        await self._read()

    async def _read(self) -> None:
        self._table.rows = [_row(person) for person in await run.io_bound(self._reception.list) or []]

    def _sure(self, event: events.GenericEventArguments, question: str, label: str, act: Callable[..., str | None]) -> None:
        name = str(event.args)

        async def do() -> None:
            dialog.close()
            await self._act(act, name)

        with ui.dialog(value=True).props('aria-label="Are you sure?"') as dialog, ui.card():
            ui.label(question.format(name))
            with ui.row().classes("full-width justify-end"):
                ui.button("Cancel", on_click=dialog.close).props("flat no-caps")
                ui.button(label, on_click=do).props("unelevated no-caps")

    async def _act(self, act: Callable[..., str | None], name: str, *more: Any) -> bool:
        """Do it, show a password where there is one, and read the list anew."""
        if not await self._pages.still(USERS, self._visitor):
            return False
        try:
            password = await run.io_bound(act, name, *more, who=self._visitor.who)
        except PersonInvalid as why:
            ui.notify(str(why), type="negative", timeout=8000, close_button="Close")
            return False
        await self._read()
        if password:
            _tell(name, password)
        else:
            ui.notify(f"{name} may not sign in any more." if password is None else f"{name} may sign in again, at the identity provider.")
        return True


def _row(person: Person) -> dict[str, Any]:
    """One line of the table."""
    states = {
        "disabled": person.disabled,
        f"locked until {person.locked_until:%H:%M} UTC" if person.locked_until else "": bool(person.locked_until),
        "one-time password": person.one_time,
        "signs in elsewhere": not person.local,
    }
    return {
        "name": person.name,
        "role": person.role.value,
        "state": ", ".join(word for word, so in states.items() if so) or "may sign in",
        "last": f"{person.signed_in_at:%Y-%m-%d %H:%M}" if person.signed_in_at else "never",
        "enabled": not person.disabled,
    }


def _tell(name: str, password: str) -> None:
    """The one-time password, on the screen until it is closed and never again."""
    with ui.dialog(value=True).props('persistent aria-label="One-time password"') as dialog, ui.card():
        ui.label(f"{name} signs in with this password and then chooses another. It is shown only now.")
        Words("code", password).classes("text-h6 one-time")
        with ui.row().classes("full-width justify-end"):
            ui.button("Done", on_click=dialog.close).props("unelevated no-caps")
