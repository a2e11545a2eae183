"""Report → HL7 v2.5.1 message ORU^R01: one OBX for each thing that is said, preliminary (P), in UTF-8.

What a report says of one finding shares a sub-ID (OBX-4): whether it is present, its numbers, its site, its Tracking UID. The finding is
the question (OBX-3) and present or absent the answer (OBX-5), so that no line alone names a disease that was not found. The same report
gives the same message, control id (MSH-10) included.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any

from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.core import Message
from hl7apy.exceptions import HL7apyException
from hl7apy.parser import parse_message
from pydicom import Dataset
from pydicom.multival import MultiValue

from node.codes import Code, private
from node.errors import DeliveryRefused
from node.header_text import day_of, study_time, text_of, zone_of
from node.sr_reader import PRESENCE, Report, Told

VERSION = "2.5.1"
CHARACTER_SET = "UNICODE UTF-8"  # table 0211
URI = Code("110037", "DCM", "URI")
CONCLUSION, FINDING, COMMENT = Code("121077", "DCM", "Conclusion"), Code("121071", "DCM", "Finding"), Code("121106", "DCM", "Comment")
FINDING_SITE = Code("363698007", "SCT", "Finding Site")
TRACKING_UID, STUDY_UID = Code("112040", "DCM", "Tracking Unique Identifier"), Code("110180", "DCM", "Study Instance UID")
REPORT_UID = private("REPORT_UID", "SOP Instance UID of the structured report")
IMAGING = Code("18748-4", "LN", "Diagnostic imaging study")
PRELIMINARY, NO_RESULT = "P", "X"  # table 0085
LINE = 199  #: letters of one line of text; what is longer goes on in a repetition, which TX shows as the next line (2.A.78)
ESCAPES = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}  # section 2.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Who sends to whom: MSH-3 to MSH-6, and whose numbers Patient IDs are."""

    sending_application: str
    sending_facility: str
    receiving_application: str
    receiving_facility: str
    processing_id: str  #: P production, T training, D debugging (table 0103)
    assigning_authority: str  #: of the Patient ID; empty: as the report's Issuer of Patient ID says


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One OBX."""

    type: str  #: NM, CWE, ST or TX
    about: Code
    values: tuple[str, ...]  #: encoded; several are lines of one text
    sub_id: str = ""
    unit: Code | None = None
    status: str = PRELIMINARY


def control_id(sop_instance_uid: str) -> str:
    """MSH-10 of the report's message: 20 letters and digits, which is all that ST has room for there."""
    return base64.b32encode(sha256(sop_instance_uid.encode()).digest()).decode()[:20]


def oru_r01(report: Report, ends: Ends) -> str:
    """The message in ER7, segments ended by CR, checked against the structure of HL7 v2.5.1.

    Raises
    ------
    DeliveryRefused
        When the report has no Patient ID, or does not fit the message.
    """
    try:
        message = Message("ORU_R01", version=VERSION, validation_level=VALIDATION_LEVEL.STRICT)
        _msh(message.msh, report, ends)
        result = message.add_group("ORU_R01_PATIENT_RESULT")
        patient = result.add_group("ORU_R01_PATIENT")
        _pid(patient.add_segment("PID"), report.header, ends.assigning_authority)
        if admission := text_of(report.header, "AdmissionID"):
            visit = patient.add_group("ORU_R01_VISIT").add_segment("PV1")
            visit.pv1_1, visit.pv1_2, visit.pv1_19 = "1", "U", escaped(admission)  # table 0004: unknown
        order = result.add_group("ORU_R01_ORDER_OBSERVATION")
        _obr(order.add_segment("OBR"), report)
        for at, line in enumerate(_lines(report), 1):
            _obx(order.add_group("ORU_R01_OBSERVATION").add_segment("OBX"), at, line, report)
        text = str(message.to_er7())
        parse_message(text, validation_level=VALIDATION_LEVEL.STRICT).validate()
    except (HL7apyException, ValueError):  # their words quote the value
        raise DeliveryRefused("what the report says does not fit an ORU^R01 message") from None
    return text + "\r"


def escaped(text: str) -> str:
    """Text with the delimiters escaped, without control characters."""
    plain = " ".join(text.split())
    return "".join(ESCAPES.get(letter, letter) for letter in plain if letter.isprintable())


def lines_of(text: str) -> list[str]:
    """Text escaped and broken between words into lines of at most LINE letters; no escape is cut."""
    lines = [""]
    for word in escaped(text).split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) <= LINE:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for piece in re.findall(r"\\[EFSTR]\\|.", word):
            if len(lines[-1]) + len(piece) > LINE:
                lines.append("")
            lines[-1] += piece
    return [line for line in lines if line]


# --- segments -------------------------------------------------------------------------------------------------------------------
def _msh(msh: Any, report: Report, ends: Ends) -> None:
    msh.msh_3, msh.msh_4 = escaped(ends.sending_application), escaped(ends.sending_facility)
    msh.msh_5, msh.msh_6 = escaped(ends.receiving_application), escaped(ends.receiving_facility)
    msh.msh_7 = _moment(report.written_at)
    msh.msh_9 = "ORU^R01^ORU_R01"
    msh.msh_10, msh.msh_11, msh.msh_12 = control_id(report.uid), ends.processing_id, VERSION
    msh.msh_18 = CHARACTER_SET


def _pid(pid: Any, header: Dataset, authority: str) -> None:
    number = text_of(header, "PatientID")
    if not number:
        raise DeliveryRefused("the report has no Patient ID, so nobody could say whose record it belongs to")
    pid.pid_1 = "1"
    pid.pid_3 = f"{escaped(number)}^^^{escaped(authority) or _issuer(header)}^MR"
    for name in list(_names(header)) or ["^^^^^^U"]:  # table 0200: unspecified
        pid.add_field("PID_5").value = name
    if born := day_of(header, "PatientBirthDate"):
        pid.pid_7 = born
    if sex := str(header.get("PatientSex") or ""):
        pid.pid_8 = sex if sex in {"M", "F", "O"} else "U"


def _issuer(header: Dataset) -> str:
    """HD: Issuer of Patient ID (0010,0021), and its universal id where there is one."""
    qualifiers = next(iter(header.get("IssuerOfPatientIDQualifiersSequence") or ()), Dataset())
    parts = ((header, "IssuerOfPatientID"), (qualifiers, "UniversalEntityID"), (qualifiers, "UniversalEntityIDType"))
    return "&".join(escaped(text_of(*part)) for part in parts).rstrip("&")


def _names(header: Dataset) -> Iterator[str]:
    """XPN for each way the name is written: PS3.5 6.2.1 has prefix before suffix, XPN the other way round."""
    told = header.get("PatientName")
    names = told if isinstance(told, MultiValue) else [told]
    kinds = (("alphabetic", "A"), ("ideographic", "I"), ("phonetic", "P"))
    for group, code in ((getattr(name, kind, ""), code) for name in names for kind, code in kinds):
        if group:
            family, given, middle, prefix, suffix = (escaped(part) for part in (str(group).split("^") + [""] * 5)[:5])
            yield f"{family}^{given}^{middle}^{suffix}^{prefix}^^L^{code}"


def _obr(obr: Any, report: Report) -> None:
    accession = escaped(text_of(report.header, "AccessionNumber"))
    obr.obr_1 = "1"
    obr.obr_3 = accession or report.uid
    obr.obr_4 = _coded(report.procedure or IMAGING)
    if done := study_time(report.header):
        zone = text_of(report.header, "TimezoneOffsetFromUTC").strip() if zone_of(report.header) and len(done) > 8 else ""
        obr.obr_7 = done + zone
    if accession:
        obr.obr_18 = accession  # where IHE Radiology has it
    obr.obr_22 = _moment(report.written_at)
    obr.obr_24, obr.obr_25 = "IMG", PRELIMINARY  # tables 0074, 0123


def _obx(obx: Any, at: int, line: _Line, report: Report) -> None:
    obx.obx_1, obx.obx_2, obx.obx_3 = str(at), line.type, _coded(line.about)
    if line.sub_id:
        obx.obx_4 = line.sub_id
    for value in line.values:
        obx.add_field("OBX_5").value = value
    if line.unit is not None:
        obx.obx_6 = _coded(line.unit)
    obx.obx_11 = line.status
    obx.obx_14 = _moment(report.written_at)
    obx.obx_17 = f"^{escaped(f'{report.maker.name} {report.maker.version}')}"
    obx.obx_18 = f"{escaped(report.maker.node_serial)}^{escaped(report.maker.node_name)}"


# --- what is said ---------------------------------------------------------------------------------------------------------------
def _lines(report: Report) -> Iterator[_Line]:
    """The overall answer first, then the findings in words and coded, remarks, and which DICOM objects it is about."""
    status = NO_RESULT if report.reason else PRELIMINARY
    for text in report.conclusions:
        yield _Line(type="TX", about=CONCLUSION, values=tuple(lines_of(text)), status=status)
    for text in report.findings:
        yield _Line(type="TX", about=FINDING, values=tuple(lines_of(text)), status=status)
    for told in report.told:
        yield from _told(told, str(told.number))
    for text in report.comments:
        yield _Line(type="TX", about=COMMENT, values=tuple(lines_of(text)))
    if report.reading_link:
        yield _Line(type="TX", about=URI, values=(escaped(report.reading_link),))  # never broken
    yield _Line(type="ST", about=STUDY_UID, values=(report.study_uid,))
    yield _Line(type="ST", about=REPORT_UID, values=(report.uid,))


def _told(told: Told, sub_id: str) -> Iterator[_Line]:
    for one in told.evaluations:
        about = told.finding if one.name.value == PRESENCE else one.name
        yield _Line(type="CWE", about=about, values=(_coded(one.value),), sub_id=sub_id)
    if told.present is None:
        yield _Line(type="CWE", about=FINDING, values=(_coded(told.finding),), sub_id=sub_id)
    for number in told.numbers:
        yield _Line(type="NM", about=number.name, values=(_number(number.value),), unit=number.unit, sub_id=sub_id)
    if told.site is not None:
        side = f"^{_coded(told.laterality)}" if told.laterality else ""
        yield _Line(type="CWE", about=FINDING_SITE, values=(_coded(told.site) + side,), sub_id=sub_id)
    if told.tracking_uid:
        yield _Line(type="ST", about=TRACKING_UID, values=(told.tracking_uid,), sub_id=sub_id)


# --- data types -----------------------------------------------------------------------------------------------------------------
def _coded(code: Code) -> str:
    """CE and CWE: identifier, text, coding system (table 0396 has SCT, LN, DCM, UCUM and 99…)."""
    return "^".join(escaped(part) for part in (code.value, code.meaning, code.scheme_designator))


def _number(value: str) -> str:
    """NM has no exponent, which VR DS may have."""
    return f"{Decimal(value):f}"


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y%m%d%H%M%S%z")
