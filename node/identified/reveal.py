"""Who is this? The only way to a name besides the re-identifier: with a reason, written down before the answer, and approved where asked for.

The reason stands in the audit trail as it was given. So it has a bounded length, one line, and may not name the patient itself.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from node.audit import Action, AuditEvent, Event, Outcome, Record, Type
from node.domain import CleanUid
from node.errors import KeyMissing, ReasonRefused, RevealRefused
from node.identified.identifying import tokens
from node.identified.identities import Identities
from node.identified.named import Identity
from node.identified.tables import RevealRequestRow

Approval = Literal["none", "second person"]
Purpose = Literal["reveal", "reidentify"]
PENDING, APPROVED, USED = "PENDING", "APPROVED", "USED"
SHORTEST, LONGEST = 8, 300  #: characters of a reason
#: what is shown, and nothing else of the identity
SHOWN = ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyInstanceUID")
#: a word of the reason may not be one of these attributes' words
_WHO = ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientID", "OtherPatientIDs", "AccessionNumber", "PatientBirthDate")
_CLEAN = re.compile(r"2\.25\.[0-9]{1,39}")  #: what a clean UID looks like (PS3.5 B.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Somebody wants to know, and waits for another person."""

    id: str
    study: str
    purpose: str
    state: str
    requester: str
    reason: str
    requested_at: datetime
    expires_at: datetime
    approver: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Answer:
    """Who it is; or, with `waiting`, that a second person must approve first."""

    who: Mapping[str, str] = field(default_factory=dict)
    waiting: Request | None = None

    def __repr__(self) -> str:
        return "<Answer>"


class Reveal:
    """Shows who a study belongs to.

    Parameters
    ----------
    record
        The audit trail: durable on return, and asked before anything is answered.
    approval
        Whether a second person must approve.
    valid_for
        How long a request and its approval last. An approval is used once.
    """

    def __init__(
        self,
        engine: Engine,
        identities: Identities,
        record: Record,
        *,
        approval: Approval = "none",
        valid_for: timedelta = timedelta(hours=24),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine, self._identities, self._record = engine, identities, record
        self._approval, self._valid_for, self._now = approval, valid_for, now

    def identity(self, study: CleanUid, *, who: str, reason: str) -> Answer:
        """Who the study belongs to, once that is written down; or the request that waits.

        Raises
        ------
        ReasonRefused
            There is none, or it names the patient.
        KeyMissing
            The study is not known here, or was purged. Written down too.
        """
        reason = checked(reason)
        try:
            identity = self._identities.get(study)
        except KeyMissing:
            asked = study if _CLEAN.fullmatch(study) else CleanUid("")  # else what was typed may be a name or a number of the patient
            self._note(asked, who, "reveal: no such identity", reason, outcome=Outcome.MINOR_FAILURE)
            raise
        if _names(reason, identity):
            self._note(study, who, "reveal refused: the reason names the patient", "", outcome=Outcome.MINOR_FAILURE)
            raise ReasonRefused("it names the patient: say why, not who")
        if waiting := self.waits(study, "reveal", who=who, reason=reason):
            return Answer(waiting=waiting)
        self._note(study, who, "identity revealed", reason)
        return Answer(who=_shown(identity))

    def waits(self, what: str, purpose: Purpose, *, who: str, reason: str) -> Request | None:
        """None when it may be done now, which uses up the approval; else the request that a second person must approve."""
        if self._approval == "none":
            return None
        now = self._now()
        mine = (RevealRequestRow.study == what, RevealRequestRow.purpose == purpose, RevealRequestRow.requester == who)
        with Session(self._engine) as db, db.begin():
            open_ones = select(RevealRequestRow).where(*mine, RevealRequestRow.state.in_((PENDING, APPROVED))).with_for_update()
            for row in db.scalars(open_ones):
                if _aware(row.expires_at) <= now:
                    continue
                if row.state == PENDING:
                    return _request(row)
                row.state = USED
                return None
        row = RevealRequestRow(
            id=secrets.token_hex(6),
            study=what,
            purpose=purpose,
            state=PENDING,
            requester=who,
            reason=reason,
            requested_at=now,
            expires_at=now + self._valid_for,
            approver="",
        )
        request = _request(row)
        self._note(CleanUid(what if purpose == "reveal" else ""), who, f"{purpose} requested", reason, request=request.id)
        with Session(self._engine) as db, db.begin():
            db.add(row)
        return request

    def approve(self, id: str, *, who: str) -> Request:
        """A second person agrees, once that is written down. RevealRefused when there is nothing to approve, or it is the same person."""
        with Session(self._engine) as db:
            request = _request(self._pending(db, id))
        about = CleanUid(request.study if request.purpose == "reveal" else "")
        if _person(request.requester) == _person(who):
            self._note(about, who, "approval refused: by the requester", request.reason, request=id, outcome=Outcome.MINOR_FAILURE)
            raise RevealRefused("who asked can't approve: another person must")
        self._note(about, who, f"{request.purpose} approved", request.reason, request=id, requester=request.requester)
        with Session(self._engine) as db, db.begin():
            row = self._pending(db, id)
            row.state, row.approver, row.approved_at = APPROVED, who, self._now()
            return _request(row)

    def _pending(self, db: Session, id: str) -> RevealRequestRow:
        row = db.get(RevealRequestRow, id, with_for_update=True)
        if row is None or row.state != PENDING or _aware(row.expires_at) <= self._now():
            raise RevealRefused("there is no such request, or it was approved, used or has expired")
        return row

    def checked_for(self, study: CleanUid, reason: str, whose: Identity | None = None) -> str:
        """A reason for something else that is done to the study, fit to be kept. ReasonRefused when it names the patient.

        `whose` it is says who may: a study that was refused at once has no identity that is kept.
        """
        reason = checked(reason)
        try:
            identity: Identity | None = self._identities.get(study)
        except KeyMissing:
            identity = whose
        if identity and _names(reason, identity):
            raise ReasonRefused("the reason names the patient, and is kept in the audit trail: say why, not who")
        return reason

    def requests(self) -> list[Request]:
        """Those that wait or are approved and not used, the oldest first."""
        with Session(self._engine) as db:
            rows = db.scalars(
                select(RevealRequestRow).where(RevealRequestRow.state.in_((PENDING, APPROVED))).order_by(RevealRequestRow.requested_at)
            )
            return [request for row in rows if (request := _request(row)).expires_at > self._now()]

    def _note(self, study: CleanUid, who: str, what: str, reason: str, *, outcome: Outcome = Outcome.SUCCESS, **facts: str) -> None:
        self._record(
            AuditEvent(
                event=Event.SECURITY_ALERT,
                type=Type.USE_OF_RESTRICTED_FUNCTION,
                action=Action.READ,
                outcome=outcome,
                who=who,
                study=study,
                what=what,
                facts={**({"reason": reason} if reason else {}), **facts},
            )
        )


def checked(reason: str) -> str:
    """The reason, without blanks around it. ReasonRefused when it is too short, too long, or more than a line."""
    reason = reason.strip()
    if not SHORTEST <= len(reason) <= LONGEST:
        raise ReasonRefused(f"say why, in {SHORTEST} to {LONGEST} characters")
    if any(unicodedata.category(c).startswith("C") for c in reason):
        raise ReasonRefused("one line, without control characters")
    return reason


def _names(reason: str, identity: Identity) -> bool:
    """A word of the reason is a name or a number of the patient."""
    said = set(tokens(reason))
    words = {word for keyword in _WHO for word in tokens(str(identity.attributes.get(keyword, "")))}
    return bool(said & {word for word in words if len(word) >= 3})


def _shown(identity: Identity) -> dict[str, str]:
    return {keyword: str(identity.attributes.get(keyword, "")) for keyword in SHOWN}


def _person(who: str) -> str:
    """`token:alice` and `os:Alice` are one person."""
    return who.partition(":")[2].casefold() or who.casefold()


def _request(row: RevealRequestRow) -> Request:
    return Request(
        id=row.id,
        study=row.study,
        purpose=row.purpose,
        state=row.state,
        requester=row.requester,
        reason=row.reason,
        requested_at=_aware(row.requested_at),
        expires_at=_aware(row.expires_at),
        approver=row.approver,
    )


def _aware(moment: datetime) -> datetime:
    """SQLite gives moments back without their zone; they went in as UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
