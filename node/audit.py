"""What must be remembered: events of PS3.15 A.5 with their DCM codes (CID 400, CID 401), without a person's name."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from node.errors import NodeError


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
    LOGOUT = ("110123", "Logout")
    NODE_AUTHENTICATION = ("110126", "Node Authentication")
    EMERGENCY_OVERRIDE_STARTED = ("110127", "Emergency Override Started")
    SOFTWARE_CONFIGURATION = ("110131", "Software Configuration")
    USE_OF_RESTRICTED_FUNCTION = ("110132", "Use of Restricted Function")
    USER_SECURITY_ATTRIBUTES_CHANGED = ("110137", "User Security Attributes Changed")


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


@contextmanager
def written_first(record: Record, event: AuditEvent) -> Iterator[None]:
    """Around an act: what can't be written down isn't done, and what was refused or failed after all is written down as that too."""
    record(event)
    try:
        yield
    except Exception as why:
        refused = isinstance(why, NodeError)
        outcome = Outcome.MINOR_FAILURE if refused else Outcome.SERIOUS_FAILURE
        record(replace(event, outcome=outcome, what=f"{event.what}: {'refused' if refused else 'failed'}"))
        raise


def to_dict(event: AuditEvent) -> dict[str, Any]:
    """The event as JSON values; what is empty is left out."""
    facts: dict[str, Any] = {
        "event": event.event.value[0],
        "type": event.type.value[0] if event.type else "",
        "action": event.action.value,
        "outcome": event.outcome.value,
        "who": event.who,
        "peer": event.peer,
        "study": event.study,
        "patient": event.patient,
        "what": event.what,
        "facts": dict(event.facts),
    }
    return {name: value for name, value in facts.items() if value not in ("", {})}


def from_dict(facts: dict[str, Any]) -> AuditEvent:
    """The event again."""
    return AuditEvent(
        event=_EVENTS[facts["event"]],
        type=_TYPES[facts["type"]] if "type" in facts else None,
        action=Action(facts["action"]),
        outcome=Outcome(facts["outcome"]),
        who=facts.get("who", ""),
        peer=facts.get("peer", ""),
        study=facts.get("study", ""),
        patient=facts.get("patient", ""),
        what=facts.get("what", ""),
        facts=facts.get("facts", {}),
    )


def to_json(event: AuditEvent, at: datetime, **more: Any) -> str:
    """One line of JSON: the event with the meaning of its codes, its time, and what else is given."""
    words = {"event_meaning": event.event.value[1]} | ({"type_meaning": event.type.value[1]} if event.type else {})
    return json.dumps({**more, "at": at.isoformat(), **to_dict(event), **words}, sort_keys=True)


def to_xml(event: AuditEvent, at: datetime, *, source: str = "radnode") -> str:
    """One `AuditMessage`, PS3.15 A.5.1: event, active participants, audit source, participant objects."""
    message = Element("AuditMessage")
    what = SubElement(
        message,
        "EventIdentification",
        EventActionCode=event.action.value,
        EventDateTime=at.isoformat(),
        EventOutcomeIndicator=str(event.outcome.value),
    )
    _coded(what, "EventID", *event.event.value)
    if event.type:
        _coded(what, "EventTypeCode", *event.type.value)
    if event.outcome is not Outcome.SUCCESS and event.what:
        SubElement(what, "EventOutcomeDescription").text = event.what
    for user, requestor, role in _participants(event):
        person = SubElement(message, "ActiveParticipant", UserID=user, UserIsRequestor=str(requestor).lower())
        if role:
            _coded(person, "RoleIDCode", *role)
    origin = SubElement(message, "AuditSourceIdentification", AuditSourceID=source)
    SubElement(origin, "AuditSourceTypeCode", {"csd-code": "4"})  # application server, PS3.15 A.5.1.2.1
    if event.study:
        study = _object(message, event.study, ("110180", "Study Instance UID"), kind="2", role="3")
        _details(study, event)
        about = SubElement(study, "ParticipantObjectDescription")
        SubElement(about, "Anonymized").text = "true"  # the UID and all else in this message are clean ones
    if event.patient:
        _object(message, event.patient, ("2", "Patient Number", "RFC-3881"), kind="1", role="1")
    if not event.study and (event.what or event.facts):
        node = _object(message, source, ("110182", "Node ID"), kind="2", role=_role(event))
        _details(node, event)
    return _NO_CHARACTER.sub("\ufffd", tostring(message, encoding="unicode"))


#: no Char of XML 1.0, 2.2: an AE title from outside may hold one, and would make the whole export unreadable
_NO_CHARACTER = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
_EVENTS = {event.value[0]: event for event in Event}
_TYPES = {type.value[0]: type for type in Type}

# Audit Active Participant Role ID Code, CID 402
_APPLICATION = ("110150", "Application")
_DESTINATION = ("110152", "Destination Role ID")
_SOURCE = ("110153", "Source Role ID")


def _participants(event: AuditEvent) -> Iterator[tuple[str, bool, tuple[str, str] | None]]:
    """(user, whether it asked for this, role): who acted, and the other side where there is one (PS3.15 A.5.3)."""
    going_out = event.event is Event.BEGIN_TRANSFERRING or event.facts.get("direction") == "out"
    match event.event:
        case Event.IMPORT | Event.INSTANCES_TRANSFERRED if not going_out:
            yield event.who, False, _DESTINATION
            if event.peer:
                yield event.peer, True, _SOURCE
        case Event.EXPORT | Event.BEGIN_TRANSFERRING | Event.INSTANCES_TRANSFERRED:
            yield event.who, True, _SOURCE
            if event.peer:
                yield event.peer, False, _DESTINATION
        case Event.APPLICATION_ACTIVITY:
            yield event.who, False, _APPLICATION
        case _:
            yield event.who, True, None
            if event.peer:
                yield event.peer, False, None


def _coded(parent: Element, name: str, value: str, meaning: str, system: str = "DCM") -> None:
    SubElement(parent, name, {"csd-code": value, "codeSystemName": system, "originalText": meaning})


def _object(parent: Element, id: str, type: tuple[str, ...], *, kind: str, role: str) -> Element:
    thing = SubElement(
        parent,
        "ParticipantObjectIdentification",
        ParticipantObjectID=id,
        ParticipantObjectTypeCode=kind,
        ParticipantObjectTypeCodeRole=role,
    )
    _coded(thing, "ParticipantObjectIDTypeCode", *type)
    SubElement(thing, "ParticipantObjectName").text = id
    return thing


def _role(event: AuditEvent) -> str:
    """Security Resource for the trail, the settings and the users; Job for the rest (PS3.15 A.5.1.2.2)."""
    guarded = {Event.AUDIT_LOG_USED, Event.SECURITY_ALERT, Event.USER_AUTHENTICATION}
    return "13" if event.event in guarded else "20"


def _details(parent: Element, event: AuditEvent) -> None:
    """Step and facts as type and base64 value, in the order of the schema: after the name."""
    step = [("what", event.what)] if event.what else []
    for name, value in step + sorted(event.facts.items()):
        SubElement(parent, "ParticipantObjectDetail", type=name, value=b64encode(value.encode()).decode())
