"""People who may sign in, their sessions, and what is written down of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from sqlalchemy import Engine, text

from node.audit import AuditEvent, Event, Outcome, Type
from node.errors import PasswordRefused, PersonInvalid
from node.ledger.people import Check, People
from node.ledger.reception import Reception
from node.ledger.sessions import Sessions
from node.ledger.tokens import Role
from tests.rooms.databases import postgres, postgres_server, sqlite

QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
GOOD = "four words in a row"


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 5, 8, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def passes(self, **time: float) -> None:
        self.now += timedelta(**time)


class Desk:
    """A reception over a ledger on disk; `again` is the same after a restart."""

    def __init__(self, engine: Engine) -> None:
        self.clock, self.engine = Clock(), engine
        self.trail: list[AuditEvent] = []
        self.again()

    def again(self) -> None:
        self.people = People(self.engine, self.clock, max_failures=3, lock_s=600, hasher=QUICK)
        self.sessions = Sessions(self.engine, self.clock, idle_s=1800, longest_s=8 * 3600)
        self.reception = Reception(self.people, self.sessions, self.trail.append)

    def knows(self, name: str, role: Role = Role.RADIOLOGIST) -> str:
        """Somebody with a password of their own; returns a session."""
        given = self.reception.add(name, role, who="os:test")
        return self.reception.change_password(name, given, GOOD)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    engine = sqlite(tmp_path) if request.param == "sqlite" else postgres(request.getfixturevalue("server"))
    yield Desk(engine)
    engine.dispose()


def test_the_first_start_makes_one_administrator_and_the_second_nobody(desk):
    name, password = desk.reception.first()

    assert (name, desk.people.find(name).roles) == ("admin", {Role.ADMIN})
    assert len(password.replace("-", "")) == 20
    assert desk.reception.first() is None
    assert desk.sessions.signed(desk.reception.sign_in(name, password)).must_change


def test_no_password_is_kept_only_what_it_hashes_to(desk):
    given = desk.reception.add("anna", "radiologist", who="os:test")
    desk.reception.change_password("anna", given, GOOD)

    with desk.engine.connect() as connection:
        row = str(connection.execute(text("SELECT * FROM people")).all())
    assert "$argon2id$" in row
    assert given not in row
    assert GOOD not in row


@pytest.mark.parametrize("name", ["", "-a", "a b", "<b>", "a" * 101, "ä"])
def test_odd_names_are_refused(desk, name):
    with pytest.raises(PersonInvalid):
        desk.people.add(name, "admin")


def test_a_name_is_taken_once_and_a_role_must_be_known(desk):
    desk.people.add("anna", "radiologist")

    with pytest.raises(PersonInvalid, match="taken"):
        desk.people.add("anna", "admin")
    with pytest.raises(PersonInvalid, match="known roles"):
        desk.people.add("berta", "chief")


@pytest.mark.parametrize("new", ["short", "x" * 300, "aaaaaaaaaaaaaaaa", "I am Anna, let me in"])
def test_an_easy_password_is_refused_and_the_old_one_stays(desk, new):
    given = desk.people.add("anna", "radiologist")

    with pytest.raises(PasswordRefused):
        desk.reception.change_password("anna", given, new)
    assert desk.people.check("anna", given) is Check.GOOD


def test_the_given_password_is_no_password_of_ones_own(desk):
    given = desk.people.add("anna", "radiologist")

    with pytest.raises(PasswordRefused, match="another"):
        desk.reception.change_password("anna", given, given)
    with pytest.raises(PasswordRefused, match="present"):
        desk.reception.change_password("anna", "wrong", GOOD)


def test_after_wrong_passwords_even_the_right_one_waits_and_a_restart_changes_nothing(desk):
    desk.knows("anna")
    assert [desk.people.check("anna", "wrong") for _ in range(4)] == [Check.WRONG, Check.WRONG, Check.WRONG, Check.LOCKED]

    desk.again()
    assert desk.people.check("anna", GOOD) is Check.LOCKED
    desk.clock.passes(seconds=601)
    assert desk.people.check("anna", GOOD) is Check.GOOD
    assert desk.people.find("anna").locked_until is None


def test_a_right_password_forgets_the_wrong_ones_before_it(desk):
    desk.knows("anna")
    for _ in range(3):
        desk.people.check("anna", "wrong")
        desk.people.check("anna", "wrong")
        assert desk.people.check("anna", GOOD) is Check.GOOD


def test_many_guesses_at_once_are_no_more_than_many_in_a_row(desk):
    desk.knows("anna")

    with ThreadPoolExecutor(8) as crowd:
        found = list(crowd.map(lambda n: desk.people.check("anna", f"guess {n}"), range(16)))

    assert found.count(Check.WRONG) == 3
    assert found.count(Check.LOCKED) == 13


def test_a_reset_lets_in_who_was_locked_out_with_a_new_password(desk):
    session = desk.knows("anna")
    for _ in range(3):
        desk.people.check("anna", "wrong")

    given = desk.reception.reset("anna", who="user:admin")

    assert desk.sessions.signed(session) is None
    assert desk.people.check("anna", GOOD) is Check.WRONG
    assert desk.people.check("anna", given) is Check.GOOD
    assert desk.people.find("anna").one_time


def test_who_is_disabled_is_out_at_once(desk):
    desk.reception.first()
    session = desk.knows("anna")

    desk.reception.disable("anna", who="user:admin")

    assert desk.sessions.signed(session) is None
    assert desk.people.check("anna", GOOD) is Check.UNKNOWN


def test_the_last_administrator_stays(desk):
    desk.reception.first()
    with pytest.raises(PersonInvalid, match="last administrator"):
        desk.reception.disable("admin", who="user:admin")

    desk.people.add("second", "admin")
    desk.reception.disable("admin", who="user:second")
    with pytest.raises(PersonInvalid, match="nobody of that name"):
        desk.reception.disable("who", who="user:second")


def test_somebody_gets_other_roles_and_signs_in_again_for_them(desk):
    desk.reception.first()
    session = desk.knows("anna")
    desk.trail.clear()

    desk.reception.give("anna", "auditor", "radiologist", who="user:admin")

    assert desk.people.find("anna").roles == {Role.AUDITOR, Role.RADIOLOGIST}
    assert desk.sessions.signed(session) is None
    again = desk.sessions.signed(desk.reception.sign_in("anna", GOOD))
    assert (again.own, again.roles) == ({Role.AUDITOR, Role.RADIOLOGIST}, {Role.AUDITOR, Role.RADIOLOGIST})
    assert [(e.type, e.who, e.what, e.facts) for e in desk.trail[:1]] == [
        (
            Type.USER_SECURITY_ATTRIBUTES_CHANGED,
            "user:admin",
            "user anna has other roles",
            {"role": "radiologist, auditor", "before": "radiologist"},
        )
    ]


def test_roles_never_leave_the_node_without_an_administrator(desk):
    desk.reception.first()
    desk.people.add("second", "admin", "auditor")
    desk.reception.disable("second", who="user:admin")

    for act in (
        lambda: desk.reception.give("admin", "auditor", who="user:admin"),
        lambda: desk.reception.disable("admin", who="user:admin"),
    ):
        with pytest.raises(PersonInvalid, match="last administrator"):
            act()
    desk.reception.give("admin", "admin", "privacy", who="user:admin")  # one more is no matter
    desk.reception.reset("second", who="user:admin")
    desk.reception.give("admin", "privacy", who="user:second")

    assert desk.people.find("admin").roles == {Role.PRIVACY}
    with pytest.raises(PersonInvalid, match="last administrator"):
        desk.people.disable("second")


def test_two_administrators_who_take_the_role_from_each_other_at_once_do_not_both(desk):
    desk.reception.first()
    desk.people.add("second", "admin")
    answers: list[str] = []

    def demote(name: str) -> None:
        try:
            desk.people.give(name, "auditor")
            answers.append("given")
        except PersonInvalid:
            answers.append("refused")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(demote, ["admin", "second"]))

    assert sorted(answers) == ["given", "refused"]


@pytest.mark.parametrize(
    ("name", "roles", "says"),
    [("nobody", ["admin"], "nobody of that name"), ("anna", ["chief"], "known roles"), ("anna", [], "known roles")],
)
def test_roles_that_can_not_be_given_are_said(desk, name, roles, says):
    desk.people.add("anna", "auditor")

    with pytest.raises(PersonInvalid, match=says):
        desk.reception.give(name, *roles, who="user:admin")

    assert desk.people.find("anna").roles == {Role.AUDITOR}
    assert desk.trail == []


def test_a_session_ends_when_nobody_was_there_and_at_the_end_of_the_day(desk):
    session = desk.knows("anna")
    for _ in range(15):
        desk.clock.passes(minutes=29)
        assert desk.sessions.signed(session)
    desk.clock.passes(minutes=29)
    assert desk.sessions.signed(session)

    desk.clock.passes(minutes=17)  # 8 hours
    assert desk.sessions.signed(session) is None

    other = desk.sessions.open("anna")
    for _ in range(3):
        desk.clock.passes(minutes=11)
        found = desk.sessions.signed(other, active=False)  # a page that refreshes itself is nobody
    assert found is None


def test_a_restart_ends_no_session_and_only_its_digest_is_kept(desk):
    session = desk.knows("anna")
    desk.again()

    assert desk.sessions.signed(session).name == "anna"
    with desk.engine.connect() as connection:
        assert session not in str(connection.execute(text("SELECT * FROM sessions")).all())


def test_a_new_password_ends_every_other_session(desk):
    first = desk.knows("anna")
    second = desk.reception.sign_in("anna", GOOD)

    third = desk.reception.change_password("anna", GOOD, "another four words")

    assert [bool(desk.sessions.signed(one)) for one in (first, second, third)] == [False, False, True]


def test_sign_in_and_out_are_in_the_trail_and_no_word_that_was_typed(desk):
    desk.knows("anna")
    desk.trail.clear()

    session = desk.reception.sign_in("anna", GOOD, "10.0.0.7")
    desk.reception.sign_out(session, "10.0.0.7")
    desk.reception.sign_in("anna", "secret typo", "10.0.0.7")
    desk.reception.sign_in("my-password", "anna", "10.0.0.7")

    assert [(e.event, e.type, e.outcome, e.who, e.peer) for e in desk.trail] == [
        (Event.USER_AUTHENTICATION, Type.LOGIN, Outcome.SUCCESS, "user:anna", "10.0.0.7"),
        (Event.USER_AUTHENTICATION, Type.LOGOUT, Outcome.SUCCESS, "user:anna", "10.0.0.7"),
        (Event.USER_AUTHENTICATION, Type.LOGIN, Outcome.MINOR_FAILURE, "user:anna", "10.0.0.7"),
    ]
    assert desk.sessions.signed(session) is None
    assert not any(word in str(desk.trail) for word in ("secret typo", "my-password", GOOD))


def test_what_an_administrator_does_to_a_user_is_in_the_trail(desk):
    desk.reception.add("anna", "radiologist", who="user:admin")
    desk.reception.reset("anna", who="user:admin")
    desk.reception.disable("anna", who="user:admin")

    assert [(e.event, e.type, e.who, e.what) for e in desk.trail] == [
        (Event.SECURITY_ALERT, Type.USER_SECURITY_ATTRIBUTES_CHANGED, "user:admin", f"user anna {what}")
        for what in ("added", "reset", "disabled")
    ]
