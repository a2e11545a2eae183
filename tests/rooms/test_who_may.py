"""Every route and every page says which roles it is for, and keeps the others out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Mount

from node.ledger.tokens import Role
from node.web.audit import AuditParts
from node.web.auth import HEALTH, OPEN
from node.web.orthanc_hook import PATH as HOOK
from node.web.reveal import RevealParts
from tests.rooms.people_web import Office, nothing

NO_ROLES = {*HEALTH, *OPEN, HOOK, "/logout", "/openapi.json"}  #: open, with a secret of its own, or for everybody who is in
FOR_PEOPLE = {"/password", "/emergency"}  #: a token has no password, and no emergency
ROLES = list(Role)


@pytest.fixture(scope="module")
def office(tmp_path_factory) -> Iterator[Office]:
    reveal = RevealParts(reveal=nothing, requests=list, approve=nothing)
    office = Office(tmp_path_factory.mktemp("office"), reveal=reveal)
    trail = office.trail
    office.with_parts(audit=AuditParts(find=trail.find, verify=trail.verify, export=trail.export)).opens()
    yield office
    office.closes()


def roles_of(route: APIRoute) -> frozenset[Role] | None:
    """What the route's own dependencies say; None when they say nothing."""
    said = [depends.call.roles for depends in route.dependant.dependencies if hasattr(depends.call, "roles")]
    return frozenset.intersection(*said) if said else None


def doors(office: Office) -> list[tuple[str, str, frozenset[Role] | None]]:
    """(method, path, roles) of every route and every page of the app."""
    found: list[tuple[str, str, frozenset[Role] | None]] = []
    for route in flat(office.app.routes):
        if isinstance(route, APIRoute):
            found += [(method, route.path, roles_of(route)) for method in sorted(route.methods)]
        elif not isinstance(route, Mount):
            found.append(("GET", route.path, None))
    return found + [("GET", place.path, frozenset({*place.roles, Role.ADMIN})) for place in office.app.state.pages.places]


def flat(routes: list[Any]) -> Iterator[Any]:
    for route in routes:
        inner = getattr(getattr(route, "original_router", None), "routes", None)
        if inner is None:
            yield route
        else:
            yield from flat(inner)


def test_every_route_says_for_whom_it_is(office):
    silent = sorted(path for _, path, roles in doors(office) if roles is None and path not in NO_ROLES)

    assert silent == []
    assert {"/metrics", "/dicom-web/studies", "/", "/audit", "/users", "/api/v1/studies/{study}/reveal"} <= {
        path for _, path, _ in doors(office)
    }


def test_below_the_routes_there_is_nothing_but_the_pages(office):
    from nicegui import core

    pages = {place.path for place in office.app.state.pages.places}
    others = {route.path for route in core.app.routes if not isinstance(route, Mount)} - pages

    assert all(path.startswith("/_nicegui/") or path == "/favicon.ico" for path in others)
    assert [route.path for route in office.app.routes if isinstance(route, Mount)] == [""]


@pytest.mark.parametrize("role", [*ROLES, None])
def test_each_role_gets_through_its_doors_and_no_other(office, role):
    browser, program = office.browser(role), office.browser()
    if role:
        program.headers["Authorization"] = f"Bearer {office.tokens.create(f'token-{role}', role)}"
    for method, path, roles in doors(office):
        if path in NO_ROLES:
            continue
        somewhere = re.sub(r"\{[^}]*\}", "1", path)
        for client in (browser, program):
            answer = client.request(method, somewhere, headers={"Origin": office.url, "Accept": "*/*"}, follow_redirects=False)

            if role is None:
                assert answer.status_code == 401, (method, path)
            elif path in FOR_PEOPLE and client is program:
                assert answer.status_code == 403
            else:
                assert (answer.status_code != 403) == (role in roles), (method, path, answer.status_code)
