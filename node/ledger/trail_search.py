"""Which records of the audit trail are wanted: by event, by who, by study, by time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, func, or_

from node.ledger.tables import AuditRow

_audit = AuditRow.__table__.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is empty wants everything."""

    event: str = ""  #: code of CID 400
    who: str = ""  #: a part of it, in any case
    study: str = ""  #: clean Study Instance UID, or the pseudonym
    since: datetime | None = None
    until: datetime | None = None  #: the moment itself is not wanted any more

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """For the database. They let too much through rather than too little: `fits` looks again."""
        if self.event:
            yield _audit.event.contains(f'"event":{json.dumps(self.event)}', autoescape=True)
        if self.who:
            yield func.lower(_audit.event).contains(json.dumps(self.who.lower())[1:-1], autoescape=True)
        if self.study:
            yield or_(_audit.study == self.study, _audit.event.contains(f'"patient":{json.dumps(self.study)}', autoescape=True))
        if self.since:
            yield _audit.at >= as_kept(self.since)
        if self.until:
            yield _audit.at < as_kept(self.until)

    def fits(self, facts: dict[str, Any]) -> bool:
        """Whether an event's facts are really what is wanted."""
        return (
            self.event in {"", facts.get("event")}
            and self.who.lower() in facts.get("who", "").lower()
            and self.study in {"", facts.get("study"), facts.get("patient")}
        )

    def facts(self) -> dict[str, str]:
        """What was asked for, for the record of it."""
        times = {"since": self.since.isoformat() if self.since else "", "until": self.until.isoformat() if self.until else ""}
        asked = {"event": self.event, "who": self.who, "study": self.study, **times}
        return {name: value for name, value in asked.items() if value}


EVERYTHING = Wanted()


def as_kept(at: datetime) -> str:
    """A moment as records hold it, so that text compares as time does."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")
