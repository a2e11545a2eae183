"""QIDO-RS and WADO-RS on the results of a study (PS3.18 10.6, 10.4), by the original Study Instance UID and with the patient's names.

What is given out is what delivery sends: the object named again from its bytes, in memory. Each answer with something in it is written
down first, under the clean UID.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import Response, StreamingResponse
from fastapi.routing import APIRoute
from pydicom.dataset import Dataset
from python_multipart.multipart import parse_options_header

from node.errors import KeyMissing, NotThere
from node.ledger.tokens import Role
from node.web import matching
from node.web.auth import needs
from node.web.notes import Notes
from node.web.problems import Problem

DICOM, JSON = "application/dicom", "application/dicom+json"
Original = Annotated[
    str, Path(max_length=64, pattern=r"^[0-9.]+$", description="Study, Series or SOP Instance UID as the archive knows it.")
]


class Result(Protocol):
    """One object of a result, before it has its names back."""

    @property
    def study(self) -> str: ...  # clean Study Instance UID
    @property
    def sop_instance_uid(self) -> str: ...  # results keep their own UIDs on the way home


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsParts:
    """Handed in by assembly."""

    of: Callable[[str], Sequence[Any]]  #: by the original Study Instance UID
    header: Callable[[Any], Dataset]  #: named, without pixels; raises KeyMissing
    whole: Callable[[Any], bytes]  #: named, as PS3.10 bytes; raises KeyMissing


@dataclass(frozen=True, slots=True)
class _Found:
    """A result and its named header."""

    result: Result
    header: Dataset


def routes(parts: ResultsParts, notes: Notes, route: type[APIRoute]) -> APIRouter:
    """For those who fetch results and those who read them."""
    router = APIRouter(
        prefix="/dicom-web", tags=["dicomweb"], route_class=route, dependencies=[Depends(needs(Role.INTEGRATOR, Role.RADIOLOGIST))]
    )
    desk = _Desk(parts, notes)

    # --- QIDO-RS --------------------------------------------------------------------------------------------------------
    @router.get("/studies")
    def studies(request: Request) -> Response:
        """Studies with results here, of those that `StudyInstanceUID` names: identities are sealed, and nobody can search in them."""
        search = _search(request)
        wanted = dict(search.keys).get("StudyInstanceUID", "").replace("\\", ",").split(",")
        if wanted == [""] or len(wanted) > 50 or any("*" in uid for uid in wanted):
            raise Problem(
                400,
                "Name the studies: ?StudyInstanceUID=UID, up to 50 of them with commas between. Identities are sealed, so no other search can be done.",
            )
        found = [level for uid in wanted if (level := _study_level(desk.found(request, uid, "results searched"), request))]
        return _answer(search, found, matching.STUDY)

    @router.get("/studies/{study}/series")
    def series(study: Original, request: Request) -> Response:
        """The series of the results of a study."""
        search = _search(request)
        found = _series_level(desk.found(request, study, "results searched"), request)
        return _answer(search, found, matching.SERIES)

    @router.get("/studies/{study}/instances")
    def instances(study: Original, request: Request) -> Response:
        """The objects of the results of a study."""
        return _instances(desk.found(request, study, "results searched"), request)

    @router.get("/studies/{study}/series/{series}/instances")
    def instances_of_series(study: Original, series: Original, request: Request) -> Response:
        """The objects of one series."""
        return _instances(_of(desk.found(request, study, "results searched"), series), request)

    # --- WADO-RS --------------------------------------------------------------------------------------------------------
    @router.get("/studies/{study}/metadata")
    def study_metadata(study: Original, request: Request) -> Response:
        """Every result without its pixels."""
        return _metadata(desk.found(request, study, "results read"), request)

    @router.get("/studies/{study}/series/{series}/metadata")
    def series_metadata(study: Original, series: Original, request: Request) -> Response:
        """The objects of one series without their pixels."""
        return _metadata(_of(desk.found(request, study, "results read"), series), request)

    @router.get("/studies/{study}/series/{series}/instances/{instance}/metadata")
    def instance_metadata(study: Original, series: Original, instance: Original, request: Request) -> Response:
        """One object without its pixels."""
        return _metadata(_of(desk.found(request, study, "results read"), series, instance), request)

    @router.get("/studies/{study}")
    def study(study: Original, request: Request) -> Response:
        """Every result, `multipart/related; type="application/dicom"`."""
        return desk.out(request, desk.found(request, study, "results retrieved"))

    @router.get("/studies/{study}/series/{series}")
    def one_series(study: Original, series: Original, request: Request) -> Response:
        """The objects of one series."""
        return desk.out(request, _of(desk.found(request, study, "results retrieved"), series))

    @router.get("/studies/{study}/series/{series}/instances/{instance}")
    def one_instance(study: Original, series: Original, instance: Original, request: Request) -> Response:
        """One object; `application/dicom` gives it alone."""
        return desk.out(request, _of(desk.found(request, study, "results retrieved"), series, instance))

    return router


class _Desk:
    """Finds results, writes down who asked, and gives them out."""

    def __init__(self, parts: ResultsParts, notes: Notes) -> None:
        self._parts, self._notes = parts, notes

    def found(self, request: Request, study: str, what: str) -> list[_Found]:
        """The results of a study, once it is written down that somebody is shown them. Nothing of a study that was purged."""
        try:
            found = [_Found(one, self._parts.header(one)) for one in self._parts.of(study)]
        except KeyMissing:
            return []
        if found:
            self._notes.looked(request, found[0].result.study, f"DICOMweb: {what}", objects=str(len(found)))
        return found

    def out(self, request: Request, found: Sequence[_Found]) -> Response:
        """The objects whole, one after another."""
        if not found:
            raise NotThere
        alone = _wanted(request, found)
        if alone:
            return Response(self._parts.whole(found[0].result), media_type=DICOM)
        boundary = secrets.token_hex(16)
        kind = f'multipart/related; type="{DICOM}"; boundary={boundary}'
        return StreamingResponse(self._parts_of(found, boundary), media_type=kind)

    def _parts_of(self, found: Sequence[_Found], boundary: str) -> Iterator[bytes]:
        for one in found:
            syntax = one.header.file_meta.TransferSyntaxUID
            yield f"--{boundary}\r\nContent-Type: {DICOM}; transfer-syntax={syntax}\r\n\r\n".encode()
            yield self._parts.whole(one.result)
            yield b"\r\n"
        yield f"--{boundary}--\r\n".encode()


# --- asked for, PS3.18 8.7.5 --------------------------------------------------------------------------------------------------
def _wanted(request: Request, found: Sequence[_Found]) -> bool:
    """Whether one object alone is wanted, rather than multipart. Problem 406 when it is something else."""
    syntaxes = {str(one.header.file_meta.TransferSyntaxUID) for one in found}
    for part in (request.headers.get("accept") or "*/*").split(","):
        kind, options = parse_options_header(part.strip())
        wants, syntax = kind.decode("latin-1").lower(), options.get(b"transfer-syntax", b"*").decode("latin-1")
        if syntax != "*" and syntaxes != {syntax}:
            continue
        if wants == DICOM and len(found) == 1:
            return True
        root = options.get(b"type", DICOM.encode()).decode("latin-1").lower()
        if wants in {"*/*", "multipart/*"} or (wants == "multipart/related" and root in {DICOM, "*/*"}):
            return False
    raise Problem(
        406,
        f'Accept `multipart/related; type="{DICOM}"; transfer-syntax=*`, or `{DICOM}` for one object. Results are given out as they are stored.',
    )


def _search(request: Request) -> matching.Search:
    _wants_json(request)
    return matching.search_of(request.query_params.multi_items())


def _wants_json(request: Request) -> None:
    accepted = {part.partition(";")[0].strip().lower() for part in (request.headers.get("accept") or "*/*").split(",")}
    if not accepted & {JSON, "application/json", "*/*", "application/*"}:
        raise Problem(406, f"The answer is {JSON}; accept that.")


# --- answers ------------------------------------------------------------------------------------------------------------------
def _answer(search: matching.Search, levels: Iterable[Dataset], usual: Sequence[str]) -> Response:
    """Those that match, as far as they were asked for; a warning says how many more there are (PS3.18 8.3.4.4)."""
    found = [ds for ds in levels if search.finds(ds)]
    part = search.part(found)
    answer = _json([search.shown(ds, usual) for ds in part])
    if (left := len(found) - search.offset - len(part)) > 0:
        answer.headers["Warning"] = f'299 radnode "There are {left} additional results that can be requested"'
    return answer


def _json(answer: list[dict[str, Any]]) -> Response:
    return Response(json.dumps(answer), media_type=JSON)


def _metadata(found: Sequence[_Found], request: Request) -> Response:
    _wants_json(request)
    if not found:
        raise NotThere
    return _json([matching.metadata(one.header) for one in found])


def _instances(found: Sequence[_Found], request: Request) -> Response:
    headers = [one.header for one in found]
    for ds in headers:
        ds.RetrieveURL = f"{_url(request, ds.StudyInstanceUID)}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
        ds.InstanceAvailability = "ONLINE"
    return _answer(_search(request), headers, matching.INSTANCE)


def _of(found: Sequence[_Found], series: str, instance: str = "") -> list[_Found]:
    return [one for one in found if one.header.SeriesInstanceUID == series and instance in ("", one.header.SOPInstanceUID)]


def _series_level(found: Sequence[_Found], request: Request) -> list[Dataset]:
    counts = Counter(str(one.header.SeriesInstanceUID) for one in found)
    first = {str(one.header.SeriesInstanceUID): one.header for one in reversed(found)}
    levels = []
    for uid, count in counts.items():
        ds = first[uid]
        ds.NumberOfSeriesRelatedInstances = count
        ds.RetrieveURL = f"{_url(request, ds.StudyInstanceUID)}/series/{uid}"
        levels.append(ds)
    return levels


def _study_level(found: Sequence[_Found], request: Request) -> Dataset | None:
    if not found:
        return None
    ds = found[0].header
    ds.ModalitiesInStudy = sorted({str(one.header.Modality) for one in found})
    ds.NumberOfStudyRelatedSeries = len({one.header.SeriesInstanceUID for one in found})
    ds.NumberOfStudyRelatedInstances = len(found)
    ds.RetrieveURL = _url(request, ds.StudyInstanceUID)
    return ds


def _url(request: Request, study: str) -> str:
    return f"{str(request.base_url).rstrip('/')}/dicom-web/studies/{study}"
