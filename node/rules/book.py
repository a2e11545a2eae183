"""The rule book: who may change the rules, and how; what is in force. For the command line and for pages alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from node import log
from node.audit import Action, AuditEvent, Event, Record, Type, written_first
from node.conditions._lines import LARGEST
from node.domain import Study
from node.errors import RevisionRefused, RulesInvalid
from node.ledger.rule_revisions import SETTINGS_FILE, Revision, RevisionState, RuleRevisions, Step, digest_of
from node.router import Needs, RuleSet, decide, explained, parse_rules, read_all
from node.rules.difference import Difference, difference

_log = log.get(__name__)

LONGEST_REASON = 400
_HEAD = re.compile(r"# revision (\d{1,9})\b[^\n]*\n")  #: first line of a revision that was written out: what a change was made from


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with a text, and where."""

    line: int  #: from 1; 0: the text as a whole
    column: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The words that rules may use at this moment."""

    pipelines: Mapping[str, Needs]
    destinations: Collection[str]


class RuleBook:
    """Validates, publishes, rolls back; keeps the rules in force at hand.

    Parameters
    ----------
    known
        Asks what is installed and configured now.
    second_person
        What somebody publishes waits until another person approves it. A rollback does not wait: its text was approved once.
    """

    def __init__(self, revisions: RuleRevisions, record: Record, known: Callable[[], Known], *, second_person: bool = False) -> None:
        self._revisions = revisions
        self._record = record
        self._known = known
        self._second_person = second_person
        self._in_force: RuleSet | None = None
        self._watched: RuleSet | None = None
        self._complained = 0  #: revision that can't be used, said once

    # --- questions ------------------------------------------------------------------------------------------------------
    def validate(self, text: str) -> list[Problem]:
        """Everything that is wrong with a text, at most one problem a rule; empty: it may be published."""
        known = self._known()
        _, wrong = read_all(text, pipelines=known.pipelines, destinations=known.destinations)
        return [Problem(line=why.line, column=why.column, what=why.what or why.detail) for why in wrong]

    def history(self) -> list[Revision]:
        """Every revision, the oldest first."""
        return self._revisions.history()

    def get(self, number: int) -> Revision:
        """One revision. Raises RevisionRefused."""
        return self._revisions.get(number)

    def active(self) -> Revision | None:
        """The revision in force."""
        return self._revisions.active()

    def watched(self) -> Revision | None:
        """The draft that is watched."""
        return self._revisions.watched()

    def diff(self, a: int, b: int) -> Difference:
        """From revision `a` to revision `b`. Raises RevisionRefused."""
        return difference(self.get(a).text, self.get(b).text)

    def try_on(self, text: str, study: Study) -> list[dict[str, Any]]:
        """Every rule of a text against one study, with the reasons, as JSON values. Raises RulesInvalid."""
        return explained(decide(study, self.read(text), self._known().pipelines))

    def read(self, text: str, source: str = "rules") -> RuleSet:
        """A text as rules. Raises RulesInvalid, whose words name the `source`."""
        known = self._known()
        return parse_rules(text, pipelines=known.pipelines, destinations=known.destinations, source=source)

    # --- what is in force -----------------------------------------------------------------------------------------------
    def in_force(self) -> RuleSet | None:
        """The active revision's rules; None before the first one.

        One that can't be read any more (a pipeline or a destination of it is gone) is not used: the rules before it stay, and the
        log says so; without any before it RulesInvalid is raised.
        """
        number = self._revisions.active_number()
        if not number:
            return None
        if self._in_force is None or self._in_force.revision != number:
            try:
                self._in_force = self._rules_of(number)
            except RulesInvalid as why:
                if self._in_force is None:
                    raise
                if self._complained != number:
                    _log.error("the published rules are not used, those before stay", extra={"revision": number, "because": str(why)})
                self._complained = number
        return self._in_force

    def watched_rules(self) -> RuleSet | None:
        """The rules of the draft that is watched; None when there is none, or it can't be read any more."""
        number = self._revisions.watched_number()
        if not number or number == self._complained:
            return None
        if self._watched is None or self._watched.revision != number:
            try:
                self._watched = self._rules_of(number)
            except RulesInvalid as why:
                _log.warning("the watched draft can't be read any more", extra={"revision": number, "because": str(why)})
                self._complained = number
                return None
        return self._watched

    def _rules_of(self, number: int) -> RuleSet:
        return replace(self.read(self.get(number).text), revision=number)

    # --- changes --------------------------------------------------------------------------------------------------------
    def publish(self, text: str, *, who: str, reason: str, base: int | None = None) -> Revision:
        """The text becomes the active revision, or a proposal where a second person has to approve.

        Parameters
        ----------
        base
            The revision that the text was made from. None: as the text's first line says (`written_out`), else whatever is active.

        Raises
        ------
        RulesInvalid
            The text can't be used.
        RevisionRefused
            Somebody else published since; nothing would change; there is no reason.
        """
        said, text = made_from(text)
        _check_reason(reason)
        self.read(text)
        base = said if base is None else base
        self._revisions.may_publish(text, base)
        number, what = self._revisions.next_number(), "proposed" if self._second_person else "published"
        with self._written(what, number, text, self.active(), who, reason):
            return self._revisions.publish(text, number=number, base=base, who=who, reason=reason, propose=self._second_person)

    def approve(self, number: int, *, who: str) -> Revision:
        """A second person's word: the proposal becomes active. Raises RulesInvalid, RevisionRefused."""
        self.read(self.get(number).text)
        one = self._revisions.may_approve(number, who)
        with self._written("approved and published", number, one.text, self.active(), who, one.reason, proposer=one.who):
            return self._revisions.approve(number, who=who)

    def rollback(self, number: int, *, who: str, reason: str, base: int | None = None) -> Revision:
        """The text of an earlier published revision becomes active again, as a new revision. Raises RulesInvalid, RevisionRefused."""
        _check_reason(reason)
        earlier = self.get(number)
        if earlier.state is not RevisionState.PUBLISHED:
            raise RevisionRefused(f"revision {number} was never published, it is a {earlier.state} one")
        self.read(earlier.text)
        self._revisions.may_publish(earlier.text, base)
        new = self._revisions.next_number()
        with self._written(f"rolled back to {number}", new, earlier.text, self.active(), who, reason):
            return self._revisions.publish(earlier.text, number=new, base=base, who=who, reason=reason, step=Step.ROLLBACK)

    def watch(self, text: str, *, who: str, reason: str) -> Revision:
        """A draft that is evaluated beside the active rules from now on, and does nothing. Raises RulesInvalid, RevisionRefused."""
        _check_reason(reason)
        _, text = made_from(text)
        self.read(text)
        number = self._revisions.next_number()
        with self._written("draft watched", number, text, self.active(), who, reason):
            return self._revisions.watch(text, number=number, who=who, reason=reason)

    def keep(self, text: str, *, who: str, reason: str, base: int = 0) -> Revision:
        """A draft that somebody goes on with later. It need not be right yet. Raises RevisionRefused."""
        _check_reason(reason)
        said, text = made_from(text)
        if not text.strip() or len(text) > LARGEST:
            raise RevisionRefused(f"a draft holds something, and at most {LARGEST // 2**20} MiB")
        number = self._revisions.next_number()
        with self._written("draft kept", number, text, self.active(), who, reason):
            return self._revisions.keep(text, number=number, base=base if said is None else said, who=who, reason=reason)

    def stop_watching(self, *, who: str) -> int:
        """No draft is watched any more; which one it was. Raises RevisionRefused."""
        watched = self.watched()
        if watched is None:
            raise RevisionRefused("no draft is watched")
        with self._written("draft not watched any more", watched.number, watched.text, None, who, ""):
            return self._revisions.stop_watching()

    def take_file(self, text: str, name: str) -> None:
        """The settings' rules file at a start: the first revision, or the next one when it changed and nobody published over it.

        Raises RulesInvalid when it can't be used and there are no other rules; then nothing is kept of it.
        """
        before = self.active()
        try:
            self.read(text, name)
            self._take_file(text, f"read from {name}", before)
        except RulesInvalid as why:
            if before is None:
                raise
            _log.error("the rules file is not used, the published rules stay", extra={"because": str(why)})
        except RevisionRefused as why:
            _log.warning("the rules file is not used", extra={"because": why.detail})

    def _take_file(self, text: str, reason: str, before: Revision | None) -> None:
        propose, number = self._second_person, self._revisions.next_number()
        what = "proposed" if propose and before is not None else "published"
        written = self._written(what, number, text, before, SETTINGS_FILE, reason) if self._revisions.file_is_new(text) else nullcontext()
        with written:
            self._revisions.take_file(text, number=number, reason=reason, propose=propose)

    def _written(
        self, what: str, number: int, text: str, before: Revision | None, who: str, reason: str, *, proposer: str = ""
    ) -> AbstractContextManager[None]:
        """Around a change of the rules: it is in the audit trail before it is made."""
        event = AuditEvent(
            event=Event.SECURITY_ALERT,
            type=Type.SOFTWARE_CONFIGURATION,
            action=Action.UPDATE,
            who=who,
            what=f"rules {number}: {what}",
            facts={
                "from": f"{before.number} {before.sha256[:12]}" if before else "none",
                "to": f"{number} {digest_of(text)[:12]}",
                "changes": difference(before.text if before else "", text).in_words,
                **({"reason": reason} if reason else {}),
                **({"proposed by": proposer} if proposer else {}),
            },
        )
        return written_first(self._record, event)


# --- a revision as a file -----------------------------------------------------------------------------------------------
def written_out(revision: Revision) -> str:
    """Its text, under a line that says which revision it is: who publishes it changed is told when another one is active by then."""
    return f"# revision {revision.number}, {revision.at:%Y-%m-%d %H:%M} by {revision.who}\n{revision.text}"


def made_from(text: str) -> tuple[int | None, str]:
    """What `written_out` put before a text, and the text without it."""
    found = _HEAD.match(text)
    return (int(found[1]), text[found.end() :]) if found else (None, text)


def _check_reason(reason: str) -> None:
    if not reason.strip() or len(reason) > LONGEST_REASON or not reason.isprintable():
        raise RevisionRefused(f"say why, in one line of at most {LONGEST_REASON} letters")
