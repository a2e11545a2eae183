"""`POST /predict`, `POST /heatmap`, `GET /meta`: a study is handed in, looked at, and gone when the answer is out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from node.errors import DiskFull, NobodyFree, PredictionFailed, UploadRefused, UploadTooLarge
from node.imaging.clinical import validated
from node.imaging.plain import page_as_png
from node.ledger.tokens import Role
from node.uploads import Limits, OneFile, Upload, sorted_out
from node.web.auth import needs, peer_of, who_of
from node.web.form import FIELDS, Form, read_form
from node.web.predictions import NOT_TRAINED, Meta, Prediction, ProblemDocument
from node.web.problems import Problem
from node.web.terms import Terms

PNG, DICOM = "image/png", "application/dicom"
COME_AGAIN_S = "10"
LOOK_S = 0.5  #: how often it is looked whether the client is still there


class Examined(Protocol):
    """What is said of an upload."""

    @property
    def pipeline(self) -> str: ...

    @property
    def model(self) -> Mapping[str, str]: ...

    @property
    def summary(self) -> Mapping[str, Any]: ...

    @property
    def rule(self) -> str: ...

    @property
    def others(self) -> Sequence[str]: ...

    @property
    def untrained(self) -> Sequence[str]: ...

    @property
    def capture(self) -> bytes: ...

    @property
    def named_capture(self) -> bytes: ...


class Examines(Protocol):
    """Looks at an upload and forgets it; the audit trail has it when it returns."""

    def __call__(
        self, upload: Upload, *, who: str, peer: str, what: str, capture: bool, nobody_listens: Callable[[], bool]
    ) -> Examined: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictParts:
    """Handed in by assembly."""

    examine: Examines
    seat: Callable[[], AbstractContextManager[None]]  #: a place for one request; raises NobodyFree
    spool: Callable[[], BinaryIO]  #: an empty file for one part on its way in
    meta: Callable[[], Mapping[str, Any]]
    room_left: Callable[[], bool] = lambda: True
    max_upload_bytes: int = 4096 << 20
    max_files: int = 4096
    terms: Terms = field(default_factory=Terms)  #: who accepted what the upload page says first


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "DICOM files of one study, PNG or JPEG pictures, or a zip of either.",
                        },
                        "pipeline": {"type": "string", "description": "As /meta names it; without it the rules choose (DICOM only)."},
                        "clinical": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "description": 'What is known of the patient, e.g. {"age": 61, "sex": "F", "temperature": 38.4}.',
                        },
                        "view": {"type": "string", "description": "View Position of a film: PA, AP, LATERAL …"},
                        "modality": {"type": "string", "description": "Of pictures, where the pipeline reads several."},
                    },
                },
            }
        },
    }
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemDocument, "description": why}
    for status, why in {
        400: "The form is broken.",
        401: "No token.",
        403: "The token's role may not do this.",
        413: "Too large.",
        415: "Not a form with files.",
        422: "The upload can't be used; `detail` says why.",
        500: "The model failed.",
        503: "Busy, or the disk is full; come again.",
    }.items()
}


def routes(parts: PredictParts) -> APIRouter:
    """For systems that ask, and radiologists."""
    router = APIRouter(tags=["predict"], dependencies=[Depends(needs(Role.INTEGRATOR, Role.RADIOLOGIST))])

    @router.post("/predict", openapi_extra=_BODY, responses=_PROBLEMS)
    async def predict(request: Request) -> Prediction:
        """What a pipeline finds in an upload. Nothing of the upload is kept."""
        examined, left_out = await examined_of(request, parts, what="predict", capture=False)
        return prediction_of(examined, left_out)

    images: dict[str, Any] = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in (PNG, DICOM)}
    pictures: dict[int | str, dict[str, Any]] = {
        200: {"content": images, "description": "The picture."},
        406: {"model": ProblemDocument, "description": "Neither is accepted."},
    }

    @router.post("/heatmap", openapi_extra=_BODY, responses={**_PROBLEMS, **pictures}, response_class=Response)
    async def heatmap(request: Request) -> Response:
        """Where the model looked: a PNG beside the original, or with `Accept: application/dicom` the Secondary Capture."""
        kind = wanted(request.headers.get("accept", "*/*"))
        examined, _ = await examined_of(request, parts, what="heatmap", capture=True)
        if not examined.summary["analysed"]:
            raise Problem(422, f"Not analysed, so there is no picture: {examined.summary['reason']}", pipeline=examined.pipeline or None)
        if not examined.capture:
            raise Problem(422, "The pipeline draws no picture for this upload.", pipeline=examined.pipeline)
        if kind == DICOM:
            return Response(examined.named_capture, media_type=DICOM)
        return Response(await run_in_threadpool(page_as_png, examined.capture), media_type=PNG)

    @router.get("/meta")
    def meta() -> Meta:
        """Pipelines, their labels, versions, intended use, licences and model cards; limits. Nothing of a patient."""
        return Meta.model_validate(parts.meta())

    return router


def wanted(accept: str) -> str:
    """The kind of picture that is liked best (RFC 9110 12.5.1); PNG of two that are liked alike. Raises Problem."""
    best: tuple[float, str] | None = None
    for kind in (PNG, DICOM):
        liked = _liking(kind, accept)
        if liked > 0 and (best is None or liked > best[0]):
            best = liked, kind
    if best is None:
        raise Problem(406, f"The answer is {PNG} or {DICOM}; accept one of them.")
    return best[1]


def _liking(kind: str, accept: str) -> float:
    """The weight of the most specific range that holds `kind`; 0 when none does."""
    found: dict[int, float] = {}
    for part in accept.split(","):
        name, *options = (word.strip().lower() for word in part.split(";"))
        specific = {kind: 2, f"{kind.partition('/')[0]}/*": 1, "*/*": 0}.get(name)
        if specific is not None:
            weights = [option.removeprefix("q=") for option in options if option.startswith("q=")]
            found[specific] = _number(weights[0]) if weights else 1.0
    return found[max(found)] if found else 0.0


def _number(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 0.0


# --- one request --------------------------------------------------------------------------------------------------------------
async def examined_of(request: Request, parts: PredictParts, *, what: str, capture: bool) -> tuple[Examined, int]:
    """What is said of the request's upload, and how many members of a zip were left out. Nothing of it is kept. Raises Problem, DiskFull."""
    if not await run_in_threadpool(parts.room_left):
        raise DiskFull
    try:
        with parts.seat(), closing(OneFile(parts.spool)) as files:
            form = await read_form(request, spool=files.spool, most_bytes=parts.max_upload_bytes, most_files=parts.max_files)
            return await _in_a_thread(request, parts, form, files.spool, what=what, capture=capture)
    except UploadTooLarge as why:
        raise Problem(413, why.detail) from None
    except UploadRefused as why:
        raise Problem(422, why.detail, **why.facts) from None
    except NobodyFree as why:
        raise Problem(503, why.message, headers={"Retry-After": COME_AGAIN_S}) from None
    except PredictionFailed as why:
        raise Problem(500, f"{why.message} {why.detail}".strip()) from None


async def _in_a_thread(
    request: Request, parts: PredictParts, form: Form, spool: Callable[[], BinaryIO], *, what: str, capture: bool
) -> tuple[Examined, int]:
    """Waits for the answer, and looks now and then whether anybody else does."""
    gone = threading.Event()
    who, peer = who_of(request.scope), peer_of(request.scope)

    def work() -> tuple[Examined, int]:
        fields = {name: form.fields.get(name, "") for name in FIELDS}
        told = validated(form.json_of("clinical"))
        if fields["view"]:
            told |= validated({"view": fields["view"]})
        unpacked = sorted_out(form.files, Limits(files=parts.max_files, bytes=parts.max_upload_bytes), spool)
        upload = Upload(files=unpacked.files, pipeline=fields["pipeline"], told=told, modality=fields["modality"].upper())
        examined = parts.examine(upload, who=who, peer=peer, what=what, capture=capture, nobody_listens=gone.is_set)
        return examined, unpacked.left_out

    working = asyncio.ensure_future(run_in_threadpool(work))
    while not (await asyncio.wait({working}, timeout=LOOK_S))[0]:
        if await request.is_disconnected():
            gone.set()
    return working.result()


def prediction_of(examined: Examined, left_out: int) -> Prediction:
    """The answer in the words of the API."""
    summary = examined.summary
    return Prediction.model_validate(
        {
            **{name: summary.get(name) for name in ("analysed", "reason", "label", "confidence")},
            "pipeline": examined.pipeline or None,
            "model": dict(examined.model) or None,
            "findings": [_finding(one, examined.untrained) for one in summary["findings"]],
            "notes": summary.get("notes", []),
            "clinical_used": summary.get("facts", {}).get("clinical_used", []),
            "rule": examined.rule or None,
            "other_pipelines": list(examined.others),
            "left_out": left_out,
        }
    )


def _finding(found: Mapping[str, Any], untrained: Sequence[str]) -> dict[str, Any]:
    trained = found["name"] not in untrained
    return {**found, "trained": trained, "remark": None if trained else NOT_TRAINED}
