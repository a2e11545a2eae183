"""The reception: somebody signs in or out, is let in, reset or sent away; each act is written down before it is answered."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from node.audit import Action, AuditEvent, Event, Outcome, Record, Type
from node.errors import ReasonRefused
from node.ledger.people import Check, People, Person
from node.ledger.sessions import Sessions, Signed
from node.ledger.tokens import Role

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
        """The session ends."""
        signed = self.sessions.signed(id, active=False)
        self.sessions.close(id)
        if signed:
            self._note(Type.LOGOUT, Action.EXECUTE, "signed out", who=f"user:{signed.name}", peer=peer)

    def change_password(self, name: str, old: str, new: str, peer: str = "") -> str:
        """A new password; every session ends and a new one begins. Raises PasswordRefused."""
        self.people.change(name, old, new)
        self.sessions.close_all(name)
        self._note(SETTINGS, Action.UPDATE, "password changed", who=f"user:{name}", peer=peer)
        return self.sessions.open(name)

    def vouched(self, name: str, role: str, subject: str, peer: str = "") -> str:
        """A session for somebody whom another place vouches for. Raises PersonInvalid."""
        person, new = self.people.vouched(name, role, subject)
        if new:
            self.sessions.close_all(person.name)  # what was open had the role until now
            self._note(
                SETTINGS, Action.UPDATE, f"user {person.name} has a role by another place's word", who=f"user:{person.name}", role=role
            )
        return self._open(person.name, peer)

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
        made = self.people.first()
        if made:
            self._note(SETTINGS, Action.CREATE, f"user {made[0]} added at the first start", who="radnode")
        return made

    def add(self, name: str, role: str, *, who: str) -> str:
        """A one-time password for somebody new. Raises PersonInvalid."""
        password = self.people.add(name, role)
        self._note(SETTINGS, Action.CREATE, f"user {name} added", who=who, role=role)
        return password

    def reset(self, name: str, *, who: str) -> str:
        """A new one-time password, empty for somebody who signs in elsewhere; every session of that person ends."""
        password = self.people.reset(name)
        self.sessions.close_all(name)
        self._note(SETTINGS, Action.UPDATE, f"user {name} reset", who=who)
        return password

    def disable(self, name: str, *, who: str) -> None:
        """Nothing opens for that person any more; every session ends at once."""
        self.people.disable(name)
        self.sessions.close_all(name)
        self._note(SETTINGS, Action.UPDATE, f"user {name} disabled", who=who)

    def list(self) -> list[Person]:
        """Everybody, by name."""
        return self.people.list()

    # --- below ----------------------------------------------------------------------------------------------------------------
    def _open(self, name: str, peer: str) -> str:
        self._note(Type.LOGIN, Action.EXECUTE, "signed in", who=f"user:{name}", peer=peer)
        return self.sessions.open(name)

    def _note(
        self, type: Type, action: Action, what: str, *, who: str, peer: str = "", outcome: Outcome = Outcome.SUCCESS, **facts: str
    ) -> None:
        comes_or_goes = type in {Type.LOGIN, Type.LOGOUT}
        event = Event.USER_AUTHENTICATION if comes_or_goes else Event.SECURITY_ALERT
        self.record(AuditEvent(event=event, type=type, action=action, outcome=outcome, who=who, peer=peer, what=what, facts=facts))
