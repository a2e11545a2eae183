"""The reception: somebody signs in or out, is let in, given roles, reset or sent away; each act is written down before it is done."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass

from node.audit import Action, AuditEvent, Event, Outcome, Record, Type, written_first
from node.errors import PersonInvalid, ReasonRefused
from node.ledger.people import FIRST, Check, People, Person
from node.ledger.sessions import Sessions, Signed
from node.ledger.tokens import Role, in_words, roles_named

BREAK_GLASS_MINUTES = 30

SETTINGS = Type.USER_SECURITY_ATTRIBUTES_CHANGED


@dataclass(frozen=True, slots=True)
class Reception:
    """Users and sessions, with the audit trail."""

    people: People
    sessions: Sessions
    record: Record

    # --- somebody comes and goes ------------------------------------------------------------------------------------------------
    def sign_in(self, name: str, password: str, peer: str = "") -> str | None:
        """A session's id; None when name and password do not open. What was typed as an unknown name is written down nowhere: it may be a password."""
        found = self.people.check(name, password)
        if found is Check.GOOD:
            return self._open(name, peer)
        person = self.people.find(name)
        if person is not None and found is not Check.LOCKED:
            locked = " and the account is locked for a while" if person.locked_until else ""
            self._note(Type.LOGIN, Action.EXECUTE, f"sign-in failed{locked}", who=f"user:{name}", peer=peer, outcome=Outcome.MINOR_FAILURE)
        return None

    def sign_out(self, id: str, peer: str = "") -> None:
        """The session ends, also where that can't be written down: nothing may keep somebody in."""
        signed = self.sessions.signed(id, active=False)
        self.sessions.close(id)
        if signed:
            self._note(Type.LOGOUT, Action.EXECUTE, "signed out", who=f"user:{signed.name}", peer=peer)

    def change_password(self, name: str, old: str, new: str, peer: str = "") -> str:
        """A new password; every session ends and a new one begins. Raises PasswordRefused."""
        hashed = self.people.chosen(name, old, new)
        with self._changes(Action.UPDATE, "password changed", who=f"user:{name}", peer=peer):
            self.people.keep_password(name, hashed)
        self.sessions.close_all(name)
        return self.sessions.open(name)

    def vouched(self, name: str, roles: Collection[str], subject: str, peer: str = "") -> str:
        """A session for somebody whom another place vouches for, with these roles. Raises PersonInvalid."""
        person = self.people.by_subject(subject)
        if person is not None and person.disabled:
            raise PersonInvalid("this person was disabled here")
        name = person.name if person else name
        given = roles_named(roles) if person else self.people.may_add(name, *roles)
        if person is None or person.roles != given:
            what = f"user {name} has a role by another place's word"
            with self._changes(Action.UPDATE, what, who=f"user:{name}", role=in_words(given)):
                self.people.vouched(name, given, subject)
            self.sessions.close_all(name)  # what was open had the roles until now
        else:
            self.people.vouched(name, given, subject)
        return self._open(name, peer)

    def break_glass(self, signed: Signed, reason: str, peer: str = "") -> None:
        """The role `privacy` for half an hour, in this session only, with a reason that is written down first. Raises ReasonRefused."""
        reason = reason.strip()
        if not 10 <= len(reason) <= 500 or any(unicodedata.category(letter).startswith("C") for letter in reason):
            raise ReasonRefused("say why in 10 to 500 characters on one line, naming nobody")
        self._note(
            Type.EMERGENCY_OVERRIDE_STARTED,
            Action.EXECUTE,
            "emergency access",
            who=f"user:{signed.name}",
            peer=peer,
            reason=reason,
            role=Role.PRIVACY,
            minutes=str(BREAK_GLASS_MINUTES),
        )
        self.sessions.take_role(signed.key, Role.PRIVACY, minutes=BREAK_GLASS_MINUTES)

    def signed(self, id: str, active: bool = True) -> Signed | None:
        """Who has that session."""
        return self.sessions.signed(id, active=active)

    # --- an administrator lets in and sends away ----------------------------------------------------------------------------------
    def first(self) -> tuple[str, str] | None:
        """At the first start: the name and the one-time password of one administrator."""
        if self.people.list():
            return None
        with self._changes(Action.CREATE, f"user {FIRST} added at the first start", who="radnode"):
            return self.people.first()

    def add(self, name: str, *roles: str, who: str) -> str:
        """A one-time password for somebody new. Raises PersonInvalid."""
        given = self.people.may_add(name, *roles)
        with self._changes(Action.CREATE, f"user {name} added", who=who, role=in_words(given)):
            return self.people.add(name, *given)

    def give(self, name: str, *roles: str, who: str) -> None:
        """These roles in place of those until now; every session of that person ends. Raises PersonInvalid."""
        given = self.people.may_give(name, *roles)
        person = self.people.find(name)
        before = in_words(person.roles) if person else ""
        with self._changes(Action.UPDATE, f"user {name} has other roles", who=who, role=in_words(given), before=before):
            self.people.give(name, *given)
        self.sessions.close_all(name)

    def reset(self, name: str, *, who: str) -> str:
        """A new one-time password, empty for somebody who signs in elsewhere; every session of that person ends. Raises PersonInvalid."""
        if self.people.find(name) is None:
            raise PersonInvalid("there is nobody of that name")
        with self._changes(Action.UPDATE, f"user {name} reset", who=who):
            password = self.people.reset(name)
        self.sessions.close_all(name)
        return password

    def disable(self, name: str, *, who: str) -> None:
        """Nothing opens for that person any more; every session ends at once. Raises PersonInvalid."""
        self.people.may_disable(name)
        with self._changes(Action.UPDATE, f"user {name} disabled", who=who):
            self.people.disable(name)
        self.sessions.close_all(name)

    def list(self) -> list[Person]:
        """Everybody, by name."""
        return self.people.list()

    # --- below ----------------------------------------------------------------------------------------------------------------
    def _open(self, name: str, peer: str) -> str:
        self._note(Type.LOGIN, Action.EXECUTE, "signed in", who=f"user:{name}", peer=peer)
        return self.sessions.open(name)

    def _changes(self, action: Action, what: str, *, who: str, peer: str = "", **facts: str) -> AbstractContextManager[None]:
        """Around a change of what opens for somebody (PS3.15 A.5.3.11): it is written down before it is made."""
        event = AuditEvent(event=Event.SECURITY_ALERT, type=SETTINGS, action=action, who=who, peer=peer, what=what, facts=facts)
        return written_first(self.record, event)

    def _note(
        self, type: Type, action: Action, what: str, *, who: str, peer: str = "", outcome: Outcome = Outcome.SUCCESS, **facts: str
    ) -> None:
        comes_or_goes = type in {Type.LOGIN, Type.LOGOUT}
        event = Event.USER_AUTHENTICATION if comes_or_goes else Event.SECURITY_ALERT
        self.record(AuditEvent(event=event, type=type, action=action, outcome=outcome, who=who, peer=peer, what=what, facts=facts))
