"""STOW-RS: studies that come by HTTP (PS3.18 10.5). Each part is durable before the answer names it as stored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

from fastapi import APIRouter, Depends, Request, Response
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool

from node import log
from node.audit import Action, AuditEvent, Event
from node.audit import Outcome as Result
from node.domain import Channel, Origin
from node.errors import DiskFull, SopClassRefused, StudyRefused
from node.ledger.tokens import Role
from node.web.auth import needs, peer_of
from node.web.metrics import Metrics
from node.web.multipart import MultipartInvalid, Part, Parts, pieces
from node.web.parts import WebParts
from node.web.problems import Problem

_log = log.get(__name__)

# Failure Reason (0008,1197), PS3.18 Table I.2-2 with PS3.4 Table B.2-1
PROCESSING_FAILURE = 0x0110
SOP_CLASS_NOT_SUPPORTED = 0x0122
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xA900  # here: not of the study that the request's path names
CANNOT_UNDERSTAND = 0xC000

_JSON = {"application/dicom+json", "application/json"}
_FORM = 'Send `Content-Type: multipart/related; type="application/dicom"; boundary=…` with one DICOM file a part.'


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one part. `failure` 0: stored."""

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    failure: int = 0
    study: str = ""  #: clean Study Instance UID, once it is stored


def routes(parts: WebParts, metrics: Metrics) -> APIRouter:
    """`POST /dicom-web/studies` and `POST /dicom-web/studies/{study}`."""
    router = APIRouter(prefix="/dicom-web", tags=["dicomweb"], dependencies=[Depends(needs(Role.INTEGRATOR))])

    @router.post("/studies")
    async def store(request: Request) -> Response:
        """Store instances of any study."""
        return await _store(request, parts, metrics, "")

    @router.post("/studies/{study}")
    async def store_in_study(request: Request, study: str) -> Response:
        """Store instances of one study; those of another are refused one by one."""
        return await _store(request, parts, metrics, study)

    return router


async def _store(request: Request, parts: WebParts, metrics: Metrics, study: str) -> Response:
    boundary = _boundary(request)
    _acceptable(request.headers.get("accept", "*/*"))
    if int(request.headers.get("content-length") or 0) > parts.max_upload_bytes:
        raise _too_big(parts)
    if not await run_in_threadpool(parts.room_left):
        raise DiskFull
    origin = Origin(channel=Channel.STOW, received_at=parts.clock(), peer=peer_of(request.scope))
    outcomes: list[Outcome] = []
    body = _begin(boundary, parts)
    size = 0
    try:
        async for piece in pieces(request.stream()):
            size += len(piece)
            if size > parts.max_upload_bytes:
                raise _too_big(parts)
            outcomes += await run_in_threadpool(_take_all, body, piece, parts, origin, study)
    except MultipartInvalid as why:
        raise Problem(400, f"{str(why).capitalize()}. {_FORM}{_stored_so_far(outcomes)}") from None
    finally:
        body.close()
        metrics.stow_bytes.inc(size)
        for outcome in outcomes:
            metrics.stow.labels("failed" if outcome.failure else "stored").inc()
        await run_in_threadpool(_tell, parts, origin.peer, outcomes)
    if not body.ended:
        raise Problem(400, f"The body ends before its last boundary. Send it again.{_stored_so_far(outcomes)}")
    if not outcomes:
        raise Problem(400, f"There is no part in the body. {_FORM}")
    return _answer(outcomes)


def _tell(parts: WebParts, peer: str, outcomes: list[Outcome]) -> None:
    """Instances Transferred, one event a study (PS3.15 A.5.3.7); what failed is one event without a study."""
    stored = Counter(outcome.study for outcome in outcomes if not outcome.failure)
    event, action, what = Event.INSTANCES_TRANSFERRED, Action.CREATE, "STOW-RS"
    for study, count in stored.items():
        facts = {"instances": str(count), "direction": "in"}
        parts.record(AuditEvent(event=event, action=action, peer=peer, study=study, what=what, facts=facts))
    if failed := Counter(f"0x{outcome.failure:04X}" for outcome in outcomes if outcome.failure):
        facts = {"direction": "in", **{reason: str(count) for reason, count in failed.items()}}
        parts.record(AuditEvent(event=event, action=action, outcome=Result.MINOR_FAILURE, peer=peer, what=what, facts=facts))


# --- one part -----------------------------------------------------------------------------------------------------------------
def _take_all(body: Parts, chunk: bytes, parts: WebParts, origin: Origin, study: str) -> list[Outcome]:
    done = body.feed(chunk)
    try:
        return [_take(part, parts, origin, study) for part in done]
    finally:
        for part in done:
            part.file.close()


def _take(part: Part, parts: WebParts, origin: Origin, study: str) -> Outcome:
    if part.media_type not in {"application/dicom", ""}:
        return Outcome(failure=CANNOT_UNDERSTAND)
    sop_class, instance, of_study = _head(part.file, parts)
    failure = DOES_NOT_MATCH if study and study != of_study else 0
    try:
        if not failure:
            taken = parts.accept_instance(part.file, origin)
            return Outcome(sop_class_uid=taken.sop_class_uid, sop_instance_uid=taken.sop_instance_uid, study=taken.study)
    except DiskFull:
        failure = OUT_OF_RESOURCES
    except SopClassRefused:
        failure = SOP_CLASS_NOT_SUPPORTED
    except StudyRefused:
        failure = CANNOT_UNDERSTAND
    except Exception as why:  # one part must not take the others with it
        _log.error("a part could not be taken", extra={"where": log.where_it_failed(why)})
        failure = PROCESSING_FAILURE
    return Outcome(sop_class_uid=sop_class, sop_instance_uid=instance, failure=failure)


def _head(file: BinaryIO, parts: WebParts) -> tuple[str, str, str]:
    """SOP class, SOP instance and study as the file says, empty where it does not; for the answer to the sender only."""
    try:
        head = parts.head(file)
    except Exception:  # the vault says what is wrong with it
        return "", "", ""
    finally:
        file.seek(0)
    return head.sop_class_uid, head.sop_instance_uid, head.study_instance_uid


# --- the request ----------------------------------------------------------------------------------------------------------------
def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    root = options.get(b"type", b"application/dicom")
    if kind.lower() != b"multipart/related" or root.lower() != b"application/dicom":
        raise Problem(415, _FORM)
    if not options.get(b"boundary"):
        raise Problem(400, f"Content-Type names no boundary. {_FORM}")
    return options[b"boundary"]


def _begin(boundary: bytes, parts: WebParts) -> Parts:
    try:
        return Parts(boundary, parts.spool)
    except MultipartInvalid as why:
        raise Problem(400, f"{str(why).capitalize()}.") from None


def _acceptable(accept: str) -> None:
    wanted = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    if not wanted & {*_JSON, "*/*", "application/*"}:
        raise Problem(406, "The answer is application/dicom+json; accept that.")


def _too_big(parts: WebParts) -> Problem:
    limit = parts.max_upload_bytes >> 20
    return Problem(413, f"The body is larger than {limit} MB (web.max_upload_mb); send fewer instances a request.")


def _stored_so_far(outcomes: Iterable[Outcome]) -> str:
    stored = sum(not outcome.failure for outcome in outcomes)
    return f" {stored} instances before that were stored." if stored else ""


# --- the answer, PS3.18 Table I.2-1 in the DICOM JSON model (PS3.18 Annex F) --------------------------------------------------
def _answer(outcomes: list[Outcome]) -> Response:
    stored = [outcome for outcome in outcomes if not outcome.failure]
    failed = [outcome for outcome in outcomes if outcome.failure]
    if not stored and all(outcome.failure == OUT_OF_RESOURCES for outcome in failed):
        raise DiskFull
    body: dict[str, Any] = {"00081190": {"vr": "UR"}}  # Retrieve URL, Type 2: what is stored here is not given out again
    if stored:
        body["00081199"] = _sequence({**_sop(one), "00081190": {"vr": "UR"}} for one in stored)
    if named := [one for one in failed if one.sop_class_uid and one.sop_instance_uid]:
        body["00081198"] = _sequence({**_sop(one), **_reason(one)} for one in named)
    if unnamed := [one for one in failed if one not in named]:
        body["0008119A"] = _sequence(_reason(one) for one in unnamed)
    status = 200 if not failed else 202 if stored else 409  # PS3.18 Table 10.5.3-1
    return Response(json.dumps(body), status, media_type="application/dicom+json")


def _sequence(items: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"vr": "SQ", "Value": list(items)}


def _sop(outcome: Outcome) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [outcome.sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [outcome.sop_instance_uid]},
    }


def _reason(outcome: Outcome) -> dict[str, Any]:
    return {"00081197": {"vr": "US", "Value": [outcome.failure]}}
