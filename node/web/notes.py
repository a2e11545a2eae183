"""Who calls, and what is written down about it before anything is shown or done."""

from __future__ import annotations

from contextlib import AbstractContextManager

from fastapi import Request

from node.audit import Action, AuditEvent, Event, Record, Type, written_first
from node.web.auth import peer_of, who_of


class Notes:
    """Writes the audit records of a room of routes. Each returns when it is durable; what can't be written down isn't shown."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def who(self, request: Request) -> str:
        """`user:NAME` of a session, or `token:NAME`."""
        return who_of(request.scope)

    def looked(self, request: Request, study: str, what: str, **facts: str) -> None:
        """Somebody is shown something of a study (PS3.15 A.5.3.6)."""
        self._record(self._note(request, Event.INSTANCES_ACCESSED, Action.READ, what, study=study, facts=facts))

    def searched(self, request: Request, what: str, **facts: str) -> None:
        """Somebody is shown a list of studies, or of what belongs to some (PS3.15 A.5.3.10)."""
        self._record(self._note(request, Event.QUERY, Action.EXECUTE, what, facts=facts))

    def does(self, request: Request, what: str, study: str = "", **facts: str) -> AbstractContextManager[None]:
        """Around something that not everybody may do (PS3.15 A.5.3.11): it is written down before it is done, and again where it is refused."""
        restricted = Type.USE_OF_RESTRICTED_FUNCTION
        event = self._note(request, Event.SECURITY_ALERT, Action.EXECUTE, what, study=study, type=restricted, facts=facts)
        return written_first(self._record, event)

    def read_the_trail(self, request: Request, what: str, **facts: str) -> None:
        """Somebody reads the audit trail (PS3.15 A.5.3.2)."""
        self._record(self._note(request, Event.AUDIT_LOG_USED, Action.READ, what, facts=facts))

    def _note(
        self,
        request: Request,
        event: Event,
        action: Action,
        what: str,
        *,
        facts: dict[str, str],
        study: str = "",
        type: Type | None = None,
    ) -> AuditEvent:
        return AuditEvent(
            event=event,
            type=type,
            action=action,
            who=self.who(request),
            peer=peer_of(request.scope),
            study=study,
            what=what,
            facts={name: value for name, value in facts.items() if value},
        )
