"""The first page: how the node does now and in the last 24 hours. It renews itself in place, so that nothing flickers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from nicegui import run, ui

from node.ledger.shown import DestinationShown
from node.ledger.today import Hour
from node.ledger.tokens import Role
from node.web.api.parts import ApiParts
from node.web.api.today import Whole, whole
from node.web.parts import WebParts
from node.web.ui.destinations import up
from node.web.ui.markup import BAD, GOOD, Html, at, chip, counted, joined, more, size, table, tag, took, zone
from node.web.ui.pages import Pages, Place, Visitor
from node.web.ui.studies import STUDIES
from node.web.ui.words import Words

TODAY = Place(path="/", title="Today", roles=frozenset(Role), icon="today", order=10)
EVERY_S = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that the page shows, asked for once for everybody who looks."""

    ready: Mapping[str, bool]
    whole: Whole | None = None
    destinations: Sequence[DestinationShown] = ()


@dataclass(slots=True)
class Glance:
    """The latest look at the node, not older than the page's own beat."""

    look: Callable[[], Seen]
    _seen: Seen | None = None
    _at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self) -> Seen:
        with self._lock:
            if self._seen is None or time.monotonic() - self._at > EVERY_S / 2:
                self._seen, self._at = self.look(), time.monotonic()
            return self._seen


def register(pages: Pages, parts: WebParts) -> None:
    """`/`."""
    glance = Glance(lambda: _look(parts))

    async def build(visitor: Visitor) -> None:
        seen = await run.io_bound(glance)
        if seen is None:  # the node is going down
            return
        views = [_View("", _health), _View("tiles", partial(_tiles, links=STUDIES.open_to(visitor.roles)))]
        chart = None
        with ui.element("section").classes("columns today"):
            with ui.element("div"):
                for view in views:
                    view.put(seen)
            if seen.whole:
                with ui.element("div"):
                    chart = _chart(seen.whole.work.hours)
                    views.append(_View("", _hours))
                    views[-1].put(seen)
        if seen.whole:
            views.append(_View("", _destinations))
            views[-1].put(seen)

        async def renew() -> None:
            now = await run.io_bound(glance)
            if now is None:
                return
            for view in views:
                view.renew(now)
            if chart and now.whole:
                _renew(chart, now.whole.work.hours)

        ui.timer(EVERY_S, renew, immediate=False)

    pages.add(TODAY, build)


def _look(parts: WebParts) -> Seen:
    ready = dict(parts.ready())
    if parts.api is None:
        return Seen(ready=ready)
    api: ApiParts = parts.api
    return Seen(ready=ready, whole=whole(api), destinations=api.outgoing.destinations())


class _View:
    """A piece of the page that is written anew only when it says something else."""

    def __init__(self, classes: str, write: Callable[[Seen], Html]) -> None:
        self._classes, self._write = classes, write

    def put(self, seen: Seen) -> None:
        self._element = ui.html(self._write(seen), sanitize=False).classes(self._classes)

    def renew(self, seen: Seen) -> None:
        if (now := self._write(seen)) != self._element.content:
            self._element.set_content(now)


# --- what is said -------------------------------------------------------------------------------------------------------------
def _health(seen: Seen) -> Html:
    takes = all(seen.ready.values())
    said = tag(
        "p",
        chip("The node takes studies." if takes else "The node takes no studies now.", GOOD if takes else BAD),
        class_="lead",
        role="status",
    )
    checks = tag(
        "ul",
        *(tag("li", name, " ", chip("works" if works else "does not work", GOOD if works else BAD)) for name, works in seen.ready.items()),
        class_="checks",
    )
    return joined([said, checks])


def _tiles(seen: Seen, *, links: bool) -> Html:
    """`links`: to the studies, for those who may see them."""
    if seen.whole is None:
        return Html("")
    work, turnaround, disk = seen.whole.work, seen.whole.turnaround, seen.whole.disk
    refused = sum(states.get("REFUSED", 0) for states in seen.whole.deliveries.values())
    waiting = sum(states.get("QUEUED", 0) for states in seen.whole.deliveries.values())
    share = disk.free_bytes / max(1, disk.total_bytes)
    tiles = [
        _tile("Studies, 24 hours", f"{work.studies:,}", counted(work.instances, "instance"), STUDIES.path if links else ""),
        _tile(
            "In quarantine",
            f"{work.states.get('QUARANTINED', 0):,}",
            "of those that came",
            f"{STUDIES.path}?state=QUARANTINED" if links else "",
        ),
        _tile("Queue", f"{work.queue.waiting:,}", _queue(work.queue.running, work.queue.oldest)),
        _tile(
            "Turnaround",
            took(turnaround.median_s) or "none yet",
            f"median of {turnaround.studies:,}; 95 % within {took(turnaround.p95_s)}"
            if turnaround.studies
            else "first image to last delivery",
        ),
        _tile("Jobs given up, 24 hours", f"{work.failed:,}", "retry them on the study's page", kind=BAD if work.failed else ""),
        _tile("Deliveries refused", f"{refused:,}", f"{waiting:,} waiting", kind=BAD if refused else ""),
        _tile(
            "Disk free",
            size(disk.free_bytes),
            f"{100 * share:.0f} % of {size(disk.total_bytes)}",
            kind=BAD if disk.above_watermark_bytes <= 0 else "",
        ),
    ]
    return joined(tiles)


def _tile(name: str, value: str, more: str, link: str = "", *, kind: str = "") -> Html:
    title = tag("a", name, href=link) if link else name
    return tag("div", tag("h2", title), tag("p", value, class_=f"number {kind}"), tag("p", more, class_="soft"), class_="tile")


def _queue(running: int, oldest: datetime | None) -> Html:
    return joined([f"{running:,} running", "; the oldest waits since " if oldest else "", at(oldest, day=False)])


def _destinations(seen: Seen) -> Html:
    rows = [
        [
            one.name,
            up(one),
            one.kind,
            one.counts.get("QUEUED", 0),
            one.counts.get("REFUSED", 0),
            at(one.last_success),
            at(one.last_failure),
            one.last_reason if one.last_failure else "",
        ]
        for one in seen.destinations
    ]
    if not rows:
        return tag("p", "No destination is configured.", class_="soft")
    heads = ("Destination", "State", "Kind", "Waiting", "Refused", "Last success", "Last failure", "It said")
    return joined([tag("h2", "Destinations"), table(heads, rows, caption="Destinations")])


# --- the chart ----------------------------------------------------------------------------------------------------------------
_SERIES = (("Studies in", "studies", "#0b7a9c"), ("Jobs done", "analysed", "#2e9e5b"), ("Jobs given up", "failed", "#d6453a"))


def _chart(hours: Sequence[Hour]) -> Any:
    Words("h2", "Each hour")
    series = [
        {"type": "bar", "name": name, "itemStyle": {"color": color}, "data": _values(hours, key), "barGap": "5%"}
        for name, key, color in _SERIES
    ]
    options = {
        "animation": False,
        "grid": {"left": 44, "right": 8, "top": 34, "bottom": 26},
        "legend": {"top": 0, "left": 0, "itemWidth": 14},
        "tooltip": {"trigger": "axis"},
        "xAxis": {"type": "category", "data": _labels(hours)},
        "yAxis": {"type": "value", "minInterval": 1, "splitLine": {"lineStyle": {"color": "#80808050"}}},
        "series": series,
    }
    # as SVG: the page's own style gives its letters a colour that can be read in light and in dark
    return ui.echart(options, renderer="svg").classes("chart").props('aria-hidden="true"')


def _renew(chart: Any, hours: Sequence[Hour]) -> None:
    said = [_labels(hours), *(_values(hours, key) for _, key, _ in _SERIES)]
    if said != [chart.options["xAxis"]["data"], *(one["data"] for one in chart.options["series"])]:
        chart.options["xAxis"]["data"] = said[0]
        for one, values in zip(chart.options["series"], said[1:], strict=True):
            one["data"] = values
        chart.update()


def _labels(hours: Sequence[Hour]) -> list[str]:
    return [f"{hour.begins.astimezone():%H:%M}" for hour in hours]


def _values(hours: Sequence[Hour], key: str) -> list[int]:
    return [getattr(hour, key) for hour in hours]


def _hours(seen: Seen) -> Html:
    """The chart's numbers, for those who do not see it."""
    assert seen.whole
    hours = seen.whole.work.hours
    rows = [[f"{hour.begins.astimezone():%H:%M}", hour.studies, hour.instances, hour.analysed, hour.failed] for hour in hours]
    heads = ("Hour from", "Studies in", "Instances in", "Jobs done", "Jobs given up")
    return more(f"These numbers as a table ({zone()})", table(heads, rows, caption="Each of the last 24 hours"))
