"""*Users*: who may sign in; let somebody in, change roles, give a new one-time password, send somebody away. For administrators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any

from nicegui import events, run, ui

from node import log
from node.errors import PersonInvalid
from node.ledger.people import Person
from node.ledger.reception import Reception
from node.ledger.tokens import Role, in_words
from node.web.parts import WebParts
from node.web.ui.asking import one_at_a_time
from node.web.ui.pages import Pages, Place, Visitor
from node.web.ui.words import Words

_log = log.get(__name__)

USERS = Place(path="/users", title="Users", roles=frozenset({Role.ADMIN}), icon="group", order=80)

_COLUMNS: list[dict[str, Any]] = [
    {"name": "name", "label": "Name", "field": "name", "align": "left", "sortable": True},
    {"name": "roles", "label": "Roles", "field": "roles", "align": "left", "sortable": True},
    {"name": "state", "label": "State", "field": "state", "align": "left", "sortable": True},
    {"name": "last", "label": "Last sign-in (UTC)", "field": "last", "align": "left", "sortable": True},
    {"name": "acts", "label": "Actions", "field": "acts", "align": "left"},
]
_ACTS = """
<q-td :props="props">
  <q-btn v-if="props.row.ours" flat dense no-caps color="primary" label="Roles" :aria-label="'Roles of ' + props.row.name"
         @click="() => $parent.$emit('roles', props.row.name)" />
  <q-btn flat dense no-caps color="primary" label="New password" :aria-label="'New password for ' + props.row.name"
         @click="() => $parent.$emit('reset', props.row.name)" />
  <q-btn v-if="props.row.enabled" flat dense no-caps color="negative" label="Disable" :aria-label="'Disable ' + props.row.name"
         @click="() => $parent.$emit('disable', props.row.name)" />
</q-td>
"""

_RESET = ("Give {} a new one-time password?", "New password", "{} may sign in again, at the identity provider.")
_DISABLE = ("Disable {}? Open sessions end at once.", "Disable", "{} may not sign in any more.")


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
            choice = _Choice([Role.RADIOLOGIST])

            async def add() -> None:
                said = f"{name.value.strip()} may sign in."
                if await self._act(said, self._reception.add, name.value.strip(), *choice.roles):
                    name.set_value("")

            add_once = one_at_a_time(add)
            ui.button("Add", icon="person_add", on_click=add_once).props("unelevated no-caps")
            name.on("keydown.enter", add_once)
        Words("h2", "Who may sign in")
        search = ui.input("Search").props("outlined dense clearable").classes("q-mb-sm")
        self._table = ui.table(columns=_COLUMNS, rows=[], row_key="name", pagination={"rowsPerPage": 25, "sortBy": "name"})
        self._table.props("flat").classes("full-width").bind_filter_from(search, "value")
        self._table.add_slot("body-cell-acts", _ACTS)
        self._table.on("roles", self._ask_roles)
        self._table.on("reset", partial(self._sure, *_RESET, self._reception.reset))
        self._table.on("disable", partial(self._sure, *_DISABLE, self._reception.disable))
        await self._read()

    async def _read(self) -> None:
        self._table.rows = [_row(person) for person in await run.io_bound(self._reception.list) or []]

    def _ask_roles(self, event: events.GenericEventArguments) -> None:
        name = str(event.args)
        row = next((row for row in self._table.rows if row["name"] == name), None)
        if row is None:
            return

        async def give() -> None:
            roles = choice.roles
            if dialog.value and await self._act(f"{name} is {', '.join(roles)} now.", self._reception.give, name, *roles):
                dialog.close()

        with ui.dialog(value=True).props(f'aria-label="Roles of {name}"') as dialog, ui.card():
            ui.label(f"What may {name} do? Open sessions end at once; the next sign-in has the new roles.")
            choice = _Choice(row["roles"].split(", "))
            _buttons(dialog, "Change the roles", give)

    def _sure(self, question: str, label: str, said: str, act: Callable[..., str | None], event: events.GenericEventArguments) -> None:
        name = str(event.args)

        async def do() -> None:
            if dialog.value:
                dialog.close()
                await self._act(said.format(name), act, name)

        with ui.dialog(value=True).props('aria-label="Are you sure?"') as dialog, ui.card():
            ui.label(question.format(name))
            _buttons(dialog, label, do)

    async def _act(self, said: str, act: Callable[..., str | None], name: str, *more: str) -> bool:
        """Do it, show a password where there is one or say what was done, and read the list anew."""
        if not await self._pages.still(USERS, self._visitor):
            return False
        try:
            password = await run.io_bound(act, name, *more, who=self._visitor.who)
        except PersonInvalid as why:
            _refuse(str(why))
            return False
        except Exception as why:
            _log.error("an act by hand failed", extra={"where": log.where_it_failed(why)})
            _refuse("It failed; the node's log says where. What can't be written into the audit trail isn't done.")
            return False
        await self._read()
        if password:
            _tell(name, password)
        else:
            ui.notify(said)
        return True


class _Choice:
    """A box for each role."""

    def __init__(self, chosen: Collection[str]) -> None:
        with ui.row().classes("items-center").props('role="group" aria-label="Roles"'):
            self._boxes = {str(role): ui.checkbox(str(role), value=role in chosen).props("dense") for role in Role}

    @property
    def roles(self) -> list[str]:
        return [role for role, box in self._boxes.items() if box.value]


def _buttons(dialog: ui.dialog, label: str, do: Callable[[], Awaitable[None]]) -> None:
    with ui.row().classes("full-width justify-end"):
        ui.button("Cancel", on_click=dialog.close).props("flat no-caps")
        ui.button(label, on_click=one_at_a_time(do)).props("unelevated no-caps")


def _refuse(why: str) -> None:
    ui.notify(why, type="negative", timeout=8000, close_button="Close")


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
        "roles": in_words(person.roles),
        "state": ", ".join(word for word, so in states.items() if so) or "may sign in",
        "last": f"{person.signed_in_at:%Y-%m-%d %H:%M}" if person.signed_in_at else "never",
        "enabled": not person.disabled,
        "ours": person.local,  # the roles of others come with each sign-in
    }


def _tell(name: str, password: str) -> None:
    """The one-time password, on the screen until it is closed and never again."""
    with ui.dialog(value=True).props('persistent aria-label="One-time password"') as dialog, ui.card():
        ui.label(f"{name} signs in with this password and then chooses another. It is shown only now.")
        Words("code", password).classes("text-h6 one-time")
        with ui.row().classes("full-width justify-end"):
            ui.button("Done", on_click=dialog.close).props("unelevated no-caps")
