"""The matrix of who may: every door of the web room, the roles it is for, and what comes of it. A door without a row fails the tests."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from typing import Any

from fastapi import FastAPI
from starlette.routing import Mount

from node.ledger.tokens import Role
from node.web.auth import HEALTH, OPEN
from node.web.orthanc_hook import PATH as HOOK

Door = tuple[str, str]  #: (method, path)


class Comes(Enum):
    """What comes of a door."""

    NOTHING = auto()  #: it shows nothing of a patient, not even a pseudonym
    LOOK = auto()  #: it shows something of one, which is written down first
    ACT = auto()  #: it does something by hand, which is written down first
    BROUGHT = auto()  #: something is handed in; what is done with it is written down
    PERSON = auto()  #: somebody comes in, goes, or chooses a password


EVERYBODY = frozenset(Role)
LOOKS = frozenset({Role.RADIOLOGIST, Role.AUDITOR, Role.INTEGRATOR, Role.ADMIN})
DOES = frozenset({Role.INTEGRATOR, Role.ADMIN})
TRIES = frozenset({Role.INTEGRATOR, Role.RADIOLOGIST, Role.ADMIN})
READS = frozenset({Role.RADIOLOGIST, Role.ADMIN})
REVEALS = frozenset({Role.PRIVACY, Role.ADMIN})
AUDITS = frozenset({Role.AUDITOR, Role.ADMIN})
ADMIN = frozenset({Role.ADMIN})

API: dict[Door, tuple[frozenset[Role], Comes]] = {
    ("GET", "/api/v1/today"): (EVERYBODY, Comes.NOTHING),
    ("GET", "/api/v1/studies"): (LOOKS, Comes.LOOK),
    ("GET", "/api/v1/studies/{study}"): (LOOKS, Comes.LOOK),
    ("POST", "/api/v1/studies/{study}/retry"): (DOES, Comes.ACT),
    ("POST", "/api/v1/studies/{study}/reroute"): (DOES, Comes.ACT),
    ("POST", "/api/v1/studies/{study}/purge"): (ADMIN, Comes.ACT),
    ("GET", "/api/v1/jobs"): (LOOKS, Comes.LOOK),
    ("GET", "/api/v1/jobs/{job}"): (LOOKS, Comes.LOOK),
    ("POST", "/api/v1/jobs/{job}/retry"): (DOES, Comes.ACT),
    ("GET", "/api/v1/deliveries"): (LOOKS, Comes.LOOK),
    ("POST", "/api/v1/deliveries/{delivery}/replay"): (DOES, Comes.ACT),
    ("GET", "/api/v1/destinations"): (LOOKS, Comes.NOTHING),
    ("POST", "/api/v1/destinations/{destination}/echo"): (DOES, Comes.ACT),
    ("GET", "/api/v1/quarantine"): (LOOKS | REVEALS, Comes.LOOK),
    ("POST", "/api/v1/quarantine/{study}/release"): (REVEALS, Comes.ACT),
    ("GET", "/api/v1/models"): (EVERYBODY, Comes.NOTHING),
    ("GET", "/api/v1/models/{pipeline}"): (EVERYBODY, Comes.NOTHING),
    **{
        ("POST", f"/api/v1/models/{{pipeline}}/versions/{{version}}/{step}"): (ADMIN, Comes.ACT) for step in ("promote", "shadow", "retire")
    },
    ("POST", "/api/v1/models/{pipeline}/rollback"): (ADMIN, Comes.ACT),
    **{("GET", f"/api/v1/rules{more}"): (AUDITS | DOES, Comes.NOTHING) for more in ("", "/{number}", "/{number}/difference/{other}")},
    ("POST", "/api/v1/rules/validate"): (AUDITS | DOES, Comes.NOTHING),
    **{
        ("POST", f"/api/v1/rules{more}"): (ADMIN, Comes.ACT)
        for more in ("", "/drafts", "/watch", "/{number}/approve", "/{number}/rollback")
    },
    **{("GET", f"/api/v1/audit{more}"): (AUDITS | REVEALS, Comes.LOOK) for more in ("", "/verify")},
    ("GET", "/api/v1/events"): (LOOKS, Comes.LOOK),
}
RESULTS: dict[Door, tuple[frozenset[Role], Comes]] = {
    ("GET", f"/dicom-web/studies{more}"): (TRIES, Comes.LOOK)
    for more in (
        "",
        "/{study}",
        "/{study}/metadata",
        "/{study}/series",
        "/{study}/instances",
        "/{study}/series/{series}",
        "/{study}/series/{series}/metadata",
        "/{study}/series/{series}/instances",
        "/{study}/series/{series}/instances/{instance}",
        "/{study}/series/{series}/instances/{instance}/metadata",
    )
}
_PICTURES = ("", "/slices/{at}.png", "/segments/{segment}/{at}.png", "/captures/{number}.png")
OTHERS: dict[Door, tuple[frozenset[Role], Comes]] = {
    ("GET", "/metrics"): (EVERYBODY, Comes.NOTHING),
    ("POST", "/dicom-web/studies"): (DOES, Comes.BROUGHT),
    ("POST", "/dicom-web/studies/{study}"): (DOES, Comes.BROUGHT),
    ("POST", "/api/v1/studies/{study}/reveal"): (REVEALS, Comes.ACT),
    ("GET", "/api/v1/reveal-requests"): (REVEALS, Comes.LOOK),
    ("POST", "/api/v1/reveal-requests/{id}/approve"): (REVEALS, Comes.ACT),
    ("GET", "/api/v1/audit/export"): (AUDITS, Comes.LOOK),
    **{("GET", f"/docs{more}"): (EVERYBODY, Comes.NOTHING) for more in ("", "/start.js", "/{file}")},
    ("POST", "/predict"): (TRIES, Comes.BROUGHT),
    ("POST", "/heatmap"): (TRIES, Comes.BROUGHT),
    ("POST", "/try/upload"): (TRIES, Comes.BROUGHT),
    ("GET", "/meta"): (TRIES, Comes.NOTHING),
    **{("GET", f"/pictures/{{job}}{more}"): (LOOKS, Comes.LOOK) for more in _PICTURES},
    # pages
    ("GET", "/"): (EVERYBODY, Comes.NOTHING),
    ("GET", "/studies"): (LOOKS, Comes.LOOK),
    ("GET", "/studies/{study}"): (LOOKS, Comes.LOOK),
    ("GET", "/try"): (TRIES, Comes.NOTHING),
    ("GET", "/label"): (READS, Comes.LOOK),
    ("GET", "/label/{job}"): (READS, Comes.LOOK),
    ("GET", "/rules"): (AUDITS | DOES, Comes.LOOK),
    ("GET", "/models"): (EVERYBODY, Comes.NOTHING),
    ("GET", "/destinations"): (LOOKS, Comes.LOOK),
    ("GET", "/audit"): (AUDITS, Comes.LOOK),
    ("GET", "/users"): (ADMIN, Comes.NOTHING),
}
#: a token has no password, no emergency and no form to answer on
FOR_PEOPLE: dict[Door, tuple[frozenset[Role], Comes]] = {
    ("GET", "/password"): (EVERYBODY, Comes.NOTHING),
    ("POST", "/password"): (EVERYBODY, Comes.PERSON),
    ("GET", "/emergency"): (READS, Comes.NOTHING),
    ("POST", "/emergency"): (READS, Comes.ACT),
    ("POST", "/answers/{job}"): (READS, Comes.ACT),
}
MATRIX = {**API, **RESULTS, **OTHERS, **FOR_PEOPLE}
#: open, with a secret of its own (the hook, a signed link), or for everybody who is in
WITHOUT_A_ROLE: dict[Door, Comes] = {
    **{("GET", path): Comes.NOTHING for path in (*HEALTH, *OPEN, "/openapi.json")},
    ("POST", HOOK): Comes.BROUGHT,
    ("POST", "/login"): Comes.PERSON,
    ("POST", "/logout"): Comes.PERSON,
    ("GET", "/read/{token}"): Comes.LOOK,
    ("POST", "/read/{token}"): Comes.ACT,
    **{("GET", f"/read/{{token}}/pictures{more}"): Comes.LOOK for more in _PICTURES},
}


def doors(app: FastAPI) -> Iterator[tuple[Door, frozenset[Role] | None]]:
    """Every route and every page of the app with the roles that it says itself; None where it says none."""
    for route in app.routes:
        for one in route.effective_route_contexts() if hasattr(route, "effective_route_contexts") else [route]:
            if not isinstance(one, Mount):
                for method in sorted(set(one.methods) - {"HEAD"}):
                    yield (method, one.path), _said(one)
    for place in app.state.pages.places:
        yield ("GET", place.path), frozenset({*place.roles, Role.ADMIN})


def _said(route: Any) -> frozenset[Role] | None:
    """What the route's own dependencies say."""
    found = (
        [depends.call.roles for depends in route.dependant.dependencies if hasattr(depends.call, "roles")]
        if hasattr(route, "dependant")
        else []
    )
    return frozenset.intersection(*found) if found else None
