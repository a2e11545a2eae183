"""`/read/{token}`: whoever holds a signed link sees one result and answers it, without a password and without a script but the pictures'."""

from __future__ import annotations

import json
import secrets
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Annotated

import nicegui
from fastapi import APIRouter, FastAPI, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from node.errors import LinkRefused, NotThere, VerdictRefused
from node.ledger.job_list import WholeJob
from node.ledger.reading_links import Linked
from node.ledger.verdicts import Heard
from node.web import pictures
from node.web.auth import FILM, READING, STYLE, VUE, Alarm, peer_of
from node.web.notes import Notes
from node.web.parts import WebParts
from node.web.problems import Problem
from node.web.reading import ReadingParts
from node.web.ui import answers
from node.web.ui.markup import joined, tag
from node.web.ui.plain import form, look_of, page
from node.web.ui.told import found_words, title_of

_HERE = Path(__file__).parent
_VUE = Path(nicegui.__file__).parent / "static" / "vue.esm-browser.prod.js"
KEPT = "Your answer is kept. Another click replaces it."
Token = Annotated[str, InPath(max_length=1000)]


def reading(app: FastAPI, parts: WebParts, alarm: Alarm) -> None:
    """The reading page with its pictures, and the answers of signed-in readers."""
    assert parts.reading
    assert parts.api
    app.include_router(answers.routes(parts.reading, parts.api))
    app.include_router(_Page(parts, alarm).routes())
    if parts.light_box:
        app.include_router(_pictures(parts, alarm))


class _Page:
    def __init__(self, parts: WebParts, alarm: Alarm) -> None:
        assert parts.reading
        assert parts.api
        self._reading, self._api = parts.reading, parts.api
        self._notes, self._alarm = Notes(parts.record), alarm
        self._pictures = parts.light_box is not None

    def routes(self) -> APIRouter:
        """Open to whoever has a link: it is checked before anything else."""
        router = APIRouter(include_in_schema=False)

        @router.get(FILM)
        def film() -> Response:
            """The pictures' script."""
            return FileResponse(_HERE / "film.js", media_type="text/javascript", headers={"Cache-Control": "max-age=300"})

        @router.get(VUE)
        def vue() -> Response:
            """What it is written for, as NiceGUI brings it."""
            return FileResponse(_VUE, media_type="text/javascript", headers={"Cache-Control": "max-age=300"})

        @router.get(READING + "{token}")
        def read(request: Request, token: Token, said: str = "") -> Response:
            """The result, and what may be answered."""
            try:
                linked, job = self._opened(request, token)
            except LinkRefused as why:
                return _closed(request, why)
            except NotThere:
                return _gone(request)
            self._notes.looked(request, job.study, "the reading page", job=job.id)
            return self._shown(request, token, linked, job, said=KEPT if said == "kept" else "")

        @router.post(READING + "{token}")
        async def answer(request: Request, token: Token) -> Response:
            """One click."""
            given = await form(request)
            try:
                linked, job = await run_in_threadpool(self._opened, request, token)
                await run_in_threadpool(self._kept, linked, given, _name(request))
            except LinkRefused as why:
                return _closed(request, why)
            except NotThere:
                return _gone(request)
            except VerdictRefused as why:
                refused = f"{why.message} {why.detail[:1].upper()}{why.detail[1:]}."
                return await run_in_threadpool(self._shown, request, token, linked, job, said=refused, status=422)
            return RedirectResponse(f"{READING}{token}?said=kept", 303)

        return router

    def _opened(self, request: Request, token: str) -> tuple[Linked, WholeJob]:
        linked = _linked(self._reading, self._alarm, request, token)
        return linked, self._api.jobs.one(linked.job)

    def _kept(self, linked: Linked, given: dict[str, str], who: str) -> Heard:
        return answers.keep(self._reading, linked.job, given, who, only=linked.tracking_uid)

    def _shown(self, request: Request, token: str, linked: Linked, job: WholeJob, *, said: str, status: int = 200) -> Response:
        name = _name(request)
        asked = answers.answers_of(self._reading, job, f"{READING}{token}", name, only=linked.tracking_uid)
        alert = tag("p", said, class_="said" if status == 200 else "said bad", role="status" if status == 200 else "alert") if said else ""
        told = tag("article", alert, title_of(job), found_words(job), asked or tag("p", "There is nothing to answer."), class_="result")
        shown = job.analysed and self._pictures
        film = tag("div", tag("div", id="film"), class_="result", role="region", aria_label="Pictures") if shown else ""
        until = tag("p", f"This link is good until {linked.until.astimezone():%Y-%m-%d %H:%M}.", class_="soft")
        nonce = secrets.token_urlsafe(16)
        script = _script(token, job, nonce) if shown else ""
        body = tag("div", tag("div", told, until), film, class_="columns read" if shown else "")
        return _wide(request, "A result to answer", joined([body]), script, nonce, name, status)


def _pictures(parts: WebParts, alarm: Alarm) -> APIRouter:
    assert parts.reading
    assert parts.light_box
    reading, box, looks = parts.reading, parts.light_box, pictures.Looks(Notes(parts.record))
    router = APIRouter(prefix=READING + "{token}/pictures", include_in_schema=False)

    def looked_at(token: Token, request: Request, view: pictures.View = "") -> str:
        """The job that the link names."""
        try:
            linked = _linked(reading, alarm, request, token)
        except LinkRefused as why:
            raise Problem(403, f"{why.message} {why.detail}") from None
        return pictures.admitted(box, looks, request, linked.job, view)

    pictures.show(router, box, looked_at)
    return router


def _linked(reading: ReadingParts, alarm: Alarm, request: Request, token: str) -> Linked:
    """What the link names; from here on the audit trail knows who looks. Raises LinkRefused."""
    try:
        linked = reading.open(token)
    except LinkRefused:
        alarm.raise_it(peer_of(request.scope), "a link to the reading page that opens nothing")
        raise
    request.scope.setdefault("radnode.who", f"link:{sha256(token.encode()).hexdigest()[:12]}")
    return linked


def _name(request: Request) -> str:
    signed = request.scope.get("radnode.signed")
    return signed.name if signed else ""


def _closed(request: Request, why: LinkRefused) -> Response:
    return page(
        request, "This link opens nothing", "<p>Ask for a new one where it came from.</p>", said=f"{why.detail.capitalize()}.", status=403
    )


def _gone(request: Request) -> Response:
    return page(request, "The result is gone", "<p>The link is good, but its study was purged here.</p>", status=404)


def _script(token: str, job: WholeJob, nonce: str) -> str:
    props = {"base": f"{READING}{token}/pictures", "view": secrets.token_urlsafe(9), "label": f"{job.pipeline} {job.version}"}
    told = json.dumps(props).replace("<", "\\u003c")
    return (
        f'<script type="module" nonce="{nonce}">import {{ createApp }} from "{VUE}"; import film from "{FILM}"; '
        f'createApp(film, {told}).mount("#film");</script>'
    )


def _wide(request: Request, title: str, body: str, script: str, nonce: str, name: str, status: int) -> HTMLResponse:
    who = f'<span class="who">{escape(name)}</span>' if name else ""
    policy = (
        f"default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(
        f"""<!doctype html>
<html lang="en" class="{look_of(request)}">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} · Radnode</title><link rel="icon" href="data:,"><link rel="stylesheet" href="{STYLE}"></head>
<body class="reading"><header><span class="brand">Radnode</span><strong class="research">RESEARCH USE ONLY</strong>{who}</header>
<main class="page"><h1>{escape(title)}</h1>{body}</main>{script}</body></html>
""",
        status,
        {"Content-Security-Policy": policy, "Referrer-Policy": "same-origin", "Cache-Control": "no-store"},
    )
