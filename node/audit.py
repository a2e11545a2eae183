"""What must be remembered: events of PS3.15 A.5 with their DCM codes (CID 400, CID 401), without a person's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, StrEnum


class Event(Enum):
    """Event Identification, CID 400 Audit Event ID: (code, meaning)."""

    APPLICATION_ACTIVITY = ("110100", "Application Activity")
    AUDIT_LOG_USED = ("110101", "Audit Log Used")
    BEGIN_TRANSFERRING = ("110102", "Begin Transferring DICOM Instances")
    INSTANCES_ACCESSED = ("110103", "DICOM Instances Accessed")
    INSTANCES_TRANSFERRED = ("110104", "DICOM Instances Transferred")
    STUDY_DELETED = ("110105", "DICOM Study Deleted")
    EXPORT = ("110106", "Export")
    IMPORT = ("110107", "Import")
    PATIENT_RECORD = ("110110", "Patient Record")
    QUERY = ("110112", "Query")
    SECURITY_ALERT = ("110113", "Security Alert")
    USER_AUTHENTICATION = ("110114", "User Authentication")


class Type(Enum):
    """Event Type Code, CID 401."""

    APPLICATION_START = ("110120", "Application Start")
    APPLICATION_STOP = ("110121", "Application Stop")
    LOGIN = ("110122", "Login")
    NODE_AUTHENTICATION = ("110126", "Node Authentication")
    SOFTWARE_CONFIGURATION = ("110131", "Software Configuration")
    USE_OF_RESTRICTED_FUNCTION = ("110132", "Use of Restricted Function")


class Action(StrEnum):
    """Event Action Code, PS3.15 A.5.1."""

    CREATE = "C"
    READ = "R"
    UPDATE = "U"
    DELETE = "D"
    EXECUTE = "E"


class Outcome(Enum):
    """Event Outcome Indicator, PS3.15 A.5.1."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8
    MAJOR_FAILURE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One thing that happened to a study, or to the node. Carries pseudonyms and clean UIDs only."""

    event: Event
    action: Action
    outcome: Outcome = Outcome.SUCCESS
    type: Type | None = None
    who: str = "radnode"  #: process, AE titles ("AETITLES=a;b") or user@domain
    peer: str = ""  #: AE title, Orthanc or destination on the other side
    study: str = ""  #: clean Study Instance UID
    patient: str = ""  #: pseudonym
    what: str = ""  #: a few words: the step of the study's path, the reason of a refusal
    facts: dict[str, str] = field(default_factory=dict)


Record = Callable[[AuditEvent], None]  #: handed to every room that touches a study; returns when the event is durable
