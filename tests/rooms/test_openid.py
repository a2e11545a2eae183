"""Sign-in at an identity provider: a real one on loopback, and what happens when it misbehaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest
from joserfc.jwk import OctKey, RSAKey

from config import OidcSettings
from node.errors import PersonInvalid, SignInRefused
from node.ledger.tokens import Role
from node.web.openid import OpenId
from node.web.provider import Provider
from tests.rooms.identity_provider import CLIENT, SECRET, IdentityProvider
from tests.rooms.people_web import Office

GROUPS = {"it-admins": "admin", "radiology": "radiologist"}


@pytest.fixture(scope="module")
def idp() -> Iterator[IdentityProvider]:
    idp = IdentityProvider().start()
    yield idp
    idp.stop()


@pytest.fixture(autouse=True)
def well_behaved(idp: IdentityProvider) -> None:
    idp.behave()


@pytest.fixture(scope="module")
def office(idp, tmp_path_factory) -> Iterator[Office]:
    provider = Provider(issuer=idp.issuer, client_id=CLIENT, client_secret=SECRET, roles=GROUPS, label="Example")
    office = Office(tmp_path_factory.mktemp("office"), openid=provider).opens()
    yield office
    office.closes()


def signs_in(office: Office, next: str = "/") -> tuple[httpx.Client, httpx.Response]:
    browser = office.browser()
    browser.follow_redirects = True
    return browser, browser.get("/login/oidc", params={"next": next})


def test_the_sign_in_page_offers_it(office):
    assert 'href="/login/oidc?next=%2Faudit"' in office.browser().get("/login?next=/audit").text


def test_whoever_is_known_there_comes_in_with_the_role_of_a_group(office, idp):
    browser, answer = signs_in(office, "/audit?who=x")

    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0; url=/audit?who=x">' in answer.text
    assert "dr.visitor" in browser.get("/").text
    assert office.reception.people.find("dr.visitor").roles == {Role.RADIOLOGIST}
    asked = idp.asked[-1]
    assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
    assert min(len(asked[name]) for name in ("state", "nonce", "code_challenge")) >= 43


def test_a_password_never_opens_for_somebody_who_signs_in_there(office):
    signs_in(office)

    assert office.reception.sign_in("dr.visitor", "") is None
    assert office.reception.reset("dr.visitor", who="os:test") == ""
    assert office.reception.sign_in("dr.visitor", "") is None


def test_another_group_is_another_role_and_ends_what_was_open(office, idp):
    browser, _ = signs_in(office)
    idp.behave(groups="it-admins")
    signs_in(office)

    assert office.reception.people.find("dr.visitor").roles == {Role.ADMIN}
    assert browser.get("/metrics", headers={"Accept": "*/*"}).status_code == 401


def test_of_several_groups_somebody_has_all_roles_and_nobody_changes_them_here(office, idp):
    idp.behave(groups=["it-admins", "radiology", "choir"])
    signs_in(office)

    assert office.reception.people.find("dr.visitor").roles == {Role.ADMIN, Role.RADIOLOGIST}
    with pytest.raises(PersonInvalid, match="change the groups there"):
        office.reception.give("dr.visitor", "auditor", who="user:admin")


def test_the_same_person_keeps_the_name_of_the_first_time(office, idp):
    signs_in(office)
    idp.behave(preferred_username="somebody.else")
    signs_in(office)

    assert office.reception.people.find("somebody.else") is None


@pytest.mark.parametrize("name", ["a-admin", "dr.visitor", "<b>", "x" * 200])
def test_nobody_takes_the_name_of_another_or_an_odd_one(office, idp, name):
    office.session(Role.ADMIN)
    signs_in(office)
    idp.behave(sub=f"another {name}", preferred_username=name)

    _, answer = signs_in(office)

    assert answer.status_code == 403
    assert "radnode" not in answer.cookies
    assert "<b>" not in answer.text


def test_who_was_disabled_here_stays_out(office, idp):
    idp.behave(sub="leaving", preferred_username="dr.leaving")
    signs_in(office)
    office.reception.disable("dr.leaving", who="os:test")

    _, answer = signs_in(office)
    assert answer.status_code == 403
    assert "disabled" in answer.text


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "another client"},
        {"aud": [CLIENT, "another"], "azp": "another"},
        {"iss": "https://evil.example"},
        {"exp": int(time.time()) - 3600},
        {"exp": None},
        {"sub": None},
        {"preferred_username": None},
        {"groups": ["staff"]},
        {"groups": None},
    ],
)
def test_a_token_that_does_not_fit_opens_nothing(office, idp, claims):
    idp.behave(**claims)

    browser, answer = signs_in(office)

    assert answer.status_code == 403
    assert "radnode" not in browser.cookies


def test_a_token_that_somebody_else_signed_opens_nothing(office, idp):
    for key, algorithm in ((RSAKey.generate_key(2048), "RS256"), (OctKey.import_key("a secret of 32 characters at least"), "HS256")):
        idp.behave()
        idp.key, idp.algorithm = key, algorithm
        assert signs_in(office)[1].status_code == 403


def test_new_keys_of_the_provider_are_fetched(office, idp):
    signs_in(office)
    idp.new_keys()

    assert signs_in(office)[1].status_code == 200


def test_a_person_whom_the_provider_turns_away_is_told(office, idp):
    idp.denies = True

    assert "did not let this person in" in signs_in(office)[1].text


def test_an_answer_that_another_browser_began_opens_nothing(office, idp):
    began = office.browser()
    there = began.get("/login/oidc").headers["location"]
    back = httpx.get(there).headers["location"]

    stranger = office.browser()
    assert stranger.get(back).status_code == 403
    assert began.get(back).status_code == 200
    assert began.get(back).status_code == 403  # a state opens once


def test_an_old_or_foreign_answer_is_refused(idp):
    clock = [0.0]
    openid = OpenId(Provider(issuer=idp.issuer, client_id=CLIENT, client_secret=SECRET, roles=GROUPS), clock=lambda: clock[0])
    _, state = openid.begin("http://127.0.0.1/back", "/")
    with pytest.raises(SignInRefused, match="9207"):
        openid.finish(state, "code", "https://evil.example")
    _, state = openid.begin("http://127.0.0.1/back", "/")
    clock[0] = 601
    with pytest.raises(SignInRefused, match="too long"):
        openid.finish(state, "code")


@pytest.mark.parametrize(
    ("called", "claims"),
    [
        ("realm_access.roles", {"realm_access": {"roles": ["radiology"]}}),
        ("https://hospital.example/roles", {"https://hospital.example/roles": "radiology"}),
    ],
)
def test_groups_may_lie_within_a_claim_or_in_one_that_is_called_by_an_address(idp, called, claims):
    openid = OpenId(Provider(issuer=idp.issuer, client_id=CLIENT, client_secret=SECRET, roles=GROUPS, role_claim=called))
    idp.behave(groups=None, **claims)
    address, state = openid.begin("http://127.0.0.1/back", "/")
    code = httpx.get(address).headers["Location"].partition("code=")[2].partition("&")[0]

    assert openid.finish(state, code).roles == {"radiologist"}


def test_a_provider_that_is_away_is_said(office, idp):
    openid = OpenId(Provider(issuer="http://127.0.0.1:9", client_id=CLIENT, timeout_s=1))
    with pytest.raises(SignInRefused, match="can't be reached"):
        openid.begin("http://127.0.0.1/back", "/")


@pytest.mark.parametrize("missing", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
def test_a_provider_that_does_not_name_its_endpoints_is_said(idp, monkeypatch, missing):
    openid = OpenId(Provider(issuer=idp.issuer, client_id=CLIENT, client_secret=SECRET, roles=GROUPS))
    known = {name: value for name, value in openid._known().items() if name != missing}
    monkeypatch.setattr(openid, "_known", lambda: known)

    def goes_all_the_way() -> None:
        _, state = openid.begin("http://127.0.0.1/back", "/")
        openid._exchanged("code", openid._begun[state])
        openid._key_set()

    if missing == "jwks_uri":
        monkeypatch.setattr(openid, "_exchanged", lambda *_: "")
    with pytest.raises(SignInRefused, match=f"does not name its {missing}"):
        goes_all_the_way()


@pytest.mark.parametrize("keys", [{}, {"keys": None}, {"keys": []}, {"keys": [{"kty": "EC", "crv": "P-999", "x": "a", "y": "b"}]}])
def test_keys_that_can_not_be_read_are_said(office, idp, monkeypatch, keys):
    monkeypatch.setattr(idp, "_keys", SimpleNamespace(as_dict=lambda **_: keys))

    openid = OpenId(Provider(issuer=idp.issuer, client_id=CLIENT, client_secret=SECRET, roles=GROUPS))
    with pytest.raises(SignInRefused, match="keys can't be read"):
        openid._key_set()


@pytest.mark.parametrize("issuer", ["http://idp.example", "ftp://x", "http://localhost.evil.example"])
def test_an_issuer_without_tls_is_refused_in_the_settings(issuer):
    with pytest.raises(ValueError, match="https"):
        OidcSettings(issuer=issuer, client_id="x", roles={})
