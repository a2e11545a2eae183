"""*Audit*: what happened, found by event, by who, by study and by time; is the chain whole; the same as a file."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from nicegui import run, ui

from node.audit import Event
from node.ledger.paging import LARGEST
from node.ledger.tokens import Role
from node.ledger.trail import Verdict
from node.web.audit import unread, used, wanted
from node.web.parts import WebParts
from node.web.ui.pages import Pages, Place, Visitor
from node.web.ui.words import Words

AUDIT = Place(path="/audit", title="Audit", roles=frozenset({Role.AUDITOR}), icon="fact_check", order=70)
AT_ONCE = 100
ASKED = ("event", "who", "study", "since", "until")

_EVENTS = {"": "every event", **{event.value[0]: event.value[1] for event in Event}}
_OUTCOMES = {0: "success", 4: "minor failure", 8: "serious failure", 12: "major failure"}
_COLUMNS = [
    {"name": name, "label": label, "field": name, "align": "left"}
    for name, label in [
        ("seq", "#"),
        ("when", "When (UTC)"),
        ("event", "Event"),
        ("who", "Who"),
        ("peer", "With"),
        ("study", "Study or patient"),
        ("what", "What"),
        ("outcome", "Outcome"),
    ]
]


def register(pages: Pages, parts: WebParts) -> None:
    """`/audit`, where there is a trail to look at."""
    trail = parts.audit
    if trail is None:
        return

    async def build(visitor: Visitor) -> None:
        given = {name: visitor.request.query_params.get(name, "") for name in ASKED}
        before = visitor.request.query_params.get("before", "")
        asked = wanted(**given)
        await run.io_bound(used, parts.record, visitor.who, visitor.peer, "looked at", asked)
        below = min(int(before), LARGEST) if before.isdecimal() and len(before) < 16 else None
        records = await run.io_bound(trail.find, asked, before=below, limit=AT_ONCE) or []
        _filter(given)
        if trouble := unread(since=given["since"], until=given["until"]):
            Words("p", trouble).classes("said bad").props('role="alert"')
        _files(given)
        _chain(pages, parts, visitor)
        _table(records)
        _older(given, records)

    pages.add(AUDIT, build)


def _filter(given: dict[str, str]) -> None:
    """The fields of the filter; the page's address carries them, so that it can be kept and passed on."""
    with ui.row().classes("items-center").props('role="search"'):
        fields: dict[str, Any] = {"event": ui.select(_EVENTS, label="Event", value=given["event"] if given["event"] in _EVENTS else "")}
        for name, label in [("who", "Who (a part of it)"), ("study", "Study UID or pseudonym")]:
            fields[name] = ui.input(label, value=given[name])
        for name, label in [("since", "From (UTC)"), ("until", "Until (UTC)")]:
            fields[name] = ui.input(label, value=given[name]).props('type="datetime-local" stack-label')

        def find() -> None:
            ui.navigate.to(_address({name: str(field.value or "") for name, field in fields.items()}))

        for field in fields.values():
            field.props("outlined dense").classes("asked").on("keydown.enter", find)
        ui.button("Find", icon="search", on_click=find).props("unelevated no-caps")
        Words("a", "Show all").props('href="/audit"')


def _address(asked: dict[str, str], **more: Any) -> str:
    return f"/audit?{urlencode({name: value for name, value in asked.items() if value} | more)}"


def _files(given: dict[str, str]) -> None:
    asked = {name: value for name, value in given.items() if value}
    with ui.row().classes("q-my-sm"):
        for format, label in (("json", "Export as JSON"), ("xml", "Export as XML (DICOM AuditMessage)")):
            link = Words("a", label).props("download")
            link.props["href"] = f"/api/v1/audit/export?{urlencode({'format': format, **asked})}"


def _chain(pages: Pages, parts: WebParts, visitor: Visitor) -> None:
    """The button that follows the chain of hashes, and what it found."""
    trail = parts.audit
    assert trail

    async def verify() -> None:
        if not await pages.still(AUDIT, visitor):
            return
        button.props("loading")
        verdict = await run.io_bound(trail.verify)
        button.props(remove="loading")
        if verdict is None:
            return
        await run.io_bound(used, parts.record, visitor.who, visitor.peer, "verified", wanted())
        said.set_text(sentence(verdict))
        said.classes(replace="said good" if verdict.intact else "said bad")
        altered.set_visibility(not verdict.intact)
        altered.props["href"] = f"/audit?before={(verdict.seq or 0) + 1}"

    with ui.row().classes("items-center q-my-sm"):
        button = ui.button("Verify the chain", icon="link", on_click=verify).props("outline no-caps")
        with ui.element("div").props('role="status"'):
            said = ui.label("")
        altered = Words("a", "Show it")
        altered.set_visibility(False)


def sentence(verdict: Verdict) -> str:
    """What `verify` found, in words; names the first record that is wrong."""
    if verdict.intact:
        return f"The chain is whole: {verdict.records} records, head {verdict.head}."
    return f"The chain is BROKEN at record {verdict.seq}: {verdict.reason}."


def _table(records: list[dict[str, Any]]) -> None:
    rows = [
        {
            "seq": one["seq"],
            "when": one["at"][:19].replace("T", " "),
            "event": one["event_meaning"],
            "who": one.get("who", ""),
            "peer": one.get("peer", ""),
            "study": one.get("study", "") or one.get("patient", ""),
            "what": "; ".join([one.get("what", ""), *(f"{name}: {value}" for name, value in one.get("facts", {}).items())]).strip("; "),
            "outcome": _OUTCOMES.get(one.get("outcome", 0), ""),
        }
        for one in records
    ]
    ui.table(columns=_COLUMNS, rows=rows, row_key="seq").props('dense flat wrap-cells no-data-label="No record fits."').classes(
        "records full-width"
    )


def _older(given: dict[str, str], records: list[dict[str, Any]]) -> None:
    with ui.element("nav").props('aria-label="Parts of the trail"').classes("q-mt-md"):
        if len(records) == AT_ONCE:
            link = Words("a", "Older records")
            link.props["href"] = _address(given, before=records[-1]["seq"])
