"""A page without a script, for those who are not in yet."""

from __future__ import annotations

from html import escape
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.responses import HTMLResponse
from starlette.responses import Response

from node.ledger.sessions import Signed
from node.web.auth import STYLE, cookie_name, secure
from node.web.problems import Problem

LOOK = "radnode_look"  #: cookie: light or dark; without it the browser decides
MAX_FORM = 8192

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser would not say where a form came from
    "Cache-Control": "no-store",
}


def page(request: Request, title: str, body: str, *, said: str = "", status: int = 200, refresh: str = "") -> HTMLResponse:
    """A small page with one thing to do. `body` is HTML of ours; `said` is text, read out when it appears; `refresh`: where it goes by itself."""
    on = f'<meta http-equiv="refresh" content="0; url={refresh}">' if refresh else ""
    alert = f'<p class="said" role="alert">{escape(said)}</p>' if said else ""
    return HTMLResponse(
        f"""<!doctype html>
<html lang="en" class="{look_of(request)}">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">{on}
<title>{escape(title)} · Radnode</title><link rel="stylesheet" href="{STYLE}"></head>
<body class="plain"><main>
<p class="brand">Radnode</p><p class="research">RESEARCH USE ONLY</p>
<h1>{escape(title)}</h1>
{alert}{body}
</main></body></html>
""",
        status,
        _HEADERS,
    )


def field(label: str, name: str, *, type: str = "text", autocomplete: str, value: str = "", focus: bool = False) -> str:
    """A labelled input."""
    more = " autofocus" if focus else ""
    return (
        f'<label for="{name}">{escape(label)}</label>'
        f'<input id="{name}" name="{name}" type="{type}" autocomplete="{autocomplete}" value="{escape(value)}" maxlength="200" required{more}>'
    )


async def form(request: Request) -> dict[str, str]:
    """The fields of a small form. Raises Problem."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            raise Problem(413, "The form is too long.")
    try:
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=10))
    except ValueError:
        raise Problem(400, "The form can't be read; send it from the node's own page.") from None


def signed_in(request: Request, answer: Response, id: str) -> Response:
    """The answer, with the session's cookie."""
    answer.set_cookie(cookie_name(request.scope), id, path="/", httponly=True, samesite="strict", secure=secure(request.scope))
    return answer


def person(request: Request) -> Signed:
    """Who is signed in. Raises Problem for a token."""
    signed = request.scope.get("radnode.signed")
    if not isinstance(signed, Signed):
        raise Problem(403, "This is for people, not for tokens. Sign in at /login.")
    return signed


def look_of(request: Request) -> str:
    """`light`, `dark`, or empty: as the browser likes it."""
    look = request.cookies.get(LOOK, "")
    return look if look in {"light", "dark"} else ""
