"""Report → FHIR R4 transaction Bundle, after HL7's mapping of DICOM SR (hl7.fhir.uv.dicom-sr 1.0.0-ballot).

That guide is written for R5. What R4 lacks is told the R4 way:

- ImagingSelection is a `Basic` with the extensions that FHIR defines for elements of other versions
  (`http://hl7.org/fhir/5.0/StructureDefinition/extension-ImagingSelection.…`); `Observation.focus` points to it.
- `Observation.bodyStructure` becomes `bodySite`, and the BodyStructure with tracking ids is a `focus`, as in the guide.
- A finding that was decided to be absent says so in the very Observation that names it (`interpretation` NEG and the text of its
  value): a reader of one resource must not take "Finding: tumour" for a tumour.

Every id derives from the report's SOP Instance UID, so sending twice overwrites. Patient, ImagingStudy and ServiceRequest belong to
others: they are named by identifier (urn:oid of the Study Instance UID, Patient ID, Accession Number), never created.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from decimal import Decimal
from html import escape
from typing import Any

from pydicom import Dataset

from node.codes import Code
from node.errors import DeliveryRefused
from node.header_text import in_zone, study_time, text_of
from node.provenance import NAMES, RESEARCH
from node.sr_reader import PRESENCE, Maker, Outline, Report, Told

Resource = dict[str, Any]

SYSTEMS = {"SCT": "http://snomed.info/sct", "DCM": "http://dicom.nema.org/resources/ontology/DCM", "LN": "http://loinc.org"}
UCUM, UIDS = "http://unitsofmeasure.org", "urn:dicom:uid"
TERMS = "http://terminology.hl7.org/CodeSystem"
R5 = "http://hl7.org/fhir/5.0/StructureDefinition/extension-ImagingSelection"
MEASUREMENT_GROUP = Code("125007", "DCM", "Measurement Group")
TRACKING_IDENTIFIER, TRACKING_UID = Code("112039", "DCM", "Tracking Identifier"), Code("112040", "DCM", "Tracking Unique Identifier")
STUDY_UID, IMAGE_REGION = Code("110180", "DCM", "Study Instance UID"), Code("111030", "DCM", "Image Region")
DIAGNOSTIC_IMAGING, FINDING = Code("18748-4", "LN", "Diagnostic imaging study"), Code("121071", "DCM", "Finding")


def name_of(uid: str, part: str = "") -> str:
    """The id of a resource that a DICOM UID stands for: letters, digits and hyphens, the same at every call."""
    return str(uuid.uuid5(NAMES, f"fhir\n{uid}\n{part}"))


def bundle(report: Report, *, base: str, patient_system: str = "") -> Resource:
    """The report as one transaction.

    Parameters
    ----------
    base : str
        URL of the FHIR service; full URLs are below it.
    patient_system : str
        URI of the namespace that Patient IDs are from; empty: as the report's Issuer of Patient ID says, if it does.

    Raises
    ------
    DeliveryRefused
        When the report has no Patient ID: nobody could say whose record it belongs to.
    """
    writer = _Writer(report, patient_system)
    resources = writer.resources()
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {
                "fullUrl": f"{base.rstrip('/')}/{one['resourceType']}/{one['id']}",
                "resource": one,
                "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"},
            }
            for one in resources
        ],
    }


class _Writer:
    """What all resources of one report have in common."""

    def __init__(self, report: Report, patient_system: str) -> None:
        self._report = report
        self._subject = {"type": "Patient", "identifier": _patient(report.header, patient_system)}
        self._study = {"type": "ImagingStudy", "identifier": {"type": _concept(STUDY_UID), **_uid(report.study_uid)}}
        self._order = _order(report.header)
        self._node, self._algorithm = _devices(report.maker)
        self._issued = report.written_at.isoformat()

    def resources(self) -> list[Resource]:
        """Referred-to resources first."""
        found = [self._node, self._algorithm]
        groups = []
        for told in self._report.told:
            places = [self._body_structure(told), *([self._selection(told.outline, told)] if told.outline else [])]
            members = self._members(told)
            groups.append(self._group(told, places, members))
            found += [*places, *members, groups[-1]]
        if self._report.reason:
            groups.append(self._not_analysed())
            found.append(groups[-1])
        result = self._diagnostic_report(groups)
        observations = [one for one in found if one["resourceType"] == "Observation"]
        return [*found, result, self._provenance([result, *observations])]

    # --- DiagnosticReport ---------------------------------------------------------------------------------------------------
    def _diagnostic_report(self, groups: list[Resource]) -> Resource:
        report = self._report
        codings = [_coding(report.title)] + ([] if report.title.value == DIAGNOSTIC_IMAGING.value else [_coding(DIAGNOSTIC_IMAGING)])
        found = {
            "resourceType": "DiagnosticReport",
            "id": name_of(report.uid),
            "text": _narrative([*report.conclusions, *report.findings, *report.comments]),
            "identifier": [_uid(report.uid)],
            "status": "preliminary",
            "category": [{"coding": [{"system": f"{TERMS}/v2-0074", "code": "IMG", "display": "Diagnostic Imaging"}]}],
            "code": {"coding": codings, "text": str(report.header.get("SeriesDescription", "")) or report.title.meaning},
            "subject": self._subject,
            "basedOn": self._order,
            "effectiveDateTime": _study_time(report),
            "issued": self._issued,
            "imagingStudy": [self._study],
            "result": [_to(one) for one in groups],
            "conclusion": " ".join([*report.conclusions, *([f"Not analysed: {report.reason}"] if report.reason else []), f"{RESEARCH}."]),
        }
        if report.reading_link:
            found["presentedForm"] = [
                {"contentType": "text/html", "url": report.reading_link, "title": "Reading page: the result, to be answered"}
            ]
        if report.predecessor:
            replaced = {"type": "DiagnosticReport", "identifier": _uid(report.predecessor)}
            url = "http://hl7.org/fhir/StructureDefinition/diagnosticReport-replaces"
            found["extension"] = [{"url": url, "valueReference": replaced}]
        return _without_empty(found)

    # --- Observation ----------------------------------------------------------------------------------------------------------
    def _observation(self, part: str, **more: Any) -> Resource:
        report = self._report
        return _without_empty(
            {
                "resourceType": "Observation",
                "id": name_of(report.uid, part),
                "status": "preliminary",
                "category": [{"coding": [{"system": f"{TERMS}/observation-category", "code": "imaging", "display": "Imaging"}]}],
                "subject": self._subject,
                "basedOn": self._order,
                "partOf": [self._study],
                "effectiveDateTime": _study_time(report),
                "issued": self._issued,
                "device": _to(self._algorithm),
                "note": [{"text": f"{RESEARCH}. Made by software, not verified by a person."}],
                **more,
            }
        )

    def _group(self, told: Told, places: list[Resource], members: list[Resource]) -> Resource:
        words = {True: "present", False: "absent", None: "not decided"}[told.present]
        return self._observation(
            f"group\n{told.number}",
            code=_concept(MEASUREMENT_GROUP),
            valueCodeableConcept=_concept(told.finding, f"{told.tracking_id or told.finding.meaning}: {words}"),
            interpretation=_interpretation(told),
            bodySite=_site(told),
            focus=[_to(one) for one in places],
            hasMember=[_to(one) for one in members],
        )

    def _members(self, told: Told) -> list[Resource]:
        """Each NUM and each CODE of the group."""
        place = {"bodySite": _site(told)}
        found = []
        for at, number in enumerate(told.numbers):
            unit = number.unit
            quantity = {
                "value": Decimal(number.value),
                "unit": unit.meaning,
                "system": UCUM if unit.scheme_designator == "UCUM" else _system(unit),
                "code": unit.value,
            }
            name = f"number\n{told.number}\n{at}\n{number.name.value}"
            found.append(self._observation(name, code=_concept(number.name), valueQuantity=quantity, **place))
        for at, one in enumerate(told.evaluations):
            name = f"evaluation\n{told.number}\n{at}\n{one.name.value}"
            about = _concept(one.name, f"{one.name.meaning} of {told.tracking_id or told.finding.meaning}")
            found.append(self._observation(name, code=about, valueCodeableConcept=_concept(one.value), **place))
        return found

    def _not_analysed(self) -> Resource:
        """No value, and why: a reader must not take it for "nothing was found"."""
        absent = {"system": f"{TERMS}/data-absent-reason", "code": "not-performed", "display": "Not Performed"}
        said = {"coding": [absent], "text": f"Not analysed: {self._report.reason}"}
        return self._observation("not analysed", code=_concept(FINDING), dataAbsentReason=said)

    # --- where ------------------------------------------------------------------------------------------------------------------
    def _body_structure(self, told: Told) -> Resource:
        """What is tracked: the same finding in SEG, SR and here has the same Tracking UID."""
        identifiers = [{"type": _concept(TRACKING_UID), **_uid(told.tracking_uid)}] if told.tracking_uid else []
        if told.tracking_id:
            identifiers.append({"type": _concept(TRACKING_IDENTIFIER), "value": told.tracking_id})
        return _without_empty(
            {
                "resourceType": "BodyStructure",
                "id": name_of(self._report.uid, f"structure\n{told.number}"),
                "identifier": identifiers,
                "morphology": _concept(told.finding) if told.present else None,
                "location": _concept(told.site) if told.site else None,
                "locationQualifier": [_concept(told.laterality)] if told.laterality else None,
                "description": f"What {told.tracking_id or told.finding.meaning} is said of. {RESEARCH}.",
                "patient": self._subject,
            }
        )

    def _selection(self, outline: Outline, told: Told) -> Resource:
        """ImagingSelection of R5, as R4 may hold it."""
        instance = [
            {"url": "uid", "valueId": outline.sop_instance_uid},
            {"url": "sopClass", "valueCoding": {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{outline.sop_class_uid}"}},
            *([{"url": "subset", "valueString": str(outline.frame)}] if outline.frame else []),
            {
                "url": "imageRegion2D",
                "extension": [
                    {"url": "regionType", "valueCode": "polyline"},
                    *({"url": "coordinate", "valueDecimal": Decimal(str(value))} for value in outline.points),
                ],
            },
        ]
        return {
            "resourceType": "Basic",
            "id": name_of(self._report.uid, f"selection\n{told.number}"),
            "extension": [
                {"url": f"{R5}.status", "valueCode": "available"},
                {"url": f"{R5}.code", "valueCodeableConcept": _concept(IMAGE_REGION)},
                {"url": f"{R5}.derivedFrom", "valueReference": self._study},
                {"url": f"{R5}.studyUid", "valueId": self._report.study_uid},
                *([{"url": f"{R5}.seriesUid", "valueId": outline.series_instance_uid}] if outline.series_instance_uid else []),
                {"url": f"{R5}.instance", "extension": instance},
            ],
            "code": {"coding": [{"system": "http://hl7.org/fhir/fhir-types", "code": "ImagingSelection"}]},
            "subject": self._subject,
        }

    # --- who ---------------------------------------------------------------------------------------------------------------------
    def _provenance(self, targets: list[Resource]) -> Resource:
        report = self._report
        kinds = f"{TERMS}/provenance-participant-type"
        return {
            "resourceType": "Provenance",
            "id": name_of(report.uid, "provenance"),
            "target": [_to(one) for one in targets],
            "recorded": self._issued,
            "activity": {"coding": [{"system": f"{TERMS}/v3-DataOperation", "code": "CREATE", "display": "create"}]},
            "agent": [
                {"type": {"coding": [{"system": kinds, "code": "author"}]}, "who": _to(self._algorithm), "onBehalfOf": _to(self._node)},
                {"type": {"coding": [{"system": kinds, "code": "assembler"}]}, "who": _to(self._node)},
            ],
            "entity": [
                {"role": "source", "what": {"identifier": _uid(report.uid), "display": "DICOM structured report"}},
                *({"role": "source", "what": {"identifier": _uid(uid), "display": "DICOM series"}} for uid in report.series),
            ],
        }


def _devices(maker: Maker) -> tuple[Resource, Resource]:
    """This node, and the model as a part of it. Their ids are the same in every report."""
    node_id = name_of(maker.node_uid or maker.node_serial, "node")
    node = {
        "resourceType": "Device",
        "id": node_id,
        "identifier": [_uid(maker.node_uid)] if maker.node_uid else None,
        "status": "active",
        "manufacturer": maker.node_name,
        "deviceName": [{"name": maker.node_name, "type": "user-friendly-name"}],
        "modelNumber": maker.node_model,
        "serialNumber": maker.node_serial,
        "version": [{"value": maker.node_version}],
        "note": [{"text": f"{RESEARCH}."}],
    }
    algorithm = {
        "resourceType": "Device",
        "id": name_of(maker.node_uid or maker.node_serial, f"algorithm\n{maker.name}\n{maker.version}\n{maker.digest}"),
        "status": "active",
        "manufacturer": maker.source,
        "deviceName": [{"name": maker.name, "type": "model-name"}],
        "type": _concept(Code("123110", "DCM", "Artificial Intelligence")),
        "version": [{"value": maker.version}],
        "property": [{"type": {"text": "weights SHA-256"}, "valueCode": [{"text": maker.digest}]}] if maker.digest else None,
        "parent": {"reference": f"Device/{node_id}"},
        "note": [{"text": f"{RESEARCH}."}],
    }
    return _without_empty(node), _without_empty(algorithm)


def _patient(header: Dataset, system: str) -> Resource:
    """Patient ID with its namespace: Issuer of Patient ID Qualifiers (0010,0024) when the settings name none."""
    value = text_of(header, "PatientID")
    if not value:
        raise DeliveryRefused("the report has no Patient ID, so nobody could say whose record it belongs to")
    qualifiers = next(iter(header.get("IssuerOfPatientIDQualifiersSequence") or ()), Dataset())
    universal, kind = str(qualifiers.get("UniversalEntityID") or ""), str(qualifiers.get("UniversalEntityIDType") or "")
    system = system or {"ISO": f"urn:oid:{universal}", "UUID": f"urn:uuid:{universal}", "URI": universal}.get(kind, "")
    issuer = text_of(header, "IssuerOfPatientID")
    return _without_empty(
        {
            "type": {"coding": [{"system": f"{TERMS}/v2-0203", "code": "MR", "display": "Medical record number"}]},
            "system": system,
            "value": value,
            "assigner": {"display": issuer} if issuer else None,
        }
    )


def _order(header: Dataset) -> list[Resource] | None:
    accession = text_of(header, "AccessionNumber")
    kind = {"coding": [{"system": f"{TERMS}/v2-0203", "code": "ACSN", "display": "Accession ID"}]}
    return [{"type": "ServiceRequest", "identifier": {"type": kind, "value": accession}}] if accession else None


def _interpretation(told: Told) -> list[Resource] | None:
    """Presence, as the guide maps qualitative evaluations, with the code that record systems know."""
    said = next((one.value for one in told.evaluations if one.name.value == PRESENCE), None)
    if said is None or told.present is None:
        return None
    code, display = ("POS", "Positive") if told.present else ("NEG", "Negative")
    return [{"coding": [{"system": f"{TERMS}/v3-ObservationInterpretation", "code": code, "display": display}, _coding(said)]}]


def _site(told: Told) -> Resource | None:
    if told.site is None:
        return None
    side = f"{told.laterality.meaning} " if told.laterality else ""
    return _concept(told.site, f"{side}{told.site.meaning}")


# --- data types -----------------------------------------------------------------------------------------------------------------
def _system(code: Code) -> str:
    """The URI of a coding scheme. A private one (99…) gets a UID of its own, as PS3.5 B.2 makes them of a UUID."""
    designator = code.scheme_designator
    return SYSTEMS.get(designator) or f"urn:oid:2.25.{uuid.uuid5(NAMES, f'coding scheme {designator}').int}"


def _coding(code: Code) -> Resource:
    return {"system": _system(code), "code": code.value, "display": code.meaning}


def _concept(code: Code, text: str = "") -> Resource:
    return {"coding": [_coding(code)], "text": text or code.meaning}


def _uid(uid: str) -> Resource:
    """A DICOM UID as an Identifier, as ImagingStudy has it."""
    return {"system": UIDS, "value": f"urn:oid:{uid}"}


def _to(resource: Resource) -> Resource:
    return {"reference": f"{resource['resourceType']}/{resource['id']}"}


def _narrative(lines: list[str]) -> Resource:
    plain = ("".join(letter if letter.isprintable() else " " for letter in line) for line in lines)  # XML has no control characters
    body = "".join(f"<p>{escape(line)}</p>" for line in plain)
    return {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{body}</div>'}


def _study_time(report: Report) -> str | None:
    """When the images were made, as precise as the study says: a date alone has no zone."""
    told = study_time(report.header)
    day = f"{told[:4]}-{told[4:6]}-{told[6:8]}" if told else None
    try:
        return in_zone(datetime.strptime(told, "%Y%m%d%H%M%S"), report.header).isoformat() if len(told) > 8 else day  # noqa: DTZ007
    except (OverflowError, ValueError):  # a year that this machine's zone does not reach
        return day


def _without_empty(resource: Resource) -> Resource:
    """FHIR has no empty elements."""
    return {name: value for name, value in resource.items() if value not in (None, "", [], {})}
