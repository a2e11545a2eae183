"""Small pieces of HTML for pages that show much and ask little. Whatever comes in is text: it is escaped here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape

from nicegui import ui

GOOD, BAD, BUSY, PLAIN = "good", "bad", "busy", "plain"

_STATES = {
    **dict.fromkeys(("PROCESSED", "COMPLETED", "CONFIRMED", "SENT", "good"), GOOD),
    **dict.fromkeys(("QUARANTINED", "CANCELED", "REFUSED", "bad"), BAD),
    **dict.fromkeys(("RECEIVING", "SETTLED", "SCHEDULED", "IN PROGRESS", "QUEUED"), BUSY),
}


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def safe(value: object) -> str:
    """A value as HTML: what is HTML already stays, all else is escaped."""
    return value if isinstance(value, Html) else escape(str(value))


def show(*pieces: Html) -> ui.html:
    """The pieces as an element of the page."""
    return ui.html("".join(pieces), sanitize=False)


def tag(element: str, /, *inside: object, **attributes: str) -> Html:
    """An element; `class_` and `for_` lose their underscore, other underscores become hyphens."""
    told = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Html(f"<{element}{told}>{''.join(safe(one) for one in inside)}</{element}>")


def joined(pieces: Iterable[object], between: str = "") -> Html:
    """One after the other."""
    return Html(escape(between).join(safe(one) for one in pieces))


def chip(state: str, kind: str = "") -> Html:
    """A state in words, coloured too."""
    return tag("span", state, class_=f"chip {kind or _STATES.get(state, PLAIN)}")


def table(heads: Sequence[object], rows: Iterable[Sequence[object]], *, caption: str, hidden: bool = True) -> Html:
    """A table with column headers; the first cell of a row is its header. `caption` is for those who can't see where it stands."""
    head = tag("tr", *(tag("th", one, scope="col") for one in heads))
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    named = tag("caption", caption, class_="hide" if hidden else "")
    written = tag("table", named, tag("thead", head), tag("tbody", *body), class_="plain")
    return tag("div", written, class_="scroll", tabindex="0", role="group", aria_label=caption)  # a wide one is moved with the keyboard


def facts(pairs: Mapping[str, object]) -> Html:
    """Names and values; what is empty is left out."""
    told = [(name, value) for name, value in pairs.items() if value not in ("", None)]
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in told), class_="facts")


def more(summary: object, *inside: object, opened: bool = False) -> Html:
    """What is read only when somebody asks."""
    return Html(f"<details{' open' if opened else ''}>{tag('summary', summary)}{''.join(safe(one) for one in inside)}</details>")


def at(moment: datetime | None, *, day: bool = True) -> Html:
    """A moment in this machine's time zone."""
    if moment is None:
        return Html("")
    here = moment.astimezone()
    return tag("time", f"{here:%Y-%m-%d %H:%M:%S}" if day else f"{here:%H:%M:%S}", datetime=here.isoformat(timespec="seconds"))


def zone() -> str:
    """The name of this machine's time zone."""
    return datetime.now().astimezone().tzname() or ""


def took(seconds: float | None) -> str:
    """A time span as people say it."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("bytes", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def counted(number: int, one: str, several: str = "") -> str:
    """1 image, 2 images."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"
