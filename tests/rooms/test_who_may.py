"""Every route and every page says which roles it is for, keeps the others out, and shows nothing of a patient that is not written down."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields

import httpx
import pytest
from starlette.routing import Mount

from node.ledger.tokens import Role
from node.testing.studies import a_study
from tests.rooms.who_may import FOR_PEOPLE, MATRIX, WITHOUT_A_ROLE, Comes, Door, doors
from tests.rooms.whole_office import Whole, whole_office


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with whole_office(tmp_path_factory.mktemp("office")) as office:
        yield office


def test_every_door_has_a_row_and_says_what_the_row_says(office: Whole) -> None:
    said = dict(doors(office.app))

    assert set(said) == {*MATRIX, *WITHOUT_A_ROLE}
    assert {door: roles for door, roles in said.items() if roles is not None} == {door: roles for door, (roles, _) in MATRIX.items()}


def test_the_room_of_these_tests_has_every_door_that_a_node_may_have(office: Whole) -> None:
    assert [one.name for one in fields(office.parts) if getattr(office.parts, one.name) is None] == []


def test_below_the_routes_there_is_nothing_but_the_pages(office: Whole) -> None:
    from nicegui import core

    pages = {place.path for place in office.app.state.pages.places}
    others = {route.path for route in core.app.routes} - pages

    assert all(path.startswith(("/_nicegui/", "/_nicegui_ws")) or path == "/favicon.ico" for path in others)
    assert [route.path for route in office.app.routes if isinstance(route, Mount)] == [""]
    assert office.browser(Role.ADMIN).get("/favicon.ico").status_code in {200, 404}
    assert office.browser().get("/_nicegui/anything", headers={"Accept": "*/*"}).status_code == 401


@pytest.mark.parametrize("role", [*Role, None])
def test_each_role_gets_through_its_doors_and_no_other(office: Whole, role: Role | None) -> None:
    browser, program = office.browser(role), office.browser()
    if role:
        program.headers["Authorization"] = f"Bearer {office.tokens.create(f'token-{role}', role)}"
    for door, (roles, _) in MATRIX.items():
        for client in (browser, program):
            status = asks(office, client, door).status_code

            if role is None:
                assert status == 401, door
            elif door in FOR_PEOPLE and client is program:
                assert status == 403, door
            else:
                assert (status != 403) == (role in roles), (door, status)


def asks(office: Whole, client: httpx.Client, door: Door) -> httpx.Response:
    """Somewhere that is not there, so that nothing is done."""
    method, path = door
    somewhere = re.sub(r"\{[^}]*\}", "1", path) + ("?seconds=1" if path.endswith("/events") else "")
    return client.request(method, somewhere, headers={"Origin": office.url, "Accept": "*/*"}, follow_redirects=False)


def test_several_roles_may_what_each_of_them_may(office: Whole) -> None:
    program = office.browser()
    program.headers["Authorization"] = f"Bearer {office.tokens.create('two-in-one', Role.AUDITOR, Role.RADIOLOGIST)}"

    for door, (roles, _) in MATRIX.items():
        if door not in FOR_PEOPLE:
            may = not roles.isdisjoint({Role.AUDITOR, Role.RADIOLOGIST})
            assert (asks(office, program, door).status_code != 403) == may, door


@pytest.mark.parametrize("door", sorted(door for door, (_, comes) in MATRIX.items() if door[0] == "GET" and comes is Comes.LOOK))
def test_whoever_is_shown_something_of_a_patient_is_in_the_trail_first(office: Whole, door: Door) -> None:
    answer, new = shown(office, door, office.browser(Role.ADMIN))

    assert answer.status_code in {200, 404}  # no capture, no segment of that number: the look counts
    assert {record["who"] for record in new} == {"user:a-admin"}
    if "{study}" in door[1] or "{job}" in door[1]:
        assert {record.get("study") for record in new} == {office.study}


@pytest.mark.parametrize("door", sorted(door for door, comes in WITHOUT_A_ROLE.items() if comes is Comes.LOOK))
def test_whoever_comes_with_a_link_is_in_the_trail_first(office: Whole, door: Door) -> None:
    answer, new = shown(office, door, office.browser())

    assert answer.status_code in {200, 404}
    assert [record["study"] for record in new] == [office.study]
    assert new[0]["who"].startswith("link:")


@pytest.mark.parametrize("door", sorted(door for door, (_, comes) in MATRIX.items() if door[0] == "GET" and comes is Comes.NOTHING))
def test_what_is_not_written_down_shows_nothing_of_a_patient(office: Whole, door: Door) -> None:
    answer, new = shown(office, door, office.browser(Role.ADMIN))

    assert answer.status_code == 200
    assert new == []
    home = office.site.home
    words = {*office.studies.values(), office.job.id, office.job.pseudonym, office.job.route.series, *map(str, office.job.inputs)}
    words |= {home.cards.one(study).pseudonym for study in office.studies.values()} - {""}
    assert not [word for word in words if word in answer.text]


def shown(office: Whole, door: Door, client: httpx.Client) -> tuple[httpx.Response, list[dict]]:
    """The answer, and what the trail says since, but for those who came in."""
    if office.session(Role.ADMIN):
        before = office.trail.tail(1)[0]["seq"]
    answer = client.get(office.address(door[1]), timeout=60)
    return answer, [record for record in office.trail.tail(20) if record["seq"] > before]


def test_the_draft_that_is_watched_shows_studies(office: Whole) -> None:
    """Else the test above would say nothing of the page of rules."""
    office.site.arrives(*a_study("MR", slices=3, patient=6))
    office.site.works_off()

    assert any(study in office.browser(Role.ADMIN).get("/rules").text for study in office.site.home.jobs.studies())
