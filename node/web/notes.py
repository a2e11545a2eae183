"""Who calls, and what is written down about it before anything is shown or done."""

from __future__ import annotations

from fastapi import Request

from node.audit import Action, AuditEvent, Event, Record, Type
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
        self._note(request, Event.INSTANCES_ACCESSED, Action.READ, what, study=study, facts=facts)

    def searched(self, request: Request, what: str, **facts: str) -> None:
        """Somebody is shown a list of studies, or of what belongs to some (PS3.15 A.5.3.10)."""
        self._note(request, Event.QUERY, Action.EXECUTE, what, facts=facts)

    def did(self, request: Request, what: str, study: str = "", **facts: str) -> None:
        """Somebody does something that not everybody may (PS3.15 A.5.3.11)."""
        restricted = Type.USE_OF_RESTRICTED_FUNCTION
        self._note(request, Event.SECURITY_ALERT, Action.EXECUTE, what, study=study, type=restricted, facts=facts)

    def read_the_trail(self, request: Request, what: str, **facts: str) -> None:
        """Somebody reads the audit trail (PS3.15 A.5.3.2)."""
        self._note(request, Event.AUDIT_LOG_USED, Action.READ, what, facts=facts)

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
    ) -> None:
        self._record(
            AuditEvent(
                event=event,
                type=type,
                action=action,
                who=self.who(request),
                peer=peer_of(request.scope),
                study=study,
                what=what,
                facts={name: value for name, value in facts.items() if value},
            )
        )
