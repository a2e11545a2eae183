"""The door for people: sign in, stay in, go out, and who is kept out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

import pytest
from sqlalchemy import text
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from node.assembly import now
from node.audit import Event, Type
from node.errors import TokenInvalid
from node.ledger.tokens import Role
from node.ledger.trail_search import Wanted
from node.web.ui.login import local
from tests.rooms.people_web import PASSWORD, Office


@pytest.fixture(scope="module")
def office(tmp_path_factory) -> Iterator[Office]:
    office = Office(tmp_path_factory.mktemp("office")).opens()
    yield office
    office.closes()


def page_of(office: Office) -> dict[str, str]:
    return {"Origin": office.url, "Sec-Fetch-Site": "same-origin"}


def sign_in(office: Office, name: str, password: str, **fields: str):
    return office.browser().post("/login", data={"name": name, "password": password, **fields}, headers=page_of(office))


def test_a_browser_is_led_to_the_sign_in_and_a_program_is_told_of_tokens(office):
    page = office.browser().get("/", follow_redirects=False)
    assert (page.status_code, page.headers["location"]) == (303, "/login")
    assert office.browser().get("/users?role=admin").headers["location"] == "/login?next=%2Fusers%3Frole%3Dadmin"

    program = office.browser().get("/", headers={"Accept": "application/json"})
    assert program.status_code == 401
    assert "radnode tokens create" in program.json()["detail"]


def test_whoever_signs_in_gets_a_cookie_that_no_script_reads_and_no_other_site_sends(office):
    office.session(Role.RADIOLOGIST)

    answer = sign_in(office, "a-radiologist", PASSWORD, next="/password")

    assert (answer.status_code, answer.headers["location"]) == (303, "/password")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/" in cookie
    assert office.browser(session=answer.cookies["radnode"]).get("/").status_code == 200


def test_over_tls_the_cookie_is_secure_and_bound_to_the_host(office):
    office.session(Role.RADIOLOGIST)
    data = {"name": "a-radiologist", "password": PASSWORD}

    answer = office.browser().post("/login", data=data, headers={**page_of(office), "X-Forwarded-Proto": "https"})

    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-radnode=")
    assert "Secure" in cookie


def test_wrong_name_and_wrong_password_say_the_same_and_a_lock_too(office):
    given = office.reception.add("locked", "auditor", who="os:test")

    said = [sign_in(office, name, "wrong") for name in ("locked", "nobody", "locked", "locked")] + [sign_in(office, "locked", given)]

    assert {answer.status_code for answer in said} == {403}
    assert len({answer.text.replace("nobody", "locked") for answer in said}) == 1
    assert not any(answer.cookies for answer in said)


def test_a_given_password_opens_nothing_but_the_choice_of_another(office):
    given = office.reception.add("newcomer", "admin", who="os:test")
    browser = office.browser(session=sign_in(office, "newcomer", given).cookies["radnode"])

    assert browser.get("/").headers["location"] == "/password"
    assert browser.get("/metrics", headers={"Accept": "*/*"}).status_code == 403
    wrong = browser.post("/password", data={"old": given, "new": "short", "again": "short"}, headers=page_of(office))
    assert wrong.status_code == 422
    assert "12 to 200" in wrong.text
    new = {"old": given, "new": "quite other words", "again": "quite other words"}
    chosen = browser.post("/password", data=new, headers=page_of(office))

    assert chosen.status_code == 303
    assert browser.get("/", headers={"Cookie": ""}).status_code == 303  # the session until now is over
    assert office.browser(session=chosen.cookies["radnode"]).get("/").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_what_another_site_sends_with_a_good_cookie_is_refused(office, headers):
    browser = office.browser(Role.AUDITOR)

    for path, data in (("/logout", {}), ("/password", {"old": PASSWORD, "new": "x" * 20, "again": "x" * 20}), ("/dicom-web/studies", {})):
        answer = browser.post(path, data=data, headers=headers)
        assert answer.status_code == 403
        assert "another site" in answer.json()["detail"]
    assert office.browser().post("/login", data={"name": "a-auditor", "password": PASSWORD}, headers=headers).status_code == 403
    assert browser.get("/").status_code == 200


def test_a_program_with_a_token_needs_no_page_of_ours(office):
    token = office.tokens.create("robot", "integrator")

    answer = office.browser().post(
        "/dicom-web/studies", headers={"Authorization": f"Bearer {token}", "Origin": "https://elsewhere.example"}
    )

    assert answer.status_code == 415  # past the door


def test_a_token_with_scopes_opens_those_paths_only(office):
    token = office.tokens.create("prometheus", "admin", scopes=["GET /metrics", "/api/v1/audit"])
    program = office.browser()
    program.headers["Authorization"] = f"Bearer {token}"

    assert program.get("/metrics").status_code == 200
    assert program.get("/api/v1/audit/export").status_code == 404  # past the door
    for method, path in [
        ("POST", "/metrics"),
        ("GET", "/metricsx"),
        ("GET", "/"),
        ("GET", "/api/v1/auditor"),
        ("POST", "/dicom-web/studies"),
    ]:
        answer = program.request(method, path)
        assert answer.status_code == 403
        assert "GET /metrics, /api/v1/audit only" in answer.json()["detail"]


@pytest.mark.parametrize("scope", ["", "metrics", "get /x", "GET  /x", "/a b", "/a\n/b"])
def test_a_scope_that_is_no_path_is_refused(office, scope):
    with pytest.raises(TokenInvalid, match="a scope is a path"):
        office.tokens.create("scoped", "admin", scopes=[scope])


@pytest.mark.parametrize("cookie", ["", "x", "a" * 43, "é", "a;b", "../../etc"])
def test_a_forged_cookie_opens_nothing(office, cookie):
    answer = office.browser().get("/metrics", headers={"Cookie": f"radnode={cookie}".encode(), "Accept": "*/*"})

    assert answer.status_code == 401


def test_signing_out_ends_the_session_everywhere(office):
    session = sign_in(office, "a-radiologist", PASSWORD).cookies["radnode"]
    browser = office.browser(session=session)

    answer = browser.post("/logout", headers=page_of(office))

    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert office.browser(session=session).get("/").status_code == 303


def test_a_session_that_is_too_old_is_led_to_the_sign_in(office):
    session = sign_in(office, "a-radiologist", PASSWORD).cookies["radnode"]
    with office.engine.begin() as connection:
        connection.execute(text("UPDATE sessions SET seen_at = :then"), {"then": (now() - timedelta(minutes=31)).replace(tzinfo=None)})

    assert office.browser(session=session).get("/").headers["location"] == "/login"


@pytest.mark.parametrize(
    "path", ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)", "", "/a\r\nb", "/logout", "/login?x"]
)
def test_nobody_is_led_to_another_site_after_signing_in(path):
    assert local(path) == "/"


def test_the_sign_in_form_repeats_nothing_as_code(office):
    answer = sign_in(office, '"><script>alert(1)</script>', "x", next='/"><script>')

    assert "<script" not in answer.text
    assert "script-src" not in answer.headers["content-security-policy"]
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_a_page_runs_no_script_without_its_nonce_and_asks_no_other_host(office):
    first, second = (office.browser(Role.ADMIN).get("/") for _ in range(2))

    policy = first.headers["content-security-policy"]
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
    assert "connect-src 'self'" in policy
    assert first.text.count(f'nonce="{nonce}"') == first.text.count("<script")
    assert nonce not in second.headers["content-security-policy"]
    assert "http://" not in policy + "https://" not in policy or "https://" not in policy


def test_a_form_that_is_too_long_is_not_read_to_its_end(office):
    assert office.browser().post("/login", data={"name": "a", "password": "x" * 10_000}, headers=page_of(office)).status_code == 413


def test_what_is_no_page_is_not_found_and_says_so(office):
    browser = office.browser(Role.ADMIN)

    assert browser.get("/nothing").json()["status"] == 404
    for path, may in (("/", "GET"), ("/healthz", "GET, HEAD")):  # a page, and a route
        answer = browser.post(path, headers=page_of(office))
        assert (answer.json()["status"], answer.headers["allow"]) == (405, may), path
    assert browser.get("/_nicegui_ws/socket.io/?transport=polling&EIO=4").status_code == 404


# --- the socket of a page -----------------------------------------------------------------------------------------------------
def socket(office: Office, session: str, *, origin: str | None = None, client: str = "", path: str = "/_nicegui_ws/socket.io/"):
    headers = {"Cookie": f"radnode={session}"} if session else {}
    url = f"{office.url.replace('http', 'ws')}{path}?EIO=4&transport=websocket&client_id={client}"
    return connect(url, additional_headers=headers, origin=office.url if origin is None else origin or None)


def test_a_socket_opens_for_a_session_from_our_own_page_only(office):
    session = office.session(Role.ADMIN)
    with socket(office, session) as opened:
        assert opened.recv(10).startswith("0{")

    for attempt in ({"session": ""}, {"session": "forged"}, {"session": session, "origin": "https://evil.example"}, {"session": session, "origin": ""}, {"session": session, "path": "/other"}):  # fmt: skip
        with pytest.raises(InvalidStatus) as refused, socket(office, **attempt):
            pass
        assert refused.value.response.status_code == 403


def test_the_page_of_one_person_is_not_carried_on_by_the_next(office):
    page = office.browser(Role.ADMIN).get("/").text
    client = page.partition("'client_id': '")[2].partition("'")[0]
    assert len(client) == 36

    with pytest.raises(InvalidStatus), socket(office, office.session(Role.RADIOLOGIST), client=client):
        pass
    with socket(office, office.session(Role.ADMIN), client=client) as opened:
        assert opened.recv(10)


def test_a_socket_closes_when_its_session_ends(office):
    session = sign_in(office, "a-admin", PASSWORD).cookies["radnode"]
    said: list[str] = []
    with socket(office, session) as opened:
        opened.recv(10)
        office.reception.sign_out(session)
        opened.send("3")

        with suppress(ConnectionClosedError):
            while True:
                said.append(str(opened.recv(10)))

    assert any("location.reload" in message for message in said)
    assert opened.close_code == 4401


def test_sign_ins_are_in_the_trail_with_their_address(office):
    events = [record for record in office.trail.tail(500) if record["event"] == Event.USER_AUTHENTICATION.value[0]]

    assert {"user:a-radiologist", "user:locked"} <= {record["who"] for record in events}
    assert {record["peer"] for record in events if "peer" in record} == {"127.0.0.1"}
    assert office.trail.verify().intact


# --- emergency access ----------------------------------------------------------------------------------------------------------
def test_a_radiologist_takes_the_role_privacy_with_a_reason_that_is_written_down(office):
    session = sign_in(office, "a-radiologist", PASSWORD).cookies["radnode"]
    browser = office.browser(session=session)
    assert "/emergency" in browser.get("/").text

    assert browser.post("/emergency", data={"reason": "why"}, headers=page_of(office)).status_code == 422
    assert office.reception.signed(session).roles == {Role.RADIOLOGIST}
    taken = browser.post("/emergency", data={"reason": "Unconscious, allergy to contrast?"}, headers=page_of(office))

    assert taken.status_code == 303
    assert office.reception.signed(session).roles == {Role.RADIOLOGIST, Role.PRIVACY}
    assert "/emergency" not in browser.get("/").text
    record = office.trail.find(Wanted(who="user:a-radiologist"), limit=1)[0]
    assert record["type"] == Type.EMERGENCY_OVERRIDE_STARTED.value[0]
    assert record["facts"] == {"reason": "Unconscious, allergy to contrast?", "role": "privacy", "minutes": "30"}
    another = sign_in(office, "a-radiologist", PASSWORD).cookies["radnode"]
    assert office.reception.signed(another).roles == {Role.RADIOLOGIST}


def test_emergency_access_ends_after_half_an_hour(office):
    session = sign_in(office, "a-radiologist", PASSWORD).cookies["radnode"]
    office.reception.break_glass(office.reception.signed(session), "Unconscious, allergy to contrast?")
    with office.engine.begin() as connection:
        past = (now() - timedelta(seconds=1)).replace(tzinfo=None)
        connection.execute(text("UPDATE sessions SET more_until = :past WHERE more_until IS NOT NULL"), {"past": past})

    assert office.reception.signed(session).roles == {Role.RADIOLOGIST}


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.INTEGRATOR, Role.PRIVACY])
def test_emergency_access_is_for_radiologists(office, role):
    answer = office.browser(role).post("/emergency", data={"reason": "Unconscious, allergy?"}, headers=page_of(office))

    assert answer.status_code == 403
