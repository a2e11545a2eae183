"""The web room: doors over HTTP, each closed unless somebody is allowed in."""

from __future__ import annotations

from fastapi import FastAPI

import node
from node.web import agreement, audit, health, metrics, orthanc_hook, predict, reveal, stow, trial
from node.web.api import docs as api_docs
from node.web.api import rooms as api_rooms
from node.web.auth import OPEN, Alarm, Doorkeeper, Safe
from node.web.notes import Notes
from node.web.parts import WebParts
from node.web.problems import Calm, answer_with_problems

__all__ = ["WebParts", "create_app"]


def create_app(parts: WebParts) -> FastAPI:
    """The app for an ASGI server. Run it without an access log: paths carry Study Instance UIDs.

    A further room of routes is one `include_router` here; its routes are closed to anybody without a token by themselves,
    and say with `auth.needs(...)` which roles they are for.
    """
    app = FastAPI(title="Radnode", version=node.__version__, docs_url=None, redoc_url=None)
    counted = metrics.Metrics(parts.registry)
    if parts.agreement:
        agreement.count(parts.registry, parts.agreement)
    alarm = Alarm(parts.record)
    answer_with_problems(app)
    app.include_router(health.routes(parts.ready))
    app.include_router(metrics.routes(parts.registry))
    app.include_router(orthanc_hook.routes(parts, counted))
    app.include_router(stow.routes(parts, counted))
    if parts.reveal:
        app.include_router(reveal.routes(parts.reveal, Notes(parts.record)))
    if parts.audit:
        app.include_router(audit.routes(parts.audit, parts.record))
    if parts.api:
        app.include_router(api_rooms.routes(parts.api))
        api_docs.describe(app)
    if parts.predict:
        app.include_router(predict.routes(parts.predict))
    if parts.reception:
        if parts.predict:
            app.include_router(trial.routes(parts.predict))
        from node.web import ui  # a large library, and not every node shows pages

        if parts.reading and parts.api:
            ui.reading(app, parts, alarm)
        ui.furnish(app, parts, alarm)  # the last of the rooms: it answers for every path that is left
    knocks = {orthanc_hook.PATH: orthanc_hook.knock(parts, counted, alarm)}
    app.add_middleware(  # the last one added is the first one met
        Doorkeeper,
        check_token=parts.bearer,
        check_session=parts.reception.signed if parts.reception else None,
        own_checks=knocks,
        open_paths=OPEN if parts.reception else (),
        alarm=alarm,
    )
    app.add_middleware(Calm)
    app.add_middleware(metrics.Counting, metrics=counted)
    app.add_middleware(Safe)
    return app
